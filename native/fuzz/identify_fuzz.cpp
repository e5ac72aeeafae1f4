// A libFuzzer target for the pooling of n-grams: the input says how large the tables are and is the window. The shares
// of the bytes add up to one, and every mean lies between the least and the greatest number of its table.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "identify/ngram_pool.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 5) return 0;
    std::vector<std::vector<int8_t>> vectors;
    byteloom::NgramTables tables{};
    for (size_t table = 0; table < byteloom::TABLES; ++table) {
        const unsigned bits = 1 + data[table] % 16u;
        std::vector<int8_t> numbers((size_t{1} << bits) * byteloom::WIDTH);
        for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<int8_t>((i * 37 + data[4]) % 201 - 100);
        vectors.push_back(std::move(numbers));
        tables[table] = {vectors.back().data(), bits};
    }
    const std::vector<uint8_t> window(data + 5, data + size);  // its own block, so that no read past its end is missed
    std::vector<float> pooled(byteloom::POOLED, NAN);
    byteloom::pool_ngrams(window.data(), window.size(), tables, pooled.data());
    double shares = 0;
    for (size_t byte = 0; byte < 256; ++byte) shares += static_cast<double>(pooled[byte]) * pooled[byte];
    if (!window.empty() && std::abs(shares - 1) > 1e-4) std::abort();
    for (size_t i = 256; i < byteloom::POOLED; ++i) {
        if (!(std::abs(pooled[i]) <= 100.001f)) std::abort();
    }
    return 0;
}

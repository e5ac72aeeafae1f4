// A libFuzzer target for n-grams: documents made of the input are counted and compared with dictionaries; then words of
// the image are overwritten, and the input itself is taken for an image: nothing outside may be read.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <vector>

#include "ngram/ngram.hpp"
#include "ngram/superpose.hpp"

namespace {

using byteloom::NgramBuilder;
using byteloom::NgramTable;
using Tokens = std::vector<uint32_t>;

constexpr float kWeights[] = {0.5f, 0.25f, 0.125f, 1.0f, 2.0f};

void require(bool holds) {
    if (!holds) std::abort();
}

const uint8_t* bytes_of(const Tokens& words) { return reinterpret_cast<const uint8_t*>(words.data()); }

std::vector<float> ask(const NgramTable& table, const Tokens& text, const Tokens& candidates) {
    Tokens history(table.order() - 1, NgramTable::kNoToken);
    const size_t used = std::min(history.size(), text.size());
    std::copy(text.end() - static_cast<ptrdiff_t>(used), text.end(), history.end() - static_cast<ptrdiff_t>(used));
    std::vector<float> out(candidates.size());
    table.query(history.data(), candidates.data(), candidates.size(), kWeights, out.data());
    return out;
}

// The best pairs of two drafts and four candidates: distinct, and none better is left out.
void choose(const NgramTable& table, const Tokens& text) {
    const double logits[] = {2.0, 1.0, 1.0, -3.0}, scores[] = {0.0, -1.0};
    const uint32_t candidates[] = {1, 0, 3, 2};
    Tokens histories(2 * (table.order() - 1), NgramTable::kNoToken);
    for (size_t i = 0; i < std::min(histories.size(), text.size()); ++i) histories[i] = text[i];
    std::vector<int64_t> pairs(8);
    std::vector<double> totals(8);
    byteloom::best_pairs({1.0, 0.5, 200.0}, &table, kWeights, logits, candidates, 4, histories.data(), scores, 2, 8,
                         pairs.data(), totals.data());
    for (size_t i = 0; i + 1 < 8; ++i) {
        require(totals[i] > totals[i + 1] || (totals[i] == totals[i + 1] && pairs[i] < pairs[i + 1]));
    }
    std::sort(pairs.begin(), pairs.end());
    for (int64_t i = 0; i < 8; ++i) require(pairs[static_cast<size_t>(i)] == i);
}

void check(const NgramTable& table, const std::vector<Tokens>& documents, uint32_t order, uint32_t least) {
    std::map<Tokens, uint32_t> counts, totals;
    for (const auto& document : documents) {
        for (size_t begin = 0; begin < document.size(); ++begin) {
            for (size_t n = 2; n <= order && begin + n <= document.size(); ++n) {
                const auto at = document.begin() + static_cast<ptrdiff_t>(begin);
                ++counts[Tokens(at, at + static_cast<ptrdiff_t>(n))];
            }
        }
    }
    std::vector<uint32_t> sizes(order - 1);
    for (auto at = counts.begin(); at != counts.end();) {
        if (at->second < least) {
            at = counts.erase(at);
            continue;
        }
        totals[Tokens(at->first.begin(), at->first.end() - 1)] += at->second;
        ++sizes[at->first.size() - 2];
        ++at;
    }
    for (uint32_t i = 0; i + 1 < order; ++i) require(table.size(i) == sizes[i]);
    Tokens candidates(table.vocabulary());
    for (uint32_t i = 0; i < candidates.size(); ++i) candidates[i] = i;
    for (const auto& document : documents) {
        const Tokens text(document.begin(), document.begin() + static_cast<ptrdiff_t>(document.size() / 2));
        const auto found = ask(table, text, candidates);
        for (const uint32_t candidate : candidates) {
            double expected = 0;
            for (size_t n = 2; n <= order && n - 1 <= text.size(); ++n) {
                Tokens gram(text.end() - static_cast<ptrdiff_t>(n - 1), text.end());
                const auto total = totals.find(gram);
                gram.push_back(candidate);
                const auto count = counts.find(gram);
                if (count != counts.end()) expected += double{kWeights[n - 2]} * count->second / total->second;
            }
            require(std::abs(found[candidate] - expected) < 1e-5);
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Tokens raw(size / 4);
    if (!raw.empty()) std::memcpy(raw.data(), data, raw.size() * 4);
    try {
        const NgramTable table(bytes_of(raw), raw.size() * 4);
        ask(table, {0, 1, 2, 3, 4}, {0, 1, 2, NgramTable::kNoToken});
    } catch (const std::invalid_argument&) {
    }
    if (size < 4) return 0;
    const uint32_t order = 2 + data[0] % 5, vocabulary = 1 + data[1] % 40, least = 1 + data[2] % 3;
    std::vector<Tokens> documents(1);
    for (size_t i = 4; i < std::min<size_t>(size, 1500); ++i) {
        if (data[i] == 255) {
            documents.emplace_back();
        } else {
            documents.back().push_back(data[i] % vocabulary);
        }
    }
    NgramBuilder builder(order, vocabulary);
    for (const auto& document : documents) builder.add(document.data(), document.size());
    Tokens image = builder.freeze(least);
    check(NgramTable(bytes_of(image), image.size() * 4), documents, order, least);
    choose(NgramTable(bytes_of(image), image.size() * 4), documents[0]);
    for (size_t i = 0; i + 1 < size && i < 200; i += 2) {
        image[(data[i] * 131u + i) % image.size()] = data[i + 1] * 0x01000193u;
        try {
            const NgramTable table(bytes_of(image), image.size() * 4);
            for (const auto& document : documents) ask(table, document, {0, 1, vocabulary - 1});
        } catch (const std::invalid_argument&) {
        }
    }
    return 0;
}

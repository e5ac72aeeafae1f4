// A libFuzzer target for the range coder and the byte models: a text is coded by tables made of the input, and by
// models fitted to it, and read back; then the input itself is read as a stream. Nothing may crash.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "coding/byte_models.hpp"
#include "coding/range_coder.hpp"

namespace {

using namespace byteloom;

void require(bool holds) {
    if (!holds) std::abort();
}

// Any bytes as a table: each adds to the width of some entry, the last entry takes the rest.
Table make_table(const uint8_t* data, size_t size) {
    std::array<uint32_t, 256> width;
    width.fill(1);
    uint32_t left = kTableTotal - 256;
    for (size_t i = 0; i + 1 < size; i += 2) {
        const uint32_t more = std::min<uint32_t>(left, 1u << (data[i + 1] % 15));
        width[data[i]] += more;
        left -= more;
    }
    width[size > 0 ? data[size - 1] : 255] += left;
    Table table{};
    for (size_t i = 0; i < 256; ++i) table[i + 1] = table[i] + width[i];
    require(is_table(table.data()));
    return table;
}

void code_by_tables(const std::vector<Table>& tables, const uint8_t* text, size_t size) {
    RangeEncoder encoder;
    double cost = 0;
    for (size_t i = 0; i < size; ++i) {
        const Table& table = tables[i % tables.size()];
        encoder.encode(table.data(), text[i]);
        cost += kTableBits - std::log2(table[text[i] + 1] - table[text[i]]);
    }
    const auto [stream, bits] = encoder.finish();
    require(static_cast<double>(bits) <= 1.001 * cost + 64 && static_cast<double>(bits) >= 0.999 * cost - 2);
    RangeDecoder decoder(stream.data(), stream.size());
    for (size_t i = 0; i < size; ++i) {
        require(decoder.decode(tables[i % tables.size()].data()) == text[i]);
        require(!decoder.is_past_end());
    }
    require(decoder.is_complete());
}

template <class Model>
void code_by_model(const Model& model, const uint8_t* text, size_t size) {
    const auto [stream, bits] = encode_with(model, text, size);
    require(stream.size() == (bits + 7) / 8);
    const auto again = decode_with(model, stream.data(), stream.size(), size);
    require(again && std::equal(again->begin(), again->end(), text, text + size));
    // Cut off it is no stream, or that of another text; with more behind it, it is none.
    if (!stream.empty()) {
        const auto cut = decode_with(model, stream.data(), stream.size() - 1, size);
        require(!cut || *cut != *again);
    }
    auto longer = stream;
    longer.push_back(0x80);
    require(!decode_with(model, longer.data(), longer.size(), size));
    // The text as a stream: whatever comes out, an encoder makes a stream of the same length of it.
    const auto foreign = decode_with(model, text, size, size / 2);
    if (foreign) require(encode_with(model, foreign->data(), foreign->size()).first.size() == size);
    // A size that lies is told, not believed; every table takes something of the stream.
    const auto lying = decode_with(model, text, std::min<size_t>(size, 2), uint64_t{1} << 60);
    require(!lying);
}

std::vector<uint64_t> grams_of(const uint8_t* text, size_t size, size_t order) {
    std::vector<uint64_t> grams;
    for (size_t at = 0; at < size; ++at) {
        const size_t length = std::min(order + 1, size - at);
        uint64_t gram = length;
        for (size_t i = 0; i < length; ++i) gram |= uint64_t{text[at + i]} << (8 * (7 - i));
        grams.push_back(gram);
    }
    std::sort(grams.begin(), grams.end());
    grams.erase(std::unique(grams.begin(), grams.end()), grams.end());
    return grams;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 4) return 0;
    const size_t order = data[0] % (kMostOrder + 1), share = data[1], count = 1 + data[2] % 5;
    const size_t most = 16 + 4 * data[3];
    data += 4;
    size = std::min<size_t>(size - 4, 2000);
    const size_t head = size * share / 256;

    std::vector<Table> tables;
    for (size_t i = 0; i < count; ++i) tables.push_back(make_table(data + i * head / count, head / count));
    code_by_tables(tables, data, size);
    code_by_model(FixedModel(tables[0]), data, size);
    code_by_model(AdaptiveModel(order), data, size);
    code_by_model(AdaptiveModel(order, most), data, size);

    const auto grams = grams_of(data, head, order);
    std::vector<uint32_t> counts;
    for (size_t i = 0; i < grams.size(); ++i) counts.push_back(1u << (data[i] % 32));
    code_by_model(CountModel(grams.data(), counts.data(), grams.size(), order), data, size);

    // Strings that no fit would give are refused or harmless.
    std::vector<uint64_t> any(size / 8);
    std::copy_n(data, any.size() * 8, reinterpret_cast<uint8_t*>(any.data()));
    counts.assign(any.size(), 0);
    try {
        const CountModel model(any.data(), counts.data(), any.size(), order);
        code_by_model(model, data, size);
    } catch (const std::invalid_argument&) {
    }
    return 0;
}

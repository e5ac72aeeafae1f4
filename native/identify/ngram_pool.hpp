// What `byteloom identify` reads of a window of bytes: how often each byte occurs, and the mean of learned vectors of
// its n-grams. Four tables: pairs, triples and quadruples of neighbours, and pairs that lie four bytes apart, as the
// same field of two instructions does. A vector is WIDTH int8 numbers; one load of a vector register.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace byteloom {

constexpr size_t WIDTH = 16, TABLES = 4, POOLED = 256 + TABLES * WIDTH;

// Learned vectors [2^bits][WIDTH] of hashed n-grams; `bits` from 1 to 24.
struct NgramTable {
    const int8_t* vectors;
    unsigned bits;
};

using NgramTables = std::array<NgramTable, TABLES>;

// The places of the n-grams that begin with bytes a b c d e: the same as in tests/reference/identify.py.
inline std::array<uint32_t, TABLES> ngram_rows(uint32_t abcd, uint32_t e, const NgramTables& tables) {
    const auto hash = [](uint32_t key, uint32_t odd, unsigned bits) { return (key * odd) >> (32 - bits); };
    const uint32_t a = abcd & 0xff;
    return {hash((abcd & 0xffff) << 16, 0x00000001u, tables[0].bits),  // the pair itself when the table has 2^16 rows
            hash(abcd & 0xffffff, 0x9e3779b1u, tables[1].bits), hash(abcd, 0x85ebca77u, tables[2].bits),
            hash(a | e << 8, 0xc2b2ae3du, tables[3].bits)};
}

// Square roots of the shares of the 256 byte values, then the mean vector of each table; zeros where a window is too
// short for any n-gram of a table. The n-grams of four neighbours and of five bytes are those that lie inside.
inline void pool_ngrams(const uint8_t* data, size_t size, const NgramTables& tables, float* pooled) {
    constexpr size_t FLUSH = 255;  // additions of int8 that int16 holds
    constexpr std::array<size_t, TABLES> SPAN{2, 3, 4, 5};
    std::array<uint32_t, 256> counts{};
    std::array<std::array<int64_t, WIDTH>, TABLES> sums{};
    std::array<std::array<int16_t, WIDTH>, TABLES> part{};
    for (size_t at = 0; at < size; ++at) ++counts[data[at]];

    const auto flush = [&] {
        for (size_t table = 0; table < TABLES; ++table) {
            for (size_t i = 0; i < WIDTH; ++i) sums[table][i] += part[table][i];
            part[table].fill(0);
        }
    };
    const auto add = [&](size_t table, uint32_t row) {
        const int8_t* vector = tables[table].vectors + size_t{row} * WIDTH;
        for (size_t i = 0; i < WIDTH; ++i) part[table][i] = static_cast<int16_t>(part[table][i] + vector[i]);
    };
    size_t at = 0;
    while (at + SPAN[3] <= size) {
        const size_t left = size - SPAN[3] + 1 - at, end = at + (left < FLUSH ? left : FLUSH);
        for (; at < end; ++at) {
            const uint32_t abcd = data[at] | data[at + 1] << 8 | data[at + 2] << 16 | uint32_t{data[at + 3]} << 24;
            const auto rows = ngram_rows(abcd, data[at + 4], tables);
            for (size_t table = 0; table < TABLES; ++table) add(table, rows[table]);
        }
        flush();
    }
    for (; at < size; ++at) {  // the last n-grams, too short for the longer tables
        uint32_t abcd = 0;
        for (size_t i = 0; i < 4 && at + i < size; ++i) abcd |= uint32_t{data[at + i]} << (8 * i);
        const auto rows = ngram_rows(abcd, 0, tables);
        for (size_t table = 0; table < TABLES; ++table) {
            if (at + SPAN[table] <= size) add(table, rows[table]);
        }
    }
    flush();
    const auto whole = static_cast<float>(size > 0 ? size : 1);
    for (size_t byte = 0; byte < 256; ++byte) pooled[byte] = std::sqrt(static_cast<float>(counts[byte]) / whole);
    for (size_t table = 0; table < TABLES; ++table) {
        const auto found = static_cast<float>(size >= SPAN[table] ? size - SPAN[table] + 1 : 1);
        for (size_t i = 0; i < WIDTH; ++i) {
            pooled[256 + table * WIDTH + i] = static_cast<float>(sums[table][i]) / found;
        }
    }
}

}  // namespace byteloom

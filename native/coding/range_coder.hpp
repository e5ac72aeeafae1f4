// A range coder for bytes: what a table of probabilities says about each byte decides how many bits it takes.
//
// A table is 257 cumulative counts from 0 to 2^14, strictly increasing. The state is 32 bits wide; the interval of a
// byte is cut out of the current one by exact products, so that all intervals together fill it and nothing is lost but
// the rounding of a bound: the stream is longer than that of exact fractions by far less than 0.1 % and 64 bits.
// Source: Martin 1979; carries run back through what is written. Cost: one multiplication pair a byte, for decoding
// one division and eight comparisons more.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace byteloom {

constexpr int kTableBits = 14;
constexpr uint32_t kTableTotal = 1u << kTableBits;
constexpr size_t kTableSize = 257;

// Whether a table gives every byte a share and all shares together make the whole.
inline bool is_table(const uint32_t* table) {
    if (table[0] != 0 || table[256] != kTableTotal) return false;
    for (size_t i = 0; i < 256; ++i) {
        if (table[i] >= table[i + 1]) return false;
    }
    return true;
}

// The interval [low, low + range) in units of 2^-32 of the last four bytes' place; 2^24 < range <= 2^32.
struct Interval {
    static constexpr uint64_t kFull = uint64_t{1} << 32, kLeast = uint64_t{1} << 24;

    uint64_t low = 0, range = kFull;

    // Narrows to the part [from, to) of 2^14.
    void narrow(uint32_t from, uint32_t to) {
        const uint64_t start = (range * from) >> kTableBits;
        range = ((range * to) >> kTableBits) - start;
        low += start;
    }

    // The fewest bits, and their value, such that whatever follows them lies within.
    std::pair<int, uint64_t> shortest() const {
        for (int bits = 0;; ++bits) {  // ends: a cell of 9 bits is less than half of the least range
            const int rest = 32 - bits;
            const uint64_t value = (low + (uint64_t{1} << rest) - 1) >> rest;
            if ((value + 1) << rest <= low + range) return {bits, value};
        }
    }
};

class RangeEncoder {
  public:
    void encode(const uint32_t* table, uint8_t byte) {
        interval_.narrow(table[byte], table[byte + 1]);
        if (interval_.low >= Interval::kFull) {
            interval_.low -= Interval::kFull;
            carry();
        }
        while (interval_.range <= Interval::kLeast) {
            out_.push_back(static_cast<uint8_t>(interval_.low >> 24));
            interval_.low = (interval_.low << 8) & 0xFFFF'FFFFu;
            interval_.range <<= 8;
        }
    }

    // Ends the stream: gives its bits, with zeros up to a whole byte, and how many they are; ready for another stream.
    std::pair<std::vector<uint8_t>, size_t> finish() {
        auto [bits, value] = interval_.shortest();
        if (bits > 0 && value >> bits != 0) {
            value -= uint64_t{1} << bits;
            carry();
        }
        const size_t total = 8 * out_.size() + static_cast<size_t>(bits);
        value <<= 32 - bits;
        for (int shift = 24; bits > 0; bits -= 8, shift -= 8) out_.push_back(static_cast<uint8_t>(value >> shift));
        interval_ = Interval{};
        return {std::exchange(out_, {}), total};
    }

  private:
    // Only what lies below 1 was written, so a byte other than 0xFF comes before the first.
    void carry() {
        size_t at = out_.size();
        while (out_[--at] == 0xFF) out_[at] = 0;
        ++out_[at];
    }

    Interval interval_;
    std::vector<uint8_t> out_;
};

class RangeDecoder {
  public:
    RangeDecoder(const uint8_t* data, size_t size) : data_(data), size_(size) {
        for (int i = 0; i < 4; ++i) ahead_ = ahead_ << 8 | next();
    }

    // The next byte. Any data decodes to something; is_past_end and is_complete tell whether it was a stream.
    uint8_t decode(const uint32_t* table) {
        // The last entry of the table whose product does not exceed the place of the code.
        const auto place = static_cast<uint32_t>((((ahead_ + 1) << kTableBits) - 1) / interval_.range);
        const auto* above = std::upper_bound(table + 1, table + 256, place);
        const auto byte = static_cast<uint8_t>(above - table - 1);
        const uint64_t low = interval_.low;
        interval_.narrow(table[byte], table[byte + 1]);
        ahead_ -= interval_.low - low;
        interval_.low &= 0xFFFF'FFFFu;
        while (interval_.range <= Interval::kLeast) {
            ahead_ = ahead_ << 8 | next();
            interval_.low = (interval_.low << 8) & 0xFFFF'FFFFu;
            interval_.range <<= 8;
        }
        return byte;
    }

    // Whether more bytes were decoded than an encoder could have put into the data.
    bool is_past_end() const { return read_ - 4 > size_; }

    // Whether an encoder would have ended the stream here with exactly as many bytes as the data has.
    bool is_complete() const {
        const auto bits = static_cast<size_t>(interval_.shortest().first);
        return read_ - 4 + (bits + 7) / 8 == size_;
    }

  private:
    uint8_t next() {
        const size_t at = read_++;
        return at < size_ ? data_[at] : 0;
    }

    const uint8_t* data_;
    size_t size_, read_ = 0;
    uint64_t ahead_ = 0;  // of the code in front of low
    Interval interval_;
};

}  // namespace byteloom

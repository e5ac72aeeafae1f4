// Words of bytes, by an automaton over byte classes: an optional space and a run of letters, of digits, or of anything
// else, or a run of blanks; or words of a fixed length. Nothing is longer than max_bytes. The words of a text, one
// after another, are the text.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace byteloom {

enum ByteClass : uint8_t { kOther, kLetter, kDigit, kBlank };

constexpr std::array<uint8_t, 256> byte_classes() {
    std::array<uint8_t, 256> table{};
    for (size_t byte = 0; byte < 256; ++byte) {
        const bool letter = (byte | 0x20) >= 'a' && (byte | 0x20) <= 'z' && byte < 0x80;
        const bool blank = byte == ' ' || (byte >= '\t' && byte <= '\r');
        const bool digit = byte >= '0' && byte <= '9';
        table[byte] = letter || byte >= 0x80 ? kLetter : digit ? kDigit : blank ? kBlank : kOther;
    }
    return table;
}

inline constexpr std::array<uint8_t, 256> kClasses = byte_classes();

class WordSplitter {
  public:
    // fixed: length of every word but the last, or 0 for the words of text. first: the id of byte 0 inside a word; the
    // bytes that end a word have ids 256 higher.
    WordSplitter(size_t fixed, size_t max_bytes, uint32_t first)
        : fixed_(fixed), max_bytes_(max_bytes), first_(first) {}

    // Where the word that begins at `data` ends, 1 to max_bytes further on; size > 0.
    size_t word(const uint8_t* data, size_t size) const {
        const size_t most = size < max_bytes_ ? size : max_bytes_;
        if (fixed_ > 0) return fixed_ < most ? fixed_ : most;
        size_t at = 0;
        if (data[0] == ' ' && most > 1 && kClasses[data[1]] != kBlank) at = 1;
        const uint8_t kind = kClasses[data[at]];
        do ++at;
        while (at < most && kClasses[data[at]] == kind);
        return at;
    }

    std::vector<uint32_t> encode(const uint8_t* data, size_t size) const {
        std::vector<uint32_t> ids(size);
        for (size_t at = 0; at < size;) {
            const size_t end = at + word(data + at, size - at);
            for (; at < end; ++at) ids[at] = first_ + data[at];
            ids[end - 1] += 256;
        }
        return ids;
    }

    std::vector<uint32_t> lengths(const uint8_t* data, size_t size) const {
        std::vector<uint32_t> found;
        found.reserve(size / 4);
        for (size_t at = 0; at < size;) {
            found.push_back(static_cast<uint32_t>(word(data + at, size - at)));
            at += found.back();
        }
        return found;
    }

    size_t count(const uint8_t*, size_t size) const { return size; }

    // A text that comes in pieces: the last word waits for what follows it.
    class Stream {
      public:
        explicit Stream(std::shared_ptr<const WordSplitter> splitter) : splitter_(std::move(splitter)) {}

        std::vector<uint32_t> feed(const uint8_t* data, size_t size) {
            rest_.insert(rest_.end(), data, data + size);
            size_t whole = 0;  // bytes of words that something follows
            for (size_t at = 0; at < rest_.size();) {
                whole = at;
                at += splitter_->word(rest_.data() + at, rest_.size() - at);
            }
            auto ids = splitter_->encode(rest_.data(), whole);
            rest_.erase(rest_.begin(), rest_.begin() + static_cast<std::ptrdiff_t>(whole));
            return ids;
        }

        std::vector<uint32_t> finish() {
            auto ids = splitter_->encode(rest_.data(), rest_.size());
            rest_.clear();
            return ids;
        }

      private:
        std::shared_ptr<const WordSplitter> splitter_;
        std::vector<uint8_t> rest_;
    };

  private:
    size_t fixed_, max_bytes_;
    uint32_t first_;
};

}  // namespace byteloom

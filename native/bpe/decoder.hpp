// The bytes of every id of a vocabulary, laid end to end for decoding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

namespace byteloom {

class Decoder {
  public:
    // `texts` gives the bytes of every id, empty for ids without bytes.
    explicit Decoder(const std::vector<std::string>& texts) {
        offsets_.reserve(texts.size() + 1);
        for (const auto& text : texts) {
            offsets_.push_back(blob_.size());
            blob_ += text;
        }
        offsets_.push_back(blob_.size());
        blob_.append(kSlack, '\0');
    }

    size_t vocab_size() const { return offsets_.size() - 1; }

    // Bytes that `ids` stand for; `bad` is set to the position of the first id that is not in the vocabulary.
    size_t decoded_size(const uint32_t* ids, size_t size, std::optional<size_t>& bad) const {
        size_t bytes = 0;
        for (size_t i = 0; i < size; ++i) {
            if (ids[i] >= vocab_size()) {
                bad = i;
                return 0;
            }
            bytes += offsets_[ids[i] + 1] - offsets_[ids[i]];
        }
        return bytes;
    }

    // Writes the bytes of `ids` to `out`, which has kSlack bytes more than decoded_size says.
    void decode(const uint32_t* ids, size_t size, uint8_t* out) const {
        for (size_t i = 0; i < size; ++i) {
            const size_t offset = offsets_[ids[i]], length = offsets_[ids[i] + 1] - offset;
            // Most tokens are short: one copy of fixed size is faster than one of the exact size.
            if (length <= kSlack) {
                std::memcpy(out, blob_.data() + offset, kSlack);
            } else {
                std::memcpy(out, blob_.data() + offset, length);
            }
            out += length;
        }
    }

    static constexpr size_t kSlack = 16;  // bytes

  private:
    std::vector<size_t> offsets_;  // into blob_, by id
    std::string blob_;
};

}  // namespace byteloom

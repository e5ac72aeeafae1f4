// One merge list, encoded by the faster encoder that it allows.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "bpe/encoder.hpp"
#include "bpe/heap_encoder.hpp"
#include "bpe/stream.hpp"

namespace byteloom {

class MergeEncoder {
  public:
    // Public ids throughout: byte_ids[256], and left, right, result by rank. The merges must name known tokens; the
    // caller has checked that.
    MergeEncoder(const std::array<uint32_t, 256>& byte_ids, const std::vector<uint32_t>& left,
                 const std::vector<uint32_t>& right, const std::vector<uint32_t>& result)
        : byte_ids_(byte_ids) {
        if (!build_interval_encoder(left, right, result)) {
            general_.emplace(byte_ids_.data(), left, right, result);
        }
    }

    bool is_exact_fast() const { return !general_.has_value(); }

    // Calls give(ids, count) with the public ids of `text`, in order, some at a time.
    template <class Give>
    void encode(const uint8_t* text, size_t size, Give give) const {
        if (general_) {
            const auto ids = general_->encode(text, size);
            return give(ids.data(), ids.size());
        }
        std::visit(
            [&](const auto& encoder) {
                IntervalStream stream(encoder);
                stream.feed(text, size, give);
                stream.finish(give);
            },
            fast_);
    }

    std::vector<uint32_t> encode(const uint8_t* text, size_t size) const {
        std::vector<uint32_t> ids;
        ids.reserve(size / 2 + 16);
        encode(text, size, [&](const uint32_t* some, size_t count) { ids.insert(ids.end(), some, some + count); });
        if (ids.capacity() > ids.size() * 2) ids.shrink_to_fit();
        return ids;
    }

    size_t count(const uint8_t* text, size_t size) const {
        size_t tokens = 0;
        encode(text, size, [&](const uint32_t*, size_t count) { tokens += count; });
        return tokens;
    }

    // A text that comes in pieces. The general encoder has to see the whole of it first.
    class Stream {
      public:
        explicit Stream(std::shared_ptr<const MergeEncoder> encoder) : encoder_(std::move(encoder)) {
            if (encoder_->general_) return;
            if (const auto* narrow = std::get_if<IntervalEncoder<uint16_t>>(&encoder_->fast_)) {
                narrow_.emplace(*narrow);
            } else {
                wide_.emplace(std::get<IntervalEncoder<uint32_t>>(encoder_->fast_));
            }
        }

        std::vector<uint32_t> feed(const uint8_t* text, size_t size) {
            std::vector<uint32_t> ids;
            const auto keep = [&](const uint32_t* some, size_t count) { ids.insert(ids.end(), some, some + count); };
            if (narrow_) {
                narrow_->feed(text, size, keep);
            } else if (wide_) {
                wide_->feed(text, size, keep);
            } else {
                held_.insert(held_.end(), text, text + size);
            }
            return ids;
        }

        std::vector<uint32_t> finish() {
            std::vector<uint32_t> ids;
            const auto keep = [&](const uint32_t* some, size_t count) { ids.insert(ids.end(), some, some + count); };
            if (narrow_) {
                narrow_->finish(keep);
            } else if (wide_) {
                wide_->finish(keep);
            } else {
                ids = encoder_->general_->encode(held_.data(), held_.size());
                held_.clear();
            }
            return ids;
        }

      private:
        std::shared_ptr<const MergeEncoder> encoder_;
        std::optional<IntervalStream<uint16_t>> narrow_;
        std::optional<IntervalStream<uint32_t>> wide_;
        std::vector<uint8_t> held_;
    };

  private:
    bool build_interval_encoder(const std::vector<uint32_t>& left, const std::vector<uint32_t>& right,
                                const std::vector<uint32_t>& result) {
        std::unordered_map<uint32_t, uint32_t> internal;
        internal.reserve(256 + left.size());
        for (uint32_t b = 0; b < 256; ++b) internal.emplace(byte_ids_[b], b);
        MergeList merges;
        for (size_t k = 0; k < left.size(); ++k) {
            const auto l = internal.find(left[k]), r = internal.find(right[k]);
            if (l == internal.end() || r == internal.end()) return false;  // a part is younger than the whole
            merges.left.push_back(l->second);
            merges.right.push_back(r->second);
            if (!internal.emplace(result[k], static_cast<uint32_t>(256 + k)).second) return false;  // made twice
        }
        std::vector<uint32_t> ids(byte_ids_.begin(), byte_ids_.end());
        ids.insert(ids.end(), result.begin(), result.end());
        if (try_build(merges, ids)) return true;
        // Foreign lists may hold rules that an earlier rule always forestalls. They never fire: go on without them.
        drop_dead(merges, ids);
        return try_build(merges, ids);
    }

    bool try_build(const MergeList& merges, const std::vector<uint32_t>& ids) {
        std::vector<uint64_t> length(256 + merges.size(), 1);
        for (size_t k = 0; k < merges.size(); ++k) length[256 + k] = length[merges.left[k]] + length[merges.right[k]];
        // Node numbers run from 1 to the number of tokens, and the largest value is taken.
        const uint64_t largest = std::max<uint64_t>(length.size() + 1, *std::max_element(length.begin(), length.end()));
        if (largest <= 0xFFFF) return fast_.emplace<IntervalEncoder<uint16_t>>().build(merges, ids);
        return fast_.emplace<IntervalEncoder<uint32_t>>().build(merges, ids);
    }

    // Removes every merge whose bytes, alone, do not encode to its token; `ids` are the public ids of internal ids.
    void drop_dead(MergeList& merges, std::vector<uint32_t>& ids) const {
        std::array<uint32_t, 256> bytes{};
        std::vector<uint32_t> made(merges.size()), renamed(256 + merges.size());
        std::vector<std::string> text(256 + merges.size());
        std::iota(made.begin(), made.end(), 256);
        std::iota(bytes.begin(), bytes.end(), 0);
        std::iota(renamed.begin(), renamed.end(), 0);
        for (size_t b = 0; b < 256; ++b) text[b] = std::string(1, static_cast<char>(b));
        const HeapEncoder general(bytes.data(), merges.left, merges.right, made);

        MergeList alive;
        std::vector<uint32_t> alive_ids(byte_ids_.begin(), byte_ids_.end());
        for (size_t k = 0; k < merges.size(); ++k) {
            std::string& whole = text[256 + k];
            whole = text[merges.left[k]] + text[merges.right[k]];
            const auto alone = general.encode(reinterpret_cast<const uint8_t*>(whole.data()), whole.size());
            if (alone.size() != 1 || alone[0] != made[k]) continue;
            // The parts of a rule that fires have fired before, so they are alive and renamed.
            alive.left.push_back(renamed[merges.left[k]]);
            alive.right.push_back(renamed[merges.right[k]]);
            renamed[256 + k] = static_cast<uint32_t>(255 + alive.size());
            alive_ids.push_back(ids[256 + k]);
        }
        merges = std::move(alive);
        ids = std::move(alive_ids);
    }

    std::array<uint32_t, 256> byte_ids_;
    std::variant<IntervalEncoder<uint16_t>, IntervalEncoder<uint32_t>> fast_;
    std::optional<HeapEncoder> general_;
};

}  // namespace byteloom

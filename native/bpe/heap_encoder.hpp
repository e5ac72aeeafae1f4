// The general encoder: any list of merges, in rank order, by a heap of candidates over a linked list of tokens.
//
// Slower by a factor of ten or more than interval descent, and it needs the whole text at once. It serves merge lists
// that BPE training cannot produce (inverted ranks, two merges with one result), and is the reference of the tests.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <queue>
#include <unordered_map>
#include <utility>
#include <vector>

namespace byteloom {

class HeapEncoder {
  public:
    // All ids are public. `left`, `right` and `result` have one entry a merge, in rank order.
    HeapEncoder(const uint32_t* byte_ids, const std::vector<uint32_t>& left, const std::vector<uint32_t>& right,
                const std::vector<uint32_t>& result)
        : byte_ids_(byte_ids, byte_ids + 256) {
        rules_.reserve(left.size());
        for (size_t rank = 0; rank < left.size(); ++rank) {
            rules_.emplace(key(left[rank], right[rank]), Rule{static_cast<uint32_t>(rank), result[rank]});
        }
    }

    std::vector<uint32_t> encode(const uint8_t* text, size_t size) const {
        std::vector<uint32_t> token(size);
        for (size_t i = 0; i < size; ++i) token[i] = byte_ids_[text[i]];
        return merge(std::move(token));
    }

    // The tokens that are left of a text of tokens.
    std::vector<uint32_t> merge(std::vector<uint32_t> token) const {
        const size_t size = token.size();
        std::vector<size_t> previous(size), next(size);
        std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap;
        const auto offer = [&](size_t at) {
            if (next[at] == size) return;
            const auto rule = rules_.find(key(token[at], token[next[at]]));
            if (rule != rules_.end()) heap.push({rule->second.rank, at, token[at], token[next[at]]});
        };
        for (size_t i = 0; i < size; ++i) {
            previous[i] = i - 1;  // the first has none: wraps to the largest value
            next[i] = i + 1;
        }
        for (size_t i = 0; i + 1 < size; ++i) offer(i);
        while (!heap.empty()) {
            const Candidate best = heap.top();
            heap.pop();
            const size_t at = best.at, after = next[at];
            if (token[at] != best.left || after == size || token[after] != best.right) continue;  // stale
            token[at] = rules_.at(key(best.left, best.right)).result;
            token[after] = kGone;
            next[at] = next[after];
            if (next[at] != size) previous[next[at]] = at;
            offer(at);
            if (previous[at] < size) offer(previous[at]);
        }
        std::vector<uint32_t> ids;
        for (size_t i = 0; i < size; i = next[i]) ids.push_back(token[i]);
        return ids;
    }

  private:
    static constexpr uint32_t kGone = std::numeric_limits<uint32_t>::max();

    struct Rule {
        uint32_t rank, result;
    };
    struct Candidate {
        uint32_t rank;
        size_t at;
        uint32_t left, right;
        bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
    };

    static uint64_t key(uint32_t left, uint32_t right) { return (uint64_t{left} << 32) | right; }

    std::vector<uint32_t> byte_ids_;
    std::unordered_map<uint64_t, Rule> rules_;
};

}  // namespace byteloom

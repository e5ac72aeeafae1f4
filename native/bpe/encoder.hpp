// Exact BPE encoding by interval descent: one pass over the bytes, no heap, streaming.
//
// Let last[i] be the last token of the encoding of the first i bytes; the encoding of a text is found by walking back
// from its end. The last token that ends at a byte is found by starting from the byte itself and growing it to the
// left. A merge t = (pre, suc) is a child of suc in the *successor forest*. Number the tokens in preorder, children
// by decreasing rank: then "pre is still intact at the right edge of the text before suc when rank t is processed"
// says that last[] there lies in one interval of numbers. The intervals of siblings are disjoint, so each step is a
// search. Source: Incremental BPE Tokenization, ICML 2026, arXiv 2605.30813 (the interval theory; the tables are
// ours).
//
// What a byte costs is one or two mispredicted branches and a chain of dependent loads. So a long text is cut into
// lanes that are encoded together, step by step and without branches; see extend_lanes for why that is exact.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

namespace byteloom {

// A merge list in internal ids: bytes are 0..255, merge k makes 256 + k, both parts are older than the result.
struct MergeList {
    std::vector<uint32_t> left, right;
    size_t size() const { return left.size(); }
};

// Memory to work in, used again and again without being cleared.
template <class T>
class Scratch {
  public:
    T* of(size_t size) {
        if (size > size_) {
            data_ = std::make_unique_for_overwrite<T[]>(size);
            size_ = size;
        }
        return data_.get();
    }

  private:
    std::unique_ptr<T[]> data_;
    size_t size_ = 0;
};

// Node numbers and token lengths are uint16 when they fit: the tables and last[] then stay in the second-level cache.
template <class Node>
class IntervalEncoder {
  public:
    // `ids` gives the public id of every internal id; bytes with equal ids are one letter, which the first of them
    // stands for. Returns false, and leaves the encoder unusable, when intervals of siblings overlap: the list is not
    // one that BPE training can produce, and only the general encoder gives its meaning.
    bool build(const MergeList& merges, const std::vector<uint32_t>& ids) {
        const Forest forest(merges);
        const size_t tokens = 256 + merges.size();
        std::vector<uint32_t> length(tokens, 1);
        for (size_t k = 0; k < merges.size(); ++k) length[256 + k] = length[merges.left[k]] + length[merges.right[k]];
        longest_ = *std::max_element(length.begin(), length.end());
        for (size_t b = 0; b < 256; ++b) {
            byte_node_[b] = static_cast<Node>(
                forest.number[static_cast<size_t>(std::find(ids.begin(), ids.end(), ids[b]) - ids.begin())]);
        }

        ids_.assign(tokens + 1, 0);
        lengths_.assign(tokens + 1, 0);
        nodes_.assign(tokens + 1, {});
        ranges_.clear();
        buckets_.clear();
        std::vector<Range> ranges;
        for (uint32_t t = 0; t < tokens; ++t) {
            ids_[forest.number[t]] = ids[t];
            lengths_[forest.number[t]] = static_cast<Node>(length[t]);
            ranges.clear();
            for (uint32_t child = forest.first_child[t]; child != kNone; child = forest.next_sibling[child]) {
                ranges.push_back(forest.interval(merges, child));
            }
            std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
            for (size_t i = 1; i < ranges.size(); ++i) {
                if (ranges[i].begin < ranges[i - 1].end) return false;
            }
            index_children(nodes_[forest.number[t]], ranges, tokens, length[t]);
        }
        return true;
    }

    uint32_t longest() const { return longest_; }
    uint32_t id(Node node) const { return ids_[node]; }
    Node length(Node node) const { return lengths_[node]; }

    // Fills last[1..size] for text[0..size). last[0] and the longest() entries before it are known, or last[0] is 0
    // for the start of a text. `scratch` is memory to work in.
    void extend(const uint8_t* text, size_t size, Node* last, Scratch<Node>& scratch) const {
        const size_t overlap = longest_ + kResync;
        if (size >= kLanes * 8 * overlap) {
            extend_lanes(text, size, last, overlap, scratch);
        } else {
            extend_serially(text, size, last);
        }
    }

  private:
    static constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
    static constexpr Node kLast = std::numeric_limits<Node>::max();  // no node has this number
    static constexpr size_t kLanes = 6;
    static constexpr size_t kResync = 64;  // bytes within which the encodings of two texts usually agree again
    static constexpr size_t kBucketsAChild =
        8;  // of any node; of the bytes, where every search starts, four times that

    // A child is taken when begin <= last < end.
    struct alignas(4 * sizeof(Node)) Range {
        Node begin, end, child;
    };

    struct Children {
        uint32_t ranges = 0;   // first of its ranges; two with begin == end == kLast follow the last
        uint32_t buckets = 0;  // first of its buckets: offsets of the first range that ends in or after the bucket
        uint32_t shift = 0;    // log2 of a bucket's width
        uint32_t length = 0;   // bytes of the node itself
    };

    // The successor forest in preorder numbers 1, 2, ...; 0 is the start of a text.
    struct Forest {
        std::vector<uint32_t> first_child, next_sibling, number,
            end;  // by token; end is one past the subtree's numbers

        explicit Forest(const MergeList& merges)
            : first_child(256 + merges.size(), kNone),
              next_sibling(256 + merges.size(), kNone),
              number(256 + merges.size()),
              end(256 + merges.size()) {
            // Pushed in order of rank, so every list of children starts with the highest rank.
            for (size_t k = 0; k < merges.size(); ++k) {
                next_sibling[256 + k] = first_child[merges.right[k]];
                first_child[merges.right[k]] = static_cast<uint32_t>(256 + k);
            }
            uint32_t next = 1;
            std::vector<uint32_t> path;
            for (uint32_t root = 0; root < 256; ++root) {
                uint32_t at = root;
                while (true) {
                    number[at] = next++;
                    if (first_child[at] != kNone) {
                        path.push_back(at);
                        at = first_child[at];
                        continue;
                    }
                    end[at] = next;
                    while (next_sibling[at] == kNone && !path.empty()) {
                        at = path.back();
                        path.pop_back();
                        end[at] = next;
                    }
                    if (at == root) break;
                    at = next_sibling[at];
                }
            }
        }

        // `pre` itself and what grew out of it on its right edge by merges younger than t only.
        Range interval(const MergeList& merges, uint32_t t) const {
            const uint32_t pre = merges.left[t - 256];
            uint32_t stop = end[pre];
            // Children come by decreasing rank; the first that is not younger than t closes the interval.
            for (uint32_t child = first_child[pre]; child != kNone; child = next_sibling[child]) {
                if (child <= t) {
                    stop = number[child];
                    break;
                }
            }
            return {static_cast<Node>(number[pre]), static_cast<Node>(stop), static_cast<Node>(number[t])};
        }
    };

    void index_children(Children& node, const std::vector<Range>& ranges, size_t tokens, uint32_t length) {
        node.ranges = static_cast<uint32_t>(ranges_.size());
        node.buckets = static_cast<uint32_t>(buckets_.size());
        node.length = length;
        const size_t wanted = std::max<size_t>(1, ranges.size() * kBucketsAChild * (length == 1 ? 4 : 1));
        while ((tokens >> node.shift) + 1 > wanted && (tokens >> node.shift) > 0) ++node.shift;
        size_t at = 0;
        for (size_t bucket = 0; bucket <= (tokens >> node.shift); ++bucket) {
            while (at < ranges.size() && ranges[at].end <= (bucket << node.shift)) ++at;
            buckets_.push_back(static_cast<Node>(at));
        }
        ranges_.insert(ranges_.end(), ranges.begin(), ranges.end());
        ranges_.insert(ranges_.end(), 2, {kLast, kLast, 0});
    }

    // Hides from the compiler that `value` is 0 or 1 times something, so that it does not make it a branch again.
    static uint32_t opaque(uint32_t value) {
#if defined(__GNUC__)
        asm("" : "+r"(value));
#endif
        return value;
    }

    // The child of `node` that `last` selects, or 0. Almost without branches: the loop is nearly never entered.
    uint32_t child_of(const Children& node, uint32_t last) const {
        const Range* range = ranges_.data() + node.ranges + buckets_[node.buckets + (last >> node.shift)];
        range += opaque(range->end <= last);
        while (range->end <= last) [[unlikely]]
            ++range;
        return opaque(uint32_t{range->child} & (0u - uint32_t{range->begin <= last}));
    }

    void extend_serially(const uint8_t* text, size_t size, Node* last) const {
        for (size_t i = 1; i <= size; ++i) {
            uint32_t node = byte_node_[text[i - 1]];
            while (const uint32_t child = child_of(nodes_[node], *(last + i - nodes_[node].length))) node = child;
            last[i] = static_cast<Node>(node);
        }
    }

    // last[i] follows from the text and the longest() entries before it. So when a lane that started from nothing at
    // a cut gives longest() entries in a row that are those of the lane before it, all its later ones are right too.
    // Every lane runs on into the next one by `overlap` bytes for that comparison. Where it fails, as it may in long
    // runs of one byte, the next lane is encoded again from the true entries until the two agree.
    void extend_lanes(const uint8_t* text, size_t size, Node* last, size_t overlap, Scratch<Node>& scratch) const {
        const size_t part = size / kLanes, room = part + overlap + 1;
        Node* const own = scratch.of((kLanes - 1) * room);
        std::array<Node*, kLanes> lane{last};
        for (size_t k = 1; k < kLanes; ++k) {
            lane[k] = own + (k - 1) * room;
            lane[k][0] = 0;
        }
        run_lanes(text, part, overlap, lane);
        for (size_t k = 1; k < kLanes; ++k) {
            const size_t cut = k * part, filled = cut + part;
            const auto agree = [&](size_t at) {
                return std::memcmp(last + at + 1 - longest_, lane[k] + at - cut + 1 - longest_,
                                   longest_ * sizeof(Node)) == 0;
            };
            size_t at = cut + overlap;
            while (at < filled && !agree(at)) {
                const size_t next = std::min(at + 4 * overlap, filled);
                extend_serially(text + at, next - at, last + at);
                at = next;
            }
            std::memcpy(last + at + 1, lane[k] + at - cut + 1, (filled - at) * sizeof(Node));
            const size_t stop = k + 1 < kLanes ? filled + overlap : size;
            extend_serially(text + filled, stop - filled, last + filled);
        }
    }

    // Grows the token that ends at `at` by one child, or, when it has none, goes on to the next byte.
    void step(const uint8_t* text, Node* last, size_t& at, uint32_t& node) const {
        const Children& children = nodes_[node];
        const uint32_t child = child_of(children, *(last + at - children.length));
        last[at] = static_cast<Node>(node);  // final when there is no child
        const uint32_t done = opaque(child == 0);
        node = child | (byte_node_[text[at]] & (0u - done));
        at += done;
    }

    // Runs every lane over its part, and lane 0 over the overlap as well; one step of each lane at a time.
    void run_lanes(const uint8_t* text, size_t part, size_t overlap, std::array<Node*, kLanes> lane) const {
        std::array<size_t, kLanes> at;
        std::array<uint32_t, kLanes> node;
        for (size_t k = 0; k < kLanes; ++k) {
            at[k] = 1;
            node[k] = byte_node_[text[k * part]];
        }
        // A step moves a lane by one byte at most, so that many steps are safe without a look at the end.
        for (size_t steps; (steps = part - *std::max_element(at.begin(), at.end())) > 0;) {
            [&]<size_t... K>(std::index_sequence<K...>) {  // unrolled, so that the state of all lanes is in registers
                while (steps-- > 0) (step(text + K * part, lane[K], at[K], node[K]), ...);
            }(std::make_index_sequence<kLanes>{});
        }
        for (size_t k = 0; k < kLanes; ++k) {
            const size_t from = at[k] - 1, stop = k == 0 ? part + overlap : part;
            extend_serially(text + k * part + from, stop - from, lane[k] + from);
        }
    }

    std::array<Node, 256> byte_node_{};
    std::vector<Children> nodes_;
    std::vector<Range> ranges_;
    std::vector<Node> buckets_;
    std::vector<uint32_t> ids_;  // by node: public id
    std::vector<Node> lengths_;  // by node: bytes
    uint32_t longest_ = 1;
};

}  // namespace byteloom

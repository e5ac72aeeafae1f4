// Exact BPE encoding by interval descent: one pass over the bytes, no heap, streaming.
//
// Let last[i] be the last token of the encoding of the first i bytes; the encoding of a text is found by
// walking back from its end. The last token that ends at a byte is found by starting from the byte itself and
// growing it to the left. A merge t = (pre, suc) is a child of suc in the *successor forest*. Number the
// tokens in preorder, children by decreasing rank: then "pre is still intact at the right edge of the text
// before suc when rank t is processed" says that last[] there lies in one interval of numbers. The intervals
// of siblings are disjoint, so each step is a search. Source: Incremental BPE Tokenization, ICML 2026, arXiv
// 2605.30813 (the interval theory; the tables are ours).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

namespace byteloom {

// A merge list in internal ids: bytes are 0..255, merge k makes 256 + k, both parts are older than the
// result.
struct MergeList {
    std::vector<uint32_t> left, right;
    size_t size() const { return left.size(); }
};

// Node numbers are uint16 when they fit: the tables and last[] then stay in the second-level cache.
template <class Node>
class IntervalEncoder {
  public:
    // Returns false, and leaves the encoder unusable, when intervals of siblings overlap: the list is not one
    // that BPE training can produce, and only the general encoder gives its meaning.
    bool build(const MergeList& merges) {
        const size_t tokens = 256 + merges.size();
        std::vector<uint32_t> first_child(tokens, kNone), next_sibling(tokens, kNone);
        // Pushed in order of rank, so every list of children starts with the highest rank.
        for (size_t k = 0; k < merges.size(); ++k) {
            next_sibling[256 + k] = first_child[merges.right[k]];
            first_child[merges.right[k]] = static_cast<uint32_t>(256 + k);
        }
        number_.assign(tokens, 0);
        std::vector<uint32_t> end(tokens);
        token_.assign(tokens + 1, 0);
        uint32_t next = 1;
        std::vector<uint32_t> path;
        for (uint32_t root = 0; root < 256; ++root) {
            uint32_t at = root;
            while (true) {
                number_[at] = static_cast<Node>(next);
                token_[next++] = at;
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
        length_.assign(tokens + 1, 0);
        std::vector<uint32_t> bytes(tokens, 1);
        for (size_t k = 0; k < merges.size(); ++k) bytes[256 + k] = bytes[merges.left[k]] + bytes[merges.right[k]];
        for (size_t t = 0; t < tokens; ++t) length_[number_[t]] = bytes[t];
        longest_ = *std::max_element(bytes.begin(), bytes.end());
        for (size_t b = 0; b < 256; ++b) byte_node_[b] = number_[b];

        std::vector<Range> ranges;
        nodes_.assign(tokens + 1, {});
        for (size_t t = 0; t < tokens; ++t) {
            ranges.clear();
            for (uint32_t child = first_child[t]; child != kNone; child = next_sibling[child]) {
                ranges.push_back({interval_begin(merges, child),
                                  interval_end(merges, child, first_child, next_sibling, end), number_[child]});
            }
            std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
            for (size_t i = 1; i < ranges.size(); ++i) {
                if (ranges[i].begin < ranges[i - 1].end) return false;
            }
            add_children(number_[t], ranges, tokens);
        }
        return true;
    }

    uint32_t longest() const { return longest_; }
    uint32_t length(Node node) const { return length_[node]; }
    uint32_t token(Node node) const { return token_[node]; }

    // Fills last[1..size] for text[0..size); last[0] and the longest() entries before it must be known, or
    // last[0] = 0 for the start of a text.
    void extend(const uint8_t* text, size_t size, Node* last) const {
        for (size_t i = 1; i <= size; ++i) {
            Node node = byte_node_[text[i - 1]];
            const Node* before = last + i - 1;
            while (true) {
                const Node child = child_at(nodes_[node], *before);
                if (child == 0) break;
                node = child;
                before = last + i - nodes_[node].length;
            }
            last[i] = node;
        }
    }

  private:
    static constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
    static constexpr size_t kScan = 6;  // more children than this get an index of buckets

    // A child is taken when begin <= last < end.
    struct Range {
        Node begin, end, child;
    };
    static constexpr Node kLast = std::numeric_limits<Node>::max();  // no node has this number

    struct NodeTable {
        uint32_t children = 0;  // first of its ranges; one with begin == end == kLast follows the last
        uint32_t buckets = 0;   // first of its buckets: offsets of the first range that ends in or after the bucket
        uint32_t length = 0;    // bytes
        uint32_t shift = 0;     // log2 of a bucket's width; 0 = few children, scan from the first range
    };

    Node interval_begin(const MergeList& merges, uint32_t t) const { return number_[merges.left[t - 256]]; }

    Node interval_end(const MergeList& merges, uint32_t t, const std::vector<uint32_t>& first_child,
                      const std::vector<uint32_t>& next_sibling, const std::vector<uint32_t>& end) const {
        const uint32_t pre = merges.left[t - 256];
        // Children come by decreasing rank; the first that is not younger than t closes the interval.
        for (uint32_t child = first_child[pre]; child != kNone; child = next_sibling[child]) {
            if (child <= t) return number_[child];
        }
        return static_cast<Node>(end[pre]);
    }

    void add_children(Node node, const std::vector<Range>& ranges, size_t tokens) {
        NodeTable& table = nodes_[node];
        table.children = static_cast<uint32_t>(ranges_.size());
        table.length = length_[node];
        ranges_.insert(ranges_.end(), ranges.begin(), ranges.end());
        ranges_.push_back({kLast, kLast, 0});
        if (ranges.size() <= kScan) return;
        table.shift = 1;
        while ((tokens >> table.shift) > 256) ++table.shift;
        table.buckets = static_cast<uint32_t>(buckets_.size());
        size_t at = 0;
        for (size_t bucket = 0; bucket <= (tokens >> table.shift); ++bucket) {
            while (at < ranges.size() && ranges[at].end <= (bucket << table.shift)) ++at;
            buckets_.push_back(static_cast<Node>(at));
        }
    }

    Node child_at(const NodeTable& table, Node last) const {
        const Range* range = ranges_.data() + table.children;
        if (table.shift != 0) range += buckets_[table.buckets + (last >> table.shift)];
        while (range->end <= last) ++range;
        return range->begin <= last ? range->child : Node{0};
    }

    std::array<Node, 256> byte_node_{};
    std::vector<NodeTable> nodes_;
    std::vector<Range> ranges_;
    std::vector<Node> buckets_;
    std::vector<uint32_t> length_, token_;  // by node
    std::vector<Node> number_;              // by token
    uint32_t longest_ = 1;
};

}  // namespace byteloom

// The suffix tree behind SuffixDecoding: every window of at most `depth` tokens of every sequence, with its count, and
// the drafts that follow from it. Sequences grow token by token, several at once, and can be removed again.
//
// The official implementation moves all of the last `depth` windows with every token. This one is Ukkonen's idea with
// counts: a window that occurs nowhere else is a leaf, which grows by itself; only windows that so far repeat something
// are *open*, and they cost work only where they enter an edge. When the longest open window matches, so do all others.
// A window counts on an edge from the moment it enters it. Before a sequence ends, or any is removed, the ends of open
// windows become nodes, so that an edge with a count always has a window that goes all the way.
//
// Cost: append amortised O(nodes on the path of a window) a token; about 50 bytes a token.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <unordered_map>
#include <utility>
#include <vector>

namespace byteloom {

// What to propose. A match of m tokens allows min(limit, factor * m + offset) tokens, none less probable than
// `least`. branching: a tree of continuations, not the most frequent one alone.
struct DraftRule {
    uint32_t limit = 64;
    double factor = 1.0, offset = 0.0, least = 0.1;
    bool branching = false;

    uint32_t budget(uint32_t match) const {
        const double most = factor * match + offset + 1e-6;
        return !(most > 0) ? 0 : most >= limit ? limit : static_cast<uint32_t>(most);
    }
};

// parents[i] is the token before token i, -1 for the root; always below i. score: the expected number of accepted
// tokens, the sum of the probabilities.
struct SuffixDraft {
    std::vector<uint32_t> tokens;
    std::vector<int32_t> parents;
    std::vector<double> probabilities;
    double score = 0;
    uint32_t match = 0;
};

class SuffixTree {
  public:
    static constexpr uint32_t kMostDepth = 4096;
    // A node is asked for at most so many continuations; they are kept sorted, so that no draft scans a wide node.
    static constexpr uint32_t kBranches = 16;

    explicit SuffixTree(uint32_t depth) : depth_(depth) {
        if (depth < 2 || depth > kMostDepth) throw std::invalid_argument("depth must be 2 to 4096 tokens");
        ring_ = std::bit_ceil(depth + 1) - 1;
        new_node(0, 0, 0);  // the root
    }

    uint32_t depth() const { return depth_; }
    // Tokens of all sequences that are not removed.
    uint64_t tokens() const { return live_; }
    bool contains(uint64_t id) const { return index_.contains(id); }
    bool is_open(uint64_t id) const { return at(id).open != nullptr; }
    uint64_t size(uint64_t id) const { return at(id).length; }

    std::vector<uint64_t> ids() const {  // in the order in which they began
        std::vector<uint64_t> all;
        for (const auto& sequence : sequences_) {
            if (sequence.alive) all.push_back(sequence.id);
        }
        return all;
    }

    std::vector<uint32_t> text(uint64_t id) const {
        const Sequence& sequence = at(id);
        std::vector<uint32_t> all(sequence.length);
        uint32_t place = sequence.first_block * kBlock;
        for (uint32_t i = 0; i < sequence.length; ++i) {
            all[i] = text_[place];
            if (i + 1 < sequence.length) place = advance(place, 1);
        }
        return all;
    }

    // Appends to a sequence, which begins if there is none with this id.
    void extend(uint64_t id, const uint32_t* tokens, size_t count) {
        if ((uint64_t{block_count()} + 2 + count / kBlock) * kBlock >= kLeaf || nodes_.size() + count >= kLeaf) {
            throw std::length_error("a suffix tree holds at most 2^31 tokens");
        }
        auto found = index_.find(id);
        if (found == index_.end()) found = index_.emplace(id, begin_sequence(id)).first;
        const uint32_t sequence = found->second;
        if (!sequences_[sequence].open) throw std::invalid_argument("the sequence has ended");
        for (size_t i = 0; i < count; ++i) append(sequence, tokens[i]);
        live_ += count;
    }

    // The sequence ends here; it stays in the tree.
    void finish(uint64_t id) {
        const uint32_t sequence = index_of(id);
        if (!sequences_[sequence].open) return;
        settle(sequence);
        sequences_[sequence].open.reset();
        open_.erase(std::find(open_.begin(), open_.end(), sequence));
    }

    // Takes all windows of a sequence out. Its text is given back when half of the text is of removed sequences.
    void remove(uint64_t id) {
        const uint32_t removed = index_of(id);
        finish(id);
        for (const uint32_t sequence : open_) settle(sequence);
        Sequence& sequence = sequences_[removed];
        uint32_t place = sequence.first_block * kBlock;
        for (uint32_t start = 0; start < sequence.length; ++start) {
            take_out(place, std::min(depth_, sequence.length - start));
            if (start + 1 < sequence.length) place = advance(place, 1);
        }
        sequence.alive = false;
        index_.erase(id);
        live_ -= sequence.length;
        dead_ += sequence.length;
        ++dead_sequences_;
        if (index_.empty() || dead_ + kBlock * dead_sequences_ > live_) rebuild();
    }

    // How many windows begin with the pattern.
    uint64_t count(const uint32_t* pattern, size_t size) const {
        if (size == 0 || size > depth_) return 0;
        const auto spot = locate(pattern, static_cast<uint32_t>(size));
        if (!spot) return 0;
        const Entry* entry = find(spot->above, text_[label(spot->below)]);
        return entry->count - tips_above(*spot);
    }

    // The best draft for what follows `context`, over all matches of its end. Longer matches win ties.
    SuffixDraft propose(const uint32_t* context, size_t size, const DraftRule& rule) const {
        std::vector<Spot> spots;  // by length of the match
        const uint32_t most = static_cast<uint32_t>(std::min<size_t>(size, depth_));
        for (uint32_t length = 1; length <= most; ++length) {
            // What does not occur occurs with no longer beginning either.
            const auto spot = locate(context + size - length, length);
            if (!spot) break;
            spots.push_back(*spot);
        }
        return best(spots, rule);
    }

    // The same where the context is a sequence of this tree that has not ended: its open windows are the matches.
    SuffixDraft propose_after(uint64_t id, const DraftRule& rule) const {
        const Sequence& sequence = at(id);
        if (!sequence.open) throw std::invalid_argument("the sequence has ended");
        std::vector<Spot> spots;
        for (uint32_t start = sequence.length; start-- > sequence.open->first;) {
            const Window& window = sequence.open->windows[start & ring_];
            if (window.until == sequence.length) {
                const Node& node = nodes_[window.below];
                spots.push_back({window.above, window.below, node.length, node.length, 0});
            } else {
                const uint32_t length = edge_length(window.below, nodes_[window.above].depth);
                spots.push_back({window.above, window.below, sequence.length - window.from, length, 0});
            }
        }
        return best(spots, rule);
    }

    // Bytes in use, and not those kept for what comes next.
    size_t bytes() const {
        size_t all = text_.size() * sizeof(uint32_t) + blocks_.size() * sizeof(Block) + nodes_.size() * sizeof(Node) -
                     free_nodes_.size() * sizeof(Node) + entries_.size() * sizeof(Entry) -
                     free_entries_ * sizeof(Entry);
        for (const auto& wide : wides_) {
            if (wide) all += sizeof(Wide) + wide->slots.size() * sizeof(Entry);
        }
        return all + sequences_.size() * sizeof(Sequence) + index_.size() * 32 +
               open_.size() * (sizeof(Open) + (ring_ + 1) * sizeof(Window));
    }

  private:
    static constexpr uint32_t kLeaf = 1u << 31;  // set in a child that is a place in the text, not a node
    static constexpr uint32_t kNone = 0xFFFFFFFFu;
    static constexpr uint32_t kBlock = 64;     // tokens of one sequence that lie side by side
    static constexpr uint16_t kWide = 0xFFFF;  // size of a node whose children are in wides_

    struct Entry {
        uint32_t token, count, child;
    };
    // The edge above a node is text_[label ...], `length` tokens; `depth` tokens lead to the node.
    struct Node {
        uint32_t label, children;
        uint16_t depth, length, size, capacity;
    };
    struct Top {
        uint32_t token, count;
    };
    struct Wide {
        std::vector<Entry> slots;  // a hash table by token; child == kNone: free
        uint32_t size = 0;
        uint64_t total = 0;
        std::vector<Top> top;  // the most frequent kBranches, by falling count
        bool stale = false;    // after a removal
    };
    struct Block {
        uint32_t next, sequence, index;
    };
    // An open window ends inside the edge above -> below (which both tell: leaves of several windows have one label),
    // which began at token `from` of its sequence, or, where `until` is the length of the sequence, at the node
    // `below`. It reaches the end of the edge at length `until`.
    struct Window {
        uint32_t above, below, from, until;
    };
    struct Open {
        std::vector<Window> windows;  // by start, in a ring
        uint32_t first = 0;           // the longest open window; all from here to the end are open
    };
    struct Sequence {
        uint64_t id;
        uint32_t first_block, last_block, length;
        bool alive;
        std::unique_ptr<Open> open;
    };
    // The end of a match: `offset` tokens down an edge of `length`.
    struct Spot {
        uint32_t above, below, offset, length;
        double probability;
    };

    // --- text

    uint32_t block_count() const { return static_cast<uint32_t>(blocks_.size()); }

    uint32_t advance(uint32_t place, uint32_t by) const {
        uint32_t block = place / kBlock, within = place % kBlock + by;
        for (; within >= kBlock && blocks_[block].next != kNone; within -= kBlock) block = blocks_[block].next;
        return block * kBlock + within;
    }

    uint32_t label(uint32_t child) const { return child & kLeaf ? child ^ kLeaf : nodes_[child].label; }
    uint32_t sequence_at(uint32_t place) const { return blocks_[place / kBlock].sequence; }
    uint32_t index_at(uint32_t place) const { return blocks_[place / kBlock].index * kBlock + place % kBlock; }

    uint32_t edge_length(uint32_t child, uint32_t depth_above) const {
        if (!(child & kLeaf)) return nodes_[child].length;
        const uint32_t place = child ^ kLeaf;
        return std::min(depth_ - depth_above, sequences_[sequence_at(place)].length - index_at(place));
    }

    uint32_t push_text(uint32_t at, uint32_t token) {
        Sequence& sequence = sequences_[at];
        const uint32_t within = sequence.length % kBlock;
        if (within == 0) {
            const uint32_t block = block_count();
            make_room(blocks_);
            if (text_.size() + kBlock > text_.capacity()) text_.reserve(text_.size() + text_.size() / 4 + 16 * kBlock);
            blocks_.push_back({kNone, at, sequence.length / kBlock});
            text_.resize(text_.size() + kBlock);
            if (sequence.length == 0) {
                sequence.first_block = block;
            } else {
                blocks_[sequence.last_block].next = block;
            }
            sequence.last_block = block;
        }
        const uint32_t place = sequence.last_block * kBlock + within;
        text_[place] = token;
        return place;
    }

    template <class T>
    static void make_room(std::vector<T>& all, size_t more = 1) {  // doubling would waste up to half of the memory
        if (all.size() + more > all.capacity()) all.reserve(all.size() + all.size() / 4 + 16 + more);
    }

    // --- sequences

    uint32_t index_of(uint64_t id) const {
        const auto found = index_.find(id);
        if (found == index_.end()) throw std::out_of_range("there is no such sequence");
        return found->second;
    }
    const Sequence& at(uint64_t id) const { return sequences_[index_of(id)]; }

    uint32_t begin_sequence(uint64_t id) {
        const uint32_t sequence = static_cast<uint32_t>(sequences_.size());
        auto open = std::make_unique<Open>();
        open->windows.resize(ring_ + 1, {0, kNone, 0, 0});
        sequences_.push_back({id, kNone, kNone, 0, true, std::move(open)});
        open_.push_back(sequence);
        return sequence;
    }

    void append(uint32_t at, uint32_t token) {
        const uint32_t place = push_text(at, token);
        Sequence& sequence = sequences_[at];
        Open& open = *sequence.open;
        const uint32_t now = sequence.length;
        open.windows[now & ring_] = {0, 0, now, now};  // begins at the root
        while (open.first <= now && !continues(open.windows[open.first & ring_], open.first, now, token)) {
            grow_leaf(at, open.first, place, token);
            ++open.first;
        }
        for (uint32_t start = open.first; start <= now; ++start) {
            Window& window = open.windows[start & ring_];
            if (window.until != now) continue;
            const uint32_t above = window.below, child = increment(above, token);
            window = {above, child, now, child & kLeaf ? start + depth_ : now + nodes_[child].length};
        }
        ++sequence.length;
        if (sequence.length - open.first == depth_) ++open.first;  // complete: it ends where others of its kind do
    }

    bool continues(const Window& window, uint32_t start, uint32_t now, uint32_t token) const {
        if (window.until == now) return find(window.below, token) != nullptr;
        const uint32_t offset = now - window.from;
        if ((window.below & kLeaf) && offset == edge_length(window.below, window.from - start)) return false;
        return text_[advance(label(window.below), offset)] == token;
    }

    // The window goes where none went before.
    void grow_leaf(uint32_t at, uint32_t start, uint32_t place, uint32_t token) {
        const uint32_t node = end_node(at, start);
        add_child(node, {token, 1, place | kLeaf});
    }

    // The node at which an open window ends; made if there is none.
    uint32_t end_node(uint32_t at, uint32_t start) {
        const Sequence& sequence = sequences_[at];
        const Window window = sequence.open->windows[start & ring_];
        if (window.until == sequence.length) return window.below;
        return split(window.above, window.below, sequence.length - window.from);
    }

    // Makes a node `offset` tokens down an edge: in its middle, or at the end of a leaf.
    uint32_t split(uint32_t above, uint32_t below, uint32_t offset) {
        const uint32_t begin = label(below), first = text_[begin], depth = nodes_[above].depth;
        const bool at_end = offset == edge_length(below, depth);
        const uint32_t node = new_node(begin, depth + offset, offset);
        uint32_t rest = kNone;
        if (!at_end) {
            const uint32_t place = advance(begin, offset);
            if (below & kLeaf) {
                rest = place | kLeaf;
            } else {
                rest = below;
                nodes_[below].label = place;
                nodes_[below].length = static_cast<uint16_t>(nodes_[below].length - offset);
            }
        }
        Entry* entry = find(above, first);
        entry->child = node;
        const uint32_t count = entry->count;
        uint32_t stay = 0;
        for (const uint32_t at : open_) {
            Sequence& sequence = sequences_[at];
            for (uint32_t start = sequence.open->first; start < sequence.length; ++start) {
                Window& window = sequence.open->windows[start & ring_];
                if (window.above != above || window.below != below) continue;
                if (sequence.length - window.from <= offset) {
                    window.below = node;
                    window.until = window.from + offset;
                    ++stay;
                } else {
                    window.above = node;
                    window.below = rest;
                    window.from += offset;
                }
            }
        }
        if (!at_end) {
            add_child(node, {text_[label(rest)], count - stay, rest});
        } else {
            reopen(begin, above, node, depth, offset);
        }
        return node;
    }

    // The leaf that ended at `node` was that of a sequence which still grows: its window is open again. The windows
    // between it and the first open one are at ends of leaves too, and their turn comes next.
    void reopen(uint32_t place, uint32_t above, uint32_t node, uint32_t depth, uint32_t length) {
        Sequence& sequence = sequences_[sequence_at(place)];
        if (!sequence.open) return;
        const uint32_t from = index_at(place), start = from - depth;
        for (uint32_t other = start + 1; other < sequence.open->first; ++other) {
            sequence.open->windows[other & ring_].below = kNone;
        }
        sequence.open->windows[start & ring_] = {above, node, from, from + length};
        sequence.open->first = std::min(sequence.open->first, start);
    }

    // Turns the ends of all open windows of a sequence into nodes, unless they end with the leaf of an ended one.
    void settle(uint32_t at) {
        const Sequence& sequence = sequences_[at];
        for (uint32_t start = sequence.open->first; start < sequence.length; ++start) {
            const Window& window = sequence.open->windows[start & ring_];
            if (window.until == sequence.length) continue;
            const bool at_end = (window.below & kLeaf) &&
                                sequence.length - window.from == edge_length(window.below, nodes_[window.above].depth);
            if (at_end && !sequences_[sequence_at(window.below ^ kLeaf)].open) continue;
            end_node(at, start);
        }
    }

    // Open windows on the same edge that end before the spot.
    uint32_t tips_above(const Spot& spot) const {
        uint32_t tips = 0;
        for (const uint32_t at : open_) {
            const Sequence& sequence = sequences_[at];
            for (uint32_t start = sequence.open->first; start < sequence.length; ++start) {
                const Window& window = sequence.open->windows[start & ring_];
                tips += window.above == spot.above && window.below == spot.below &&
                        sequence.length - window.from < spot.offset;
            }
        }
        return tips;
    }

    // One window less on the path of `length` tokens from the text at `place`; what no window goes through is freed.
    void take_out(uint32_t place, uint32_t length) {
        uint32_t node = 0, depth = 0;
        bool dead = false;
        while (depth < length) {
            const uint32_t token = text_[advance(place, depth)];
            const auto [child, left] = decrement(node, token);
            if (dead) free_node(node);
            if (child & kLeaf) return;
            dead = left == 0;
            node = child;
            depth = nodes_[child].depth;
        }
        if (dead) free_node(node);
    }

    void rebuild() {
        SuffixTree fresh(depth_);
        for (const auto& sequence : sequences_) {
            if (!sequence.alive) continue;
            const auto all = text(sequence.id);
            fresh.extend(sequence.id, all.data(), all.size());
            if (!sequence.open) fresh.finish(sequence.id);
        }
        *this = std::move(fresh);
    }

    // --- children, by falling count; of equals the one last met comes first

    uint32_t new_node(uint32_t label, uint32_t depth, uint32_t length) {
        const Node node{label, 0, static_cast<uint16_t>(depth), static_cast<uint16_t>(length), 0, 0};
        if (!free_nodes_.empty()) {
            const uint32_t at = free_nodes_.back();
            free_nodes_.pop_back();
            nodes_[at] = node;
            return at;
        }
        make_room(nodes_);
        nodes_.push_back(node);
        return static_cast<uint32_t>(nodes_.size() - 1);
    }

    void free_node(uint32_t at) {
        Node& node = nodes_[at];
        if (node.size == kWide) {
            wides_[node.children].reset();
            free_wides_.push_back(node.children);
        } else {
            free_array(node.children, node.capacity);
        }
        free_nodes_.push_back(at);
    }

    uint32_t new_array(uint32_t capacity) {
        auto& free = free_arrays_[std::countr_zero(capacity)];
        if (!free.empty()) {
            const uint32_t at = free.back();
            free.pop_back();
            free_entries_ -= capacity;
            return at;
        }
        make_room(entries_, capacity);
        entries_.resize(entries_.size() + capacity);
        return static_cast<uint32_t>(entries_.size() - capacity);
    }

    void free_array(uint32_t at, uint32_t capacity) {
        if (capacity == 0) return;
        free_arrays_[std::countr_zero(capacity)].push_back(at);
        free_entries_ += capacity;
    }

    static size_t slot_of(const Wide& wide, uint32_t token) {
        const size_t mask = wide.slots.size() - 1;
        size_t slot = (token * 0x9E3779B1u >> 7) & mask;
        while (wide.slots[slot].child != kNone && wide.slots[slot].token != token) slot = (slot + 1) & mask;
        return slot;
    }

    const Entry* find(uint32_t at, uint32_t token) const {
        const Node& node = nodes_[at];
        if (node.size == kWide) {
            const Wide& wide = *wides_[node.children];
            const Entry& entry = wide.slots[slot_of(wide, token)];
            return entry.child == kNone ? nullptr : &entry;
        }
        const Entry* entries = entries_.data() + node.children;
        for (uint32_t i = 0; i < node.size; ++i) {
            if (entries[i].token == token) return entries + i;
        }
        return nullptr;
    }
    Entry* find(uint32_t at, uint32_t token) { return const_cast<Entry*>(std::as_const(*this).find(at, token)); }

    void add_child(uint32_t at, const Entry& entry) {
        if (nodes_[at].size == kWide) return add_wide(*wides_[nodes_[at].children], entry);
        if (nodes_[at].size == kBranches) {
            widen(at);
            return add_wide(*wides_[nodes_[at].children], entry);
        }
        if (nodes_[at].size == nodes_[at].capacity) {
            const uint32_t capacity = std::max(1, nodes_[at].capacity * 2), array = new_array(capacity);
            std::copy_n(entries_.data() + nodes_[at].children, nodes_[at].size, entries_.data() + array);
            free_array(nodes_[at].children, nodes_[at].capacity);
            nodes_[at].children = array;
            nodes_[at].capacity = static_cast<uint16_t>(capacity);
        }
        Node& node = nodes_[at];
        Entry* entries = entries_.data() + node.children;
        entries[node.size] = entry;
        rise(entries, node.size++);
    }

    template <class Counted>
    static void rise(Counted* all, uint32_t at) {
        for (; at > 0 && all[at - 1].count <= all[at].count; --at) std::swap(all[at - 1], all[at]);
    }

    void widen(uint32_t at) {
        Node& node = nodes_[at];
        auto wide = std::make_unique<Wide>();
        wide->slots.resize(4 * kBranches, {0, 0, kNone});
        const Entry* entries = entries_.data() + node.children;
        for (uint32_t i = 0; i < node.size; ++i) {
            wide->slots[slot_of(*wide, entries[i].token)] = entries[i];
            wide->total += entries[i].count;
            wide->top.push_back({entries[i].token, entries[i].count});
        }
        wide->size = node.size;
        free_array(node.children, node.capacity);
        node.size = kWide;
        node.capacity = 0;
        if (free_wides_.empty()) {
            node.children = static_cast<uint32_t>(wides_.size());
            wides_.push_back(std::move(wide));
        } else {
            node.children = free_wides_.back();
            free_wides_.pop_back();
            wides_[node.children] = std::move(wide);
        }
    }

    static void add_wide(Wide& wide, const Entry& entry) {
        if (4 * (wide.size + 1) > 3 * wide.slots.size()) {
            std::vector<Entry> old(2 * wide.slots.size(), {0, 0, kNone});
            old.swap(wide.slots);
            for (const auto& moved : old) {
                if (moved.child != kNone) wide.slots[slot_of(wide, moved.token)] = moved;
            }
        }
        wide.slots[slot_of(wide, entry.token)] = entry;
        ++wide.size;
        wide.total += entry.count;
        raise_top(wide, entry.token, entry.count);
    }

    static void raise_top(Wide& wide, uint32_t token, uint32_t count) {
        if (wide.stale) return;
        auto& top = wide.top;
        uint32_t at = 0;
        if (top.size() == kBranches && count < top.back().count) return;
        while (at < top.size() && top[at].token != token) ++at;
        if (at == top.size()) {
            if (top.size() == kBranches) {
                --at;
            } else {
                top.push_back({});
            }
        }
        top[at] = {token, count};
        rise(top.data(), at);
    }

    uint32_t increment(uint32_t at, uint32_t token) {
        Entry* entry = find(at, token);
        ++entry->count;
        const uint32_t child = entry->child;
        const Node& node = nodes_[at];
        if (node.size == kWide) {
            Wide& wide = *wides_[node.children];
            ++wide.total;
            raise_top(wide, token, entry->count);
        } else {
            Entry* entries = entries_.data() + node.children;
            rise(entries, static_cast<uint32_t>(entry - entries));
        }
        return child;
    }

    // The child and its new count; at 0 it is no longer a child.
    std::pair<uint32_t, uint32_t> decrement(uint32_t at, uint32_t token) {
        Entry* entry = find(at, token);
        const uint32_t child = entry->child, left = --entry->count;
        Node& node = nodes_[at];
        if (node.size != kWide) {
            Entry* entries = entries_.data() + node.children;
            uint32_t i = static_cast<uint32_t>(entry - entries);
            for (; i + 1u < node.size && entries[i + 1].count > entries[i].count; ++i) {
                std::swap(entries[i], entries[i + 1]);
            }
            if (left == 0) --node.size;  // it is the last one
            return {child, left};
        }
        Wide& wide = *wides_[node.children];
        --wide.total;
        for (const auto& top : wide.top) wide.stale |= top.token == token;
        if (left == 0) erase(wide, static_cast<size_t>(entry - wide.slots.data()));
        return {child, left};
    }

    // Linear probing without tombstones: what follows moves up.
    static void erase(Wide& wide, size_t hole) {
        const size_t mask = wide.slots.size() - 1;
        wide.slots[hole].child = kNone;
        --wide.size;
        for (size_t slot = (hole + 1) & mask; wide.slots[slot].child != kNone; slot = (slot + 1) & mask) {
            const Entry moved = wide.slots[slot];
            wide.slots[slot].child = kNone;
            wide.slots[slot_of(wide, moved.token)] = moved;
        }
    }

    static void refresh(Wide& wide) {
        wide.top.clear();
        for (const auto& entry : wide.slots) {
            if (entry.child != kNone) wide.top.push_back({entry.token, entry.count});
        }
        const auto end = wide.top.begin() + std::min<ptrdiff_t>(kBranches, std::ssize(wide.top));
        std::partial_sort(wide.top.begin(), end, wide.top.end(), [](const Top& a, const Top& b) {
            return a.count != b.count ? a.count > b.count : a.token < b.token;
        });
        wide.top.erase(end, wide.top.end());
        wide.stale = false;
    }

    // --- drafts

    std::optional<Spot> locate(const uint32_t* pattern, uint32_t size) const {
        uint32_t node = 0, done = 0;
        while (true) {
            const Entry* entry = find(node, pattern[done]);
            if (entry == nullptr) return std::nullopt;
            const uint32_t length = edge_length(entry->child, nodes_[node].depth);
            const uint32_t compared = std::min(length, size - done);
            uint32_t place = label(entry->child);
            for (uint32_t i = 1; i < compared; ++i) {
                place = advance(place, 1);
                if (text_[place] != pattern[done + i]) return std::nullopt;
            }
            if (size - done <= length) return Spot{node, entry->child, size - done, length, 0};
            if (entry->child & kLeaf) return std::nullopt;
            done += length;
            node = entry->child;
        }
    }

    SuffixDraft best(const std::vector<Spot>& spots, const DraftRule& rule) const {
        double score = 0;
        uint32_t match = 0;
        for (uint32_t length = static_cast<uint32_t>(spots.size()); length > 0; --length) {
            const uint32_t budget = rule.budget(length);
            if (budget <= score) break;  // shorter matches are allowed no more
            const double expected = draft(spots[length - 1], budget, rule, nullptr);
            if (expected > score + 1e-9) {
                score = expected;
                match = length;
            }
        }
        SuffixDraft result;
        if (match == 0) return result;
        result.match = match;
        result.score = draft(spots[match - 1], rule.budget(match), rule, &result);
        return result;
    }

    // The score of the draft; its tokens go to `result` if there is one.
    double draft(Spot spot, uint32_t budget, const DraftRule& rule, SuffixDraft* result) const {
        struct Branch {
            Spot spot;
            int32_t parent;
            uint32_t order;
        };
        // Of equally probable branches the one found first.
        const auto later = [](const Branch& a, const Branch& b) {
            return a.spot.probability != b.spot.probability ? a.spot.probability < b.spot.probability
                                                            : a.order > b.order;
        };
        spot.probability = 1;
        std::vector<Branch> heap{{spot, -1, 0}};
        double score = 0;
        uint32_t room = budget, found = 0;
        int32_t emitted = 0;
        while (room > 0 && !heap.empty()) {
            std::pop_heap(heap.begin(), heap.end(), later);
            const Spot at = heap.back().spot;
            const uint32_t order = heap.back().order;
            int32_t parent = heap.back().parent;
            heap.pop_back();
            const uint32_t taken = std::min(room, at.length - at.offset);
            if (result != nullptr && taken > 0) {
                uint32_t place = advance(label(at.below), at.offset);
                for (uint32_t i = 0; i < taken; ++i) {
                    if (i > 0) place = advance(place, 1);
                    result->tokens.push_back(text_[place]);
                    result->parents.push_back(i == 0 ? parent : emitted + static_cast<int32_t>(i) - 1);
                    result->probabilities.push_back(at.probability);
                }
            }
            score += at.probability * taken;
            room -= taken;
            emitted += static_cast<int32_t>(taken);
            if (room == 0 || (at.below & kLeaf)) continue;
            if (taken > 0) parent = emitted - 1;
            const Node& node = nodes_[at.below];
            const uint64_t total = total_of(node);
            const bool alone = children_of(node) == 1;  // then it goes on where it was
            for_top(node, rule.branching ? kBranches : 1, [&](const Entry& entry) {
                const double probability = at.probability * (entry.count / static_cast<double>(total));
                if (probability < rule.least) return false;
                const uint32_t length = edge_length(entry.child, node.depth);
                heap.push_back({{at.below, entry.child, 0, length, probability}, parent, alone ? order : ++found});
                std::push_heap(heap.begin(), heap.end(), later);
                return true;
            });
        }
        return score;
    }

    uint32_t children_of(const Node& node) const {
        return node.size == kWide ? wides_[node.children]->size : node.size;
    }

    uint64_t total_of(const Node& node) const {
        if (node.size == kWide) return wides_[node.children]->total;
        uint64_t total = 0;
        for (uint32_t i = 0; i < node.size; ++i) total += entries_[node.children + i].count;
        return total;
    }

    // The most frequent children, while `use` wants more.
    template <class Use>
    void for_top(const Node& node, uint32_t most, Use use) const {
        if (node.size != kWide) {
            for (uint32_t i = 0; i < std::min<uint32_t>(node.size, most); ++i) {
                if (!use(entries_[node.children + i])) return;
            }
            return;
        }
        Wide& wide = *wides_[node.children];
        if (wide.stale) refresh(wide);
        for (uint32_t i = 0; i < std::min<uint32_t>(static_cast<uint32_t>(wide.top.size()), most); ++i) {
            if (!use(wide.slots[slot_of(wide, wide.top[i].token)])) return;
        }
    }

    uint32_t depth_, ring_ = 0;
    uint64_t live_ = 0, dead_ = 0, dead_sequences_ = 0;
    std::vector<uint32_t> text_;
    std::vector<Block> blocks_;
    std::vector<Sequence> sequences_;
    std::unordered_map<uint64_t, uint32_t> index_;
    std::vector<uint32_t> open_;
    std::vector<Node> nodes_;
    std::vector<Entry> entries_;
    std::vector<std::unique_ptr<Wide>> wides_;
    std::vector<uint32_t> free_nodes_, free_wides_, free_arrays_[5];
    size_t free_entries_ = 0;
};

}  // namespace byteloom

// A set of tokens, arranged so that all tokens that begin at a place of a text are found in one walk.
//
// A trie in a double array: the child of a state for a byte lies at `base ^ byte`, and is the state's own if it names
// the state as its parent; a step is one load. The first two bytes are looked up at once in a dense table. A run of one
// byte, of which real files are full, would be walked again from each of its places; its states are listed by length,
// so that a walk begins at the end of the run. Memory: about 20 bytes a distinct prefix of a token, and 256 KiB.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace byteloom {

// A token in the text: its state in the trie tells its id; bytes are states 0..255.
struct Match {
    uint32_t state, length;
};

class Trie {
  public:
    // `texts` gives the bytes of every id, or nothing for ids without bytes; no two may be equal. A byte that is no
    // token stands for `unknown`. With `reversed` the trie holds every token from its last byte to its first.
    Trie(const std::vector<std::string>& texts, uint32_t unknown, bool reversed = false) : pairs_(1 << 16, 0) {
        std::vector<Entry> entries;
        for (uint32_t id = 0; id < texts.size(); ++id) {
            if (texts[id].empty()) continue;
            entries.push_back({texts[id], id});
            if (reversed) std::reverse(entries.back().text.begin(), entries.back().text.end());
            longest_ = std::max(longest_, texts[id].size());
        }
        std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.text < b.text; });
        add_block();
        for (uint32_t byte = 0; byte < 256; ++byte) {
            cells_[byte].next = kToken;
            ids_[byte] = unknown;
        }
        open_.clear();  // the first block belongs to the single bytes
        insert(entries);
        for (uint32_t byte = 0; byte < 256; ++byte) list_runs(static_cast<uint8_t>(byte));
    }

    size_t longest() const { return longest_; }
    uint32_t id(uint32_t state) const { return ids_[state]; }

    // Calls found(match) for every token that begins at `at`, from the shortest to the longest; the first is the byte
    // itself. There are `room` >= 1 bytes, at at[0], at[Step], ...; run() tells, when asked, how many of the first ones
    // are equal.
    template <int Step, class Run, class Found>
    void walk(const uint8_t* at, size_t room, Run run, Found found) const {
        uint32_t state = room > 1 ? pairs_[at[0] << 8 | at[Step]] : 0;
        uint32_t length = 2;
        if (state & kRun) {
            const Runs& runs = runs_[state & 0xFF];
            length = static_cast<uint32_t>(std::min<size_t>(run(), runs.states.size()));
            for (uint32_t k = 0; k < runs.tokens_up_to[length - 1]; ++k) found(runs.tokens[k]);
            state = runs.states[length - 1];
        } else {
            found(Match{at[0], 1});
            if (state == 0) return;
            if (cells_[state].next & kToken) found(Match{state, 2});
        }
        for (uint32_t next = cells_[state].next; length < room;) {
            const uint32_t child = (next & ~kToken) ^ at[Step * static_cast<ptrdiff_t>(length)];
            if (cells_[child].parent != state) return;
            state = child;
            next = cells_[child].next;
            ++length;
            if (next & kToken) found(Match{state, length});
        }
    }

  private:
    static constexpr uint32_t kToken = 1u << 31;  // in Cell::next: the state is a token
    static constexpr uint32_t kRun = 1u << 31;    // in pairs_: this byte has long runs; the rest is the byte
    static constexpr uint32_t kNoParent = std::numeric_limits<uint32_t>::max();
    static constexpr size_t kLeastRun = 4;  // bytes of a run worth a list
    static constexpr size_t kOpenBlocks = 16;

    struct Entry {
        std::string text;
        uint32_t id;
    };
    struct Cell {
        uint32_t parent = kNoParent, next = 0;  // next: base of the children; 0, where none can be, for a leaf
    };
    struct Runs {
        std::vector<uint32_t> states;        // of 1, 2, ... bytes
        std::vector<Match> tokens;           // that are runs, from the shortest
        std::vector<uint32_t> tokens_up_to;  // how many of them have at most 1, 2, ... bytes
    };
    struct Block {
        size_t first;  // cell
        std::array<uint64_t, 4> free{~0ull, ~0ull, ~0ull, ~0ull};
        bool is_free(uint32_t cell) const { return free[cell / 64] >> (cell % 64) & 1; }
    };

    void add_block() {
        if (cells_.size() >= kToken) throw std::length_error("the tokens are too long and too many for one trie");
        open_.push_back({cells_.size()});
        if (open_.size() > kOpenBlocks) open_.erase(open_.begin());
        cells_.resize(cells_.size() + 256);
        ids_.resize(cells_.size());
    }

    // Takes cells for the children of one state; gives their base.
    uint32_t place(const std::vector<uint8_t>& children) {
        while (true) {
            for (auto block = open_.begin(); block != open_.end(); ++block) {
                for (uint32_t word = 0; word < 4; ++word) {
                    for (uint64_t left = block->free[word]; left != 0; left &= left - 1) {
                        const auto cell = static_cast<uint32_t>(64 * word + std::countr_zero(left));
                        const uint32_t base = cell ^ children[0];
                        if (!std::all_of(children.begin(), children.end(),
                                         [&](uint8_t child) { return block->is_free(base ^ child); })) {
                            continue;
                        }
                        const auto global = static_cast<uint32_t>(block->first) | base;
                        for (uint8_t child : children) {
                            block->free[(base ^ child) / 64] &= ~(1ull << ((base ^ child) % 64));
                        }
                        if (block->free == std::array<uint64_t, 4>{}) open_.erase(block);
                        return global;
                    }
                }
            }
            add_block();
        }
    }

    // Places the sorted entries, a state at a time: the entries of a state are those that begin with its bytes.
    void insert(const std::vector<Entry>& entries) {
        struct Task {
            size_t begin, end, depth;
            uint32_t state;  // kNoParent for the root
        };
        std::vector<Task> tasks{{0, entries.size(), 0, kNoParent}};
        std::vector<uint8_t> children;
        while (!tasks.empty()) {
            Task task = tasks.back();
            tasks.pop_back();
            if (task.depth > 0 && task.begin < task.end && entries[task.begin].text.size() == task.depth) {
                cells_[task.state].next |= kToken;
                ids_[task.state] = entries[task.begin].id;
                ++task.begin;
            }
            if (task.begin == task.end) continue;
            const auto byte_of = [&](size_t i) { return static_cast<uint8_t>(entries[i].text[task.depth]); };
            children.clear();
            for (size_t i = task.begin; i < task.end; ++i) {
                if (children.empty() || children.back() != byte_of(i)) children.push_back(byte_of(i));
            }
            const uint32_t base = task.depth == 0 ? 0 : place(children);
            if (task.depth > 0) cells_[task.state].next |= base;
            for (size_t i = task.begin; i < task.end;) {
                const uint8_t byte = byte_of(i);
                size_t end = i + 1;
                while (end < task.end && byte_of(end) == byte) ++end;
                const uint32_t child = base ^ byte;
                cells_[child].parent = task.state;
                if (task.depth == 1) pairs_[task.state << 8 | byte] = child;
                tasks.push_back({i, end, task.depth + 1, child});
                i = end;
            }
        }
    }

    void list_runs(uint8_t byte) {
        Runs runs;
        uint32_t state = byte;
        while (true) {
            runs.states.push_back(state);
            const auto length = static_cast<uint32_t>(runs.states.size());
            if (cells_[state].next & kToken) runs.tokens.push_back({state, length});
            runs.tokens_up_to.push_back(static_cast<uint32_t>(runs.tokens.size()));
            const uint32_t child = (cells_[state].next & ~kToken) ^ byte;
            if (cells_[child].parent != state) break;
            state = child;
        }
        if (runs.states.size() < kLeastRun) return;
        pairs_[byte << 8 | byte] = kRun | byte;
        runs_[byte] = std::move(runs);
    }

    std::vector<Cell> cells_;
    std::vector<uint32_t> ids_;    // by state
    std::vector<uint32_t> pairs_;  // state of two bytes, or 0 where no token begins with them
    std::array<Runs, 256> runs_;
    std::vector<Block> open_;  // those of the last blocks that have free cells
    size_t longest_ = 1;
};

}  // namespace byteloom

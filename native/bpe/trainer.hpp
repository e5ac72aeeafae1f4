// Exact byte-pair-encoding training over raw bytes, in time proportional to the occurrences replaced.
//
// Semantics: repeatedly take the pair of adjacent tokens with the most windows (overlapping ones count, ties go to
// the smallest pair of ids), give it the next id and replace it left to right in every document. Ids are internal:
// 0..255 are the bytes, 256 + k is merge k.
//
// How. A live token of `length` slots at position p writes its id into its first and its last slot; the slots between
// hold kInside, and a kSeparator slot stands around every document. So both neighbours of a token are one read away
// and no links are kept. Every pair that may still be chosen has a count and, a shard, the increasing list of the
// positions where it was seen; a merge walks that list, skips entries gone stale, and updates the counts of the
// neighbouring pairs once a distinct neighbour.
//
// The count of a pair never grows after the merge that makes its younger token. So a pair born with fewer windows
// than the threshold of the current *epoch* cannot be chosen in it, and is not stored at all: the table of pairs
// stays small enough for the cache. When no stored pair reaches the threshold, the next epoch starts: the sequence is
// compacted to one slot a token, the threshold falls, and pairs and lists are built anew.
//
// Threads own shards (whole documents) for the walks and partitions (by hash) for the pairs; three phases with two
// barriers a merge. All choices are made by a total order, so the result does not depend on the number of threads.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "bpe/containers.hpp"
#include "bpe/threads.hpp"

namespace byteloom {

struct Merge {
    uint32_t left, right;
    uint64_t count;  // windows when it was chosen
};

struct TrainOptions {
    size_t merges = 0;              // at most this many
    uint64_t min_frequency = 1;     // windows; a pair with fewer is never merged
    uint32_t max_token_length = 0;  // bytes; 0 = no limit
    int threads = 1;
    std::vector<std::string> forbidden;              // byte strings that must not become tokens
    std::function<bool(size_t, size_t)> keep_going;  // (merges done, merges in all); false stops early
};

class Trainer {
  public:
    virtual ~Trainer() = default;

    // Appends one document.
    virtual void add(const uint8_t* data, size_t size) = 0;
    // Keeps the documents whose flag is set; `keep` has one flag a document.
    virtual void retain(const std::vector<bool>& keep) = 0;
    virtual std::vector<Merge> train(const TrainOptions& options) = 0;
};

template <class Slot>
class TrainerFor final : public Trainer {
  public:
    // `symbol_of_byte` is the internal id of each byte: the identity, or the order in which ties are broken.
    explicit TrainerFor(const std::array<uint8_t, 256>& symbol_of_byte) : symbol_of_byte_(symbol_of_byte) {
        *sequence_.grow(1) = kSeparator;
    }

    void add(const uint8_t* data, size_t size) override {
        Slot* slots = sequence_.grow(size + 1);
        for (size_t i = 0; i < size; ++i) slots[i] = symbol_of_byte_[data[i]];
        slots[size] = kSeparator;
        ends_.push_back(sequence_.size());
    }

    void retain(const std::vector<bool>& keep) override {
        size_t from = 1, to = 1, kept = 0;
        for (size_t i = 0; i < ends_.size(); ++i) {
            const size_t size = ends_[i] - from;
            if (keep[i]) {
                std::memmove(sequence_.data() + to, sequence_.data() + from, size * sizeof(Slot));
                to += size;
                ends_[kept++] = to;
            }
            from += size;
        }
        ends_.resize(kept);
        sequence_.resize_down(to);
    }

    std::vector<Merge> train(const TrainOptions& options) override {
        if (sequence_.size() < std::numeric_limits<uint32_t>::max()) return Run<uint32_t>(*this, options).result();
        return Run<uint64_t>(*this, options).result();
    }

  private:
    static constexpr Slot kSeparator = std::numeric_limits<Slot>::max() - 1;
    static constexpr Slot kInside = std::numeric_limits<Slot>::max();

    // One training run. Position is an index into the sequence.
    template <class Position>
    class Run {
      public:
        Run(TrainerFor& trainer, const TrainOptions& options)
            : options_(options),
              threads_(std::max(1, std::min<int>(options.threads, static_cast<int>(trainer.ends_.size())))),
              slots_(trainer.sequence_.data()),
              barrier_(threads_) {
            trainer.sequence_.prefer_huge_pages();
            const size_t ids = 256 + options.merges;
            byte_length_.assign(ids, 1);
            slot_length_.assign(ids, 1);
            bytes_of_.reserve(ids);
            bytes_of_.resize(256);
            for (size_t b = 0; b < 256; ++b)
                bytes_of_[trainer.symbol_of_byte_[b]] = std::string(1, static_cast<char>(b));
            for (const auto& text : options.forbidden) forbidden_.insert(text);
            for (auto& born : born_left_) born.assign(ids, nullptr);
            for (auto& born : born_right_) born.assign(ids, nullptr);
            workers_ = std::vector<Worker>(static_cast<size_t>(threads_));
            split_into_shards(trainer);
            for (auto& worker : workers_) {
                for (auto* counts : {&worker.lost_left, &worker.lost_right, &worker.won_left, &worker.won_right}) {
                    counts->assign(ids);
                }
            }
        }

        std::vector<Merge> result() {
            std::exception_ptr failure;
            std::mutex first;
            run_parallel(threads_, [&](int w) {
                try {
                    work(w);
                } catch (const BrokenBarrier&) {
                } catch (...) {  // out of memory
                    const std::lock_guard lock(first);
                    failure = std::current_exception();
                    barrier_.break_up();
                }
            });
            if (failure) std::rethrow_exception(failure);
            return std::move(merges_);
        }

      private:
        // Positions of one pair in one shard; the capacity is exact, because counts are known before positions.
        struct List {
            std::unique_ptr<Position[]> data;
            Position size = 0;

            void reserve(size_t capacity) {
                data.reset(capacity ? new Position[capacity] : nullptr);
                size = 0;
            }
            void append(Position position) { data[size++] = position; }
        };

        struct Pair {
            uint64_t count = 0;
            std::unique_ptr<List[]> lists;  // one a shard
        };

        struct Candidate {
            uint64_t count;
            uint64_t key;
            bool operator<(const Candidate& other) const {
                return count != other.count ? count < other.count : key > other.key;
            }
        };

        // A dense array of counts by token id that remembers which entries are not zero.
        struct Tally {
            std::vector<Position> count;
            std::vector<uint32_t> touched;

            void assign(size_t ids) { count.assign(ids, 0); }
            void add(uint32_t id) {
                if (count[id]++ == 0) touched.push_back(id);
            }
            void clear() {
                for (uint32_t id : touched) count[id] = 0;
                touched.clear();
            }
        };

        struct alignas(64) Worker {
            // As the owner of a shard: slots_[begin, end), a separator at both ends.
            size_t begin = 0, end = 0;
            Tally lost_left, lost_right, won_left, won_right;
            std::vector<Position> replaced;
            std::vector<Position> sketch;
            PairMap<uint64_t> counted;
            // As the owner of a partition of the pairs.
            PairMap<Pair> pairs;
            std::vector<Candidate> heap;
            Candidate best{0, 0};
            std::array<std::vector<uint32_t>, 2> set_left, set_right;  // entries of born_* to clear, by parity
        };

        void split_into_shards(TrainerFor& trainer) {
            const size_t total = trainer.sequence_.size();
            size_t begin = 0;
            auto end = trainer.ends_.begin();
            for (int w = 0; w < threads_; ++w) {
                Worker& worker = workers_[static_cast<size_t>(w)];
                const size_t goal = total / static_cast<size_t>(threads_) * static_cast<size_t>(w + 1);
                end = w + 1 == threads_ ? trainer.ends_.end() : std::lower_bound(end, trainer.ends_.end(), goal);
                const size_t stop = end == trainer.ends_.end() ? total : *end;
                worker.begin = begin;
                worker.end = stop;
                // The separator between two shards belongs to both: it is only read.
                begin = stop - 1;
            }
        }

        size_t partition_of(uint64_t key) const {
            return static_cast<size_t>(((pair_hash(key) >> 32) * static_cast<uint64_t>(threads_)) >> 32);
        }

        bool allowed(uint32_t left, uint32_t right) const {
            return options_.max_token_length == 0 ||
                   byte_length_[left] + byte_length_[right] <= options_.max_token_length;
        }

        void work(int w) {
            Worker& me = workers_[static_cast<size_t>(w)];
            uint64_t windows = 0;
            for (const Worker& worker : workers_) windows += worker.end - worker.begin;
            // The first threshold keeps the lists of the first, longest sequence short; later ones divide it.
            if (w == 0) {
                threshold_ = std::max<uint64_t>(options_.min_frequency, windows / kFirstThreshold);
                sketch_bits_ = std::clamp<int>(std::bit_width(windows), 8, 2 * kExactBits);
            }
            barrier_.wait();
            while (true) {
                start_epoch(me);
                const bool more = merge_until_below_threshold(w, me);
                barrier_.wait();
                if (!more || threshold_ <= options_.min_frequency) return;
                barrier_.wait();
                if (w == 0) threshold_ = std::max<uint64_t>(options_.min_frequency, threshold_ / kEpochStep);
                barrier_.wait();
            }
        }

        // ---- an epoch: compact, count, list ----

        size_t sketch_cell(uint32_t left, uint32_t right) const {
            if (exact_sketch_) return (size_t{left} << kExactBits) | right;
            return static_cast<size_t>(pair_hash(pair_key(left, right)) >> (64 - sketch_bits_));
        }

        void start_epoch(Worker& me) {
            if (&me == workers_.data()) {
                exact_sketch_ = sketch_bits_ == 2 * kExactBits && 256 + merges_.size() <= (size_t{1} << kExactBits);
            }
            me.pairs.clear();
            me.heap.clear();
            me.counted.clear();
            compact(me);
            barrier_.wait();
            if (&me == workers_.data()) std::fill(slot_length_.begin(), slot_length_.end(), 1);
            sketch_pairs(me);
            barrier_.wait();
            sum_sketches(me);
            barrier_.wait();
            count_candidates(me);
            barrier_.wait();
            create_pairs(me);
            barrier_.wait();
            list_positions(me);
            find_best(me);
            me.sketch = {};
            me.counted.clear();
            barrier_.wait();
            if (&me == workers_.data()) total_sketch_ = {};
        }

        // One slot a token. The separator at me.begin may be shared with the shard before and is never moved.
        void compact(Worker& me) {
            if (merges_.empty()) return;
            size_t to = me.begin + 1;
            for (size_t from = to; from < me.end;) {
                const Slot id = slots_[from];
                if (to != from) slots_[to] = id;
                ++to;
                from += id == kSeparator ? 1 : slot_length_[id];
            }
            me.end = to;
        }

        template <class Visit>
        void each_window(const Worker& me, Visit visit) const {
            for (size_t i = me.begin + 1; i + 1 < me.end; ++i) {
                const Slot left = slots_[i], right = slots_[i + 1];
                if (left != kSeparator && right != kSeparator) visit(left, right, i);
            }
        }

        void sketch_pairs(Worker& me) {
            me.sketch.assign(size_t{1} << sketch_bits_, 0);
            each_window(me, [&](Slot left, Slot right, size_t) { ++me.sketch[sketch_cell(left, right)]; });
        }

        void sum_sketches(Worker& me) {
            const size_t w = static_cast<size_t>(&me - workers_.data());
            const size_t cells = size_t{1} << sketch_bits_, share = cells / static_cast<size_t>(threads_) + 1;
            if (w == 0) total_sketch_.assign(cells, 0);
            barrier_.wait();
            for (size_t i = w * share; i < std::min(cells, (w + 1) * share); ++i) {
                uint64_t sum = 0;
                for (const Worker& worker : workers_) sum += worker.sketch[i];
                total_sketch_[i] = sum;
            }
        }

        // Exact counts, in this shard, of the pairs that may reach the threshold in all shards together.
        void count_candidates(Worker& me) {
            if (exact_sketch_) {
                const uint32_t ids = static_cast<uint32_t>(256 + merges_.size());
                for (uint32_t left = 0; left < ids; ++left) {
                    for (uint32_t right = 0; right < ids; ++right) {
                        const size_t cell = sketch_cell(left, right);
                        if (me.sketch[cell] == 0 || total_sketch_[cell] < threshold_ || !allowed(left, right)) continue;
                        me.counted.at(pair_key(left, right)) = me.sketch[cell];
                    }
                }
                return;
            }
            each_window(me, [&](Slot left, Slot right, size_t) {
                if (total_sketch_[sketch_cell(left, right)] < threshold_ || !allowed(left, right)) return;
                ++me.counted.at(pair_key(left, right));
            });
        }

        void create_pairs(Worker& me) {
            const size_t partition = static_cast<size_t>(&me - workers_.data());
            PairMap<uint64_t> total;
            for (Worker& worker : workers_) {
                worker.counted.each([&](uint64_t key, uint64_t count) {
                    if (partition_of(key) == partition) total.at(key) += count;
                });
            }
            total.each([&](uint64_t key, uint64_t count) {
                if (count < threshold_) return;
                Pair& pair = me.pairs.at(key);
                pair.count = count;
                pair.lists = std::make_unique<List[]>(static_cast<size_t>(threads_));
                for (size_t w = 0; w < workers_.size(); ++w) {
                    const uint64_t* here = workers_[w].counted.find(key);
                    pair.lists[w].reserve(here ? *here : 0);
                }
                me.heap.push_back({count, key});
            });
            std::make_heap(me.heap.begin(), me.heap.end());
        }

        void list_positions(Worker& me) {
            const size_t w = static_cast<size_t>(&me - workers_.data());
            each_window(me, [&](Slot left, Slot right, size_t position) {
                if (total_sketch_[sketch_cell(left, right)] < threshold_) return;
                const uint64_t key = pair_key(left, right);
                Pair* pair = workers_[partition_of(key)].pairs.find(key);
                if (pair != nullptr) pair->lists[w].append(static_cast<Position>(position));
            });
        }

        // ---- the merges of an epoch ----

        // Returns false when training is over: enough merges, or told to stop.
        bool merge_until_below_threshold(int w, Worker& me) {
            while (true) {
                // Every thread reads the same bests between the same barriers and so takes the same decision.
                const Candidate* best = &workers_[0].best;
                for (const Worker& worker : workers_) {
                    if (*best < worker.best) best = &worker.best;
                }
                const Candidate chosen = *best;
                if (stopped_ || merges_done_ == options_.merges) return false;
                if (chosen.count < threshold_) return true;

                const uint32_t left = static_cast<uint32_t>(chosen.key >> 32);
                const uint32_t right = static_cast<uint32_t>(chosen.key);
                const uint32_t made = static_cast<uint32_t>(256 + merges_done_);
                Worker& owner = workers_[partition_of(chosen.key)];
                Pair* pair = owner.pairs.find(chosen.key);
                List list = std::move(pair->lists[w]);
                replace(me, list, left, right, static_cast<Slot>(made));
                list = {};
                if (w == 0) record(left, right, chosen.count);
                barrier_.wait();
                update_pairs(me, left, right, made, &owner == &me ? pair : nullptr);
                find_best(me);
                if (w == 0) report();
                barrier_.wait();
                list_new_pairs(me, static_cast<Slot>(made), w);
            }
        }

        // Phase 1, by shard: replace every occurrence, tally the windows lost and won by distinct neighbour.
        void replace(Worker& me, const List& list, uint32_t left, uint32_t right, Slot made) {
            const size_t left_slots = slot_length_[left], both_slots = left_slots + slot_length_[right];
            me.replaced.clear();
            for (Position i = 0; i < list.size; ++i) {
                if (i + kAhead < list.size) __builtin_prefetch(&slots_[list.data[i + kAhead] - 1], 1);
                const size_t p = list.data[i];
                if (slots_[p] != left || slots_[p + left_slots] != right) continue;  // stale
                const Slot before = slots_[p - 1], after = slots_[p + both_slots];
                // When `before` was made a moment ago, its window with `left` was taken off as (right, after) then.
                if (before != kSeparator && before != made) me.lost_left.add(before);
                if (after != kSeparator) me.lost_right.add(after);
                slots_[p + left_slots - 1] = kInside;
                slots_[p + left_slots] = kInside;
                slots_[p] = made;
                slots_[p + both_slots - 1] = made;
                me.replaced.push_back(static_cast<Position>(p));
            }
            // Neighbours are final only now, so the new windows are counted in a second walk.
            const size_t count = me.replaced.size();
            for (size_t i = 0; i < count; ++i) {
                if (i + kAhead < count) __builtin_prefetch(&slots_[me.replaced[i + kAhead] - 1]);
                const size_t p = me.replaced[i];
                const Slot before = slots_[p - 1], after = slots_[p + both_slots];
                if (before != kSeparator && before != made) me.won_left.add(before);
                if (after != kSeparator) me.won_right.add(after);
            }
        }

        void record(uint32_t left, uint32_t right, uint64_t count) {
            const uint32_t made = static_cast<uint32_t>(256 + merges_.size());
            merges_.push_back({left, right, count});
            byte_length_[made] = byte_length_[left] + byte_length_[right];
            slot_length_[made] = slot_length_[left] + slot_length_[right];
            if (!forbidden_.empty()) bytes_of_.push_back(bytes_of_[left] + bytes_of_[right]);
        }

        void report() {
            merges_done_ = merges_.size();
            if (merges_done_ % kReportEvery == 0 && options_.keep_going &&
                !options_.keep_going(merges_done_, options_.merges)) {
                stopped_ = true;
            }
        }

        // Phase 2, by partition: lower the counts of pairs that lost windows, create the pairs of the new token.
        void update_pairs(Worker& me, uint32_t left, uint32_t right, uint32_t made, Pair* consumed) {
            const size_t parity = made & 1;
            for (uint32_t id : me.set_left[parity ^ 1]) born_left_[parity ^ 1][id] = nullptr;
            for (uint32_t id : me.set_right[parity ^ 1]) born_right_[parity ^ 1][id] = nullptr;
            me.set_left[parity ^ 1].clear();
            me.set_right[parity ^ 1].clear();

            if (consumed != nullptr) {
                consumed->count = 0;
                consumed->lists.reset();
            }
            for (const Worker& worker : workers_) {
                for (uint32_t id : worker.lost_left.touched) {
                    if (id != left || left != right) lower(me, pair_key(id, left), worker.lost_left.count[id]);
                }
                for (uint32_t id : worker.lost_right.touched) {
                    if (id != left || left != right) lower(me, pair_key(right, id), worker.lost_right.count[id]);
                }
            }
            create_born(me, &Worker::won_left, born_left_[parity], me.set_left[parity], made,
                        [made](uint32_t id) { return pair_key(id, made); });
            create_born(me, &Worker::won_right, born_right_[parity], me.set_right[parity], made,
                        [made](uint32_t id) { return pair_key(made, id); });
        }

        void lower(Worker& me, uint64_t key, uint64_t by) {
            if (partition_of(key) != static_cast<size_t>(&me - workers_.data())) return;
            Pair* pair = me.pairs.find(key);
            if (pair == nullptr || pair->count == 0) return;  // born below the threshold, or consumed
            pair->count -= by;
            if (pair->count < threshold_) {  // cannot be chosen in this epoch any more
                pair->count = 0;
                pair->lists.reset();
            }
        }

        template <class KeyOf>
        void create_born(Worker& me, Tally Worker::* won, std::vector<List*>& born, std::vector<uint32_t>& set,
                         uint32_t made, KeyOf key_of) {
            const size_t partition = static_cast<size_t>(&me - workers_.data());
            for (size_t first = 0; first < workers_.size(); ++first) {
                for (uint32_t id : (workers_[first].*won).touched) {
                    const uint64_t key = key_of(id);
                    if (partition_of(key) != partition) continue;
                    uint64_t count = 0;
                    bool seen = false;  // by an earlier shard, which has then created the pair
                    for (size_t w = 0; w < workers_.size(); ++w) {
                        const Position here = (workers_[w].*won).count[id];
                        seen |= w < first && here > 0;
                        count += here;
                    }
                    if (seen || count < threshold_ || !allowed(id, made)) continue;
                    Pair& pair = me.pairs.at(key);
                    pair.count = count;
                    pair.lists = std::make_unique<List[]>(workers_.size());
                    for (size_t w = 0; w < workers_.size(); ++w) pair.lists[w].reserve((workers_[w].*won).count[id]);
                    born[id] = pair.lists.get();
                    set.push_back(id);
                    me.heap.push_back({count, key});
                    std::push_heap(me.heap.begin(), me.heap.end());
                }
            }
        }

        // Phase 3, by shard: the positions of the new pairs, in the memory reserved for them in phase 2.
        void list_new_pairs(Worker& me, Slot made, int w) {
            const auto& born_left = born_left_[made & 1];
            const auto& born_right = born_right_[made & 1];
            const size_t slots = slot_length_[made], count = me.replaced.size();
            for (size_t i = 0; i < count; ++i) {
                if (i + kAhead < count) __builtin_prefetch(&slots_[me.replaced[i + kAhead] - 1]);
                const Position p = me.replaced[i];
                const Slot before = slots_[p - 1], after = slots_[p + slots];
                if (before != kSeparator && before != made && born_left[before] != nullptr) {
                    born_left[before][w].append(static_cast<Position>(p - slot_length_[before]));
                }
                if (after != kSeparator && born_right[after] != nullptr) born_right[after][w].append(p);
            }
            for (auto* tally : {&me.lost_left, &me.lost_right, &me.won_left, &me.won_right}) tally->clear();
        }

        // The best pair of a partition, now exact: entries of the heap may be out of date, counts never are.
        void find_best(Worker& me) {
            while (!me.heap.empty()) {
                const Candidate top = me.heap.front();
                const uint64_t count = me.pairs.find(top.key)->count;
                if (count == top.count && !makes_forbidden(top.key)) {
                    me.best = top;
                    return;
                }
                std::pop_heap(me.heap.begin(), me.heap.end());
                if (count == top.count || count == 0) {
                    me.heap.pop_back();
                } else {
                    me.heap.back().count = count;
                    std::push_heap(me.heap.begin(), me.heap.end());
                }
            }
            me.best = {0, 0};
        }

        bool makes_forbidden(uint64_t key) const {
            if (forbidden_.empty()) return false;
            const auto left = static_cast<size_t>(key >> 32), right = static_cast<size_t>(key & 0xFFFFFFFFu);
            return forbidden_.count(bytes_of_[left] + bytes_of_[right]) > 0;
        }

        static constexpr int kExactBits = 10;       // of each id, while pairs of them index the sketch
        static constexpr size_t kAhead = 24;        // list entries whose slots are fetched in advance
        static constexpr size_t kReportEvery = 64;  // merges
        static constexpr uint64_t kFirstThreshold = 1024, kEpochStep = 8;

        const TrainOptions& options_;
        const int threads_;
        Slot* const slots_;
        SpinBarrier barrier_;
        std::vector<Worker> workers_;
        std::vector<uint32_t> byte_length_, slot_length_;
        std::vector<std::string> bytes_of_;  // kept only as far as forbidden_ needs it
        std::unordered_set<std::string> forbidden_;
        std::array<std::vector<List*>, 2> born_left_,
            born_right_;  // lists of the newest pairs, by parity of the merge
        std::vector<uint64_t> total_sketch_;
        std::vector<Merge> merges_;
        size_t merges_done_ = 0;
        uint64_t threshold_ = 0;
        int sketch_bits_ = 0;
        bool exact_sketch_ = true, stopped_ = false;
    };

    std::array<uint8_t, 256> symbol_of_byte_;
    SlotBuffer<Slot> sequence_;
    std::vector<size_t> ends_;  // one past the separator that closes each document
};

}  // namespace byteloom

// Segmentation by a set of tokens alone, without merges: greedy from either end, fewest tokens, longest token first.
//
// Time is linear in the bytes times the length of the walks in the trie: at most the longest token, about three bytes
// on executables. Source: Train It and Forget It, EMNLP 2025, arXiv 2508.06621; the streams are ours.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bpe/trie.hpp"

namespace byteloom {

enum class Rule {
    kGreedy,        // the longest token that begins at the first byte, and so on
    kGreedyRight,   // the longest token that ends at the last byte, and so on
    kMinimal,       // as few tokens as possible
    kLongestFirst,  // the longest token that occurs anywhere, of equals the first; and so on in what is left
};

// Which token to begin with where several lead to the fewest tokens.
enum class Tie { kLongest, kShortest, kLowestId, kRandom };

class Segmenter {
  public:
    // `texts` as in Trie. A random choice depends on `seed` and the place in the text alone.
    Segmenter(const std::vector<std::string>& texts, uint32_t unknown, Rule rule, Tie tie, uint64_t seed)
        : rule_(rule), tie_(tie), seed_(seed), trie_(texts, unknown, rule == Rule::kGreedyRight) {}

    std::vector<uint32_t> encode(const uint8_t* text, size_t size) const {
        std::vector<uint32_t> ids;
        ids.reserve(room_for(text, size));
        segment(text, size, 0, [&](const Match& match) { ids.push_back(trie_.id(match.state)); });
        if (rule_ == Rule::kGreedyRight) std::reverse(ids.begin(), ids.end());
        if (ids.capacity() > 2 * ids.size()) ids.shrink_to_fit();
        return ids;
    }

    size_t count(const uint8_t* text, size_t size) const {
        if (rule_ == Rule::kMinimal) return fewest(text, size, [](size_t, const Match&) {});
        size_t tokens = 0;
        segment(text, size, 0, [&](const Match&) { ++tokens; });
        return tokens;
    }

    class Stream;

  private:
    static constexpr size_t kGlance = 1 << 16;  // bytes

    // Ids to make room for: a little more than a text of tokens like those at its beginning has, so that a large array
    // need be neither grown nor shrunk, which would copy it.
    size_t room_for(const uint8_t* text, size_t size) const {
        if (size < 16 * kGlance) return size / 2 + 16;
        return (count(text, kGlance) + 16) * (size / kGlance + 1) / 8 * 9;
    }

    // Calls emit(match) for every token in order; from the last to the first where the rule is kGreedyRight. `offset`
    // is the place of the text in a longer one.
    template <class Emit>
    void segment(const uint8_t* text, size_t size, size_t offset, Emit emit) const {
        if (size == 0) return;
        switch (rule_) {
            case Rule::kGreedy:
                greedy<1>(text, size, 0, emit);
                break;
            case Rule::kGreedyRight:
                greedy<-1>(text + size - 1, size, 0, emit);
                break;
            case Rule::kMinimal:
                minimal(text, size, offset, emit);
                break;
            case Rule::kLongestFirst:
                longest_first(text, size, emit);
                break;
        }
    }

    // Emits the longest token, again and again, while more than `keep` bytes are left; gives the bytes that it took.
    template <int Step, class Emit>
    size_t greedy(const uint8_t* text, size_t size, size_t keep, Emit emit) const {
        Run<Step> run{text, size};
        size_t at = 0;
        while (size - at > keep) {
            const Match match = longest<Step>(text, size, at, run);
            emit(match);
            at += match.length;
        }
        return at;
    }

    // The length of the run of one byte that holds a place; every run is measured once while the places increase.
    template <int Step>
    struct Run {
        const uint8_t* text;
        size_t size, end = 0;

        size_t operator()(size_t at) {
            if (at >= end) {
                const uint8_t byte = text[Step * static_cast<ptrdiff_t>(at)];
                for (end = at + 1; end < size && text[Step * static_cast<ptrdiff_t>(end)] == byte; ++end) {
                }
            }
            return end - at;
        }
    };

    template <int Step>
    Match longest(const uint8_t* text, size_t size, size_t at, Run<Step>& run) const {
        Match best{};
        trie_.walk<Step>(
            text + Step * static_cast<ptrdiff_t>(at), size - at, [&] { return run(at); },
            [&](const Match& match) { best = match; });
        return best;
    }

    template <class Emit>
    void minimal(const uint8_t* text, size_t size, size_t offset, Emit emit) const {
        std::vector<uint32_t> state(size);
        std::vector<uint32_t> length(trie_.longest() > 0xFF ? size : 0);
        std::vector<uint8_t> short_length(length.empty() ? size : 0);
        const auto choose = [&](size_t at, const Match& match) {
            state[at] = match.state;
            if (length.empty()) {
                short_length[at] = static_cast<uint8_t>(match.length);
            } else {
                length[at] = match.length;
            }
        };
        switch (tie_) {
            case Tie::kLongest:
                fewest(text, size, choose);
                break;
            case Tie::kShortest:
                fewest(text, size, choose, [](size_t, const Match&, const Match&) { return false; });
                break;
            case Tie::kLowestId:
                fewest(text, size, choose, [&](size_t, const Match& now, const Match& best) {
                    return trie_.id(now.state) < trie_.id(best.state);
                });
                break;
            case Tie::kRandom:
                fewest(text, size, choose, [&](size_t at, const Match& now, const Match& best) {
                    return noise(offset + at, now.length) > noise(offset + at, best.length);
                });
                break;
        }
        for (size_t at = 0; at < size;) {
            const Match match{state[at], length.empty() ? short_length[at] : length[at]};
            emit(match);
            at += match.length;
        }
    }

    struct Longer {
        bool operator()(size_t, const Match&, const Match&) const { return true; }  // tokens come by length
    };

    // The fewest tokens that make up the text. Calls choose(place, token) with the token to go on with at every place,
    // from the last to the first; among equals a later, longer one is taken when prefer(place, it, best so far).
    template <class Choose, class Prefer = Longer>
    size_t fewest(const uint8_t* text, size_t size, Choose choose, Prefer prefer = {}) const {
        // tokens[at & mask] is the fewest from a place to the end; no token reaches farther than the ring.
        const size_t mask = std::bit_ceil(trie_.longest() + 1) - 1;
        std::vector<size_t> tokens(mask + 1, 0);
        size_t run = 0;
        for (size_t at = size; at-- > 0;) {
            run = at + 1 < size && text[at] == text[at + 1] ? run + 1 : 1;
            size_t least = std::numeric_limits<size_t>::max();
            Match best{};
            trie_.walk<1>(
                text + at, size - at, [&] { return run; },
                [&](const Match& match) {
                    const size_t rest = tokens[(at + match.length) & mask];
                    if (rest < least || (rest == least && prefer(at, match, best))) {
                        least = rest;
                        best = match;
                    }
                });
            tokens[at & mask] = least + 1;
            choose(at, best);
        }
        return tokens[0];
    }

    // Uniform bits that depend on nothing but the arguments and the seed (the finalizer of SplitMix64).
    uint64_t noise(size_t place, uint32_t length) const {
        uint64_t bits = seed_ + 0x9E3779B97F4A7C15u * (place + 1) + 0xD1B54A32D192ED03u * length;
        bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9u;
        bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBu;
        return bits ^ (bits >> 31);
    }

    template <class Emit>
    void longest_first(const uint8_t* text, size_t size, Emit emit) const {
        std::vector<uint8_t> covered(size, 0);
        std::vector<Match> taken(size);
        std::vector<std::vector<size_t>> places(trie_.longest() + 1);  // by the length of the longest token there
        {
            Run<1> run{text, size};
            for (size_t at = 0; at < size; ++at) {
                taken[at] = longest<1>(text, size, at, run);
                if (taken[at].length > 1) places[taken[at].length].push_back(at);
            }
        }
        for (size_t length = trie_.longest(); length > 1; --length) {
            std::sort(places[length].begin(), places[length].end());
            for (const size_t at : places[length]) {
                if (covered[at]) continue;
                // What is covered came in pieces at least as long as this one, so a piece in the way reaches its end.
                if (!covered[at + length - 1]) {
                    std::fill_n(covered.begin() + static_cast<ptrdiff_t>(at), length, 1);
                    continue;
                }
                size_t room = 1;
                while (!covered[at + room]) ++room;
                Run<1> run{text, at + room};
                taken[at] = longest<1>(text, at + room, at, run);
                if (taken[at].length > 1) places[taken[at].length].push_back(at);
            }
            std::vector<size_t>().swap(places[length]);
        }
        for (size_t at = 0; at < size; at += taken[at].length) {
            if (!covered[at]) taken[at] = Match{text[at], 1};
            emit(taken[at]);
        }
    }

    Rule rule_;
    Tie tie_;
    uint64_t seed_;
    Trie trie_;
};

// A text that comes in pieces; what is given out is exactly what encode gives for the whole.
//
// Greedy holds back one token. Minimal gives out what every segmentation with the fewest tokens agrees on, whatever
// follows, and so holds the text back while they differ, as they do in a long run of one byte. The other two rules
// decide nothing before they have seen the end.
class Segmenter::Stream {
  public:
    explicit Stream(std::shared_ptr<const Segmenter> segmenter) : segmenter_(std::move(segmenter)) {}

    std::vector<uint32_t> feed(const uint8_t* text, size_t size) {
        std::vector<uint32_t> ids;
        while (size > 0) {
            const size_t block = std::min(size, kBlock);
            held_.insert(held_.end(), text, text + block);
            text += block;
            size -= block;
            if (held_.size() >= enough_) give(ids);
        }
        return ids;
    }

    // Ends the text: gives the rest, and is ready for another text.
    std::vector<uint32_t> finish() {
        std::vector<uint32_t> ids;
        segmenter_->segment(held_.data(), held_.size(), offset_,
                            [&](const Match& match) { ids.push_back(segmenter_->trie_.id(match.state)); });
        if (segmenter_->rule_ == Rule::kGreedyRight) std::reverse(ids.begin(), ids.end());
        held_.clear();
        offset_ = 0;
        enough_ = kBlock;
        return ids;
    }

  private:
    static constexpr size_t kBlock = 64 << 10;  // bytes

    void give(std::vector<uint32_t>& ids) {
        const Segmenter& segmenter = *segmenter_;
        const auto emit = [&](const Match& match) { ids.push_back(segmenter.trie_.id(match.state)); };
        size_t given = 0;
        if (segmenter.rule_ == Rule::kGreedy) {
            given = segmenter.greedy<1>(held_.data(), held_.size(), segmenter.trie_.longest() - 1, emit);
        } else if (segmenter.rule_ == Rule::kMinimal) {
            given = decided();
            segmenter.segment(held_.data(), given, offset_, emit);
        }
        held_.erase(held_.begin(), held_.begin() + static_cast<ptrdiff_t>(given));
        offset_ += given;
        // The next look is at twice as much when little was decided, so that all looks together are linear.
        enough_ = held_.size() + std::max(kBlock, held_.size());
    }

    // The last place at which every best segmentation of the whole text has a boundary, whatever follows; or 0.
    //
    // The last boundary within the bytes held is one of the last longest() places, and what comes before it has the
    // fewest tokens up to there. So follow the best paths back from all of those places, and look for a place that
    // no token of any of them passes over.
    size_t decided() const {
        const Trie& trie = segmenter_->trie_;
        const size_t size = held_.size();
        if (size < trie.longest()) return 0;
        std::vector<size_t> fewest(size + 1, std::numeric_limits<size_t>::max());
        fewest[0] = 0;
        Run<1> forward{held_.data(), size};
        for (size_t at = 0; at < size; ++at) {
            trie.walk<1>(
                held_.data() + at, size - at, [&] { return forward(at); },
                [&](const Match& match) {
                    size_t& there = fewest[at + match.length];
                    there = std::min(there, fewest[at] + 1);
                });
        }
        std::vector<uint8_t> on_path(size + 1, 0);
        std::fill(on_path.end() - static_cast<ptrdiff_t>(trie.longest()), on_path.end(), 1);
        std::vector<size_t> farthest(size + 1, 0);  // end of the longest token of a path that begins at a place
        size_t run = 0;
        for (size_t at = size; at-- > 0;) {
            run = at + 1 < size && held_[at] == held_[at + 1] ? run + 1 : 1;
            trie.walk<1>(
                held_.data() + at, size - at, [&] { return run; },
                [&](const Match& match) {
                    const size_t end = at + match.length;
                    if (on_path[end] && fewest[end] == fewest[at] + 1) {
                        on_path[at] = 1;
                        farthest[at] = end;
                    }
                });
        }
        size_t last = 0, passed = 0;
        for (size_t at = 0; at + trie.longest() <= size + 1; ++at) {
            if (on_path[at] && passed <= at) last = at;
            passed = std::max(passed, farthest[at]);
        }
        return last;
    }

    std::shared_ptr<const Segmenter> segmenter_;
    std::vector<uint8_t> held_;
    size_t offset_ = 0;       // of the first byte held
    size_t enough_ = kBlock;  // bytes held that are worth a look
};

}  // namespace byteloom

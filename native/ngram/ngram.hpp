// Counts of n-grams of tokens, orders 2 to 6, as frozen tables that need no more than a memory map: a trie whose levels
// are sorted arrays, so that what follows a history is one range.
//
// They are built by sorting what follows each token: the next tokens packed into a key of 128 bits. One scan of the
// sorted keys then writes all levels from left to right, and an n-gram that turns out too rare is taken back at once,
// for it is still the last of its level.
//
// The image, in words of 32 bits of this machine:
//     magic, version, vocabulary, order, distinct n-grams of order 2 .. order
//     first[vocabulary + 1]         where the bigrams that begin with a token start
//     of each level n = 2 .. order, for its i-th n-gram:
//         token[size]               its last token
//         sum[size + 1]             counts of all n-grams before it, modulo 2^32
//         first[size + 1]           where the (n+1)-grams that continue it start; not of the last level
// Cost: 12 bytes an n-gram, 8 of the highest order; about 0.1 us a token to build; a query of k histories and s
// candidates is 5 k s binary searches. A table of any bytes can be asked: what it says of them means nothing, and
// nothing outside is read.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

namespace byteloom {

struct NgramLimits {
    static constexpr uint32_t kMostOrder = 6;             // published gains end at 4
    static constexpr uint32_t kMostVocabulary = 1 << 25;  // five tokens fit into a key of 128 bits
    static constexpr uint32_t kMagic = 0x474E4C42;        // "BLNG"; reads otherwise where bytes are swapped
    static constexpr uint32_t kVersion = 1;
    static constexpr size_t kHead = 4;  // words before the sizes

    static void check(uint32_t order, uint32_t vocabulary) {
        if (order < 2 || order > kMostOrder) throw std::invalid_argument("the highest order of n-grams is 2 to 6");
        if (vocabulary < 1 || vocabulary >= kMostVocabulary) {
            throw std::invalid_argument("a vocabulary of n-grams has 1 to 2^25 - 1 tokens");
        }
    }
};

// Collects documents, then counts.
class NgramBuilder {
  public:
    NgramBuilder(uint32_t order, uint32_t vocabulary)
        : order_(order), vocabulary_(vocabulary), bits_(static_cast<uint32_t>(std::bit_width(vocabulary))) {
        NgramLimits::check(order, vocabulary);
    }

    // Tokens of all documents, and one for the end of each.
    size_t size() const { return text_.size(); }

    void add(const uint32_t* ids, size_t count) {
        if (text_.size() + count + 1 >= kMostText)
            throw std::length_error("n-grams of at most 2^32 tokens are counted");
        if (std::any_of(ids, ids + count, [&](uint32_t id) { return id >= vocabulary_; })) {
            throw std::out_of_range("a token id is not in the vocabulary");
        }
        for (size_t i = 0; i < count; ++i) text_.push_back(ids[i] + 1);
        text_.push_back(kEnd);
    }

    // The image of all n-grams that occur at least `least` times.
    std::vector<uint32_t> freeze(uint32_t least) const {
        std::vector<Level> levels(order_ - 1);
        std::vector<uint32_t> first(vocabulary_ + size_t{1});
        std::vector<size_t> ends(vocabulary_ + size_t{2});
        for (const uint32_t token : text_) ++ends[token];
        size_t sum = 0;
        for (auto& end : ends) end = sum += end;
        std::vector<uint32_t> places(text_.size());  // by token; what is at ends[t] becomes the beginning of t
        for (size_t i = text_.size(); i-- > 0;) places[--ends[text_[i]]] = static_cast<uint32_t>(i);
        std::vector<Key> keys, spare;
        for (uint32_t token = 1; token <= vocabulary_; ++token) {
            first[token - 1] = levels[0].size();
            keys.clear();
            for (size_t i = ends[token]; i < ends[token + 1]; ++i) keys.push_back(key_after(places[i]));
            sort(keys, spare);
            write(keys, std::max(least, 1u), levels);
        }
        first[vocabulary_] = levels[0].size();
        return image(first, levels);
    }

  private:
    static constexpr uint32_t kEnd = 0;  // of a document; ids are one higher in the text
    static constexpr size_t kMostText = 0xFFFFFFFFu;
    static constexpr size_t kFew = 256;  // are sorted by comparison
    static constexpr size_t kDigits = 16;

    struct Key {
        uint64_t high, low;
        auto operator<=>(const Key&) const = default;
        uint8_t digit(size_t i) const { return static_cast<uint8_t>((i < 8 ? low : high) >> (i % 8 * 8)); }
    };
    struct Level {
        std::vector<uint32_t> token, count, first;
        uint32_t size() const {
            if (token.size() >= kMostText) throw std::length_error("there are more than 2^32 n-grams of one order");
            return static_cast<uint32_t>(token.size());
        }
    };

    // The tokens after a place, the next one highest; zeros behind the end of the document.
    Key key_after(size_t place) const {
        Key key{0, 0};
        for (uint32_t i = 1; i < order_; ++i) {
            const uint32_t token = text_[place] == kEnd ? kEnd : text_[++place];
            key.high = key.high << bits_ | key.low >> (64 - bits_);
            key.low = key.low << bits_ | token;
        }
        return key;
    }

    uint32_t token_of(const Key& key, uint32_t i) const {  // i-th of order - 1
        const uint32_t shift = (order_ - 2 - i) * bits_;
        const uint64_t part = shift >= 64  ? key.high >> (shift - 64)
                              : shift == 0 ? key.low
                                           : key.low >> shift | key.high << (64 - shift);
        return static_cast<uint32_t>(part & ((uint64_t{1} << bits_) - 1));
    }

    // By digits from the lowest, those left out that are the same everywhere.
    void sort(std::vector<Key>& keys, std::vector<Key>& spare) const {
        if (keys.size() < kFew) {
            std::sort(keys.begin(), keys.end());
            return;
        }
        const size_t digits = ((order_ - 1) * bits_ + 7) / 8;
        std::array<std::array<uint32_t, 256>, kDigits> counts{};
        for (const Key& key : keys) {
            for (size_t i = 0; i < digits; ++i) ++counts[i][key.digit(i)];
        }
        spare.resize(keys.size());
        for (size_t i = 0; i < digits; ++i) {
            auto& starts = counts[i];
            if (starts[keys[0].digit(i)] == keys.size()) continue;
            uint32_t sum = 0;
            for (auto& start : starts) sum += std::exchange(start, sum);
            for (const Key& key : keys) spare[starts[key.digit(i)]++] = key;
            keys.swap(spare);
        }
    }

    // Appends the n-grams of one first token to all levels.
    void write(const std::vector<Key>& keys, uint32_t least, std::vector<Level>& levels) const {
        std::array<uint32_t, NgramLimits::kMostOrder> open{}, tokens{};
        uint32_t depth = 0;  // levels whose last n-gram may still be counted
        for (size_t at = 0; at < keys.size();) {
            const size_t begin = at;
            while (at < keys.size() && keys[at] == keys[begin]) ++at;
            const uint32_t count = static_cast<uint32_t>(at - begin);
            uint32_t length = 0, same = 0;
            for (; length < order_ - 1; ++length) {
                tokens[length] = token_of(keys[begin], length);
                if (tokens[length] == kEnd) break;
            }
            while (same < std::min(depth, length) && tokens[same] == open[same]) ++same;
            close(same, depth, least, levels);
            for (; depth < length; ++depth) {
                Level& level = levels[depth];
                open[depth] = tokens[depth];
                level.token.push_back(tokens[depth] - 1);
                level.count.push_back(0);
                if (depth + 2 < order_) level.first.push_back(levels[depth + 1].size());
            }
            for (uint32_t i = 0; i < length; ++i) levels[i].count.back() += count;
        }
        close(0, depth, least, levels);
    }

    static void close(uint32_t to, uint32_t& depth, uint32_t least, std::vector<Level>& levels) {
        for (; depth > to; --depth) {
            Level& level = levels[depth - 1];
            if (level.count.back() >= least) continue;
            level.token.pop_back();
            level.count.pop_back();
            if (!level.first.empty()) level.first.pop_back();
        }
    }

    std::vector<uint32_t> image(const std::vector<uint32_t>& first, std::vector<Level>& levels) const {
        std::vector<uint32_t> words{NgramLimits::kMagic, NgramLimits::kVersion, vocabulary_, order_};
        size_t size = words.size() + levels.size() + first.size();
        for (const Level& level : levels) size += level.token.size() + level.count.size() + level.first.size() + 2;
        words.reserve(size);
        for (const Level& level : levels) words.push_back(level.size());
        words.insert(words.end(), first.begin(), first.end());
        for (size_t i = 0; i < levels.size(); ++i) {
            Level level = std::move(levels[i]);
            words.insert(words.end(), level.token.begin(), level.token.end());
            uint32_t sum = 0;
            for (const uint32_t count : level.count) words.push_back(std::exchange(sum, sum + count));
            words.push_back(sum);
            if (i + 1 == levels.size()) break;
            words.insert(words.end(), level.first.begin(), level.first.end());
            words.push_back(levels[i + 1].size());
        }
        return words;
    }

    uint32_t order_, vocabulary_, bits_;
    std::vector<uint32_t> text_;
};

// Asks an image, which is not copied and must outlive the table.
class NgramTable {
  public:
    static constexpr uint32_t kNoToken = 0xFFFFFFFFu;  // in a history: there is nothing before

    NgramTable(const uint8_t* data, size_t bytes) {
        // Nothing but the shape is checked here: a query reads no entry that it does not check itself.
        if (reinterpret_cast<uintptr_t>(data) % alignof(uint32_t) != 0) {
            throw std::invalid_argument("a table of n-grams must be aligned to 4 bytes");
        }
        const auto* word = reinterpret_cast<const uint32_t*>(data);
        const size_t words = bytes / sizeof(uint32_t);
        if (bytes % sizeof(uint32_t) != 0 || words < NgramLimits::kHead || word[0] != NgramLimits::kMagic ||
            word[1] != NgramLimits::kVersion) {
            throw std::invalid_argument("this is no table of n-grams of this version");
        }
        vocabulary_ = word[2];
        order_ = word[3];
        NgramLimits::check(order_, vocabulary_);
        size_t at = NgramLimits::kHead + order_ - 1;
        size_t left = words - std::min(words, at);
        const auto take = [&](size_t count) {
            if (count > left) throw std::invalid_argument("the table of n-grams is cut off");
            const uint32_t* begin = word + at;
            at += count;
            left -= count;
            return begin;
        };
        first_ = take(vocabulary_ + size_t{1});
        for (uint32_t i = 0; i + 1 < order_; ++i) {
            Level& level = levels_[i];
            level.size = word[NgramLimits::kHead + i];
            level.token = take(level.size);
            level.sum = take(level.size + size_t{1});
            level.first = i + 2 < order_ ? take(level.size + size_t{1}) : nullptr;
        }
        if (left != 0) throw std::invalid_argument("the table of n-grams is longer than it says");
    }

    uint32_t order() const { return order_; }
    uint32_t vocabulary() const { return vocabulary_; }
    // Distinct n-grams of order 2 + i.
    uint32_t size(uint32_t i) const { return levels_[i].size; }

    // out[c] = sum over n = 2 .. order of weights[n - 2] * P(candidates[c] | last n - 1 tokens of the history), where P
    // is 0 when these were never seen. history: order - 1 tokens.
    void query(const uint32_t* history, const uint32_t* candidates, size_t count, const float* weights,
               float* out) const {
        std::fill(out, out + count, 0.0f);
        for (uint32_t length = 1; length < order_; ++length) {
            const Range range = after(history + (order_ - 1 - length), length);
            const Level& level = levels_[length - 1];
            const uint32_t total = level.sum[range.end] - level.sum[range.begin];
            if (range.begin == range.end || total == 0) break;  // nor was a longer history ever seen
            const float scale = weights[length - 1] / static_cast<float>(total);
            for (size_t c = 0; c < count; ++c) {
                const uint32_t at = find(level, range, candidates[c]);
                if (at != range.end) out[c] += scale * static_cast<float>(level.sum[at + 1] - level.sum[at]);
            }
        }
    }

  private:
    struct Level {
        const uint32_t *token, *sum, *first;
        uint32_t size;
    };
    struct Range {
        uint32_t begin, end;
    };

    // What follows `length` tokens: a range of the level of n-grams that are one longer.
    Range after(const uint32_t* history, uint32_t length) const {
        if (history[0] >= vocabulary_) return {0, 0};
        Range range = checked(first_ + history[0], levels_[0]);
        for (uint32_t i = 1; i < length; ++i) {
            const uint32_t at = find(levels_[i - 1], range, history[i]);
            if (at == range.end) return {0, 0};
            range = checked(levels_[i - 1].first + at, levels_[i]);
        }
        return range;
    }

    static Range checked(const uint32_t* ends, const Level& level) {
        return ends[0] <= ends[1] && ends[1] <= level.size ? Range{ends[0], ends[1]} : Range{0, 0};
    }

    // Where the token is in the range; its end when it is not.
    static uint32_t find(const Level& level, const Range& range, uint32_t token) {
        const uint32_t* end = level.token + range.end;
        const uint32_t* found = std::lower_bound(level.token + range.begin, end, token);
        return found != end && *found == token ? static_cast<uint32_t>(found - level.token) : range.end;
    }

    uint32_t order_, vocabulary_;
    const uint32_t* first_;
    std::array<Level, NgramLimits::kMostOrder - 1> levels_{};
};

}  // namespace byteloom

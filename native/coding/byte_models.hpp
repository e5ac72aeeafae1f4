// Models of the next byte in integers alone, so that every machine gives the same table: one fixed table, counts of a
// corpus, and counts of the very bytes that are coded.
//
// Counts of contexts of 0 to k bytes are blended from the shortest to the longest by Witten and Bell's rule, with
// P(-1) = 1/256, N bytes seen after a context and T different ones among them:
//     P(k)(x) = (n(x) + T P(k-1)(x)) / (N + T)
// in fixed point of 32 bits, rounded down. A table gives byte x 1 + floor(P(x) (2^14 - 256)) of 2^14, and what is left
// to the likeliest byte. Source: Witten and Bell 1991; the quantisation of Training LLMs over Neurally Compressed Text,
// arXiv 2404.03626, section 3. Cost: about a microsecond a table.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "coding/range_coder.hpp"

namespace byteloom {

using Table = std::array<uint32_t, kTableSize>;

constexpr size_t kMostOrder = 6;  // a context and the byte after it fit into 56 bits

// The distribution that grows from order to order.
class Blend {
  public:
    Blend() { share_.fill(1u << 24); }

    // N + T of a context, as a factor: share(n) is n / (N + T) in 32 bits.
    class Scale {
      public:
        Scale(uint64_t seen, uint64_t different) : unit_((uint64_t{1} << 63) / (seen + different)) {}
        uint32_t share(uint64_t count) const { return static_cast<uint32_t>((count * unit_) >> 31); }

      private:
        uint64_t unit_;
    };

    // `rest` is the share T / (N + T) that is left to the shorter context.
    void scale(uint32_t rest) {
        for (auto& share : share_) share = static_cast<uint32_t>((uint64_t{share} * rest) >> 32);
    }
    void add(uint8_t byte, uint32_t share) { share_[byte] += share; }

    void cumulate(uint32_t* table) const {
        std::array<uint32_t, 256> width;
        uint32_t sum = 0;
        for (size_t i = 0; i < 256; ++i) {
            width[i] = static_cast<uint32_t>((uint64_t{share_[i]} * (kTableTotal - 256)) >> 32) + 1;
            sum += width[i];
        }
        width[static_cast<size_t>(std::max_element(share_.begin(), share_.end()) - share_.begin())] +=
            kTableTotal - sum;
        table[0] = 0;
        for (size_t i = 0; i < 256; ++i) table[i + 1] = table[i] + width[i];
    }

  private:
    std::array<uint32_t, 256> share_;
};

// The last bytes of a text, newest lowest; contexts of `length` bytes are told apart from others by key().
struct History {
    uint64_t bytes = 0;
    size_t length = 0;  // at most kMostOrder

    void push(uint8_t byte) {
        bytes = (bytes << 8 | byte) & ((uint64_t{1} << (8 * kMostOrder)) - 1);
        length = std::min(length + 1, kMostOrder);
    }
    uint64_t context(size_t order) const { return bytes & ((uint64_t{1} << (8 * order)) - 1); }
};

// From 48 bits to a number from 0; open addressing. No deletion: nothing needs it.
class ContextMap {
  public:
    static constexpr uint32_t kNone = ~uint32_t{0};

    explicit ContextMap(size_t expected = 0) { clear(expected); }

    void clear(size_t expected = 0) {
        size_t slots = 64;
        while (slots < 2 * expected) slots *= 2;
        keys_.assign(slots, 0);
        values_.assign(slots, kNone);
        used_ = 0;
    }
    uint32_t find(uint64_t key) const { return values_[slot(key)]; }

    // The number of a key; `fresh` if it has none yet.
    uint32_t at(uint64_t key, uint32_t fresh) {
        size_t i = slot(key);
        if (values_[i] != kNone) return values_[i];
        if (2 * ++used_ > keys_.size()) {
            grow();
            i = slot(key);
        }
        keys_[i] = key;
        return values_[i] = fresh;
    }

  private:
    size_t slot(uint64_t key) const {
        const size_t mask = keys_.size() - 1;
        size_t i = ((key * 0x9E37'79B9'7F4A'7C15u) >> 20) & mask;
        while (values_[i] != kNone && keys_[i] != key) i = (i + 1) & mask;
        return i;
    }
    void grow() {
        auto keys = std::move(keys_);
        auto values = std::move(values_);
        keys_.assign(2 * keys.size(), 0);
        values_.assign(2 * values.size(), kNone);
        for (size_t i = 0; i < keys.size(); ++i) {
            if (values[i] == kNone) continue;
            const size_t to = slot(keys[i]);
            keys_[to] = keys[i];
            values_[to] = values[i];
        }
    }

    std::vector<uint64_t> keys_;
    std::vector<uint32_t> values_;
    size_t used_ = 0;
};

// One table, whatever came before.
class FixedModel {
  public:
    explicit FixedModel(const Table& table) : table_(table) {}

    class Cursor {
      public:
        explicit Cursor(const FixedModel& model) : table_(model.table_) {}
        void push(uint8_t) {}
        const uint32_t* table() { return table_.data(); }

      private:
        const Table& table_;
    };

  private:
    Table table_;
};

// The counts of a corpus. Memory: about 5 bytes a different string of order + 1 bytes and 50 a different context.
class CountModel {
  public:
    // `grams` are the different strings that begin at some byte of the corpus, cut at order + 1 bytes or at the end of
    // a document: seven bytes from the highest down, zeros behind the string, and its length in the lowest byte.
    // Strictly increasing; `counts` says how often each occurs.
    CountModel(const uint64_t* grams, const uint32_t* counts, size_t size, size_t order) : order_(order) {
        check(grams, size);
        for (size_t k = 0; k <= order; ++k) levels_.push_back(level(grams, counts, size, k));
    }

    class Cursor {
      public:
        explicit Cursor(const CountModel& model) : model_(model) {}
        void push(uint8_t byte) { history_.push(byte); }
        const uint32_t* table() {
            Blend blend;
            for (size_t k = 0; k <= std::min(model_.order_, history_.length); ++k) {
                const Level& level = model_.levels_[k];
                const uint32_t at = level.places.find(history_.context(k));
                if (at == ContextMap::kNone) break;  // and so are all longer ones
                blend.scale(level.rest[at]);
                for (uint32_t i = level.first[at]; i < level.first[at + 1]; ++i) {
                    blend.add(level.bytes[i], level.shares[i]);
                }
            }
            blend.cumulate(table_.data());
            return table_.data();
        }

      private:
        const CountModel& model_;
        History history_;
        Table table_;
    };

  private:
    // All contexts of one length. Those of context i are bytes[first[i]] to bytes[first[i + 1] - 1].
    struct Level {
        ContextMap places;
        std::vector<uint32_t> first, rest;
        std::vector<uint8_t> bytes;
        std::vector<uint32_t> shares;
    };

    void check(const uint64_t* grams, size_t size) const {
        if (order_ > kMostOrder) throw std::invalid_argument("the order is out of range");
        for (size_t i = 0; i < size; ++i) {
            const uint64_t length = grams[i] & 0xFF;
            const bool padded = length >= 1 && length <= order_ + 1 && (grams[i] >> 8 << (8 * length) & kText) == 0;
            if (!padded || (i > 0 && grams[i - 1] >= grams[i])) {
                throw std::invalid_argument("the counts are damaged");
            }
        }
    }

    static Level level(const uint64_t* grams, const uint32_t* counts, size_t size, size_t k) {
        // One pass over the strings of more than k bytes, which lie sorted by their first k + 1.
        struct Context {
            uint64_t text;
            uint32_t first;
        };
        std::vector<Context> contexts;
        std::vector<uint64_t> seen;  // of each follower
        Level level;
        uint64_t last = ~uint64_t{0};
        for (size_t i = 0; i < size; ++i) {
            if ((grams[i] & 0xFF) <= k) continue;
            const uint64_t text = grams[i] >> (8 * (kMostOrder + 1 - k));  // k + 1 bytes
            if (text != last) {
                if (contexts.empty() || contexts.back().text != text >> 8) {
                    contexts.push_back({text >> 8, static_cast<uint32_t>(seen.size())});
                }
                level.bytes.push_back(static_cast<uint8_t>(text));
                seen.push_back(0);
                last = text;
            }
            seen.back() += counts[i];
        }
        contexts.push_back({0, static_cast<uint32_t>(seen.size())});
        level.places.clear(contexts.size());
        level.shares.resize(seen.size());
        for (size_t c = 0; c < contexts.size(); ++c) {
            level.first.push_back(contexts[c].first);
            if (c + 1 == contexts.size()) break;
            const uint32_t end = contexts[c + 1].first, different = end - contexts[c].first;
            uint64_t all = 0;
            for (uint32_t i = contexts[c].first; i < end; ++i) all += seen[i];
            const Blend::Scale scale(all, different);
            level.rest.push_back(scale.share(different));
            for (uint32_t i = contexts[c].first; i < end; ++i) level.shares[i] = scale.share(seen[i]);
            level.places.at(contexts[c].text, static_cast<uint32_t>(c));
        }
        return level;
    }

    static constexpr uint64_t kText = (uint64_t{1} << (8 * (kMostOrder + 1))) - 1;

    size_t order_;
    std::vector<Level> levels_;
};

// The counts of the bytes coded so far. Memory: about 10 bytes a different string of order + 1 bytes, 70 a different
// context; when it holds counts of kMost strings, it forgets all and starts afresh.
class AdaptiveModel {
  public:
    static constexpr size_t kMost = 8u << 20;

    explicit AdaptiveModel(size_t order, size_t most = kMost) : order_(order), most_(most) {
        if (order > kMostOrder) throw std::invalid_argument("the order is out of range");
    }

    class Cursor {
      public:
        explicit Cursor(const AdaptiveModel& model) : model_(model), places_(model.order_ + 1) {}

        const uint32_t* table() {
            Blend blend;
            for (size_t k = 0; k <= std::min(model_.order_, history_.length); ++k) {
                const uint32_t at = places_[k].find(history_.context(k));
                if (at == ContextMap::kNone) break;
                const Context& context = contexts_[at];
                const Blend::Scale scale(context.seen, context.different);
                blend.scale(scale.share(context.different));
                for (uint32_t i = context.first; i < context.first + context.different; ++i) {
                    blend.add(bytes_[i], scale.share(counts_[i]));
                }
            }
            blend.cumulate(table_.data());
            return table_.data();
        }

        void push(uint8_t byte) {
            if (counts_.size() > model_.most_) {
                for (auto& places : places_) places.clear();
                contexts_.clear();
                counts_.clear();
                bytes_.clear();
            }
            for (size_t k = 0; k <= std::min(model_.order_, history_.length); ++k) {
                const auto fresh = static_cast<uint32_t>(contexts_.size());
                const uint32_t at = places_[k].at(history_.context(k), fresh);
                if (at == fresh) contexts_.emplace_back();
                ++counts_[follower(contexts_[at], byte)];
            }
            history_.push(byte);
        }

      private:
        // The bytes that followed a context, and their counts, lie together, with room for as many as a power of two.
        struct Context {
            uint64_t seen = 0;
            uint32_t first = 0, different = 0;
        };

        uint32_t follower(Context& context, uint8_t byte) {
            ++context.seen;
            const auto* begin = bytes_.data() + context.first;
            const auto* found = std::find(begin, begin + context.different, byte);
            const auto place = static_cast<uint32_t>(found - begin);
            if (place < context.different) return context.first + place;
            if (std::has_single_bit(context.different) || context.different == 0) {  // the room is full
                const auto first = static_cast<uint32_t>(counts_.size());
                const size_t room = std::max<size_t>(1, 2 * context.different);
                counts_.resize(first + room, 0);
                bytes_.resize(first + room, 0);
                std::copy_n(counts_.begin() + context.first, context.different, counts_.begin() + first);
                std::copy_n(bytes_.begin() + context.first, context.different, bytes_.begin() + first);
                context.first = first;
            }
            bytes_[context.first + context.different] = byte;
            return context.first + context.different++;
        }

        const AdaptiveModel& model_;
        History history_;
        std::vector<ContextMap> places_;  // by the length of the context
        std::vector<Context> contexts_;
        std::vector<uint32_t> counts_;
        std::vector<uint8_t> bytes_;
        Table table_;
    };

  private:
    size_t order_, most_;
};

// The stream of a text under a model, and its bits.
template <class Model>
std::pair<std::vector<uint8_t>, size_t> encode_with(const Model& model, const uint8_t* text, size_t size) {
    typename Model::Cursor cursor(model);
    RangeEncoder encoder;
    for (size_t i = 0; i < size; ++i) {
        encoder.encode(cursor.table(), text[i]);
        cursor.push(text[i]);
    }
    return encoder.finish();
}

// The text of `size` bytes of which a stream was made under a model; nothing if it is no such stream.
template <class Model>
std::optional<std::vector<uint8_t>> decode_with(const Model& model, const uint8_t* stream, size_t stream_size,
                                                uint64_t size) {
    typename Model::Cursor cursor(model);
    RangeDecoder decoder(stream, stream_size);
    std::vector<uint8_t> text;
    while (text.size() < size) {
        text.push_back(decoder.decode(cursor.table()));
        if (decoder.is_past_end()) return std::nullopt;
        cursor.push(text.back());
    }
    if (!decoder.is_complete()) return std::nullopt;
    return text;
}

}  // namespace byteloom

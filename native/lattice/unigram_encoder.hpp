// Text as the most probable units, a word at a time: what a dictionary of subwords does as a tokenizer of bytes.
//
// A piece is a run of bytes that are not white space, with the one space that follows it, or one white-space byte. Each
// is cut along the most probable path. The programs of Hugging Face's Unigram is followed to the order of its sums, so
// that rounding and ties (the longest last unit) are the same. What no unit covers is given as bytes: a code point, or
// a byte that belongs to none, costs `unknown_score`.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bpe/trie.hpp"

namespace byteloom {

class UnigramEncoder {
  public:
    // `texts` gives the bytes of every unit by id, valid UTF-8, or nothing for ids that are no units; `scores` their
    // ln p, by id as well.
    UnigramEncoder(const std::vector<std::string>& texts, std::vector<double> scores,
                   const std::array<uint32_t, 256>& byte_ids, double unknown_score)
        : trie_(texts, kUnknown), scores_(std::move(scores)), byte_ids_(byte_ids), unknown_score_(unknown_score) {}

    std::vector<uint32_t> encode(const uint8_t* text, size_t size) const {
        std::vector<uint32_t> ids;
        ids.reserve(size / 3 + 16);
        encode(text, size, ids);
        if (ids.capacity() > 2 * ids.size()) ids.shrink_to_fit();
        return ids;
    }

    size_t count(const uint8_t* text, size_t size) const { return encode(text, size).size(); }

    class Stream;

  private:
    static constexpr uint32_t kUnknown = std::numeric_limits<uint32_t>::max();
    static constexpr size_t kBlock = 64 << 10;    // bytes of a piece after which its decided part is given out
    static constexpr size_t kLongestSeen = 64;    // bytes of a piece that is worth remembering
    static constexpr size_t kMostSeen = 1 << 14;  // pieces

    // The best path to a place: its last unit. Length 0 where no unit ends.
    struct Node {
        double score = 0;
        uint32_t length = 0, unit = kUnknown;
    };

    // A piece met before, and where its ids are.
    struct Seen {
        uint64_t hash = 0;
        size_t at = 0, size = 0, first = 0, count = 0;
    };

    static bool is_space(uint8_t byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }

    static size_t piece(const uint8_t* text, size_t size) {
        if (is_space(text[0])) return 1;
        size_t end = 1;
        while (end < size && !is_space(text[end])) ++end;
        return end < size && text[end] == ' ' ? end + 1 : end;
    }

    static uint64_t hash_of(const uint8_t* text, size_t size) {
        uint64_t hash = size * 0x9E3779B97F4A7C15u;
        for (; size > 0;) {
            uint64_t word = 0;
            const size_t bytes = std::min<size_t>(size, 8);
            std::memcpy(&word, text, bytes);
            hash = (hash ^ word) * 0xD6E8FEB86659FD93u;
            hash ^= hash >> 32;
            text += bytes;
            size -= bytes;
        }
        return hash;
    }

    // Bytes of the code point at text[0], or 1 when there is none.
    static size_t code_point(const uint8_t* text, size_t size) {
        const uint8_t first = text[0];
        const size_t length = first < 0xC2 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 1;
        if (length == 1 || length > size) return 1;
        for (size_t i = 1; i < length; ++i) {
            if ((text[i] & 0xC0) != 0x80) return 1;
        }
        // Overlong, half a surrogate pair, or above U+10FFFF.
        if ((first == 0xE0 && text[1] < 0xA0) || (first == 0xED && text[1] >= 0xA0) ||
            (first == 0xF0 && text[1] < 0x90) || (first == 0xF4 && text[1] >= 0x90)) {
            return 1;
        }
        return length;
    }

    // Appends the ids. Words come again and again: their ids are copied from where they came first.
    void encode(const uint8_t* text, size_t size, std::vector<uint32_t>& ids) const {
        size_t slots = 1;
        while (slots < kMostSeen && slots < size / 32) slots *= 2;
        std::vector<Seen> table(slots);
        std::vector<Node> nodes;
        for (size_t at = 0, length; at < size; at += length) {
            length = piece(text + at, size - at);
            if (length > kLongestSeen) {
                best_path(text + at, length, nodes, ids);
                continue;
            }
            const uint64_t hash = hash_of(text + at, length);
            Seen& seen = table[hash & (slots - 1)];
            if (seen.hash == hash && seen.size == length && std::memcmp(text + seen.at, text + at, length) == 0) {
                ids.resize(ids.size() + seen.count);
                std::copy_n(ids.data() + seen.first, seen.count, ids.data() + ids.size() - seen.count);
                continue;
            }
            const size_t first = ids.size();
            best_path(text + at, length, nodes, ids);
            seen = {hash, at, length, first, ids.size() - first};
        }
    }

    void best_path(const uint8_t* text, size_t size, std::vector<Node>& nodes, std::vector<uint32_t>& ids) const {
        nodes.assign(std::min(size, kBlock + trie_.longest() + 4) + 1, {});
        size_t base = 0, enough = kBlock;  // nodes[i] is the place base + i; `enough` of them are worth a look
        size_t run_end = 0;
        for (size_t at = 0; at < size;) {
            if (at - base >= enough) {
                const size_t decided = meeting_point(nodes, at - base);
                give(text + base, nodes, decided, ids);
                nodes.erase(nodes.begin(), nodes.begin() + static_cast<ptrdiff_t>(decided));
                nodes[0].length = 0;  // the new first place has nothing before it
                base += decided;
                // The next look is at twice as much when little was decided, so that all looks together are linear.
                enough = at - base + std::max(kBlock, at - base);
            }
            if (const size_t wanted = std::min(size, at + trie_.longest() + 4) - base + 1; wanted > nodes.size()) {
                nodes.resize(wanted + kBlock);
            }
            const size_t code = code_point(text + at, size - at);
            const double score = nodes[at - base].score;
            const auto offer = [&](size_t length, uint32_t unit, double total) {
                Node& node = nodes[at - base + length];
                if (node.length == 0 || total > node.score) node = {total, static_cast<uint32_t>(length), unit};
            };
            const auto run = [&] {
                if (at >= run_end) {
                    for (run_end = at + 1; run_end < size && text[run_end] == text[at]; ++run_end) {
                    }
                }
                return run_end - at;
            };
            bool known = false;
            trie_.walk<1>(text + at, size - at, run, [&](const Match& match) {
                const uint32_t unit = trie_.id(match.state);
                if (unit == kUnknown) return;
                offer(match.length, unit, scores_[unit] + score);
                known = known || match.length == code;
            });
            if (!known) offer(code, kUnknown, unknown_score_ + score);
            at += code;
        }
        give(text + base, nodes, size - base, ids);
    }

    // The last place that the best path passes whatever follows `end`, all of whose units that begin before it are
    // known: the path goes on from one of the places from `end` on, so it is where their paths back meet.
    size_t meeting_point(const std::vector<Node>& nodes, size_t end) const {
        std::vector<uint8_t> on_path(nodes.size(), 0);
        size_t paths = 0;
        for (size_t i = end; i < nodes.size(); ++i) {
            on_path[i] = nodes[i].length > 0;
            paths += on_path[i];
        }
        for (size_t i = nodes.size() - 1; i > 0; --i) {
            if (!on_path[i]) continue;
            if (paths == 1) return i;
            --paths;
            uint8_t& before = on_path[i - nodes[i].length];
            paths += before ^ 1;
            before = 1;
        }
        return 0;
    }

    // Appends the ids of the best path to nodes[end].
    void give(const uint8_t* text, const std::vector<Node>& nodes, size_t end, std::vector<uint32_t>& ids) const {
        const size_t first = ids.size();
        for (size_t at = end; at > 0; at -= nodes[at].length) {
            if (nodes[at].unit != kUnknown) {
                ids.push_back(nodes[at].unit);
            } else {
                for (size_t i = 1; i <= nodes[at].length; ++i) ids.push_back(byte_ids_[text[at - i]]);
            }
        }
        std::reverse(ids.begin() + static_cast<ptrdiff_t>(first), ids.end());
    }

    Trie trie_;
    std::vector<double> scores_;
    std::array<uint32_t, 256> byte_ids_;
    double unknown_score_;
};

// Encodes a text that comes in pieces; the ids are those of the whole text. Memory: a block, and the longest run of
// bytes that are not white space.
class UnigramEncoder::Stream {
  public:
    explicit Stream(std::shared_ptr<const UnigramEncoder> encoder) : encoder_(std::move(encoder)) {}

    std::vector<uint32_t> feed(const uint8_t* text, size_t size) {
        // Whatever follows white space begins a piece.
        size_t end = size;
        while (end > 0 && !is_space(text[end - 1])) --end;
        std::vector<uint32_t> ids;
        if (end > 0) {
            held_.insert(held_.end(), text, text + end);
            ids = encoder_->encode(held_.data(), held_.size());
            held_.clear();
        }
        held_.insert(held_.end(), text + end, text + size);
        return ids;
    }

    // Ends the text: gives the rest, and is ready for another text.
    std::vector<uint32_t> finish() {
        const auto ids = encoder_->encode(held_.data(), held_.size());
        held_.clear();
        return ids;
    }

  private:
    std::shared_ptr<const UnigramEncoder> encoder_;
    std::vector<uint8_t> held_;
};

}  // namespace byteloom

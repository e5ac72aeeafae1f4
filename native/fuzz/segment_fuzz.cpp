// A libFuzzer target for the trie and the segmenters: tokens are cut out of the input, the rest is segmented, and the
// results are compared with searches of the plainest kind, with one another, and with the streams.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "bpe/segment.hpp"

namespace {

using byteloom::Rule;
using byteloom::Segmenter;
using byteloom::Tie;

constexpr uint32_t kUnknown = 1 << 20;

void require(bool holds) {
    if (!holds) std::abort();
}

struct Tokens {
    std::vector<std::string> texts;

    size_t length(uint32_t id) const { return id == kUnknown ? 1 : texts[id].size(); }

    bool fits(const std::string& token, const std::string& text, size_t at) const {
        return !token.empty() && text.compare(at, token.size(), token) == 0;
    }

    // Fewest tokens from every place to the end.
    std::vector<size_t> fewest(const std::string& text) const {
        std::vector<size_t> best(text.size() + 1, 0);
        for (size_t at = text.size(); at-- > 0;) {
            best[at] = 1 + best[at + 1];
            for (const auto& token : texts) {
                if (fits(token, text, at)) best[at] = std::min(best[at], 1 + best[at + token.size()]);
            }
        }
        return best;
    }

    size_t longest(const std::string& text, size_t at) const {
        size_t length = 1;
        for (const auto& token : texts) {
            if (fits(token, text, at)) length = std::max(length, token.size());
        }
        return length;
    }
};

std::vector<uint32_t> segment(const std::shared_ptr<const Segmenter>& segmenter, const Tokens& tokens,
                              const std::string& text, size_t block) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
    const auto ids = segmenter->encode(bytes, text.size());
    require(segmenter->count(bytes, text.size()) == ids.size());
    std::string joined;
    for (uint32_t id : ids) joined += id == kUnknown ? text.substr(joined.size(), 1) : tokens.texts[id];
    require(joined == text);

    Segmenter::Stream stream(segmenter);
    std::vector<uint32_t> streamed;
    for (size_t at = 0; at < text.size(); at += block) {
        for (uint32_t id : stream.feed(bytes + at, std::min(block, text.size() - at))) streamed.push_back(id);
    }
    for (uint32_t id : stream.finish()) streamed.push_back(id);
    require(streamed == ids);
    return ids;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 8) return 0;
    const size_t count = data[0] % 32, repeat = 1 + data[1] * (data[2] % 8);
    const size_t block = 1 + data[3] * 257;
    const Tie tie = static_cast<Tie>(data[4] % 4);
    std::string rest(reinterpret_cast<const char*>(data + 5), size - 5);

    Tokens tokens;
    for (size_t k = 0; k < count && rest.size() > 2; ++k) {
        // A token is a piece of the input, now and then a long run.
        const size_t length = std::min<size_t>(1 + static_cast<uint8_t>(rest[0]) % 12, rest.size() - 2);
        std::string token = rest.substr(1, length);
        if (static_cast<uint8_t>(rest[0]) > 200) token = std::string(length * length * 3, rest[1]);
        rest.erase(0, 1 + length / 2);
        if (std::find(tokens.texts.begin(), tokens.texts.end(), token) == tokens.texts.end()) {
            tokens.texts.push_back(token);
        }
        if (k % 5 == 0) tokens.texts.emplace_back();  // an id without bytes
    }
    std::string text;
    for (size_t i = 0; i < repeat && text.size() < 200000; ++i) text += rest;
    const std::string start = text.substr(0, 3000);  // as much as plain search allows

    const auto make = [&](Rule rule) {
        return std::make_shared<const Segmenter>(tokens.texts, kUnknown, rule, tie, data[4]);
    };
    const auto greedy = make(Rule::kGreedy), minimal = make(Rule::kMinimal);
    segment(greedy, tokens, text, block);
    segment(minimal, tokens, text, block);

    const auto best = tokens.fewest(start);
    size_t at = 0;
    for (uint32_t id : segment(minimal, tokens, start, block)) {
        const size_t length = tokens.length(id);
        require(best[at] == best[at + length] + 1);
        for (const auto& token : tokens.texts) {
            if (!tokens.fits(token, start, at) || best[at + token.size()] != best[at + length]) continue;
            if (tie == Tie::kLongest) require(token.size() <= length);
            if (tie == Tie::kShortest) require(token.size() >= length);
        }
        at += length;
    }
    at = 0;
    for (uint32_t id : segment(greedy, tokens, start, block)) {
        require(tokens.length(id) == tokens.longest(start, at));
        at += tokens.length(id);
    }

    // From the right is from the left on what is reversed.
    Tokens reversed = tokens;
    for (auto& token : reversed.texts) std::reverse(token.begin(), token.end());
    auto right = segment(make(Rule::kGreedyRight), tokens, start, block);
    std::reverse(right.begin(), right.end());
    const std::string mirrored(start.rbegin(), start.rend());
    const auto mirror = std::make_shared<const Segmenter>(reversed.texts, kUnknown, Rule::kGreedy, tie, 0);
    require(right == segment(mirror, reversed, mirrored, block));

    // Of the tokens that occur at all, one of the longest is taken first.
    size_t longest = 0, taken = 0;
    for (size_t i = 0; i < start.size(); ++i) longest = std::max(longest, tokens.longest(start, i));
    for (uint32_t id : segment(make(Rule::kLongestFirst), tokens, start, block)) {
        taken = std::max(taken, tokens.length(id));
    }
    require(taken == longest);
    return 0;
}

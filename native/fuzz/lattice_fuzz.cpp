// A libFuzzer target for native/lattice: units are cut out of the input, the rest is words, or text; the results are
// compared with searches of the plainest kind, with one another, and with the streams. Costs are quarters, so that
// their sums are exact.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "lattice/lattice.hpp"
#include "lattice/unigram_encoder.hpp"
#include "lattice/word_bpe.hpp"

namespace {

using byteloom::AtomWords;
using byteloom::Lattice;
using byteloom::UnigramEncoder;
using byteloom::WordBPE;

constexpr double kUnknownCost = 40;

void require(bool holds) {
    if (!holds) std::abort();
}

struct Units {
    std::vector<std::string> texts;
    std::vector<double> costs;

    std::string of(uint32_t unit, const std::string& atom) const {
        return unit == Lattice::kUnknown ? atom : texts[unit];
    }
    double cost(uint32_t unit) const { return unit == Lattice::kUnknown ? kUnknownCost : costs[unit]; }
};

// Cheapest way, and the sum of the likelihoods of all, from the start to the end of the atoms.
void check_word(const Lattice& lattice, const Units& units, const AtomWords::Word& word, const std::string& text) {
    std::vector<size_t> ends{0};
    for (size_t i = 0; i < word.atoms; ++i) ends.push_back(word.ends[i]);
    std::vector<double> cheapest(ends.size(), std::numeric_limits<double>::infinity()), sum(ends.size(), 0);
    cheapest[0] = 0;
    sum[0] = 1;
    for (size_t from = 0; from + 1 < ends.size(); ++from) {
        for (size_t to = from + 1; to < ends.size(); ++to) {
            const std::string part = text.substr(ends[from], ends[to] - ends[from]);
            const auto found = std::find(units.texts.begin(), units.texts.end(), part);
            if (found == units.texts.end() && to > from + 1) continue;
            const double cost = found == units.texts.end()
                                    ? kUnknownCost
                                    : units.costs[static_cast<size_t>(found - units.texts.begin())];
            cheapest[to] = std::min(cheapest[to], cheapest[from] + cost);
            sum[to] += sum[from] * std::exp(-cost);
        }
    }
    Lattice::Room room;
    std::vector<uint32_t> path;
    require(lattice.viterbi(word, room, [&](uint32_t unit) { path.push_back(unit); }) == cheapest.back());
    size_t at = 0;
    double total = 0;
    for (uint32_t unit : path) {
        const auto atom = std::upper_bound(ends.begin(), ends.end(), at);
        const std::string piece = units.of(unit, atom == ends.end() ? std::string() : text.substr(at, *atom - at));
        require(!piece.empty() && text.compare(at, piece.size(), piece) == 0);
        at += piece.size();
        require(std::find(ends.begin(), ends.end(), at) != ends.end());
        total += units.cost(unit);
    }
    require(at == text.size() && total == cheapest.back());

    const auto best = lattice.nbest(word, room, 5);
    require(!best.empty() && best.front().cost == cheapest.back() && best.front().units == path);
    for (size_t i = 1; i < best.size(); ++i) require(best[i - 1].cost <= best[i].cost);

    double expected = 0;
    const double likelihood = lattice.likelihood(word, room, [&](uint32_t, double share) {
        require(share >= 0 && share < 1 + 1e-9);
        expected += share;
    });
    require(likelihood >= -cheapest.back() - 1e-9);
    if (sum.back() > 1e-200) require(std::abs(likelihood - std::log(sum.back())) < 1e-6 * (1 + std::abs(likelihood)));
    require(expected <= static_cast<double>(word.atoms) + 1e-6);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 8) return 0;
    const size_t count = 1 + data[0] % 24, repeat = 1 + data[1] * (data[2] % 8), block = 1 + data[3] * 257;
    std::string rest(reinterpret_cast<const char*>(data + 4), size - 4);
    Units units;
    for (size_t k = 0; k < count && rest.size() > 3; ++k) {
        const size_t length = std::min<size_t>(1 + static_cast<uint8_t>(rest[0]) % 9, rest.size() - 2);
        std::string text = rest.substr(1, length);
        if (static_cast<uint8_t>(rest[0]) > 220) text = std::string(length * length, rest[1]);
        const double cost = 0.25 * (1 + static_cast<uint8_t>(rest[0]) % 60);
        rest.erase(0, 1 + length / 2);
        if (std::find(units.texts.begin(), units.texts.end(), text) == units.texts.end()) {
            units.texts.push_back(text);
            units.costs.push_back(cost);
        }
    }
    if (units.texts.empty() || rest.empty()) return 0;

    // Words of atoms of one to four bytes.
    {
        const std::string text = rest.substr(0, 400);
        std::vector<uint32_t> atom_bytes, word_atoms{0};
        for (size_t at = 0; at < text.size(); at += atom_bytes.back()) {
            const auto byte = static_cast<uint8_t>(text[at]);
            atom_bytes.push_back(
                static_cast<uint32_t>(std::min<size_t>(1 + (byte & 3) % (1 + data[0] % 4), text.size() - at)));
            if (byte % 11 == 0 && word_atoms.back() > 0) word_atoms.push_back(0);
            ++word_atoms.back();
        }
        const AtomWords words(text, atom_bytes.data(), atom_bytes.size(), word_atoms.data(), word_atoms.size());
        const Lattice lattice(units.texts, units.costs.data(), kUnknownCost);
        std::vector<double> weights(words.size(), 1.5);
        lattice.pair_counts(words, weights.data());
        size_t at = 0;
        WordBPE trainer({"a", "b", "c", "d"});
        std::vector<uint32_t> letters;
        for (size_t w = 0; w < words.size(); ++w) {
            const size_t bytes = words[w].atoms == 0 ? 0 : words[w].ends[words[w].atoms - 1];
            check_word(lattice, units, words[w], text.substr(at, bytes));
            letters.clear();
            for (size_t i = 0; i < bytes; ++i) letters.push_back(static_cast<uint8_t>(text[at + i]) % 4);
            trainer.add(letters.data(), letters.size(), 1 + static_cast<int64_t>(w % 3));
            at += bytes;
        }
        const auto merges = trainer.train(4 + data[1] % 64, 1 + data[2] % 4);
        uint32_t made = 4;
        for (const auto& merge : merges) {
            require(merge.left < made && merge.right < made && merge.result <= made);
            made += merge.result == made;
        }
    }
    // Lies about the words are noticed.
    for (const std::array<uint32_t, 2> lengths : {std::array<uint32_t, 2>{1, 2}, {0, 3}, {3, 0xFFFFFFFF}}) {
        const uint32_t two = 2 + data[1] % 2;
        try {
            const AtomWords words("abc", lengths.data(), 2, &two, 1);
            require(lengths[0] == 1 && two == 2);
        } catch (const std::invalid_argument&) {
            require(lengths[0] != 1 || two != 2);
        }
    }

    std::string text;
    for (size_t i = 0; i < repeat && text.size() < 200000; ++i) text += rest;
    std::array<uint32_t, 256> byte_ids;
    std::vector<std::string> texts(256);
    std::vector<double> scores(256, -20);
    for (uint32_t b = 0; b < 256; ++b) byte_ids[b] = b;
    texts.insert(texts.end(), units.texts.begin(), units.texts.end());
    for (double cost : units.costs) scores.push_back(-cost);
    const auto encoder = std::make_shared<const UnigramEncoder>(texts, scores, byte_ids, -kUnknownCost);
    const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
    const auto ids = encoder->encode(bytes, text.size());
    std::string joined;
    for (uint32_t id : ids) joined += id < 256 ? std::string(1, static_cast<char>(id)) : texts[id];
    require(joined == text && encoder->count(bytes, text.size()) == ids.size());
    UnigramEncoder::Stream stream(encoder);
    std::vector<uint32_t> streamed;
    for (size_t at = 0; at < text.size(); at += block) {
        for (uint32_t id : stream.feed(bytes + at, std::min(block, text.size() - at))) streamed.push_back(id);
    }
    for (uint32_t id : stream.finish()) streamed.push_back(id);
    require(streamed == ids);
    return 0;
}

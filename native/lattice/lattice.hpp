// The lattice of a word: a node where an atom ends, an edge for every unit that lies between two nodes.
//
// A word is a text and the places where it may be cut; an atom is what lies between two of them. Units are texts as
// well, found with one walk of a trie a node. Costs are -ln p, in nats. They are rounded to multiples of 2^-30, so that
// sums of up to thousands of them are exact: two paths of the same units cost the same in every order, and ties are
// ties.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bpe/containers.hpp"
#include "bpe/trie.hpp"

namespace byteloom {

// Words, one after another.
class AtomWords {
  public:
    struct Word {
        const uint8_t* text;
        const uint32_t* ends;  // of the atoms, in bytes from the start of the word
        size_t atoms;
    };

    // `atom_bytes` are the lengths of all atoms, none of them 0, and `word_atoms` how many belong to each word.
    AtomWords(std::string text, const uint32_t* atom_bytes, size_t atoms, const uint32_t* word_atoms, size_t words)
        : text_(std::move(text)), ends_(atoms), first_byte_(words), first_atom_(words + 1) {
        size_t atom = 0, byte = 0;
        for (size_t w = 0; w < words; ++w) {
            first_atom_[w] = atom;
            first_byte_[w] = byte;
            if (word_atoms[w] > atoms - atom) throw std::invalid_argument("the words have more atoms than are given");
            for (const size_t end = atom + word_atoms[w]; atom < end; ++atom) {
                if (atom_bytes[atom] == 0) throw std::invalid_argument("an atom has no bytes");
                if (atom_bytes[atom] > text_.size() - byte) throw std::invalid_argument("the atoms pass the text");
                byte += atom_bytes[atom];
                ends_[atom] = static_cast<uint32_t>(byte - first_byte_[w]);
            }
        }
        first_atom_[words] = atom;
        if (atom != atoms || byte != text_.size()) throw std::invalid_argument("the words do not make up the text");
    }

    size_t size() const { return first_byte_.size(); }

    Word operator[](size_t w) const {
        return {reinterpret_cast<const uint8_t*>(text_.data()) + first_byte_[w], ends_.data() + first_atom_[w],
                first_atom_[w + 1] - first_atom_[w]};
    }

  private:
    std::string text_;
    std::vector<uint32_t> ends_;
    std::vector<size_t> first_byte_, first_atom_;
};

class Lattice {
  public:
    using Word = AtomWords::Word;

    // Stands for an atom that is no unit.
    static constexpr uint32_t kUnknown = std::numeric_limits<uint32_t>::max();

    struct Path {
        double cost = 0;
        std::vector<uint32_t> units;
    };

    // No two units may be equal; a cost may be infinite, so that its unit is never used.
    Lattice(const std::vector<std::string>& units, const double* costs, double unknown_cost)
        : trie_(units, kUnknown), unknown_cost_(rounded(unknown_cost)) {
        for (size_t i = 0; i < units.size(); ++i) costs_.push_back(rounded(costs[i]));
    }

    size_t size() const { return costs_.size(); }

    // What the programs work in, used again for every word.
    class Room {
        friend class Lattice;
        struct Edge {
            size_t from, to;
            uint32_t unit;
            double weight;  // its cost, then e to the power of minus what it costs more than the best path
        };
        struct Step {
            double cost;
            size_t units, to;
            uint32_t unit;
        };
        std::vector<size_t> node_at;  // by byte: the node there, or 0
        std::vector<Step> best;
        std::vector<Edge> edges;
        std::vector<double> forward, backward, least;
    };

    // Calls give(unit) for every unit of the cheapest path; of equals the one of the fewest units, and of those the one
    // with the longest first unit, the longest second, and so on. Returns the cost.
    template <class Give>
    double viterbi(const Word& word, Room& room, Give give) const {
        prepare(word, room);
        auto& best = room.best;
        best.resize(word.atoms + 1);
        best[word.atoms] = {0, 0, 0, kUnknown};
        for (size_t at = word.atoms; at-- > 0;) {
            best[at].cost = std::numeric_limits<double>::infinity();
            best[at].units = std::numeric_limits<size_t>::max();
            edges(word, room, at, [&](size_t to, uint32_t unit, double cost) {
                const double total = cost + best[to].cost;
                const size_t units = 1 + best[to].units;
                // Units come by length.
                if (total < best[at].cost || (total == best[at].cost && units <= best[at].units)) {
                    best[at] = {total, units, to, unit};
                }
            });
        }
        for (size_t at = 0; at < word.atoms; at = best[at].to) give(best[at].unit);
        return best[0].cost;
    }

    // The at most `count` cheapest paths, by cost; ties as in viterbi().
    std::vector<Path> nbest(const Word& word, Room& room, size_t count) const {
        struct Step {
            double cost;
            size_t units, to, rank;  // goes on with the path of that rank from `to`
            uint32_t unit;
        };
        prepare(word, room);
        std::vector<std::vector<Step>> best(word.atoms + 1);
        best[word.atoms] = {{0, 0, 0, 0, kUnknown}};
        for (size_t at = word.atoms; at-- > 0;) {
            edges(word, room, at, [&](size_t to, uint32_t unit, double cost) {
                for (size_t rank = 0; rank < best[to].size(); ++rank) {
                    best[at].push_back({cost + best[to][rank].cost, 1 + best[to][rank].units, to, rank, unit});
                }
            });
            std::sort(best[at].begin(), best[at].end(), [](const Step& a, const Step& b) {
                if (a.cost != b.cost) return a.cost < b.cost;
                if (a.units != b.units) return a.units < b.units;
                return a.to != b.to ? a.to > b.to : a.rank < b.rank;
            });
            if (best[at].size() > count) best[at].resize(count);
        }
        std::vector<Path> paths;
        for (const Step& first : best[0]) {
            paths.push_back({first.cost, {}});
            size_t at = 0;
            for (const Step* step = &first; at < word.atoms; step = &best[at][step->rank]) {
                paths.back().units.push_back(step->unit);
                at = step->to;
                if (at == word.atoms) break;
            }
        }
        return paths;
    }

    // The log-likelihood: ln of the sum over all paths of e to the power of minus their cost. Calls
    // expect(unit, share) for every edge, with the expected number of times that a path drawn by likelihood takes it.
    //
    // Likelihoods are kept relative to the cheapest path to each node, so that none underflows in a long word.
    template <class Expect>
    double likelihood(const Word& word, Room& room, Expect expect) const {
        prepare(word, room);
        room.edges.clear();
        auto& least = room.least;
        least.assign(word.atoms + 1, std::numeric_limits<double>::infinity());
        least[0] = 0;
        for (size_t at = 0; at < word.atoms; ++at) {
            if (std::isinf(least[at])) continue;
            edges(word, room, at, [&](size_t to, uint32_t unit, double cost) {
                if (std::isinf(cost)) return;
                room.edges.push_back({at, to, unit, cost});
                least[to] = std::min(least[to], least[at] + cost);
            });
        }
        if (std::isinf(least[word.atoms])) return -std::numeric_limits<double>::infinity();
        room.forward.assign(word.atoms + 1, 0);
        room.backward.assign(word.atoms + 1, 0);
        room.forward[0] = room.backward[word.atoms] = 1;
        for (auto& edge : room.edges) {
            edge.weight = std::exp(least[edge.to] - least[edge.from] - edge.weight);
            room.forward[edge.to] += room.forward[edge.from] * edge.weight;
        }
        const double all = room.forward[word.atoms];
        for (size_t i = room.edges.size(); i-- > 0;) {
            const auto& edge = room.edges[i];
            const double rest = edge.weight * room.backward[edge.to];
            room.backward[edge.from] += rest;
            expect(edge.unit, room.forward[edge.from] * rest / all);
        }
        return std::log(all) - least[word.atoms];
    }

    // Sums of weights by pairs of units that are neighbours on the cheapest paths.
    PairMap<double> pair_counts(const AtomWords& words, const double* weights) const {
        PairMap<double> counts;
        Room room;
        for (size_t w = 0; w < words.size(); ++w) {
            uint32_t last = kUnknown;
            viterbi(words[w], room, [&](uint32_t unit) {
                if (last != kUnknown && unit != kUnknown) counts.at(pair_key(last, unit)) += weights[w];
                last = unit;
            });
        }
        return counts;
    }

  private:
    static double rounded(double cost) { return std::isinf(cost) ? cost : std::round(cost * 0x1p30) * 0x1p-30; }

    void prepare(const Word& word, Room& room) const {
        if (word.atoms == 0) return;
        room.node_at.assign(word.ends[word.atoms - 1] + size_t{1}, 0);
        for (size_t i = 0; i < word.atoms; ++i) room.node_at[word.ends[i]] = i + 1;
    }

    // Calls edge(to, unit, cost) for the units that begin at node `at`, from the shortest to the longest.
    template <class Edge>
    void edges(const Word& word, const Room& room, size_t at, Edge edge) const {
        const size_t begin = at == 0 ? 0 : word.ends[at - 1], end = word.ends[word.atoms - 1];
        const uint8_t* text = word.text + begin;
        const auto run = [&] {
            size_t length = 1;
            while (length < std::min(end - begin, trie_.longest()) && text[length] == text[0]) ++length;
            return length;
        };
        bool whole_atom = false;
        trie_.walk<1>(text, end - begin, run, [&](const Match& match) {
            const uint32_t unit = trie_.id(match.state);
            const size_t to = room.node_at[begin + match.length];
            if (unit == kUnknown || to == 0) return;
            if (!whole_atom && to > at + 1) edge(at + 1, kUnknown, unknown_cost_);
            whole_atom = true;
            edge(to, unit, costs_[unit]);
        });
        if (!whole_atom) edge(at + 1, kUnknown, unknown_cost_);
    }

    Trie trie_;
    std::vector<double> costs_;
    double unknown_cost_;
};

}  // namespace byteloom

// Python's view of native/lattice. The GIL is released for all work on words.
#include "bindings/subword.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/buffers.hpp"
#include "bindings/encoders.hpp"
#include "bpe/heap_encoder.hpp"
#include "bpe/threads.hpp"
#include "lattice/lattice.hpp"
#include "lattice/unigram_encoder.hpp"
#include "lattice/word_bpe.hpp"

namespace byteloom {
namespace {

using namespace nb::literals;
using Reals = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Weights = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using MergeArray = nb::ndarray<const uint32_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;

void require_one_each(size_t have, size_t want, const char* what) {
    if (have == want) return;
    throw nb::value_error(
        (std::string(what) + ": got " + std::to_string(have) + " for " + std::to_string(want)).c_str());
}

std::shared_ptr<Lattice> make_lattice(const std::vector<nb::bytes>& units, const Reals& costs, double unknown_cost) {
    require_one_each(costs.size(), units.size(), "costs of units");
    const auto own = to_strings(units);
    const nb::gil_scoped_release free;
    return std::make_shared<Lattice>(own, costs.data(), unknown_cost);
}

nb::tuple segment(const Lattice& lattice, const AtomWords& words, int threads) {
    std::vector<uint32_t> ids, pieces(words.size());
    {
        const nb::gil_scoped_release free;
        threads = std::max(1, std::min<int>(threads, static_cast<int>(words.size() / 1024)));
        std::vector<std::vector<uint32_t>> parts(static_cast<size_t>(threads));
        std::exception_ptr failure;
        std::mutex first;
        run_parallel(threads, [&](int part) {
            try {
                Lattice::Room room;
                auto& own = parts[static_cast<size_t>(part)];
                const auto cut = [&](int k) { return words.size() * static_cast<size_t>(k) / parts.size(); };
                for (size_t w = cut(part); w < cut(part + 1); ++w) {
                    const size_t before = own.size();
                    lattice.viterbi(words[w], room, [&](uint32_t unit) { own.push_back(unit); });
                    pieces[w] = static_cast<uint32_t>(own.size() - before);
                }
            } catch (...) {
                const std::lock_guard lock(first);
                failure = std::current_exception();
            }
        });
        if (failure) std::rethrow_exception(failure);
        for (const auto& part : parts) ids.insert(ids.end(), part.begin(), part.end());
    }
    return nb::make_tuple(to_numpy(std::move(ids)), to_numpy(std::move(pieces)));
}

nb::list nbest(const Lattice& lattice, const AtomWords& words, size_t count) {
    std::vector<Lattice::Path> paths;
    {
        const nb::gil_scoped_release free;
        Lattice::Room room;
        if (words.size() > 0) paths = lattice.nbest(words[0], room, count);
    }
    nb::list result;
    for (auto& path : paths) result.append(nb::make_tuple(to_numpy(std::move(path.units)), path.cost));
    return result;
}

// Counts of units by weight, and the weighted log-likelihood: of the best paths, or of all.
nb::tuple counts(const Lattice& lattice, const AtomWords& words, const Reals& weights, bool expected) {
    require_one_each(weights.size(), words.size(), "weights of words");
    std::vector<double> count(lattice.size());
    double total = 0;
    {
        const nb::gil_scoped_release free;
        Lattice::Room room;
        for (size_t w = 0; w < words.size(); ++w) {
            const double weight = weights.data()[w];
            const auto add = [&](uint32_t unit, double share) {
                if (unit != Lattice::kUnknown) count[unit] += weight * share;
            };
            total += weight * (expected ? lattice.likelihood(words[w], room, add)
                                        : -lattice.viterbi(words[w], room, [&](uint32_t unit) { add(unit, 1); }));
        }
    }
    return nb::make_tuple(to_numpy(std::move(count)), total);
}

nb::tuple pair_counts(const Lattice& lattice, const AtomWords& words, const Reals& weights) {
    require_one_each(weights.size(), words.size(), "weights of words");
    std::vector<uint32_t> left, right;
    std::vector<double> count;
    {
        const nb::gil_scoped_release free;
        lattice.pair_counts(words, weights.data()).each([&](uint64_t key, double value) {
            left.push_back(static_cast<uint32_t>(key >> 32));
            right.push_back(static_cast<uint32_t>(key));
            count.push_back(value);
        });
    }
    return nb::make_tuple(to_numpy(std::move(left)), to_numpy(std::move(right)), to_numpy(std::move(count)));
}

auto log_likelihoods(const Lattice& lattice, const AtomWords& words) {
    std::vector<double> result(words.size());
    {
        const nb::gil_scoped_release free;
        Lattice::Room room;
        for (size_t w = 0; w < words.size(); ++w) {
            result[w] = lattice.likelihood(words[w], room, [](uint32_t, double) {});
        }
    }
    return to_numpy(std::move(result));
}

// Calls each(atoms, count, word) for every word of `ids`.
template <class Each>
void each_word(const Ids& ids, const Ids& word_atoms, Each each) {
    size_t at = 0;
    for (size_t w = 0; w < word_atoms.size(); ++w) {
        const size_t size = word_atoms.data()[w];
        if (size > ids.size() - at) throw std::invalid_argument("the words have more atoms than are given");
        each(ids.data() + at, size, w);
        at += size;
    }
}

nb::list train_word_bpe(const std::vector<nb::bytes>& atoms, const Ids& ids, const Ids& word_atoms,
                        const Weights& weights, size_t size, int64_t least) {
    require_one_each(weights.size(), word_atoms.size(), "weights of words");
    for (size_t i = 0; i < ids.size(); ++i) {
        if (ids.data()[i] >= atoms.size()) throw nb::value_error("an id of an atom is too large");
    }
    WordBPE trainer(to_strings(atoms));
    std::vector<WordMerge> merges;
    {
        const nb::gil_scoped_release free;
        each_word(ids, word_atoms,
                  [&](const uint32_t* word, size_t count, size_t w) { trainer.add(word, count, weights.data()[w]); });
        merges = trainer.train(size, least);
    }
    nb::list result;
    for (const auto& merge : merges) result.append(nb::make_tuple(merge.left, merge.right, merge.result));
    return result;
}

// Joins the atoms of words in merge order.
class MergeSegmenter {
  public:
    explicit MergeSegmenter(const MergeArray& merges) {
        const std::vector<uint32_t> no_bytes(256);
        std::vector<uint32_t> left, right, result;
        for (size_t k = 0; k < merges.shape(0); ++k) {
            left.push_back(merges(k, 0));
            right.push_back(merges(k, 1));
            result.push_back(merges(k, 2));
        }
        encoder_ = std::make_unique<HeapEncoder>(no_bytes.data(), left, right, result);
    }

    nb::tuple segment(const Ids& ids, const Ids& word_atoms) const {
        std::vector<uint32_t> all, pieces;
        {
            const nb::gil_scoped_release free;
            each_word(ids, word_atoms, [&](const uint32_t* word, size_t count, size_t) {
                const auto units = encoder_->merge({word, word + count});
                all.insert(all.end(), units.begin(), units.end());
                pieces.push_back(static_cast<uint32_t>(units.size()));
            });
        }
        return nb::make_tuple(to_numpy(std::move(all)), to_numpy(std::move(pieces)));
    }

  private:
    std::unique_ptr<HeapEncoder> encoder_;
};

std::shared_ptr<UnigramEncoder> make_unigram_encoder(const std::vector<nb::bytes>& texts, const Reals& scores,
                                                     const std::array<uint32_t, 256>& byte_ids, double unknown_score) {
    require_one_each(scores.size(), texts.size(), "scores of ids");
    const auto own = to_strings(texts);
    const nb::gil_scoped_release free;
    return std::make_shared<UnigramEncoder>(own, std::vector<double>(scores.data(), scores.data() + scores.size()),
                                            byte_ids, unknown_score);
}

}  // namespace

void bind_subword(nb::module_& module) {
    nb::class_<AtomWords>(module, "AtomWords", "Words, and the atoms between which they may be cut.")
        .def(
            "__init__",
            [](AtomWords* self, const nb::bytes& text, const Ids& atom_bytes, const Ids& word_atoms) {
                new (self) AtomWords(std::string(text.c_str(), text.size()), atom_bytes.data(), atom_bytes.size(),
                                     word_atoms.data(), word_atoms.size());
            },
            "text"_a, "atom_bytes"_a, "word_atoms"_a,
            "text: all words in one. atom_bytes: the length of each atom. word_atoms: how many each word has.")
        .def("__len__", &AtomWords::size);

    nb::class_<Lattice>(module, "Lattice", "All ways to cut words into units that have costs.")
        .def(nb::new_(&make_lattice), "units"_a, "costs"_a, "unknown_cost"_a,
             "units: their bytes, no two equal. costs: float64 [n], -ln p. unknown_cost: of an atom that is no unit.")
        .def("segment", &segment, "words"_a, "threads"_a,
             "The units of the cheapest path of each word, and how many it has.")
        .def("nbest", &nbest, "words"_a, "count"_a, "The cheapest paths of the first word: units and cost.")
        .def("counts", &counts, "words"_a, "weights"_a, "expected"_a,
             "float64 [n]: weighted counts of units on the cheapest paths, or expected over all; and the objective.")
        .def("pair_counts", &pair_counts, "words"_a, "weights"_a,
             "Neighbours on the cheapest paths: left, right, weighted count.")
        .def("log_likelihoods", &log_likelihoods, "words"_a, "float64 [words]: ln of the sum over all paths.");

    module.def("train_word_bpe", &train_word_bpe, "atoms"_a, "ids"_a, "word_atoms"_a, "weights"_a, "size"_a, "least"_a,
               "Merges (left, right, result) until there are `size` units or no pair weighs `least`.");

    nb::class_<MergeSegmenter>(module, "MergeSegmenter", "Joins the atoms of words in merge order.")
        .def(nb::init<const MergeArray&>(), "merges"_a)
        .def("segment", &MergeSegmenter::segment, "ids"_a, "word_atoms"_a,
             "The units of each word, and how many it has.");

    nb::class_<UnigramEncoder> encoder(module, "UnigramEncoder", "Cuts text into the most probable units, or bytes.");
    encoder.def(nb::new_(&make_unigram_encoder), "texts"_a, "scores"_a, "byte_ids"_a, "unknown_score"_a,
                "texts: the bytes of each id that is a unit, empty for others. scores: float64 [n], ln p of each id.");
    def_encoder(encoder);

    bind_stream<UnigramEncoder::Stream, UnigramEncoder>(module, "UnigramStream",
                                                        "Encodes a text that comes in pieces.");
}

}  // namespace byteloom

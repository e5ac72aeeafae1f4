// Python's view of native/ngram. The GIL is released for counting and for queries.
#include "bindings/ngram.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "bindings/buffers.hpp"
#include "ngram/ngram.hpp"
#include "ngram/superpose.hpp"

namespace byteloom {
namespace {

using namespace nb::literals;
using IdRows = nb::ndarray<const uint32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Weights = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

using Logits = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Histories = nb::ndarray<const uint32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

template <class T>
nb::ndarray<nb::numpy, T, nb::ndim<2>> to_matrix(std::vector<T>&& values, size_t columns) {
    auto owned = std::make_unique<std::vector<T>>(std::move(values));
    T* data = owned->data();
    const size_t rows = columns == 0 ? 0 : owned->size() / columns;
    nb::capsule owner(owned.get(), [](void* vector) noexcept { delete static_cast<std::vector<T>*>(vector); });
    owned.release();
    return nb::ndarray<nb::numpy, T, nb::ndim<2>>(data, {rows, columns}, owner);
}

// A table and the bytes that it reads.
class PyNgramTable {
  public:
    explicit PyNgramTable(nb::handle data) : bytes_(data), table_(bytes_.data(), bytes_.size()) {}

    const NgramTable& table() const { return table_; }
    nb::object data() const { return bytes_.object(); }
    size_t nbytes() const { return bytes_.size(); }

    std::vector<uint32_t> sizes() const {
        std::vector<uint32_t> all;
        for (uint32_t i = 0; i + 1 < table_.order(); ++i) all.push_back(table_.size(i));
        return all;
    }

    nb::ndarray<nb::numpy, float, nb::ndim<2>> query(const IdRows& histories, const IdRows& candidates,
                                                     const Weights& weights) const {
        const size_t rows = histories.shape(0), groups = candidates.shape(0), count = candidates.shape(1);
        if (histories.shape(1) + 1 != table_.order() || weights.size() + 1 != table_.order()) {
            throw nb::value_error("a history has order - 1 tokens, and there are as many weights");
        }
        if (groups == 0 ? rows != 0 : rows % groups != 0) {
            throw nb::value_error("the histories divide evenly among the rows of candidates");
        }
        std::vector<float> out(rows * count);
        {
            const nb::gil_scoped_release free;
            for (size_t row = 0; row < rows; ++row) {
                table_.query(histories.data() + row * histories.shape(1),
                             candidates.data() + row / (rows / groups) * count, count, weights.data(),
                             out.data() + row * count);
            }
        }
        return to_matrix(std::move(out), count);
    }

  private:
    Bytes bytes_;
    NgramTable table_;
};

nb::tuple best_pairs_of_rows(const PyNgramTable* table, const std::optional<Weights>& weights, const Logits& logits,
                             const IdRows& candidates, const Histories& histories, const Logits& scores,
                             double temperature, double alpha, double penalty, size_t keep) {
    const size_t rows = logits.shape(0), count = logits.shape(1), drafts = scores.shape(1);
    const size_t last = table == nullptr ? 0 : table->table().order() - 1;
    if (candidates.shape(0) != rows || candidates.shape(1) != count || scores.shape(0) != rows || count == 0 ||
        histories.shape(0) != rows || histories.shape(1) != drafts || histories.shape(2) != last ||
        (table != nullptr && (!weights || weights->size() != last))) {
        throw nb::value_error("logits, candidates, histories and scores are of the same rows, drafts and order");
    }
    keep = std::min(keep, drafts * count);
    std::vector<int64_t> pairs(rows * keep);
    std::vector<double> totals(rows * keep);
    {
        const nb::gil_scoped_release free;
        for (size_t row = 0; row < rows; ++row) {
            best_pairs({temperature, alpha, penalty}, table == nullptr ? nullptr : &table->table(),
                       weights ? weights->data() : nullptr, logits.data() + row * count,
                       candidates.data() + row * count, count, histories.data() + row * drafts * last,
                       scores.data() + row * drafts, drafts, keep, pairs.data() + row * keep,
                       totals.data() + row * keep);
        }
    }
    return nb::make_tuple(to_matrix(std::move(pairs), keep), to_matrix(std::move(totals), keep));
}

}  // namespace

void bind_ngram(nb::module_& module) {
    nb::class_<NgramBuilder>(module, "NgramBuilder", "Counts n-grams of orders 2 to `order` within documents.")
        .def(nb::init<uint32_t, uint32_t>(), "order"_a, "vocabulary"_a)
        .def(
            "add", [](NgramBuilder& self, const Ids& ids) { self.add(ids.data(), ids.size()); }, "ids"_a,
            "One document.")
        .def(
            "freeze",
            [](const NgramBuilder& self, uint32_t least) {
                std::vector<uint32_t> words;
                {
                    const nb::gil_scoped_release free;
                    words = self.freeze(least);
                }
                return to_numpy(std::move(words));
            },
            "least"_a, "uint32: the table of n-grams that occur at least so often.")
        .def_prop_ro("size", &NgramBuilder::size, "Tokens so far, and one for the end of each document.");

    nb::class_<PyNgramTable>(module, "NgramTable", "Frozen counts; reads the bytes that it is given in place.")
        .def(nb::init<nb::handle>(), "data"_a)
        .def("query", &PyNgramTable::query, "histories"_a, "candidates"_a, "weights"_a,
             "float32 [k, s]: interpolated probabilities of s candidates after each of k histories.\n\n"
             "histories: uint32 [k, order - 1], 2^32 - 1 where there is nothing before. candidates: uint32 [g, s]; the "
             "first k / g histories have the first row, and so on.")
        .def_prop_ro("order", [](const PyNgramTable& self) { return self.table().order(); })
        .def_prop_ro("vocabulary", [](const PyNgramTable& self) { return self.table().vocabulary(); })
        .def_prop_ro("sizes", &PyNgramTable::sizes, "Distinct n-grams of orders 2, 3, ...")
        .def_prop_ro("data", &PyNgramTable::data, "The bytes that it was given.")
        .def_prop_ro("nbytes", &PyNgramTable::nbytes);

    module.def(
        "best_pairs", &best_pairs_of_rows, "table"_a.none(), "weights"_a.none(), "logits"_a, "candidates"_a,
        "histories"_a, "scores"_a, "temperature"_a, "alpha"_a, "penalty"_a, "keep"_a,
        "(pairs, totals), int64 and float64 [b, keep]: which candidates continue which drafts of each prompt, best "
        "first.\n\ntable: None where the model alone decides. logits: float64 [b, s], falling; candidates: uint32 "
        "[b, s]; histories: uint32 [b, k, order - 1]; scores: float64 [b, k].");
}

}  // namespace byteloom

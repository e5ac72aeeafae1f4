// Python's view of native/ngram. The GIL is released for counting and for queries.
#include "bindings/ngram.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <utility>
#include <vector>

#include "bindings/buffers.hpp"
#include "ngram/ngram.hpp"

namespace byteloom {
namespace {

using namespace nb::literals;
using IdRows = nb::ndarray<const uint32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Weights = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

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
        auto out = std::make_unique<std::vector<float>>(rows * count);
        {
            const nb::gil_scoped_release free;
            for (size_t row = 0; row < rows; ++row) {
                table_.query(histories.data() + row * histories.shape(1),
                             candidates.data() + row / (rows / groups) * count, count, weights.data(),
                             out->data() + row * count);
            }
        }
        float* data = out->data();
        nb::capsule owner(out.get(), [](void* vector) noexcept { delete static_cast<std::vector<float>*>(vector); });
        out.release();
        return nb::ndarray<nb::numpy, float, nb::ndim<2>>(data, {rows, count}, owner);
    }

  private:
    Bytes bytes_;
    NgramTable table_;
};

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
}

}  // namespace byteloom

// Python's view of native/bpe/segment.hpp. The GIL is released for all work on bytes.
#include "bindings/segment.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings/buffers.hpp"
#include "bindings/encoders.hpp"
#include "bpe/segment.hpp"

namespace byteloom {
namespace {

using namespace nb::literals;

std::shared_ptr<Segmenter> make_segmenter(const std::vector<nb::bytes>& texts, uint32_t unknown, Rule rule, Tie tie,
                                          uint64_t seed) {
    std::vector<std::string> own;
    own.reserve(texts.size());
    for (const auto& text : texts) own.emplace_back(text.c_str(), text.size());
    const nb::gil_scoped_release free;
    return std::make_shared<Segmenter>(own, unknown, rule, tie, seed);
}

}  // namespace

void bind_segment(nb::module_& module) {
    nb::enum_<Rule>(module, "SegmentRule")
        .value("greedy", Rule::kGreedy)
        .value("greedy_right", Rule::kGreedyRight)
        .value("minimal", Rule::kMinimal)
        .value("longest_first", Rule::kLongestFirst);
    nb::enum_<Tie>(module, "SegmentTie")
        .value("longest", Tie::kLongest)
        .value("shortest", Tie::kShortest)
        .value("lowest_id", Tie::kLowestId)
        .value("random", Tie::kRandom);

    nb::class_<Segmenter>(module, "Segmenter", "Segments bytes by a set of tokens alone.")
        .def(nb::new_(&make_segmenter), "texts"_a, "unknown"_a, "rule"_a, "tie"_a, "seed"_a,
             "texts: the bytes of each id, empty for ids without bytes, no two equal. unknown: the id of a byte that "
             "is no token.")
        .def(
            "encode",
            [](const Segmenter& self, nb::handle data) {
                return encode_document(data, [&](const Bytes& text) { return self.encode(text.data(), text.size()); });
            },
            "data"_a.none())
        .def(
            "encode_batch",
            [](const Segmenter& self, const std::vector<nb::object>& documents, int threads) {
                return encode_documents(documents, threads,
                                        [&](const Bytes& text) { return self.encode(text.data(), text.size()); });
            },
            "documents"_a, "threads"_a)
        .def(
            "count",
            [](const Segmenter& self, nb::handle data) {
                const Bytes text(data);
                const nb::gil_scoped_release free;
                return self.count(text.data(), text.size());
            },
            "data"_a.none());

    bind_stream<Segmenter::Stream, Segmenter>(module, "SegmentStream", "Segments a text that comes in pieces.");
}

}  // namespace byteloom

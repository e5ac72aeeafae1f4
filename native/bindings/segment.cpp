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
    const auto own = to_strings(texts);
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

    nb::class_<Segmenter> segmenter(module, "Segmenter", "Segments bytes by a set of tokens alone.");
    segmenter.def(nb::new_(&make_segmenter), "texts"_a, "unknown"_a, "rule"_a, "tie"_a, "seed"_a,
                  "texts: the bytes of each id, empty for ids without bytes, no two equal. unknown: the id of a byte "
                  "that is no token.");
    def_encoder(segmenter);

    bind_stream<Segmenter::Stream, Segmenter>(module, "SegmentStream", "Segments a text that comes in pieces.");
}

}  // namespace byteloom

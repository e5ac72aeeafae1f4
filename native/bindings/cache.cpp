// Python's view of native/cache: arrays of [heads, slots, width] that torch owns. The GIL is released for all work.
#include "bindings/cache.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "bindings/buffers.hpp"
#include "bpe/threads.hpp"
#include "cache/soft_match.hpp"

namespace byteloom {
namespace {

using namespace nb::literals;

// numpy has no bfloat16: it comes as the int16 of its bits.
template <class Number>
using Element = std::conditional_t<std::is_same_v<std::remove_const_t<Number>, float>, float, int16_t>;
template <class Number>
using States = nb::ndarray<std::conditional_t<std::is_const_v<Number>, const Element<Number>, Element<Number>>,
                           nb::ndim<4>, nb::device::cpu>;
using Sizes = nb::ndarray<const float, nb::ndim<3>, nb::device::cpu>;
using NewSizes = nb::ndarray<float, nb::ndim<3>, nb::device::cpu>;

template <class Number, class StatesArray, class SizesArray>
SlotView<Number> head(const StatesArray& keys, const StatesArray& values, const SizesArray& sizes, size_t number) {
    const auto row = static_cast<int64_t>(number / keys.shape(1)),
               column = static_cast<int64_t>(number % keys.shape(1));
    const auto start = [&](const auto& array) {
        return array.data() + row * array.stride(0) + column * array.stride(1);
    };
    return {reinterpret_cast<Number*>(start(keys)), static_cast<size_t>(keys.stride(2)),
            reinterpret_cast<Number*>(start(values)), static_cast<size_t>(values.stride(2)), start(sizes)};
}

template <class Array>
bool is_dense(const Array& array) {
    return array.stride(array.ndim() - 1) == 1 || array.shape(array.ndim() - 1) <= 1;
}

template <class Number>
double merge_slots(const States<const Number>& keys, const States<const Number>& values, const Sizes& log_sizes,
                   const States<Number>& new_keys, const States<Number>& new_values, const NewSizes& new_log_sizes,
                   size_t chunk, float value_weight, int threads) {
    const size_t heads = keys.shape(0) * keys.shape(1), count = keys.shape(2), target = new_keys.shape(2);
    for (size_t axis = 0; axis < 3; ++axis) {
        const size_t old_size = keys.shape(axis), new_size = new_keys.shape(axis);
        if (values.shape(axis) != old_size || log_sizes.shape(axis) != old_size || new_values.shape(axis) != new_size ||
            new_log_sizes.shape(axis) != new_size || (axis < 2 && old_size != new_size)) {
            throw nb::value_error("keys, values and sizes must be of the same heads and slots");
        }
    }
    if (new_keys.shape(3) != keys.shape(3) || new_values.shape(3) != values.shape(3)) {
        throw nb::value_error("new slots must be as wide as the old ones");
    }
    if (!(is_dense(keys) && is_dense(values) && is_dense(log_sizes) && is_dense(new_keys) && is_dense(new_values) &&
          is_dense(new_log_sizes))) {
        throw nb::value_error("the last axis must be contiguous");
    }
    if (target > count || (target == 0 && count > 0) || count > UINT32_MAX || chunk < 2 || chunk % 2 != 0) {
        throw nb::value_error("merge to 1 or more slots, in chunks of an even number of them");
    }
    threads = std::max(1, std::min<int>(threads, static_cast<int>(heads)));
    const MatchRule rule{keys.shape(3), values.shape(3), chunk, value_weight};
    std::vector<SoftMatcher> matchers(static_cast<size_t>(threads), SoftMatcher(rule, count));
    std::vector<double> similarity(heads);
    {
        const nb::gil_scoped_release free;
        run_parallel(threads, [&](int thread) {
            const auto first = static_cast<size_t>(thread), step = static_cast<size_t>(threads);
            for (size_t number = first; number < heads; number += step) {
                similarity[number] =
                    matchers[first].merge(head<const Number>(keys, values, log_sizes, number), count, target,
                                          head<Number>(new_keys, new_values, new_log_sizes, number));
            }
        });
    }
    double sum = 0;
    for (const double each : similarity) sum += each;
    return sum;
}

}  // namespace

void bind_cache(nb::module_& module) {
    const char* what =
        "Merges the slots of every head into as many as the new arrays hold; the sum of the similarities of all pairs.";
    const auto define = [&](auto merge) {
        module.def("merge_slots", merge, "keys"_a, "values"_a, "log_sizes"_a, "new_keys"_a, "new_values"_a,
                   "new_log_sizes"_a, "chunk"_a, "value_weight"_a, "threads"_a, what);
    };
    define(&merge_slots<float>);
    define(&merge_slots<BFloat16>);
}

}  // namespace byteloom

// Python's view of native/identify: windows of one buffer in, their pooled n-grams out. The GIL is released.
#include "bindings/identify.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "bindings/buffers.hpp"
#include "bpe/threads.hpp"
#include "identify/ngram_pool.hpp"

namespace byteloom {
namespace {

using namespace nb::literals;

using Vectors = nb::ndarray<const int8_t, nb::shape<-1, static_cast<int64_t>(WIDTH)>, nb::c_contig, nb::device::cpu>;
using Places = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Pooled = nb::ndarray<float, nb::shape<-1, static_cast<int64_t>(POOLED)>, nb::c_contig, nb::device::cpu>;

void pool_windows(nb::handle buffer, const Places& starts, const Places& sizes, const std::vector<Vectors>& vectors,
                  const Pooled& pooled, int threads) {
    const Bytes data(buffer);
    if (vectors.size() != TABLES) throw nb::value_error("four tables of n-grams are needed");
    NgramTables tables{};
    for (size_t table = 0; table < TABLES; ++table) {
        const size_t rows = vectors[table].shape(0);
        if (rows < 2 || rows > (size_t{1} << 24) || !std::has_single_bit(rows)) {
            throw nb::value_error("a table of n-grams has a power of two of rows, from 2 to 2^24");
        }
        tables[table] = {vectors[table].data(), static_cast<unsigned>(std::countr_zero(rows))};
    }
    const size_t count = starts.shape(0);
    if (sizes.shape(0) != count || pooled.shape(0) != count) {
        throw nb::value_error("starts, sizes and results must be of the same number");
    }
    for (size_t window = 0; window < count; ++window) {
        const int64_t start = starts.data()[window], size = sizes.data()[window];
        if (start < 0 || size < 0 || static_cast<uint64_t>(start) > data.size() ||
            static_cast<uint64_t>(size) > data.size() - static_cast<uint64_t>(start)) {
            throw nb::value_error("a window reaches out of the data");
        }
    }
    const nb::gil_scoped_release free;
    std::atomic<size_t> next{0};
    run_parallel(std::max(1, std::min<int>(threads, static_cast<int>(std::min<size_t>(count, 1024)))), [&](int) {
        for (size_t window = next++; window < count; window = next++) {
            pool_ngrams(data.data() + starts.data()[window], static_cast<size_t>(sizes.data()[window]), tables,
                        pooled.data() + window * POOLED);
        }
    });
}

}  // namespace

void bind_identify(nb::module_& module) {
    module.def("pool_windows", &pool_windows, "data"_a, "starts"_a, "sizes"_a, "tables"_a, "pooled"_a, "threads"_a,
               "Writes the byte shares and mean n-gram vectors of windows of `data` into `pooled`, a row for each.");
}

}  // namespace byteloom

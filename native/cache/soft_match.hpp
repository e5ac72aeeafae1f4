// Chunked soft matching: slots of a key-value cache are merged into the neighbours that they resemble most, until as
// many are left as may be. One head at a time.
//
// A pass cuts the slots into chunks. In each, every even slot seeks the odd slot with the most similar key and value;
// the best pairs of the whole head are merged, at equal similarity those that come first. A merged slot is the mean of
// all tokens in it. Similarities and means are float32, and means are rounded once, behind the last pass.
// Source: KV cache clustering (Chelsea), arXiv 2506.11418; token merging, arXiv 2210.09461. Cost: n c (d_k + d_v) / 4
// multiplications a pass of n slots in chunks of c.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

namespace byteloom {

// The upper half of a float.
struct BFloat16 {
    uint16_t bits = 0;

    BFloat16() = default;
    explicit BFloat16(float value) {
        const auto wide = std::bit_cast<uint32_t>(value);
        const auto upper = static_cast<uint16_t>(wide >> 16);
        if (std::isnan(value)) {  // stays one, and what came from 16 bits keeps them
            bits = (upper & 0x7F) != 0 ? upper : upper | 0x40;
        } else {
            bits = static_cast<uint16_t>((wide + 0x7FFF + (upper & 1)) >> 16);
        }
    }
    explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};

// Rows of keys and of values, each a `stride` behind the one before, and the logarithms of the sizes.
template <class Number>
struct SlotView {
    Number* keys;
    size_t key_stride;
    Number* values;
    size_t value_stride;
    std::conditional_t<std::is_const_v<Number>, const float*, float*> log_sizes;
};

struct MatchRule {
    size_t key_width;
    size_t value_width;
    size_t chunk;        // even
    float value_weight;  // of the values against the keys
};

class SoftMatcher {
  public:
    // Room for heads of up to `count` slots: `merge` allocates nothing, so that threads may call it.
    SoftMatcher(const MatchRule& rule, size_t count) : rule_(rule) {
        rule_.chunk = std::min(rule.chunk, count + count % 2);
        const size_t width = rule.key_width + rule.value_width, half = rule_.chunk / 2;
        row_.resize(width);
        even_.resize((half + kRows) * width);
        odd_.resize((half + kColumns) * width);
        open_.resize(half + kColumns);
        into_.resize(count);
        next_.resize(count);
        last_.resize(count);
        edges_.reserve(count);
        for (auto& states : between_) states.resize((count / 2 + 1) * (width + 1));  // a pass halves the slots
    }

    // Merges `count` slots to `target`, of 1 to `count`; gives the sum of the similarities of all merged pairs.
    template <class Number>
    double merge(const SlotView<const Number>& from, size_t count, size_t target, const SlotView<Number>& to) {
        double similarity = 0;
        size_t remove = std::min(count - target, count / 2);
        if (count - remove == target) {
            pass(from, count, remove, to, similarity);
            return similarity;
        }
        int here = 0;
        pass(from, count, remove, view(here, count - remove), similarity);
        for (;;) {
            const auto held = view(here, count -= remove);
            const SlotView<const float> known{held.keys, held.key_stride, held.values, held.value_stride,
                                              held.log_sizes};
            remove = std::min(count - target, count / 2);
            if (count - remove == target) {
                pass(known, count, remove, to, similarity);
                return similarity;
            }
            here = 1 - here;
            pass(known, count, remove, view(here, count - remove), similarity);
        }
    }

  private:
    static constexpr size_t kLanes = 16, kRows = 4, kColumns = 2 * kLanes;
    static constexpr uint32_t kNone = ~uint32_t{0};
    static constexpr float kNothing = -2, kClosed = -4;  // below every cosine: of a NaN, and of no slot at all

    static constexpr float kShortest = 1e-18f;  // of a vector, whose square is still a normal number

    // Compilers split these where registers are shorter.
    typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));
    typedef int32_t Places __attribute__((vector_size(kLanes * sizeof(int32_t)), aligned(4), may_alias));

    struct Edge {
        float similarity;
        uint32_t from, into;
    };

    SlotView<float> view(int which, size_t count) {
        float* start = between_[static_cast<size_t>(which)].data();
        float* values = start + count * rule_.key_width;
        return {start, rule_.key_width, values, rule_.value_width, values + count * rule_.value_width};
    }

    template <class In, class Out>
    void pass(const SlotView<const In>& from, size_t count, size_t remove, const SlotView<Out>& to,
              double& similarity) {
        edges_.clear();
        if (remove > 0) {
            for (size_t start = 0; start < count; start += rule_.chunk) match(from, start, count);
            const auto better = [](const Edge& a, const Edge& b) {
                return a.similarity != b.similarity ? a.similarity > b.similarity : a.from < b.from;
            };
            if (remove < edges_.size()) {
                std::nth_element(edges_.begin(), edges_.begin() + static_cast<ptrdiff_t>(remove), edges_.end(), better);
                edges_.resize(remove);
            }
        }
        join(from, count, to, similarity);
    }

    template <class In>
    void match(const SlotView<const In>& from, size_t start, size_t count) {
#if defined(__x86_64__)
        static const bool has_avx512 = __builtin_cpu_supports("avx512f") != 0;
        static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        if (has_avx512) return match_avx512(from, start, count);
        if (has_avx2) return match_avx2(from, start, count);
#endif
        match_in(from, start, count);
    }

#if defined(__x86_64__)
    template <class In>
    __attribute__((target("avx512f"))) void match_avx512(const SlotView<const In>& from, size_t start, size_t count) {
        match_in(from, start, count);
    }
    template <class In>
    __attribute__((target("avx2,fma"))) void match_avx2(const SlotView<const In>& from, size_t start, size_t count) {
        match_in(from, start, count);
    }
#endif

    // The edges of one chunk.
    template <class In>
    __attribute__((always_inline)) void match_in(const SlotView<const In>& from, size_t start, size_t count) {
        const size_t size = std::min(rule_.chunk, count - start), odds = size / 2, evens = size - odds;
        if (odds == 0) return;
        const size_t width = rule_.value_weight > 0 ? rule_.key_width + rule_.value_width : rule_.key_width;
        const size_t panels = (odds + kColumns - 1) / kColumns;
        for (size_t i = 0; i < size; ++i) {
            unit(from, start + i);
            if (i % 2 == 0) {
                std::memcpy(even_.data() + i / 2 * width, row_.data(), width * sizeof(float));
            } else {  // a panel has the same channel of all its columns side by side
                float* panel = odd_.data() + i / 2 / kColumns * kColumns * width + i / 2 % kColumns;
                for (size_t d = 0; d < width; ++d) panel[d * kColumns] = row_[d];
            }
        }
        for (size_t j = odds; j < panels * kColumns; ++j) {
            float* panel = odd_.data() + j / kColumns * kColumns * width + j % kColumns;
            for (size_t d = 0; d < width; ++d) panel[d * kColumns] = 0;
        }
        for (size_t j = 0; j < panels * kColumns; ++j) open_[j] = j < odds ? 0 : kClosed;

        for (size_t i = 0; i < evens; i += kRows) {
            Lanes best[kRows];
            Places place[kRows];
            Places column;
            for (size_t lane = 0; lane < kLanes; ++lane) column[lane] = static_cast<int32_t>(lane);
            for (size_t row = 0; row < kRows; ++row) {
                best[row] = Lanes{} + kNothing;
                place[row] = column;
            }
            for (size_t panel = 0; panel < panels; ++panel) {
                Lanes sum[kRows][2];
                const float* open = open_.data() + panel * kColumns;
                for (size_t row = 0; row < kRows; ++row) {
                    sum[row][0] = *lanes(open);
                    sum[row][1] = *lanes(open + kLanes);
                }
                const float* odd = odd_.data() + panel * kColumns * width;
                const float* even = even_.data() + i * width;
                for (size_t d = 0; d < width; ++d, odd += kColumns) {
                    const Lanes low = *lanes(odd), high = *lanes(odd + kLanes);
                    for (size_t row = 0; row < kRows; ++row) {
                        sum[row][0] += even[row * width + d] * low;
                        sum[row][1] += even[row * width + d] * high;
                    }
                }
                for (size_t half = 0; half < 2; ++half) {
                    for (size_t row = 0; row < kRows; ++row) {
                        const auto is_better = sum[row][half] > best[row];  // never of a NaN
                        best[row] = is_better ? sum[row][half] : best[row];
                        place[row] = is_better ? column : place[row];
                    }
                    column += static_cast<int32_t>(kLanes);
                }
            }
            for (size_t row = 0; row < std::min(kRows, evens - i); ++row) {
                float most = kNothing;
                int32_t at = 0;
                for (size_t lane = 0; lane < kLanes; ++lane) {
                    const float other = best[row][lane];
                    if (other > most || (other == most && other > kNothing && place[row][lane] < at)) {
                        most = other;
                        at = place[row][lane];
                    }
                }
                edges_.push_back({most, static_cast<uint32_t>(start + 2 * (i + row)),
                                  static_cast<uint32_t>(start + 2 * static_cast<size_t>(at) + 1)});
            }
        }
    }

    // The key and the value of a slot, each of its share of length 1, into row_.
    template <class In>
    __attribute__((always_inline)) void unit(const SlotView<const In>& from, size_t slot) {
        const float whole = std::sqrt(1 + rule_.value_weight * rule_.value_weight);
        unit(from.keys + slot * from.key_stride, rule_.key_width, 1 / whole, row_.data());
        if (rule_.value_weight > 0) {
            unit(from.values + slot * from.value_stride, rule_.value_width, rule_.value_weight / whole,
                 row_.data() + rule_.key_width);
        }
    }
    template <class In>
    __attribute__((always_inline)) static void unit(const In* states, size_t width, float share, float* to) {
        for (size_t d = 0; d < width; ++d) to[d] = static_cast<float>(states[d]);
        Lanes sums{};
        size_t d = 0;
        for (; d + kLanes <= width; d += kLanes) {
            const Lanes part = *lanes(to + d);
            sums += part * part;
        }
        float square = 0;
        for (size_t lane = 0; lane < kLanes; ++lane) square += sums[lane];
        for (; d < width; ++d) square += to[d] * to[d];
        const float scale = share / std::max(std::sqrt(square), kShortest);
        for (d = 0; d < width; ++d) to[d] *= scale;
    }

    // A pointer, as a function cannot return lanes alike for all processors.
    static const Lanes* lanes(const float* from) { return reinterpret_cast<const Lanes*>(from); }

    // Writes all slots but those that edges_ merge into others.
    template <class In, class Out>
    void join(const SlotView<const In>& from, size_t count, const SlotView<Out>& to, double& similarity) {
        constexpr auto none = kNone;
        std::fill_n(into_.begin(), count, none);
        std::fill_n(last_.begin(), count, none);
        for (const auto& edge : edges_) into_[edge.from] = edge.into;
        for (const auto& edge : edges_) similarity += edge.similarity;
        for (size_t slot = count; slot-- > 0;) {  // lists of who merges into whom, in ascending order
            if (into_[slot] == none) continue;
            next_[slot] = last_[into_[slot]];
            last_[into_[slot]] = static_cast<uint32_t>(slot);
        }
        size_t place = 0;
        for (size_t slot = 0; slot < count; ++slot) {
            if (into_[slot] != none) continue;
            float size = std::exp(from.log_sizes[slot]);
            const float own = size;
            for (uint32_t other = last_[slot]; other != none; other = next_[other]) {
                size += std::exp(from.log_sizes[other]);
            }
            to.log_sizes[place] = last_[slot] == none ? from.log_sizes[slot] : std::log(size);
            mean(from.keys, from.key_stride, from.log_sizes, rule_.key_width, slot, own, size,
                 to.keys + place * to.key_stride);
            mean(from.values, from.value_stride, from.log_sizes, rule_.value_width, slot, own, size,
                 to.values + place * to.value_stride);
            ++place;
        }
    }

    template <class In, class Out>
    void mean(const In* states, size_t stride, const float* log_sizes, size_t width, size_t slot, float own, float size,
              Out* to) {
        const In* row = states + slot * stride;
        if (last_[slot] == kNone) {  // keeps every bit
            for (size_t d = 0; d < width; ++d) to[d] = convert<Out>(row[d]);
            return;
        }
        float* sum = row_.data();
        for (size_t d = 0; d < width; ++d) sum[d] = own * static_cast<float>(row[d]);
        for (uint32_t other = last_[slot]; other != kNone; other = next_[other]) {
            const float weight = std::exp(log_sizes[other]);
            row = states + other * stride;
            for (size_t d = 0; d < width; ++d) sum[d] += weight * static_cast<float>(row[d]);
        }
        for (size_t d = 0; d < width; ++d) to[d] = static_cast<Out>(sum[d] / size);
    }

    template <class Out, class In>
    static Out convert(In value) {
        if constexpr (std::is_same_v<In, Out>) {
            return value;
        } else {
            return static_cast<Out>(static_cast<float>(value));
        }
    }

    MatchRule rule_;
    std::vector<float> row_, even_, odd_, open_;
    std::vector<uint32_t> into_, next_, last_;
    std::vector<Edge> edges_;
    std::array<std::vector<float>, 2> between_;
};

}  // namespace byteloom

// A libFuzzer target for the merging of slots: the input says how wide and many they are and gives their bits, NaN and
// infinity included. Whatever they are, no token is lost; where they are numbers, neither is what they add up to, and
// slots that nothing joined keep every bit and their order.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>

#include "cache/soft_match.hpp"

namespace {

using byteloom::BFloat16;
using byteloom::MatchRule;
using byteloom::SlotView;
using byteloom::SoftMatcher;

void require(bool holds) {
    if (!holds) std::abort();
}

template <class Number>
struct Slots {
    Slots(size_t count, const MatchRule& rule)
        : keys(count * rule.key_width), values(count * rule.value_width), log_sizes(count), rule(rule) {}

    SlotView<Number> view() { return {keys.data(), rule.key_width, values.data(), rule.value_width, log_sizes.data()}; }
    SlotView<const Number> known() const {
        return {keys.data(), rule.key_width, values.data(), rule.value_width, log_sizes.data()};
    }

    std::vector<Number> keys, values;
    std::vector<float> log_sizes;
    MatchRule rule;
};

template <class Number>
void check(const MatchRule& rule, size_t count, size_t target, const uint8_t* data, size_t size, bool raw) {
    Slots<Number> old(count, rule), merged(target, rule);
    size_t at = 0;
    const auto next = [&]() { return data[at++ % size]; };
    bool is_finite = true;
    for (auto* states : {&old.keys, &old.values}) {
        for (auto& state : *states) {
            if (raw) {
                uint8_t bits[sizeof(Number)];
                for (auto& part : bits) part = next();
                std::memcpy(&state, bits, sizeof state);
            } else {
                state = static_cast<Number>(static_cast<float>(next()) - 128);
            }
            is_finite = is_finite && std::abs(static_cast<float>(state)) < 1e6f;
        }
    }
    // The first channel tells the slots apart.
    for (size_t slot = 0; slot < count; ++slot) {
        old.values[slot * rule.value_width] = static_cast<Number>(static_cast<float>(slot));
        old.log_sizes[slot] = std::log(static_cast<float>(1 + next() % 4));
    }
    SoftMatcher matcher(rule, count);
    const double similarity = matcher.merge(old.known(), count, target, merged.view());
    require(similarity <= 1.001 * static_cast<double>(count) && similarity >= -2.0 * static_cast<double>(count));

    double sizes = 0, places = 0;
    for (size_t slot = 0; slot < count; ++slot) {
        sizes += std::exp(old.log_sizes[slot]);
        places += std::exp(old.log_sizes[slot]) * static_cast<float>(old.values[slot * rule.value_width]);
    }
    double last = -1;
    for (size_t slot = 0; slot < target; ++slot) {
        const double held = std::exp(merged.log_sizes[slot]);
        const auto place = static_cast<double>(static_cast<float>(merged.values[slot * rule.value_width]));
        sizes -= held;
        places -= held * place;
        const auto whole = static_cast<size_t>(place);
        const bool is_alone = held < 1.5 && static_cast<double>(whole) == place && whole < count &&
                              merged.log_sizes[slot] == old.log_sizes[whole];
        require(is_alone || held > 1.5);
        if (!is_alone || held > 1.5) continue;  // a centroid of whole numbers may look like a slot
        require(place > last);
        last = place;
        require(std::memcmp(&old.keys[whole * rule.key_width], &merged.keys[slot * rule.key_width],
                            rule.key_width * sizeof(Number)) == 0);
    }
    require(std::abs(sizes) < 1e-3 * static_cast<double>(count));
    if (is_finite && std::is_same_v<Number, float>)
        require(std::abs(places) < 1e-2 * static_cast<double>(count * count));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 8) return 0;
    const MatchRule rule{1 + data[0] % 40u, 1 + data[1] % 40u, 2 + 2 * (data[2] % 64u),
                         static_cast<float>(data[3] % 3) / 2};
    const size_t count = 1 + data[4] % 200, target = 1 + data[5] % count;
    const bool raw = data[6] % 2 == 1;
    check<float>(rule, count, target, data + 7, size - 7, raw);
    check<BFloat16>(rule, count, target, data + 7, size - 7, raw);
    return 0;
}

// One step of superposed decoding: which of the model's candidates continue which drafts of a prompt, by the model's
// probability and that of n-grams.
// Source: Superposed Decoding, arXiv 2405.18400, section 4. Cost: a query of the n-grams and a sort of all pairs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "ngram/ngram.hpp"

namespace byteloom {

struct SuperposeRule {
    double temperature, alpha;
    double penalty;  // nats, of what the n-grams have never seen; twice for a draft that has something better
};

// The `keep` best of drafts * count pairs, draft * count + candidate, and their totals; of equal ones the first.
// logits: of the candidates, falling. histories: [drafts, order - 1]. table: may be null, then the model alone decides.
inline void best_pairs(const SuperposeRule& rule, const NgramTable* table, const float* weights, const double* logits,
                       const uint32_t* candidates, size_t count, const uint32_t* histories, const double* scores,
                       size_t drafts, size_t keep, int64_t* pairs, double* totals) {
    constexpr double kNever = -std::numeric_limits<double>::infinity();
    std::vector<double> model(count), total(drafts * count);
    double sum = 0;
    for (size_t c = 0; c < count; ++c) sum += std::exp(model[c] = (logits[c] - logits[0]) / rule.temperature);
    for (double& log_p : model) log_p -= std::log(sum);
    if (table != nullptr) {
        // What the model, or a logits processor, forbids stays forbidden where the n-grams alone decide.
        for (double& log_p : model) log_p = rule.alpha < 1 ? (1 - rule.alpha) * log_p : log_p == kNever ? kNever : 0;
    }
    std::vector<float> share(count);
    for (size_t draft = 0; draft < drafts; ++draft) {
        double* own = total.data() + draft * count;
        for (size_t c = 0; c < count; ++c) own[c] = scores[draft] + model[c];
        if (table == nullptr) continue;
        table->query(histories + draft * (table->order() - 1), candidates, count, weights, share.data());
        const bool is_seen = std::any_of(share.begin(), share.end(), [](float q) { return q > 0; });
        for (size_t c = 0; c < count; ++c) {
            own[c] += share[c] > 0 ? rule.alpha * std::log(double{share[c]}) : -rule.penalty * (is_seen ? 2 : 1);
        }
    }
    std::vector<int64_t> order(total.size());
    std::iota(order.begin(), order.end(), int64_t{0});
    keep = std::min(keep, order.size());
    std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(keep), order.end(),
                      [&](int64_t a, int64_t b) {
                          const double x = total[static_cast<size_t>(a)], y = total[static_cast<size_t>(b)];
                          return x != y ? x > y : a < b;
                      });
    for (size_t i = 0; i < keep; ++i) {
        pairs[i] = order[i];
        totals[i] = total[static_cast<size_t>(order[i])];
    }
}

}  // namespace byteloom

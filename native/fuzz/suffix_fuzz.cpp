// A libFuzzer target for the suffix tree: the input is a list of deeds on four sequences that grow, end and are
// removed; counts and drafts are compared with searches of the plainest kind.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <vector>

#include "suffix/suffix_tree.hpp"

namespace {

using byteloom::DraftRule;
using byteloom::SuffixDraft;
using byteloom::SuffixTree;
using Tokens = std::vector<uint32_t>;

void require(bool holds) {
    if (!holds) std::abort();
}

class Twin {
  public:
    explicit Twin(uint32_t depth) : depth_(depth) {}

    std::map<uint64_t, Tokens> texts;

    // Windows of all texts that begin with the pattern.
    uint64_t count(const Tokens& pattern) const {
        uint64_t found = 0;
        if (pattern.empty() || pattern.size() > depth_) return 0;
        for (const auto& [id, text] : texts) {
            for (size_t start = 0; start + pattern.size() <= text.size(); ++start) {
                found += std::equal(pattern.begin(), pattern.end(), text.begin() + static_cast<ptrdiff_t>(start));
            }
        }
        return found;
    }

  private:
    uint32_t depth_;
};

void check_counts(const SuffixTree& tree, const Twin& twin, uint32_t depth) {
    for (const auto& [id, text] : twin.texts) {
        require(tree.text(id) == text);
        for (size_t start = 0; start < text.size(); start += 3) {
            Tokens pattern;
            for (size_t i = start; i < text.size() && pattern.size() <= depth; ++i) {
                pattern.push_back(text[i]);
                require(tree.count(pattern.data(), pattern.size()) == twin.count(pattern));
                Tokens other = pattern;
                other.back() ^= 1;
                require(tree.count(other.data(), other.size()) == twin.count(other));
            }
        }
    }
}

// Every drafted path occurred after the match, and no path is more probable than the one that it continues.
void check_draft(const SuffixDraft& draft, const Tokens& context, const Twin& twin, const DraftRule& rule) {
    require(draft.tokens.size() <= rule.budget(draft.match) && draft.match <= context.size());
    double sum = 0;
    std::vector<Tokens> paths;
    for (size_t i = 0; i < draft.tokens.size(); ++i) {
        const int32_t parent = draft.parents[i];
        require(parent >= -1 && parent < static_cast<int32_t>(i));
        Tokens path =
            parent < 0 ? Tokens(context.end() - draft.match, context.end()) : paths[static_cast<size_t>(parent)];
        path.push_back(draft.tokens[i]);
        require(twin.count(path) > 0);
        require(parent < 0 || draft.probabilities[i] <= draft.probabilities[static_cast<size_t>(parent)]);
        require(draft.probabilities[i] >= rule.least);
        sum += draft.probabilities[i];
        paths.push_back(std::move(path));
    }
    require(std::abs(sum - draft.score) < 1e-6);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 4) return 0;
    const uint32_t depth = 2 + data[0] % 15, alphabet = 1 + data[1] % 40;
    const DraftRule rule{data[2] % 20u, 0.5 * (data[2] / 32), 0.0, data[3] / 256.0, (data[3] & 1) != 0};
    SuffixTree tree(depth);
    Twin twin(depth);
    uint64_t ids[4] = {0, 1, 2, 3};
    size_t total = 0;
    for (size_t at = 4; at < size && total < 300; ++at) {
        uint64_t& id = ids[data[at] % 4];
        const bool is_known = twin.texts.contains(id);
        switch (data[at] / 4 % 16) {
            case 0:
                if (is_known) tree.finish(id);
                if (is_known) id += 4;
                break;
            case 1:
                if (is_known) tree.remove(id);
                twin.texts.erase(id);
                break;
            case 2:
                if (twin.texts.contains(id - 4)) {
                    tree.remove(id - 4);
                    twin.texts.erase(id - 4);
                }
                break;
            default: {
                Tokens more;
                for (size_t i = at + 1; i < std::min(size, at + 1 + data[at] / 64); ++i) {
                    more.push_back(data[i] % alphabet);
                }
                if (more.empty()) break;
                tree.extend(id, more.data(), more.size());
                auto& text = twin.texts[id];
                text.insert(text.end(), more.begin(), more.end());
                total += more.size();
                const auto draft = tree.propose(text.data(), text.size(), rule);
                check_draft(draft, text, twin, rule);
                const auto same = tree.propose_after(id, rule);
                require(same.tokens == draft.tokens && same.parents == draft.parents && same.match == draft.match);
            }
        }
        if (at % 16 == 0) check_counts(tree, twin, depth);
    }
    check_counts(tree, twin, depth);
    while (!twin.texts.empty()) {
        tree.remove(twin.texts.begin()->first);
        twin.texts.erase(twin.texts.begin());
        check_counts(tree, twin, depth);
    }
    require(tree.tokens() == 0 && tree.bytes() == SuffixTree(depth).bytes());
    return 0;
}

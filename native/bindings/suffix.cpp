// Python's view of native/suffix. The GIL is released for all work on trees; a tree is locked while it is used.
#include "bindings/suffix.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "bindings/buffers.hpp"
#include "suffix/suffix_tree.hpp"

namespace byteloom {
namespace {

using namespace nb::literals;

class LockedTree {
  public:
    explicit LockedTree(uint32_t depth) : tree_(depth) {}

    // use(tree) without the GIL.
    template <class Use>
    auto with(Use use) {
        const nb::gil_scoped_release free;
        const std::lock_guard<std::mutex> lock(mutex_);
        return use(tree_);
    }

    // The same where the GIL was released already.
    template <class Use>
    auto with_lock(Use use) {
        const std::lock_guard<std::mutex> lock(mutex_);
        return use(tree_);
    }

  private:
    SuffixTree tree_;
    std::mutex mutex_;
};

// As lists: drafts are short, and arrays would take longer to make than to fill.
nb::tuple to_tuple(const SuffixDraft& draft) {
    return nb::make_tuple(draft.tokens, draft.parents, draft.probabilities, draft.score, draft.match);
}

// For each row the better of the drafts of its own tree and of the one that all share; its own where they are equal.
nb::list propose_rows(const std::vector<std::shared_ptr<LockedTree>>& trees, const std::vector<uint64_t>& ids,
                      const std::shared_ptr<LockedTree>& shared, const std::vector<Ids>& contexts,
                      const std::vector<DraftRule>& rules) {
    if (trees.size() != ids.size() || trees.size() != contexts.size() || trees.size() != rules.size()) {
        throw nb::value_error("give a tree, a sequence, a context and a rule for every row");
    }
    std::vector<std::pair<SuffixDraft, bool>> drafts(trees.size());
    {
        const nb::gil_scoped_release free;
        for (size_t row = 0; row < trees.size(); ++row) {
            auto& [draft, of_shared] = drafts[row];
            draft = trees[row]->with_lock([&](SuffixTree& tree) { return tree.propose_after(ids[row], rules[row]); });
            auto other = shared->with_lock(
                [&](SuffixTree& tree) { return tree.propose(contexts[row].data(), contexts[row].size(), rules[row]); });
            of_shared = other.score > draft.score;
            if (of_shared) draft = std::move(other);
        }
    }
    nb::list all;
    for (const auto& [draft, of_shared] : drafts) {
        all.append(nb::make_tuple(draft.tokens, draft.parents, draft.probabilities, draft.match, of_shared));
    }
    return all;
}

}  // namespace

void bind_suffix(nb::module_& module) {
    nb::class_<DraftRule>(module, "DraftRule", "How long a draft may be, and how improbable.")
        .def(
            "__init__",
            [](DraftRule* self, uint32_t limit, double factor, double offset, double least, bool branching) {
                new (self) DraftRule{limit, factor, offset, least, branching};
            },
            "limit"_a, "factor"_a, "offset"_a, "least"_a, "branching"_a);

    nb::class_<LockedTree>(module, "SuffixTree",
                           "All windows of `depth` tokens of growing sequences, with their counts.")
        .def(nb::new_([](uint32_t depth) { return std::make_shared<LockedTree>(depth); }), "depth"_a)
        .def(
            "extend",
            [](LockedTree& self, uint64_t id, const Ids& tokens) {
                self.with([&](SuffixTree& tree) { tree.extend(id, tokens.data(), tokens.size()); });
            },
            "id"_a, "tokens"_a, "Appends; a sequence begins with its first tokens.")
        .def(
            "finish", [](LockedTree& self, uint64_t id) { self.with([&](SuffixTree& tree) { tree.finish(id); }); },
            "id"_a, "The sequence ends here.")
        .def(
            "remove", [](LockedTree& self, uint64_t id) { self.with([&](SuffixTree& tree) { tree.remove(id); }); },
            "id"_a, "Takes the sequence out.")
        .def(
            "ids", [](LockedTree& self) { return to_numpy(self.with([](SuffixTree& tree) { return tree.ids(); })); },
            "uint64: the sequences in the order in which they began.")
        .def("__contains__", [](LockedTree& self,
                                uint64_t id) { return self.with([&](SuffixTree& tree) { return tree.contains(id); }); })
        .def(
            "is_open",
            [](LockedTree& self, uint64_t id) { return self.with([&](SuffixTree& tree) { return tree.is_open(id); }); },
            "id"_a)
        .def(
            "text",
            [](LockedTree& self, uint64_t id) {
                return to_numpy(self.with([&](SuffixTree& tree) { return tree.text(id); }));
            },
            "id"_a, "uint32: the tokens of a sequence.")
        .def(
            "count",
            [](LockedTree& self, const Ids& pattern) {
                return self.with([&](SuffixTree& tree) { return tree.count(pattern.data(), pattern.size()); });
            },
            "pattern"_a, "How many windows begin with the pattern.")
        .def(
            "propose",
            [](LockedTree& self, const Ids& context, const DraftRule& rule) {
                return to_tuple(
                    self.with([&](SuffixTree& tree) { return tree.propose(context.data(), context.size(), rule); }));
            },
            "context"_a, "rule"_a, "(tokens, parents, probabilities, score, length of the match)")
        .def(
            "propose_after",
            [](LockedTree& self, uint64_t id, const DraftRule& rule) {
                return to_tuple(self.with([&](SuffixTree& tree) { return tree.propose_after(id, rule); }));
            },
            "id"_a, "rule"_a, "The same after an open sequence of this tree.")
        .def_prop_ro("depth", [](LockedTree& self) { return self.with([](SuffixTree& tree) { return tree.depth(); }); })
        .def_prop_ro("tokens",
                     [](LockedTree& self) { return self.with([](SuffixTree& tree) { return tree.tokens(); }); })
        .def_prop_ro("nbytes",
                     [](LockedTree& self) { return self.with([](SuffixTree& tree) { return tree.bytes(); }); });

    module.def("propose_rows", &propose_rows, "trees"_a, "ids"_a, "shared"_a, "contexts"_a, "rules"_a,
               "[(tokens, parents, probabilities, length of the match, of the shared tree)], lists, for every row");
}

}  // namespace byteloom

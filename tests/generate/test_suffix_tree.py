import numpy as np
import pytest
from byteloom._native import DraftRule, SuffixTree, propose_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.suffix_tree import ReferenceSuffixTree

# What happens to a tree: (sequence, tokens appended), or (sequence, "finish" | "remove").
ALPHABET = st.sampled_from([2, 3, 5, 40])


@st.composite
def histories(draw, removals=False):
    token = st.integers(0, draw(ALPHABET) - 1)
    deeds = [st.lists(token, min_size=1, max_size=30), st.just("finish")] + [st.just("remove")] * removals
    return draw(st.integers(2, 16)), draw(st.lists(st.tuples(st.integers(0, 3), st.one_of(deeds)), max_size=25))


def array(tokens):
    return np.array(tokens, np.uint32)


def play(depth, history):
    """Both trees after the history; an ended sequence goes on under another id."""
    tree, twin = SuffixTree(depth), ReferenceSuffixTree(depth)
    lives = dict.fromkeys(range(4), 0)
    for row, deed in history:
        id = row + 10 * lives[row]
        if not isinstance(deed, str):
            tree.extend(id, array(deed))
            twin.extend(id, deed)
        elif id in tree:
            lives[row] += 1
            tree.finish(id)
            if deed == "remove":
                tree.remove(id)
                twin.remove(id)
    return tree, twin


def assert_same_counts(tree, twin):
    for context, followers in list(twin.followers.items()):
        for token in [*followers, 1000]:
            pattern = [*context, token]
            assert tree.count(array(pattern)) == twin.count(pattern), pattern


@settings(max_examples=150, deadline=None)
@given(histories())
def test_counts_are_those_of_all_windows(history):
    tree, twin = play(*history)
    assert_same_counts(tree, twin)
    assert tree.tokens == sum(map(len, twin.sequences.values()))
    assert {id: tree.text(id).tolist() for id in tree.ids().tolist()} == twin.sequences


@settings(max_examples=200, deadline=None)
@given(
    histories(),
    st.integers(0, 12),
    st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    st.sampled_from([-1.0, 0.0, 3.0]),
    st.sampled_from([0.0, 0.1, 0.4, 1.0]),
    st.booleans(),
)
def test_drafts_are_those_of_the_definition(history, limit, factor, offset, least, branching):
    tree, twin = play(*history)
    rule = DraftRule(limit, factor, offset, least, branching)
    for id, text in twin.sequences.items():
        tokens, parents, probabilities, score, match = tree.propose(array(text), rule)
        expected = twin.propose(text, limit, factor, offset, least, branching)
        assert (tokens, parents, match) == (expected.tokens, expected.parents, expected.match)
        assert probabilities == pytest.approx(expected.probabilities)
        assert score == pytest.approx(expected.score)
        if tree.is_open(id):
            assert tree.propose_after(id, rule) == (tokens, parents, probabilities, score, match)


@settings(max_examples=200, deadline=None)
@given(histories(removals=True))
def test_what_is_removed_counts_no_more(history):
    tree, twin = play(*history)
    assert_same_counts(tree, twin)
    for id, text in twin.sequences.items():  # open sequences still grow
        if tree.is_open(id):
            tree.extend(id, array(text[:5]))
            twin.extend(id, text[:5])
    assert_same_counts(tree, twin)
    for text in twin.sequences.values():
        rule = DraftRule(20, 2.0, 0.0, 0.05, True)
        tokens, parents, probabilities, score, match = tree.propose(array(text), rule)
        assert score == pytest.approx(sum(probabilities)) and (match == 0) == (not tokens)
        assert score == pytest.approx(twin.propose(text, 20, 2.0, 0.0, 0.05, True).score, abs=score / 2 + 1e-6)
        for i, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
            path = [token]
            while parent >= 0:
                assert parent < i and probabilities[parent] >= probabilities[i]
                path.insert(0, tokens[parent])
                parent = parents[parent]
            assert twin.count(text[len(text) - match :] + path) > 0


@settings(max_examples=30, deadline=None)
@given(histories(removals=True))
def test_a_tree_without_sequences_is_as_small_as_a_new_one(history):
    tree, _ = play(*history)
    for id in tree.ids().tolist():
        tree.remove(id)
    assert tree.nbytes == SuffixTree(history[0]).nbytes and tree.tokens == 0


def test_many_removals_give_memory_back():
    rng = np.random.default_rng(0)
    tree, twin = SuffixTree(8), ReferenceSuffixTree(8)
    largest = 0
    for id in range(60):
        text = rng.zipf(1.5, 500).clip(max=200).astype(np.uint32)
        tree.extend(id, text)
        twin.extend(id, text.tolist())
        tree.finish(id)
        if id >= 5:
            tree.remove(id - 5)
            twin.remove(id - 5)
        if id == 10:
            largest = tree.nbytes
    assert_same_counts(tree, twin)
    assert tree.nbytes < 2 * largest
    tokens, *_ = tree.propose(array([1]), DraftRule(8, 8.0, 0.0, 0.0, False))  # the root is wide and lost children
    assert tokens[0] == max(twin.followers[(1,)], key=lambda token: twin.followers[(1,)][token][0])


def test_the_better_of_two_trees_answers_for_each_row():
    own, shared = SuffixTree(16), SuffixTree(16)
    own.extend(0, array([1, 2, 3, 9, 1, 2]))
    own.extend(1, array([5, 6]))
    shared.extend(7, array([5, 6, 7, 8]))
    rule = DraftRule(8, 1.0, 0.0, 0.1, False)
    first, second = propose_rows([own, own], [0, 1], shared, [array([1, 2]), array([5, 6])], [rule, rule])
    assert first == ([3, 9], [-1, 0], [1.0, 1.0], 2, False)
    assert second == ([7, 8], [-1, 0], [1.0, 1.0], 2, True)
    with pytest.raises(ValueError, match="for every row"):
        propose_rows([own], [0, 1], shared, [], [])


def test_what_cannot_be():
    tree = SuffixTree(4)
    with pytest.raises(ValueError, match="2 to 4096"):
        SuffixTree(1)
    with pytest.raises(IndexError, match="no such sequence"):
        tree.finish(3)
    tree.extend(3, array([1]))
    tree.finish(3)
    with pytest.raises(ValueError, match="has ended"):
        tree.extend(3, array([1]))
    with pytest.raises(ValueError, match="has ended"):
        tree.propose_after(3, DraftRule(8, 1.0, 0.0, 0.1, False))
    assert tree.count(array([])) == 0 and tree.count(array([1] * 5)) == 0

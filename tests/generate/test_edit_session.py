"""The oracles of arXiv 2407.03157 as far as its algebra gives them, on random models of several families."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from byteloom.errors import InvalidInputError, InvalidTypeError, UnsupportedPositionError
from byteloom.generate import Edit, EditSession, Speculation, SuffixCache
from byteloom.models import CACHE_KEYWORD, KVCache, attach
from tests.models.families import build, tiny, tokens
from tests.models.test_attention import logits

FAMILIES = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {},
    "Mistral": {},
    "Mistral with a window": {"sliding_window": 12},
    "GPTNeoX": {},
    "Gemma2": {},  # windows in every other layer
    "SmolLM3": {},  # every other layer without positions
}
OLD = (20 + tokens(60)[0] % 40).tolist()  # edits insert ids below 20, so that none of them stays what it was


@pytest.fixture(params=FAMILIES)
def model(request):
    return tiny(request.param.split()[0], **FAMILIES[request.param])


def edited(ids, *edits):
    """`ids` after edits, the slow way."""
    ids = list(ids)
    for edit in sorted(edits, key=lambda edit: -edit.start):
        ids[edit.start : edit.stop] = edit.tokens
    return ids


def states(session):
    """Keys and values [layers, K, T, D] in the order of the text."""
    order = torch.from_numpy(session._slots.position.argsort())
    session._rotate(len(session.ids))
    layers = session._cache.layers
    return tuple(torch.stack([getattr(layer, name)[0][:, order] for layer in layers]) for name in ("keys", "values"))


def away(session, other):
    """The largest difference between the caches of two sessions of one text."""
    assert session.ids == other.ids
    return max(float((one - another).abs().max()) for one, another in zip(states(session), states(other), strict=True))


def expected_logits(model, ids):
    return logits(model, torch.tensor([ids]))[0, -1]


EDITS = [
    Edit(20, 20, (7, 8, 9)),
    Edit(30, 35),
    Edit(11, 15, (5, 6)),
    Edit(0, 0, (3,)),
    Edit(0, 7),
    Edit(50, 52, (4, 4)),
]


def test_an_edit_at_the_end_is_recomputation_bit_for_bit(model):
    session = EditSession(model, OLD)
    cache = KVCache.for_model(model)
    with attach(model):
        logits(model, torch.tensor([OLD]), **{CACHE_KEYWORD: cache})
        cache.crop(-5)
        expected = logits(model, torch.tensor([[3, 9, 4]]), **{CACHE_KEYWORD: cache})[0, -1]
    session.apply([Edit(55, 60, (3, 9, 4))])
    for layer, other in zip(session._cache.layers, cache.layers, strict=True):
        assert torch.equal(layer.keys, other.keys) and torch.equal(layer.values, other.values)
    assert (session.logits() - expected).abs().max() < 1e-5 and session.stale == 0


@pytest.mark.parametrize("edit", EDITS)
def test_the_first_layer_and_what_stands_before_are_exact(model, edit):
    session, exact = EditSession(model, OLD), EditSession(model, edited(OLD, edit))
    session.apply([edit])
    (keys, values), (exact_keys, exact_values) = states(session), states(exact)
    assert (keys[0] - exact_keys[0]).abs().max() < 1e-5
    assert (values[0] - exact_values[0]).abs().max() < 5e-6
    seen = edit.start + len(edit.tokens)
    assert seen == 0 or (keys[:, :, :seen] - exact_keys[:, :, :seen]).abs().max() < 2e-5
    assert (values[1:, :, seen:] - exact_values[1:, :, seen:]).abs().max() > 1e-3  # what the method leaves wrong


@pytest.mark.parametrize("edit", EDITS)
def test_refreshing_all_is_recomputation(model, edit):
    session, exact = EditSession(model, OLD, refresh=60), EditSession(model, edited(OLD, edit))
    report = session.apply([edit])
    assert away(session, exact) < 2e-5 and session.stale == 0
    assert report.encoded == 60 - edit.stop + len(edit.tokens) and report.shifted == 0


def test_refreshing_more_is_nearer_to_recomputation():
    model = tiny("Llama")
    edit = Edit(20, 22, (7, 8, 9, 10))
    exact = EditSession(model, edited(OLD, edit))
    errors = []
    for refresh in (0, 12, 37, 38):
        session = EditSession(model, OLD, refresh=refresh)
        session.apply([edit])
        errors.append(away(session, exact) if refresh == 38 else float((states(session)[1] - states(exact)[1]).norm()))
    assert errors[0] > errors[1] > errors[2] > errors[3] and errors[3] < 2e-5


def test_the_same_text_changes_nothing(model):
    session = EditSession(model, OLD)
    keys, values = states(session)
    for report in (session.sync(OLD), session.apply([Edit(7, 9, tuple(OLD[7:9]))]), session.apply([])):
        assert (report.edits, report.encoded, report.shifted, report.reused) == (0, 0, 0, 60)
    assert torch.equal(states(session)[0], keys) and torch.equal(states(session)[1], values)
    assert session.stale == 0


def test_what_is_inserted_and_deleted_again_leaves_no_trace(model):
    session, untouched = EditSession(model, OLD), EditSession(model, OLD)
    session.apply([Edit(20, 20, (3, 4, 5, 6, 7))])
    states(session)  # turns the keys forth
    session.apply([Edit(20, 25)])
    assert away(session, untouched) < 1e-5


def test_edits_at_once_one_by_one_and_found(model):
    edits = [Edit(10, 12, (7, 7, 7, 8)), Edit(30, 30, (9, 3)), Edit(45, 50)]
    at_once, one_by_one, found = (EditSession(model, OLD) for _ in range(3))
    report = at_once.apply(edits)
    assert (report.edits, report.encoded, report.reused) == (3, 6, 53)
    for edit in (Edit(10, 12, (7, 7, 7, 8)), Edit(32, 32, (9, 3)), Edit(49, 54)):
        one_by_one.apply([edit])
    assert found.sync(edited(OLD, *edits)).edits == 3
    assert away(at_once, one_by_one) < 2e-5 and away(at_once, found) == 0
    assert at_once.stale == one_by_one.stale == found.stale == 43
    assert (at_once.logits() - one_by_one.logits()).abs().max() < 5e-5


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Mistral", "GPTNeoX"])
@pytest.mark.parametrize("edit", EDITS)
def test_a_single_layer_is_exact(family, edit):
    model = tiny(family, num_hidden_layers=1)
    session = EditSession(model, OLD)
    session.apply([edit])
    assert (session.logits() - expected_logits(model, edited(OLD, edit))).abs().max() < 1e-5


def test_a_single_layer_with_a_window_is_exact():
    model = tiny("Mistral", num_hidden_layers=1, sliding_window=12)
    session = EditSession(model, OLD)
    random.seed(0)
    for _ in range(10):
        start = random.randrange(40, len(session.ids))
        session.apply([Edit(start, min(len(session.ids), start + random.randrange(4)), (3, 5, 4))])
        assert (session.logits() - expected_logits(model, session.ids)).abs().max() < 1e-5
        expected = plain(model, session.ids, 6)
        assert session.generate(6, do_sample=False) == expected


def plain(model, ids, count):
    ids = torch.tensor([ids])
    mask = torch.ones_like(ids)
    return model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False)[0, ids.shape[1] :].tolist()


def test_any_chain_of_edits_keeps_the_books(model):
    draw = random.Random(0)
    session = EditSession(model, OLD, refresh=2)
    text, fresh = list(OLD), [True] * len(OLD)
    for _ in range(25):
        start = draw.randrange(len(text) + 1)
        stop = min(len(text), start + draw.randrange(4))
        new = [draw.randrange(2, 30) + 30 * (at % 2) for at in range(draw.randrange(4))]
        while new and stop > start and new[-1] == text[stop - 1]:
            new, stop = new[:-1], stop - 1
        while new and stop > start and new[0] == text[start]:
            new, start = new[1:], start + 1
        session.apply([Edit(start, stop, tuple(new))])
        if new or stop > start:
            text[start:stop] = new
            behind = len(text) - start - len(new)
            fresh[start:] = [True] * (len(new) + min(2, behind)) + [False] * max(0, behind - 2)
        if draw.random() < 0.3 and text:
            session.logits()
            fresh[-1] = True
        assert session.ids == tuple(text) and session.stale == fresh.count(False)
        if len(text) < 20:
            session.sync(text + OLD)
            text, fresh = text + OLD, fresh + [True] * len(OLD)
    session.recompute()
    assert session.stale == 0 and away(session, EditSession(model, text)) < 2e-5


@pytest.mark.parametrize("layers", [1, 3])
def test_without_the_shift_it_is_visibly_worse(layers):
    model = tiny("Llama", num_hidden_layers=layers)
    edit = Edit(20, 20, tuple(range(3, 12)))
    exact = EditSession(model, edited(OLD, edit))
    cosines, losses = [], []
    for shift in (True, False):
        session = EditSession(model, OLD)
        session.apply([edit])
        if not shift:
            session._slots.turned = session._slots.position.copy()
        one, other = session.logits().log_softmax(-1), exact.logits().log_softmax(-1)
        losses.append(float((other.exp() * (other - one)).sum()))
        keys, exact_keys = states(session)[0][:, :, 29:-1], states(exact)[0][:, :, 29:-1]
        cosines.append(float(torch.nn.functional.cosine_similarity(keys, exact_keys, dim=-1).mean()))
    assert cosines[0] > cosines[1] + 0.04
    # Deeper random models attend everywhere, so that one change is felt as much as the other.
    assert layers > 1 or losses[1] > 100 * losses[0]


def test_the_number_of_forwards(monkeypatch):
    model = build("Llama")
    session = EditSession(model, OLD)
    calls = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: calls.append(given["input_ids"].shape[1]) or forward(**given))
    session.sync(edited(OLD, Edit(10, 11, (7, 8)), Edit(30, 31, (7, 8)), Edit(45, 46)))
    session.sync(edited(session.ids, Edit(20, 20, (9,))))
    session.logits()
    session.logits()
    session.sync([*session.ids, 5])
    session.logits()
    assert calls == [4, 1, 1, 1]


def test_keys_turn_once_a_prediction():
    session = EditSession(tiny("Llama"), OLD)
    for at in range(5):
        session.apply([Edit(20 + at, 20 + at, (3,))])
    assert session._slots.shifts.max() == 0
    session.logits()
    assert session._slots.shifts.max() == 1 and (session._slots.turned == session._slots.position).all()


def test_long_texts_are_read_in_parts(monkeypatch):
    model = tiny("Mistral", sliding_window=12)
    monkeypatch.setattr("byteloom.generate.edit_session.ENCODED_AT_ONCE", 7)
    session = EditSession(model, OLD)
    assert (session.logits() - expected_logits(model, OLD)).abs().max() < 2e-5
    new = tokens(40, seed=3)[0].tolist()
    session.apply([Edit(20, 40, tuple(new)), Edit(50, 55, tuple(new[:9]))])
    monkeypatch.undo()
    other = EditSession(model, OLD)
    other.apply([Edit(20, 40, tuple(new)), Edit(50, 55, tuple(new[:9]))])
    assert away(session, other) < 2e-5


def test_generation_leaves_the_session_as_it_was(model):
    session = EditSession(model, OLD)
    assert session.generate(8, do_sample=False) == plain(model, OLD, 8)
    session.apply([Edit(20, 21, (3, 4))])
    ids, before = session.ids, session.logits().clone()
    torch.manual_seed(1)
    sampled = session.generate(8, do_sample=True)
    torch.manual_seed(1)
    assert session.generate(8, do_sample=True) == sampled
    assert session.ids == ids and torch.equal(session.logits(), before)
    stale = session.stale
    assert session.sync(ids).edits == 0 and session.stale == stale
    assert len(session.ids) == 61 and session.sync([*ids, *sampled]).encoded == 8


def test_suffix_speculation_over_a_session(model):
    pattern = [5, 9, 13, 21, 8] * 12
    session = EditSession(model, pattern)
    session.apply([Edit(17, 18, (3, 4))])
    expected = session.generate(20, do_sample=False)
    method = Speculation(SuffixCache(), adaptive=False)
    for _ in range(2):
        assert session.generate(20, do_sample=False, custom_generate=method) == expected
    assert method.statistics.accepted.total() > 5
    assert session.generate(20, do_sample=False) == expected


def test_a_call_that_breaks_off_is_made_good():
    model = build("Llama")
    session = EditSession(model, OLD)
    layer = model.model.layers[1]
    hook = layer.register_forward_pre_hook(lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    edit = Edit(20, 21, (3, 4))
    for call in (lambda: session.apply([edit]), session.logits, lambda: session.generate(3), session.recompute):
        with pytest.raises(KeyboardInterrupt):
            call()
    hook.remove()
    assert session.ids == tuple(edited(OLD, edit)) and model.config._attn_implementation == "sdpa"
    assert session.generate(5, do_sample=False) == plain(model, session.ids, 5)
    session.recompute()
    assert away(session, EditSession(model, session.ids)) < 2e-5


def test_forks_go_their_own_way():
    model = tiny("Llama")
    session = EditSession(model, OLD)
    fork = session.fork()
    fork.apply([Edit(20, 21, (3, 4))])
    assert session.ids == tuple(OLD) and fork.ids == tuple(edited(OLD, Edit(20, 21, (3, 4))))
    assert (session.logits() - expected_logits(model, OLD)).abs().max() < 2e-5
    other = EditSession(model, OLD)
    other.apply([Edit(20, 21, (3, 4))])
    assert away(fork, other) < 1e-6 and fork.nbytes() > 0


def test_keys_that_were_turned_often_are_encoded_again():
    model = build("Llama").to(torch.bfloat16)
    session = EditSession(model, OLD, max_shifts=3)
    encoded = []
    for _ in range(5):
        encoded.append(session.apply([Edit(5, 5, (7,))]).encoded)
        session.logits()
    assert encoded[:3] == [1, 1, 1] and encoded[3] > 50
    session = EditSession(tiny("Llama"), OLD, max_shifts=1)  # not in float32
    for _ in range(3):
        assert session.apply([Edit(5, 5, (7,))]).encoded == 1
        session.logits()


def test_many_shifts_of_16_bits_stay_near():
    model = build("Llama").to(torch.bfloat16)
    session = EditSession(model, OLD, max_shifts=None)
    exact = states(session)[0].float()
    for _ in range(50):
        session.apply([Edit(0, 0, (7, 8, 9))])
        states(session)
        session.apply([Edit(0, 3)])
        states(session)
    error = (states(session)[0].float() - exact).norm() / exact.norm()
    assert 1e-3 < error < 0.05


def test_empty_texts_and_other_forms_of_ids():
    model = tiny("Llama")
    session = EditSession(model)
    assert session.ids == () and session.stale == 0
    for call in (session.logits, lambda: session.generate(2)):
        with pytest.raises(InvalidInputError, match="holds no text"):
            call()
    assert session.sync(np.array(OLD, np.uint32)).encoded == 60
    assert session.sync(torch.tensor(OLD)).encoded == 0
    assert session.sync([]).reused == 0
    session.sync(OLD)
    assert (session.logits() - expected_logits(model, OLD)).abs().max() < 2e-5


def test_bad_input():
    model = tiny("Llama")
    session = EditSession(model, OLD)
    for edits, message in (
        ([Edit(3, 9), Edit(8, 12)], "tokens 3 to 9 and 8 to 12 overlap"),
        ([Edit(3, 3, (5,)), Edit(3, 3, (6,))], "overlap"),
        ([Edit(58, 61)], "tokens 58 to 61 does not lie in a text of 60"),
        ([Edit(-1, 2)], "does not lie"),
        ([Edit(5, 4)], "does not lie"),
        ([Edit(1, 2, (61,))], "token ids 0 to 60"),
        ([Edit(1, 2, tuple([3] * 4096))], "exceeds the 4096 positions"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            session.apply(edits)
    for ids in ("text", b"text", ["a", "b"], {"input_ids": OLD}):
        with pytest.raises(InvalidTypeError, match="give tokenizer"):
            session.sync(ids)
    with pytest.raises(InvalidTypeError, match="integers"):
        session.sync([1.5])
    with pytest.raises(InvalidInputError, match="one text"):
        session.sync(torch.tensor([OLD, OLD]))
    with pytest.raises(InvalidInputError, match="exceeds the 4096 positions"):
        session.sync([3] * 4097)
    with pytest.raises(InvalidInputError, match="exceeds the 4096 positions"):
        session.generate(4040)
    assert session.ids == tuple(OLD) and session.sync(OLD).encoded == 0
    for options in ({"refresh": -1}, {"max_shifts": 0}):
        with pytest.raises(InvalidInputError, match="at least"):
            EditSession(model, OLD, **options)
    with pytest.raises(UnsupportedPositionError):
        EditSession(build("GPT2", n_embd=32, n_layer=2, n_head=2, n_positions=64))
    with pytest.raises(UnsupportedPositionError, match="depend on the length"):
        EditSession(build("Llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}))
    with pytest.raises(InvalidInputError, match="inference"):
        EditSession(build("Llama").train(), OLD)

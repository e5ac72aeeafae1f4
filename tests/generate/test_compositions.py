"""What goes with what: the cells of docs/combinations.md, each against a loop that reads the text token by token."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch

from byteloom.compress import MergedLayer, MergingCache, merging_cache
from byteloom.errors import CacheStateError, InvalidInputError
from byteloom.generate import (
    ContextStore,
    DraftModel,
    Edit,
    EditSession,
    LambdaLayer,
    PromptLookup,
    Speculation,
    SuffixCache,
    Superposed,
    SuperposedConfig,
    answer,
    extend,
    superposed_generate,
)
from byteloom.models import CACHE_KEYWORD, KeyRotation, KVCache, attach, generate_from
from tests.generate.test_speculation import Noisy
from tests.models.families import tiny, tokens
from tests.models.test_attention import logits

FAMILIES = ["Llama", "Qwen3", "Mistral"]
CACHES = ["plain", "session", "contexts", "merging", "window"]
LATER = 12  # tokens that follow
PROMPT = tokens(20, seed=3).repeat(1, 4)
QUERY = tokens(15, seed=99)
TEXTS = [tokens(count, seed=count)[0].tolist() for count in (9, 17, 12)]


@dataclass
class Kind:
    """A text that some cache holds.

    write: the tokens that follow, by `model.generate` with these options. next: log-probabilities [V] behind the text
    and these tokens, by a cache that nobody else uses. make: that cache; prompt: what is not in it yet.
    """

    write: Callable[..., list[int]]
    next: Callable[[list[int]], torch.Tensor]
    make: Callable[[], KVCache] | None = None
    prompt: torch.Tensor | None = None

    def greedy(self, count=LATER):
        """What follows, token by token."""
        ids: list[int] = []
        for _ in range(count):
            ids.append(int(self.next(ids).argmax()))
        return ids


@cache
def kind(family: str, name: str) -> Kind:
    model = tiny(family)
    if name == "session":
        session = EditSession(model, PROMPT[0])
        session.apply([Edit(30, 32, (7, 9, 11)), Edit(60, 64, ())])
        session.logits()  # encodes the last token anew, and so does all that is written

        def following(ids):
            fork = session.fork()
            fork.sync([*session.ids, *ids])
            return fork.logits().log_softmax(-1)

        return Kind(lambda new=LATER, **options: session.generate(new, **{"do_sample": False} | options), following)
    if name == "contexts":
        store = ContextStore(model, [1])
        names = store.add_many(TEXTS)
        return Kind(
            lambda new=LATER, **options: answer(model, store, names, QUERY[0].tolist(), new, **options),
            lambda ids: after(model, store.join(names), QUERY, ids),
            lambda: store.join(names),
            QUERY,
        )
    make, prompt = lambda: KVCache.for_model(model), PROMPT
    if name == "window":
        make = extend(model, 32, sinks=3, spare=16)
        make.detach()
    elif name == "merging":
        # What is written stays within the quarter that may wait, or drafts would change when slots are merged.
        read = merging_cache(model, budget=72, recent=24)
        after(model, read, PROMPT[:, :-1], [])
        assert read.layers[0].physical == 72
        make, prompt = lambda: copy.deepcopy(read), PROMPT[:, -1:]

    def write(new=LATER, **options):
        cache = make()
        if cache.get_seq_length():
            cache.batch_repeat_interleave(options.get("num_beams", 1))
        text = generate_from(model, cache, prompt, max_new_tokens=new, **{"do_sample": False} | options)
        return text[0, prompt.shape[1] :].tolist()

    return Kind(write, lambda ids: after(model, make(), prompt, ids), make, prompt)


def after(model, cache, prompt, ids):
    with attach(model):
        ids_BT = torch.cat((prompt, torch.tensor([ids], dtype=torch.long)), dim=1)
        return logits(model, ids_BT, **{CACHE_KEYWORD: cache})[0, -1].log_softmax(-1)


def drafters(family, expected):
    """Drafters that are right for a while, wrong, and right again."""
    wrong = [*expected[:5], (expected[5] + 1) % 61, *expected[6:]]
    taught = {trees: SuffixCache(max_tokens=4, least=0.0, factor=4.0, trees=trees) for trees in (False, True)}
    for suffix in taught.values():
        suffix.add(wrong)
        suffix.add(expected)
    return {
        "suffix": taught[False],
        "trees": taught[True],
        "lookup": PromptLookup(4, 1),
        "model": DraftModel(tiny(family, num_hidden_layers=1, layer_types=None), tokens=3, least=0.0),
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CACHES)
def test_speculation_writes_what_the_model_does(family, name):
    text = kind(family, name)
    expected = text.greedy()
    assert text.write() == expected
    torch.manual_seed(0)
    drawn = text.write(do_sample=True, temperature=1.5)
    for drafter, proposer in drafters(family, expected).items():
        method = Speculation(proposer, adaptive=False)
        assert text.write(custom_generate=method) == expected, drafter
        torch.manual_seed(0)
        assert text.write(do_sample=True, temperature=1.5, custom_generate=method) == drawn, drafter
        statistics = method.statistics
        assert statistics.tokens == 2 * LATER
        if drafter in ("suffix", "trees"):
            assert 0 < statistics.accepted.total() < statistics.drafted.total()
    assert text.write() == expected  # nothing was left behind


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CACHES)
def test_assisted_decoding_of_transformers(family, name):
    text = kind(family, name)
    for options in ({"prompt_lookup_num_tokens": 4}, {"assistant_model": tiny(family, num_hidden_layers=1)}):
        if name in ("session", "contexts"):
            with pytest.raises(InvalidInputError, match=r"takes no filled cache; give custom_generate=Speculation"):
                text.write(**options)
        else:
            assert text.write(**options) == text.greedy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CACHES)
def test_beams_each_have_their_cache(family, name):
    text = kind(family, name)
    beams = [(0.0, [])]
    for _ in range(6):
        longer = []
        for score, ids in beams:
            best = text.next(ids).topk(3)
            longer += [(score + float(more), [*ids, int(token)]) for more, token in zip(*best, strict=True)]
        beams = sorted(longer, reverse=True)[:3]
    assert text.write(6, num_beams=3) == beams[0][1]
    assert text.write() == text.greedy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CACHES)
def test_superposed_drafts_are_judged_by_what_the_cache_shows(family, name):
    text, model, method = kind(family, name), tiny(family), Superposed()
    if name in ("session", "contexts"):
        text.write(4, custom_generate=method)
        output = method.output
        starts = output.sequences.shape[2] - 4
    else:
        with pytest.raises(InvalidInputError, match="takes whole prompts"):
            generate_from(
                model, kind(family, "merging").make(), PROMPT[:, -1:], max_new_tokens=4, custom_generate=method
            )
        with attach(model):
            output = superposed_generate(model, PROMPT, max_new_tokens=4, cache=text.make())
        starts = PROMPT.shape[1]
    for draft, log_prob in zip(output.sequences[0, :, starts:].tolist(), output.log_probs[0], strict=True):
        judged = sum(float(text.next(draft[:at])[draft[at]]) for at in range(4))
        assert abs(float(log_prob) - judged) < 1e-3
    assert output.log_probs[0].tolist() == sorted(output.log_probs[0].tolist(), reverse=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_one_length_are_read_as_alone(family):
    model = tiny(family)
    both = torch.cat((PROMPT, tokens(80, seed=9)))
    window = extend(model, 32, sinks=3)
    window.detach()
    for make in (window, lambda: merging_cache(model, budget=60, recent=24), lambda: KVCache.for_model(model)):
        together, *alone = (
            generate_from(model, make(), ids, max_new_tokens=30, do_sample=False) for ids in (both, *both.split(1))
        )
        assert torch.equal(together, torch.cat(alone))
    text, questions = kind(family, "contexts"), torch.cat((QUERY, tokens(15, seed=98)))
    cache = text.make()
    cache.batch_repeat_interleave(2)
    together = generate_from(model, cache, questions, max_new_tokens=9, do_sample=False)
    alone = [generate_from(model, text.make(), ids, max_new_tokens=9, do_sample=False) for ids in questions.split(1)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_rows_are_read_as_alone_or_refused(family):
    model = tiny(family)
    ids, mask = PROMPT.repeat(2, 1), torch.ones(2, PROMPT.shape[1], dtype=torch.long)
    mask[1, :20] = 0
    window, wide = extend(model, 32, sinks=3), extend(model, 200, sinks=3)

    def write(make, **options):
        options = {"attention_mask": mask, "max_new_tokens": 9, "do_sample": False} | options
        return model.generate(ids, **{CACHE_KEYWORD: make()}, **options)[:, -9:].tolist()

    expected = [model.generate(PROMPT[:, at:], max_new_tokens=9, do_sample=False)[0, -9:].tolist() for at in (0, 20)]
    for make in (lambda: KVCache.for_model(model), wide):
        assert write(make) == expected
    with pytest.raises(InvalidInputError, match="end at the window of 32 tokens"):
        write(window)
    with pytest.raises(InvalidInputError, match="cannot be merged together"):
        write(lambda: merging_cache(model, ratio=0.5))
    text = kind(family, "contexts")
    held = text.make()
    held.batch_repeat_interleave(2)
    seen = torch.ones(2, held.get_seq_length() + 15, dtype=torch.long)
    seen[0, -15:-9] = 0
    with pytest.raises(InvalidInputError, match="padded batches"):
        model.generate(
            torch.cat((held.token_ids, QUERY), dim=1).repeat(2, 1), attention_mask=seen, max_new_tokens=3,
            **{CACHE_KEYWORD: held},
        )  # fmt: skip
    window.detach()
    wide.detach()


@pytest.mark.parametrize("family", FAMILIES)
def test_speculation_over_many_rows_has_its_own_cache(family):
    model, ids = tiny(family), PROMPT.repeat(2, 1)
    for name in ("plain", "contexts", "merging", "window"):
        text = kind(family, name)
        with attach(model), pytest.raises(InvalidInputError, match="a cache of your own goes with one row"):
            model.generate(
                ids, max_new_tokens=3, custom_generate=Speculation(SuffixCache()), **{CACHE_KEYWORD: text.make()}
            )
    mask = torch.ones_like(PROMPT)
    mask[0, :2] = 0
    held = KVCache.for_model(model)
    logits(model, PROMPT[:, :9], **{CACHE_KEYWORD: held})
    with pytest.raises(InvalidInputError, match="goes with a prompt without padding"):
        model.generate(
            PROMPT,
            attention_mask=mask,
            max_new_tokens=3,
            custom_generate=Speculation(SuffixCache()),
            **{CACHE_KEYWORD: held},
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_slots_go_on_merging_while_drafts_are_verified(family):
    """Which slots are merged then depends on the drafts, so that the text may differ; what is counted does not."""
    model = tiny(family)
    merged = merging_cache(model, budget=60, recent=24)
    method = Speculation(SuffixCache(), adaptive=False)
    with attach(model):
        text = model.generate(
            PROMPT, attention_mask=torch.ones_like(PROMPT), max_new_tokens=90, do_sample=False, custom_generate=method,
            **{CACHE_KEYWORD: merged},
        )  # fmt: skip
    assert text.shape == (1, 170) and method.statistics.drafted.total() > 0
    for layer in merged.layers:
        assert layer.logical == 169 and 60 <= layer.physical <= 75
        assert torch.allclose(layer.bias.exp().sum(-1), torch.tensor(169.0))


@pytest.mark.parametrize("family", FAMILIES)
def test_drafts_are_no_longer_than_what_can_be_taken_back(family):
    model = tiny(family)
    window = extend(model, 32, sinks=3, spare=2)
    window.detach()
    for make, most in ((window, 2), (lambda: merging_cache(model, budget=60, recent=5), 5)):
        assert make().takes_back == most
        expected = generate_from(model, make(), PROMPT, max_new_tokens=40, do_sample=False)
        method = Speculation(Noisy(expected.tolist(), 20, 0.3), adaptive=False)
        text = generate_from(model, make(), PROMPT, max_new_tokens=40, do_sample=False, custom_generate=method)
        statistics = method.statistics
        assert most * statistics.steps >= statistics.drafted.total() > statistics.accepted.total()
        assert text.shape == expected.shape
        if make is window:  # the other one merges meanwhile
            assert torch.equal(text, expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"spare": 8, "top_k": 2, "top_k_from_layer": 0}])
def test_a_window_that_takes_nothing_back_takes_no_drafts(family, options):
    model = tiny(family)
    with extend(model, 32, sinks=3, **options) as fresh:
        for method in (Speculation(SuffixCache()), Superposed()):
            with pytest.raises(InvalidInputError, match="cannot be rolled back"):
                model.generate(PROMPT, custom_generate=method, max_new_tokens=5, **{CACHE_KEYWORD: fresh()})
        with pytest.raises((ValueError, CacheStateError), match=r"cropped|cannot be taken back"):
            model.generate(PROMPT, prompt_lookup_num_tokens=3, max_new_tokens=5, **{CACHE_KEYWORD: fresh()})
        drafts = superposed_generate(
            model, PROMPT, max_new_tokens=4, cache=fresh(), config=SuperposedConfig(rescore=False)
        )
        assert drafts.sequences.shape[2] == PROMPT.shape[1] + 4


@pytest.mark.parametrize("family", FAMILIES)
def test_methods_that_change_slots_exclude_each_other(family):
    model = tiny(family)
    window, contexts, merged = (kind(family, name).make() for name in ("window", "contexts", "merging"))
    after(model, window, PROMPT, [])
    for cache_ in (window, contexts):
        layer = cache_.layers[0]
        keys = layer.keys[:, :, :1].clone()
        with pytest.raises(CacheStateError, match="cannot be picked or merged"):
            layer.gather(torch.tensor([0]))
        with pytest.raises(CacheStateError, match="cannot be edited"):
            layer.splice(0, 1, keys, keys)
        layer.bias = torch.zeros(layer.keys.shape[:3])
        with pytest.raises(CacheStateError, match="takes no bias"):
            after(model, cache_, QUERY, [])
    layer = merged.layers[0]
    with pytest.raises(InvalidInputError, match="is merged and cannot be edited"):
        layer.splice(3, 4, layer.keys[:, :, :1].clone(), layer.values[:, :, :1].clone())
    session = EditSession(model, PROMPT[0])
    for other in (window, contexts, merged):
        with pytest.raises(InvalidInputError, match="a session has a cache of its own"):
            session.generate(3, **{CACHE_KEYWORD: other})
    with pytest.raises(InvalidInputError, match="a session writes one text"):
        session.generate(3, num_return_sequences=2, do_sample=True)
    with pytest.raises(InvalidInputError, match="a session holds one text"):
        session.sync(PROMPT.repeat(2, 1))
    # Layers of a window in a merging cache are never merged.
    cache_ = MergingCache.for_model(model, LambdaLayer, window=8, rotation=KeyRotation.from_model(model))
    after(model, cache_, PROMPT, [])
    assert cache_.compress().slots == 0 and not any(isinstance(layer, MergedLayer) for layer in cache_.layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_that_was_saved_goes_on_with_drafts(family, tmp_path):
    model, ids = tiny(family), PROMPT
    held = KVCache.for_model(model)
    with attach(model), torch.no_grad():
        model(ids[:, :-1], **{CACHE_KEYWORD: held})
        expected = model.generate(ids, max_new_tokens=LATER, do_sample=False)
    held.save(tmp_path / "cache")
    for method in (None, Speculation(SuffixCache(), adaptive=False)):
        loaded = KVCache.load(tmp_path / "cache", model)
        with attach(model):
            got = model.generate(
                ids, max_new_tokens=LATER, do_sample=False, custom_generate=method, **{CACHE_KEYWORD: loaded}
            )
        assert torch.equal(got, expected)

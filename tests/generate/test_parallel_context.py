from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom.errors import CacheMismatchError, CacheStateError, InvalidInputError, UnsupportedPositionError
from byteloom.generate import (
    ContextStore,
    Example,
    ParallelLayer,
    PromptLookup,
    Speculation,
    SuffixCache,
    Tuning,
    answer,
    tune,
)
from byteloom.generate.parallel_context import losses
from byteloom.models import CACHE_KEYWORD, AttentionCall, KVCache, attach, generate_from
from tests.models.families import build, tiny, tokens
from tests.models.test_attention import logits

FAMILIES = ["Llama", "Qwen2", "Qwen3", "Mistral", "GPTNeoX"]
PLAIN = Tuning(1, 1)
PREFIX = tokens(4, seed=1)[0].tolist()
TEXTS = [tokens(count, seed=count)[0].tolist() for count in (9, 17, 5, 12)]
QUERY = tokens(15, seed=99)


def read(model, cache, ids):
    with attach(model):
        return logits(model, ids, **{CACHE_KEYWORD: cache})


def parallel(query, key, value, layer, scaling):
    """Attention to contexts as it is defined, in one softmax over `layer.contexts` keys and the others behind them."""
    cut, (temperature, scale) = layer.contexts, (layer.tuning.temperature, layer.tuning.scale)
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, 1).mT * scaling
    queries, slots = scores.shape[-2:]
    seen = torch.arange(slots) <= torch.arange(queries)[:, None] + slots - queries
    inside = scores[..., :cut] / temperature
    shift = (scale * temperature - 1) * inside.logsumexp(-1, keepdim=True)
    scores = torch.cat((inside + shift, scores.masked_fill(~seen, -torch.inf)[..., cut:]), dim=-1)
    return scores.softmax(-1) @ value.repeat_interleave(groups, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_context_is_the_plain_model(family):
    model = tiny(family)
    store = ContextStore(model, PREFIX)
    cache = store.join([store.add(TEXTS[1])], PLAIN)
    expected = logits(model, torch.cat((torch.tensor([PREFIX + TEXTS[1]]), QUERY), dim=1))[:, -QUERY.shape[1] :]
    assert (read(model, cache, QUERY) - expected).abs().max() < 2e-5
    # Without contexts in a layer nothing is left but the prefix.
    for tuning in (PLAIN, Tuning(0.5, 0.7)):
        bare = KVCache.for_model(model, ParallelLayer, tuning=tuning)
        ids = torch.cat((torch.tensor([PREFIX]), QUERY), dim=1)
        assert (read(model, bare, ids) - logits(model, ids)).abs().max() < 2e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", [PREFIX, []])
def test_several_contexts_are_one_forward_with_a_mask(family, prefix):
    model = build(family, attn_implementation="eager")
    store = ContextStore(model, prefix)
    cache = store.join(store.add_many(TEXTS), PLAIN)
    before = len(prefix)
    position = [*range(before)]
    owner = [-1] * before
    for at, text in enumerate(TEXTS):
        position += range(before, before + len(text))
        owner += [at] * len(text)
    longest = before + max(map(len, TEXTS))
    assert cache.get_seq_length() == longest
    position += range(longest, longest + QUERY.shape[1])
    owner += [-2] * QUERY.shape[1]
    owner_T = torch.tensor(owner)
    seen = (owner_T[:, None] == owner_T) | (owner_T == -1) | (owner_T[:, None] == -2)
    seen &= torch.ones_like(seen).tril()
    ids = torch.cat((torch.tensor([[*prefix, *(token for text in TEXTS for token in text)]]), QUERY), dim=1)
    mask = torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)[None, None]
    expected = logits(model, ids, attention_mask=mask, position_ids=torch.tensor([position]))[:, -QUERY.shape[1] :]
    assert (read(model, cache, QUERY) - expected).abs().max() < 2e-5


@settings(max_examples=40, deadline=None)
@given(
    st.floats(0.3, 1.5), st.floats(0.3, 1.5), st.integers(1, 9), st.integers(1, 20), st.integers(0, 6), st.booleans()
)
def test_attention_is_the_definition(temperature, scale, queries, contexts, others, wide):
    generator = torch.Generator().manual_seed(queries * 100 + contexts)
    dtype = torch.float64 if wide else torch.float32
    slots = contexts + others + queries
    query, key, value = (
        size * torch.randn(2, heads, count, 8, generator=generator, dtype=dtype)
        for heads, count, size in ((4, queries, 3), (2, slots, 3), (2, slots, 1))
    )
    layer = ParallelLayer(contexts=contexts, tuning=Tuning(temperature, scale))
    expected = parallel(query, key, value, layer, 0.4)
    found = layer.attend(AttentionCall(query, key, value, None, 0.4))
    assert found.dtype == dtype and (found - expected).abs().max() < 1e-5
    mask = (torch.arange(slots) <= torch.arange(queries)[:, None] + slots - queries)[None, None]
    assert (layer.attend(AttentionCall(query, key, value, mask, 0.4)) - expected).abs().max() < 1e-5


def test_long_questions_are_read_in_blocks():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, count, 8, generator=generator) for count in (600, 640, 640))
    layer = ParallelLayer(contexts=30)
    expected = parallel(query, key, value, layer, 0.4)
    assert (layer.attend(AttentionCall(query, key, value, None, 0.4)) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_order_does_not_matter(family):
    model = tiny(family)
    store = ContextStore(model, PREFIX)
    names = store.add_many(TEXTS)
    first = read(model, store.join(names), QUERY)
    assert (read(model, store.join(names[::-1]), QUERY) - first).abs().max() < 1e-4
    query = QUERY[0].tolist()
    assert answer(model, store, names, query, 12) == answer(model, store, [names[2], *names[:2], names[3]], query, 12)
    assert (read(model, store.join(names, PLAIN), QUERY) - first).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_a_question_generate_and_a_loop_agree(family):
    model = tiny(family)
    store = ContextStore(model, PREFIX)
    names = store.add_many(TEXTS)
    query = QUERY[0].tolist()
    expected = answer(model, store, names, query, 16)
    with attach(model):
        cache = store.join(names)
        whole = read(model, store.join(names), QUERY)
        parts = [read(model, cache, part) for part in QUERY.split([6, 1, 8], dim=1)]
        assert (torch.cat(parts, dim=1) - whole).abs().max() < 2e-5
        written = [int(parts[-1][0, -1].argmax())]
        while len(written) < 16:
            written.append(int(read(model, cache, torch.tensor([written[-1:]]))[0, -1].argmax()))
    assert written == expected
    from_cache = generate_from(model, store.join(names), QUERY, max_new_tokens=16, do_sample=False)
    assert from_cache[0, QUERY.shape[1] :].tolist() == expected


@pytest.mark.parametrize("family", ["Llama", "GPTNeoX"])
def test_drafts_and_beams_go_with_contexts(family):
    model = tiny(family)
    store = ContextStore(model, PREFIX)
    names = store.add_many(TEXTS)
    query = QUERY[0].tolist()
    expected = answer(model, store, names, query, 40)
    drafter = SuffixCache()
    drafter.add(expected)
    for method in (Speculation(drafter, adaptive=False), Speculation(PromptLookup(), adaptive=False)):
        assert answer(model, store, names, query, 40, custom_generate=method) == expected
        assert method.statistics.forwards < 40
    with pytest.raises(InvalidInputError, match="Speculation"):
        answer(model, store, names, query, 40, prompt_lookup_num_tokens=3)
    assert len(answer(model, store, names, query, 7, num_beams=3)) == 7
    torch.manual_seed(0)
    assert len(answer(model, store, names, query, 7, do_sample=True, temperature=2.0)) == 7


def test_contexts_survive_on_disk(tmp_path, monkeypatch):
    model = tiny("Llama")
    store = ContextStore(model, PREFIX, path=tmp_path)
    names = store.add_many(TEXTS)
    expected = read(model, store.join(names), QUERY)
    again = ContextStore(build("Llama"), PREFIX, path=tmp_path)
    monkeypatch.setattr(ContextStore, "_read", None)
    assert names[0] in again and len(again) == 0
    assert again.add_many(TEXTS) == names and len(again) == 4
    assert torch.equal(read(model, again.join(names), QUERY), expected)
    per_token = 2 * 3 * 2 * 16 * 4
    sizes = [(path.stat().st_size, path) for path in tmp_path.iterdir()]
    assert again.nbytes == store.nbytes == per_token * sum(map(len, TEXTS)) and len(sizes) == 5
    monkeypatch.undo()
    # A damaged file is read again; a dropped one is gone.
    (tmp_path / f"{names[1]}.safetensors").write_bytes(b"damaged")
    third = ContextStore(model, PREFIX, path=tmp_path)
    third.add_many(TEXTS)
    assert torch.equal(read(model, third.join(names), QUERY), expected)
    third.discard(names[2])
    third.discard("unknown")
    assert names[2] not in third and 7 not in third


def test_a_joined_cache_can_be_saved(tmp_path):
    model = tiny("Qwen3")
    store = ContextStore(model, PREFIX)
    cache = store.join(store.add_many(TEXTS), Tuning(0.7, 0.8))
    cache.save(tmp_path / "joined")
    loaded = KVCache.load(tmp_path / "joined", model, ParallelLayer)
    assert torch.equal(read(model, loaded, QUERY), read(model, cache, QUERY))
    cache.reset()
    assert cache.get_seq_length() == 0


def test_a_text_is_read_once_and_the_oldest_are_dropped(monkeypatch):
    model = tiny("Llama")
    store = ContextStore(model, PREFIX)
    read_rows, original = [], ContextStore._read

    def counting(self, rows, head):
        read_rows.extend(rows)
        return original(self, rows, head)

    monkeypatch.setattr(ContextStore, "_read", counting)
    told = []
    names = store.add_many([*TEXTS, TEXTS[0]], batch_tokens=30, progress=lambda *facts: told.append(facts))
    assert names[0] == names[4] == store.add(TEXTS[0]) and len(store) == 4
    assert len(read_rows) == 5 and told[-1] == ("contexts", 4, 4)
    one = store.nbytes // sum(map(len, TEXTS))
    small = ContextStore(model, PREFIX, max_bytes=one * 25)
    kept = small.add_many(TEXTS)
    assert small.nbytes <= one * 25 and 0 < len(small) < 4
    with pytest.raises(CacheMismatchError, match="dropped"):
        small.join(kept)


def test_batches_change_nothing():
    model = tiny("Llama")
    together, apart = ContextStore(model, PREFIX), ContextStore(model, PREFIX)
    names = together.add_many(TEXTS)
    assert apart.add_many(TEXTS, batch_tokens=1) == names
    difference = read(model, together.join(names), QUERY) - read(model, apart.join(names), QUERY)
    assert difference.abs().max() < 2e-5


def test_the_longest_context_says_where_a_question_stands():
    store = ContextStore(tiny("Llama"), PREFIX)
    nine, seventeen, five, _ = store.add_many(TEXTS)
    assert store.join([nine]).get_seq_length() == 13
    assert store.join([nine, five]).get_seq_length() == 13
    joined = store.join([five, seventeen])
    assert joined.get_seq_length() == 21 and joined.token_ids.tolist() == [PREFIX + TEXTS[1]]
    assert store.join([nine, nine]).layers[0].physical == 13
    assert store.join([nine, nine], allow_repeats=True).layers[0].physical == 22


def test_the_best_tuning_is_found():
    model = tiny("Llama")
    store = ContextStore(model, PREFIX)
    names = store.add_many(TEXTS)
    query = QUERY[0].tolist()
    wanted = Tuning(0.5, 0.7)
    reference = answer(model, store, names, query, 12, tuning=wanted)
    examples = [Example(names, query, reference)]
    found = losses(model, store, examples)
    assert len(found) == 24 and tune(model, store, examples) == min(found, key=found.get)
    ids = torch.tensor([query + reference])
    expected = torch.nn.functional.cross_entropy(
        read(model, store.join(names, wanted), ids[:, :-1])[0, -12:], torch.tensor(reference)
    )
    assert found[wanted] == pytest.approx(float(expected), abs=1e-5)


def test_bad_input_is_told():
    model = tiny("Llama")
    store = ContextStore(model, PREFIX)
    names = store.add_many(TEXTS)
    query = QUERY[0].tolist()
    for temperature, scale in ((0, 1), (1, 0), (-1, 1), (float("nan"), 1), (1, float("inf"))):
        with pytest.raises(InvalidInputError, match="above 0"):
            Tuning(temperature, scale)
    with pytest.raises(InvalidInputError, match="at least one token"):
        store.add([])
    with pytest.raises(InvalidInputError, match="no context"):
        answer(model, store, [], query, 3)
    with pytest.raises(InvalidInputError, match="ask something"):
        answer(model, store, names, [], 3)
    with pytest.raises(InvalidInputError, match="at least 1"):
        answer(model, store, names, query, 0)
    with pytest.raises(InvalidInputError, match="needs examples"):
        tune(model, store, [])
    small = build("Llama", max_position_embeddings=40)
    tight = ContextStore(small, PREFIX)
    with pytest.raises(InvalidInputError, match="split it"):
        tight.add(tokens(37)[0].tolist())
    held = tight.add(TEXTS[1])
    with pytest.raises(InvalidInputError, match=r"21 tokens, a question of 15 and 5 new .* at most 16"):
        answer(small, tight, [held], query, 5)
    assert len(answer(small, tight, [held], query, 4)) == 4
    with pytest.raises(CacheMismatchError, match="another model"):
        answer(tiny("Qwen2"), store, names, query, 3)
    with pytest.raises(CacheMismatchError, match="another model or prefix"):
        ContextStore(model, PREFIX[:2]).join(names)
    with pytest.raises(UnsupportedPositionError, match="window"):
        ContextStore(build("Mistral", sliding_window=16), PREFIX)
    dynamic = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    with pytest.raises(UnsupportedPositionError):
        ContextStore(build("Llama", rope_parameters=dynamic, max_position_embeddings=64), PREFIX)
    with pytest.warns(UserWarning, match="begins a text"):
        answer(model, store, names, [model.config.bos_token_id, *query], 3)


def test_contexts_cannot_be_cut():
    model = tiny("Llama")
    store = ContextStore(model, PREFIX)
    cache = store.join(store.add_many(TEXTS))
    layer = cache.layers[0]
    for call in (
        lambda: layer.crop(-(len(PREFIX) + 1)),
        lambda: layer.gather(torch.tensor([0])),
        lambda: layer.splice(0, 1, layer.keys, layer.values),
    ):
        with pytest.raises(CacheStateError):
            call()
    with pytest.raises(InvalidInputError, match="padded"), attach(model):
        mask = torch.tensor([[0] + [1] * 35])
        logits(model, QUERY, attention_mask=mask, **{CACHE_KEYWORD: cache})


def test_inference_mode_and_16_bits(tmp_path):
    model = tiny("Llama")
    store = ContextStore(model, PREFIX)
    with torch.inference_mode():
        names = store.add_many(TEXTS)
        cache = store.join(names)
    query = QUERY[0].tolist()
    expected = read(model, store.join(names), QUERY)
    assert torch.equal(read(model, cache, QUERY), expected)
    half = build("Llama").to(torch.bfloat16)
    small = ContextStore(half, PREFIX, path=tmp_path)
    assert small.add_many(TEXTS) != names
    assert 2 * small.nbytes == store.nbytes
    found = read(half, small.join(small.add_many(TEXTS)), QUERY).float()
    assert (found - expected).norm() < 0.05 * expected.norm()
    assert len(answer(half, small, small.add_many(TEXTS), query, 5)) == 5

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom.compress import MergedLayer, MergingCache, merge_to, merging_cache, soft_match
from byteloom.compress.cache import merging as module
from byteloom.errors import CacheStateError, InvalidInputError
from byteloom.generate import Speculation, SuffixCache
from byteloom.models import CACHE_KEYWORD, AttentionCall, KeyRotation, KVCache, attach, generate_from
from tests.models.families import build, tiny, tokens
from tests.models.test_attention import greedy, logits, naive
from tests.reference import merging as reference

FAMILIES = ["Llama", "Qwen2", "Qwen3", "Mistral"]


def states(count, *, rows=2, heads=3, width=8, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, rows, heads, count, width, generator=generator)
    return keys.to(dtype), values.to(dtype), torch.zeros(rows, heads, count)


def read(model, ids, size=None, **options):
    """A merging cache that has read `ids`, and the logits."""
    cache = merging_cache(model, **options)
    with attach(model):
        parts = [logits(model, part, **{CACHE_KEYWORD: cache}) for part in ids.split(size or ids.shape[1], dim=1)]
    return cache, torch.cat(parts, dim=1)


def sizes(layer):
    return torch.ones(layer.keys.shape[:3]) if layer.bias is None else layer.bias.exp()


# Merging


@pytest.mark.parametrize("count, target, chunk", [(32, 27, 64), (33, 17, 34), (40, 9, 16), (41, 1, 6), (7, 7, 2)])
@pytest.mark.parametrize("value_weight", [0.0, 0.5])
def test_both_paths_merge_what_two_loops_do(count, target, chunk, value_weight):
    held = states(count)
    for merge in (module._merged_natively, module._merged_by_torch):
        (keys, values, log_sizes), similarity = merge(held, target, chunk, value_weight)
        assert keys.shape == (2, 3, target, 8) and math.isfinite(similarity)
        for row in range(2):
            for head in range(3):
                key, value = (part[row, head].double().numpy() for part in held[:2])
                expected = reference.merge_to(
                    key, value, np.ones(count), target, chunk=chunk, value_weight=value_weight
                )
                got = keys[row, head], values[row, head], log_sizes[row, head].exp()
                for mine, theirs in zip(got, expected, strict=False):
                    assert np.abs(mine.numpy() - theirs).max() < 1e-5


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 90),
    share=st.floats(0, 1),
    chunk=st.integers(1, 40).map(lambda half: 2 * half),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    distinct=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_both_paths_agree_and_conserve(count, share, chunk, dtype, distinct, seed):
    """distinct: of how many keys all are copies, so that many similarities are equal; 0 for none."""
    target = max(1, round(share * count))
    keys, values, log_sizes = states(count, dtype=dtype, seed=seed)
    if distinct:
        keys = keys[:, :, torch.randint(distinct, (count,), generator=torch.Generator().manual_seed(seed)) % count]
    log_sizes = log_sizes + (1 + torch.arange(count) % 3).log()
    held = keys, values, log_sizes
    native, similarity = module._merged_natively(held, target, chunk, 0.0)
    twin, twin_similarity = module._merged_by_torch(held, target, chunk, 0.0)
    if not distinct:  # else rounding decides, after the first pass, which of the equal ones is most alike
        assert abs(similarity - twin_similarity) < 1e-3
        assert all((a.float() - b.float()).abs().max() < 0.05 for a, b in zip(native, twin, strict=True))
    for merged in (native, twin):
        assert [part.dtype for part in merged] == [dtype, dtype, torch.float32]
        total = merged[2].exp()
        assert torch.allclose(total.sum(-1), log_sizes.exp().sum(-1), rtol=1e-5)
        if dtype == torch.float32:
            for mine, old in ((merged[0], keys), (merged[1], values)):
                before = (old * log_sizes.exp()[..., None]).sum(2)
                assert ((mine * total[..., None]).sum(2) - before).abs().max() < 1e-4 * count


def test_ties_go_to_the_lower_slot():
    keys = torch.ones(1, 1, 8, 4)
    values = torch.arange(8.0)[None, None, :, None].expand(1, 1, 8, 4)
    for merge in (module._merged_natively, module._merged_by_torch):
        (_, merged, log_sizes), _ = merge((keys, values, torch.zeros(1, 1, 8)), 6, 8, 0.0)
        # Slots 0 and 2 are the first two pairs, and both join slot 1.
        assert merged[0, 0, :, 0].tolist() == [1, 3, 4, 5, 6, 7]
        assert log_sizes.exp().round().int().flatten().tolist() == [3, 1, 1, 1, 1, 1]


def test_one_pass_of_one_chunk_is_token_merging():
    keys, values, log_sizes = states(64, rows=1, heads=1)
    for remove in (5, 20, 32):
        merged, _, total = soft_match(keys, values, log_sizes, remove, chunk=64, value_weight=0)
        even, odd = (torch.nn.functional.normalize(keys[0, 0, start::2], dim=-1) for start in (0, 1))
        best, into = (even @ odd.T).max(-1)
        order = best.argsort(descending=True)[:remove]
        groups = {slot: [2 * slot + 1] for slot in range(32)}
        for place in order.tolist():
            groups[int(into[place])].append(2 * place)
        left = [[2 * place] for place in range(32) if place not in order] + list(groups.values())
        expected = torch.stack([keys[0, 0, group].mean(0) for group in left])
        distance = torch.cdist(merged[0, 0].double(), expected.double())
        assert distance.min(0).values.max() < 1e-5 and distance.min(1).values.max() < 1e-5
        assert sorted(total.exp().round().int().flatten().tolist()) == sorted(map(len, left))


def test_kept_slots_keep_their_order_and_every_bit():
    keys, values, log_sizes = states(60, dtype=torch.bfloat16)
    keys[..., 0] += 4 * torch.arange(60)
    merged, merged_values, total = merge_to(keys, values, log_sizes, 40, chunk=8)
    alone = total == 0
    for row in range(2):
        for head in range(3):
            assert merged[row, head, alone[row, head], 0].float().diff().min() > 0
            old = {tuple(key.tolist()): value for key, value in zip(keys[row, head], values[row, head], strict=True)}
            kept = zip(merged[row, head, alone[row, head]], merged_values[row, head, alone[row, head]], strict=True)
            assert all(torch.equal(old[tuple(key.tolist())], value) for key, value in kept)


def test_numbers_that_are_none_do_no_harm():
    keys, values, log_sizes = states(50)
    keys[0, 0, ::3] = torch.nan
    keys[0, 1] = 0
    keys[0, 2, 1::4] = torch.inf
    values[1, 0, 5] = torch.nan
    for merge in (module._merged_natively, module._merged_by_torch):
        (merged, _, total), _ = merge((keys, values, log_sizes), 13, 16, 0.5)
        assert merged.shape[2] == 13
        assert torch.allclose(total.exp().sum(-1), torch.tensor(50.0))
        assert torch.isfinite(merged[1]).all()


def test_slots_may_be_views():
    held = [part.repeat(1, 1, 2, *[1] * (part.dim() - 3))[:, :, 3:33] for part in states(40)]
    expected = merge_to(*(part.contiguous() for part in held), 11)
    assert all(torch.equal(mine, other) for mine, other in zip(merge_to(*held, 11), expected, strict=True))
    turned = [part.transpose(2, -1).contiguous().transpose(2, -1) if part.dim() == 4 else part for part in held]
    assert all(torch.equal(mine, other) for mine, other in zip(merge_to(*turned, 11), expected, strict=True))


# Attention


@pytest.mark.parametrize("queries", [1, 5])
def test_equal_keys_merge_without_loss(queries):
    keys, values, _ = states(20, heads=2)
    keys = keys.repeat_interleave(2, dim=2)
    values = torch.cat((values, states(20, heads=2, seed=1)[1]), dim=2)
    query = torch.randn(2, 4, queries, 8, generator=torch.Generator().manual_seed(2))
    seen = torch.ones(1, 1, queries, 40, dtype=torch.bool)
    expected = naive(query, keys, values, scaling=0.7, seen=seen)
    merged = merge_to(keys, values, torch.zeros(2, 2, 40), 20, value_weight=0)
    assert torch.equal(merged[2].exp().round(), torch.full((2, 2, 20), 2.0))
    layer = MergedLayer(budget=100)
    layer.replace(merged[0], merged[1], bias=merged[2])
    layer.logical = 40
    whole = torch.ones(1, 1, queries, 20, dtype=torch.bool)
    output = layer.attend(AttentionCall(query, layer.keys, layer.values, whole, 0.7))
    assert (output - expected).abs().max() < 1e-6
    layer.bias = None
    seen = seen[..., :20]
    assert (layer.attend(AttentionCall(query, layer.keys, layer.values, whole, 0.7)) - expected).abs().max() < 1e-6
    # Sizes that differ do matter.
    layer.bias = merged[2] * torch.arange(20)
    assert (layer.attend(AttentionCall(query, layer.keys, layer.values, whole, 0.7)) - expected).abs().max() > 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_merging_does_not_depend_on_where_the_text_stands(family):
    model = tiny(family)
    rotation = KeyRotation.from_model(model)
    cache = KVCache.for_model(model)
    with attach(model):
        logits(model, tokens(60), **{CACHE_KEYWORD: cache})
    for layer in cache.layers:
        zeros = torch.zeros(layer.keys.shape[:3])
        before, *_ = merge_to(rotation.shift(layer.keys, 313, layer.index), layer.values, zeros, 21, chunk=16)
        after, *_ = merge_to(layer.keys, layer.values, zeros, 21, chunk=16)
        after = rotation.shift(after, 313, layer.index)
        assert (before - after).abs().max() < 1e-5 * before.abs().max()


# The cache


@pytest.mark.parametrize("family", FAMILIES)
def test_with_ratio_one_it_is_the_plain_model(family):
    model = build(family)
    ids = tokens(90, batch=2)
    expected = greedy(model, ids)
    with attach(model):
        assert torch.equal(greedy(model, ids, **{CACHE_KEYWORD: merging_cache(model, ratio=1)}), expected)
        assert torch.equal(greedy(model, ids, **{CACHE_KEYWORD: merging_cache(model, budget=200)}), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_is_exact_and_its_ends_keep_every_bit(family):
    model = tiny(family)
    ids = tokens(200, batch=2)
    plain = KVCache.for_model(model)
    with attach(model):
        expected = logits(model, ids, **{CACHE_KEYWORD: plain})
    cache, got = read(model, ids, ratio=0.3, sinks=3, recent=20)
    assert torch.equal(got, expected)
    for layer, whole in zip(cache.layers, plain.layers, strict=True):
        assert layer.physical == 60 and layer.get_seq_length() == 200
        for mine, other in ((layer.keys, whole.keys), (layer.values, whole.values)):
            assert torch.equal(mine[:, :, :3], other[:, :, :3]) and torch.equal(mine[:, :, -20:], other[:, :, -20:])
            mean = (mine * sizes(layer)[..., None]).sum(2)
            assert ((mean - other.sum(2)).abs() / other.abs().sum(2)).max() < 1e-4
        assert torch.allclose(sizes(layer).sum(-1), torch.tensor(200.0))
    report = cache.report
    assert (report.tokens, report.slots, report.skipped) == (600, 180, ())
    assert 0 < report.similarity <= 1 and report.seconds > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_is_that_of_the_centroids(family):
    """The next token, against the model with hand-made attention over the same slots and their sizes."""
    model = tiny(family)
    cache, _ = read(model, tokens(150), ratio=0.4, recent=16)
    caught = []

    class Spy(MergedLayer):
        def attend(self, call):
            query, key, value, scaling = call.query_BHQD, call.key_BKTD, call.value_BKTD, call.scaling
            output = super().attend(call)
            seen = torch.ones(1, 1, 1, key.shape[2], dtype=torch.bool)
            caught.append((output, naive(query, key, value, scaling=scaling, seen=seen, bias=self.bias)))
            return output

    for layer in cache.layers:
        layer.__class__ = Spy
    with attach(model):
        logits(model, tokens(1, seed=1), **{CACHE_KEYWORD: cache})
    assert len(caught) == 3
    assert all((mine - expected).abs().max() < 1e-5 for mine, expected in caught)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{"ratio": 0.5}, {"budget": 60}])
def test_decoding_goes_on_merging(family, options):
    model = tiny(family)
    cache = merging_cache(model, recent=16, **options)
    ids = tokens(130, batch=2)
    most = 0
    with attach(model), torch.no_grad():
        model(ids, **{CACHE_KEYWORD: cache})
        for at in range(150):
            model(tokens(1, batch=2, seed=at), **{CACHE_KEYWORD: cache})
            layer = cache.layers[-1]
            most = max(most, layer.physical - layer.target * 5 / 4)
    assert most <= 0
    for layer in cache.layers:
        assert layer.logical == 280 and torch.allclose(sizes(layer).sum(-1), torch.tensor(280.0))
    assert cache.report.slots > 3 * layer.target
    assert cache.compress().slots == 3 * layer.target
    assert layer.target == (140 if "ratio" in options else 60)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_attended_to_is_guarded(family):
    model = tiny(family)
    ids = tokens(150, batch=2)
    plain = KVCache.for_model(model)
    with attach(model):
        logits(model, ids, **{CACHE_KEYWORD: plain})
    for guard, spared in ((0.5, 20), (0.0, 0)):
        caught = []

        class Spy(MergedLayer):
            def attend(self, call, caught=caught):
                query, key, scaling = call.query_BHQD, call.key_BKTD, call.scaling
                weights = (query[:, :, -16:] @ key[:, :, :-16].repeat_interleave(2, 1).mT * scaling).softmax(-1)
                caught.append(weights.mean(2).unflatten(1, (2, 2)).mean(2)[:, :, 4:])
                return super().attend(call)

        with attach(model):
            cache = MergingCache.for_model(model, Spy, budget=60, recent=16, guard=guard)
            logits(model, ids, **{CACHE_KEYWORD: cache})
        for layer, whole, weights in zip(cache.layers, plain.layers, caught, strict=True):
            assert layer.physical == 60 and torch.allclose(sizes(layer).sum(-1), torch.tensor(150.0))
            best = 4 + weights.topk(20).indices.sort().values
            for row in range(2):
                for head in range(2):
                    kept = {tuple(key.tolist()) for key in layer.keys[row, head]}
                    alone = [tuple(key.tolist()) in kept for key in whole.keys[row, head, best[row, head]]]
                    assert sum(alone) == spared if guard else sum(alone) < 20


def test_no_more_than_one_layer_is_ever_whole():
    model = build("Llama", num_hidden_layers=6)
    ids = tokens(3000)
    peaks = {}
    for size in (3000, 100):
        cache = merging_cache(model, budget=120, recent=16)
        sampled = []
        for layer in model.model.layers:
            hook = layer.register_forward_hook(lambda *_, cache=cache, sampled=sampled: sampled.append(cache.nbytes()))
            sampled.append(hook)
        with attach(model):
            for part in ids.split(size, dim=1):
                logits(model, part, **{CACHE_KEYWORD: cache})
        for hook in [each for each in sampled if not isinstance(each, int)]:
            hook.remove()
        peaks[size] = max(each for each in sampled if isinstance(each, int))
        assert all(layer.physical == 120 for layer in cache.layers)
    whole = KVCache.for_model(model)
    with attach(model):
        logits(model, ids, **{CACHE_KEYWORD: whole})
    assert max(peaks.values()) < whole.nbytes() / 6
    # Hooks see layers after their attention; within it one is whole, unless the prompt comes in chunks.
    assert cache.layers[0]._key_store.shape[2] < 120 + 100 + 256 + 55


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_reads_a_prompt_in_chunks(family):
    model = tiny(family)
    ids = tokens(300, batch=2)
    cache, _ = read(model, ids[:, :-1], 64, budget=100)
    expected = generate_from(model, cache, ids[:, -1:], max_new_tokens=12, do_sample=False)
    cache = merging_cache(model, budget=100)
    # The last token alone, as in the loop above: a last chunk would see other centroids.
    got = generate_from(model, cache, ids[:, :-1], max_new_tokens=1, do_sample=False, prefill_chunk_size=64)
    assert got.shape == (2, 300) and cache.get_seq_length() == 299
    got = generate_from(model, cache, ids[:, -1:], max_new_tokens=12, do_sample=False)
    assert torch.equal(got, expected)


def test_rows_are_merged_as_if_alone():
    model = tiny("Qwen3")
    ids = tokens(200, batch=3)
    together, _ = read(model, ids, 70, ratio=0.4, recent=16)
    for row in range(3):
        alone, _ = read(model, ids[row : row + 1], 70, ratio=0.4, recent=16)
        for mine, other in zip(together.layers, alone.layers, strict=True):
            assert (mine.keys[row] - other.keys[0]).abs().max() < 1e-4
            assert (mine.bias[row] - other.bias[0]).abs().max() < 1e-5


def test_each_layer_may_have_its_own_limit():
    model = tiny("Llama")
    cache, _ = read(model, tokens(200), ratio=[1, 0.5, 0.25], recent=16)
    assert [layer.physical for layer in cache.layers] == [200, 100, 50]
    cache, _ = read(model, tokens(200), budget=[40, 80, 120], recent=16)
    assert [layer.physical for layer in cache.layers] == [40, 80, 120]
    assert generate_from(model, cache, tokens(3), max_new_tokens=40, do_sample=False).shape == (1, 43)
    assert all(layer.physical <= layer.target * 5 / 4 for layer in cache.layers)
    with pytest.raises(InvalidInputError, match="a ratio for each of 3 layers is needed; got 2"):
        merging_cache(model, ratio=[0.5, 0.5])


def test_half_precision():
    model = build("Llama").to(torch.bfloat16)
    ids = tokens(300, batch=2)
    cache, _ = read(model, ids, ratio=0.3)
    assert cache.layers[0].keys.dtype == torch.bfloat16 and cache.layers[0].bias.dtype == torch.float32
    assert cache.layers[0].physical == 136  # twice the protected slots
    with attach(model):
        assert greedy(model, ids, **{CACHE_KEYWORD: merging_cache(model, ratio=0.3, recent=16)}).shape == (2, 332)


def test_other_ways_to_generate_keep_sizes_with_their_slots():
    model = tiny("Llama")
    ids = tokens(200)
    with attach(model):
        # The first step has no draft, as its last token is new; the others stay within the quarter that may wait.
        ids = torch.cat((ids[ids != 60][None], torch.tensor([[60]])), dim=1)
        expected, got = (
            greedy(model, ids, **{CACHE_KEYWORD: merging_cache(model, budget=160, recent=24)}, **lookup)
            for lookup in ({}, {"prompt_lookup_num_tokens": 4})
        )
        assert torch.equal(got, expected)
        cache = merging_cache(model, budget=80, recent=24)
        beams = greedy(model, ids, num_beams=3, **{CACHE_KEYWORD: cache})
    assert beams.shape == (1, ids.shape[1] + 32)
    for layer in cache.layers:
        assert layer.keys.shape[0] == 3
        assert torch.allclose(sizes(layer).sum(-1), torch.tensor(float(layer.logical)))


def test_speculation_over_a_merged_prompt_writes_the_same():
    model = tiny("Llama")
    ids = tokens(40).repeat(1, 5)
    expected = greedy(model, ids)  # the whole cache: what is merged shall differ, or nothing is tested
    texts = []
    for method in (None, Speculation(SuffixCache()), Speculation(SuffixCache(trees=True))):
        # New tokens stay within the quarter that may wait, so drafts do not change when merging happens.
        cache, _ = read(model, ids[:, :-1], budget=160, recent=24)
        with attach(model):
            texts.append(greedy(model, ids, custom_generate=method, **{CACHE_KEYWORD: cache}))
        assert method is None or sum(method.statistics.drafted.values()) > 0
    assert torch.equal(texts[0], texts[1]) and torch.equal(texts[0], texts[2])
    assert not torch.equal(texts[0], expected)


def test_rows_move_with_their_sizes():
    model = tiny("Llama")
    ids = tokens(120, batch=2)
    cache, _ = read(model, ids, budget=60, recent=16)
    other, _ = read(model, ids.flip(0), budget=60, recent=16)
    cache.reorder_cache(torch.tensor([1, 0]))
    with attach(model):
        last = tokens(5, batch=2)
        mine, theirs = (logits(model, last, **{CACHE_KEYWORD: each}) for each in (cache, other))
    assert (mine - theirs).abs().max() < 2e-5


def test_a_stream_may_move_back():
    model = tiny("Qwen2")
    rotation = KeyRotation.from_model(model)
    caches = []
    for moves in (0, 1):
        cache, _ = read(model, tokens(130), budget=120, recent=40)
        if moves:
            cache.rebase(rotation, -100)
        for layer in cache.layers:
            layer.budget = 90
        cache.compress()
        caches.append(cache)
    caches[0].rebase(rotation, -100)
    for mine, other in zip(*(cache.layers for cache in caches), strict=True):
        assert mine.physical == 90 and mine.logical == other.logical == 30
        assert (mine.keys - other.keys).abs().max() < 1e-4 and (mine.bias - other.bias).abs().max() < 1e-5


def test_the_end_may_be_cropped_and_edited():
    model = tiny("Llama")
    ids = tokens(120)
    cache, _ = read(model, ids, budget=60, recent=16)
    kept, _ = read(model, ids, budget=60, recent=16)
    with attach(model):
        expected = logits(model, tokens(4, seed=3), **{CACHE_KEYWORD: kept})
        logits(model, tokens(7, seed=4), **{CACHE_KEYWORD: cache})
        cache.crop(-7)
        assert (logits(model, tokens(4, seed=3), **{CACHE_KEYWORD: cache}) - expected).abs().max() < 2e-5
    cache.crop(-20)
    assert cache.get_seq_length() == 104 and cache.layers[0].physical == 44
    with pytest.raises(CacheStateError, match="only the last 0 tokens can be taken back"):
        cache.crop(-1)
    layer = kept.layers[0]
    keys, values = layer.keys[:, :, :2].clone(), layer.values[:, :, :2].clone()
    layer.splice(50, 51, keys, values)
    assert layer.physical == 65 and layer.get_seq_length() == 125 and torch.equal(layer.keys[:, :, 50:52], keys)
    with pytest.raises(InvalidInputError, match="slot 43 is merged and cannot be edited; edit slots from 44 on"):
        layer.splice(43, 44, keys, values)
    kept.reset()
    with attach(model):
        again = logits(model, ids, **{CACHE_KEYWORD: kept})
    assert (again - read(model, ids, ratio=1)[1]).abs().max() < 2e-5


def test_a_saved_cache_goes_on(tmp_path):
    model = tiny("Llama")
    cache, _ = read(model, tokens(120), ratio=0.4, recent=16)
    cache.save(tmp_path / "cache")
    loaded = MergingCache.load(tmp_path / "cache", model, MergedLayer, ratio=0.4, recent=16)
    with attach(model):
        mine, theirs = (logits(model, tokens(9, seed=1), **{CACHE_KEYWORD: each}) for each in (cache, loaded))
    assert torch.equal(mine, theirs)
    with pytest.raises(CacheStateError, match="only the last 25 tokens"):
        loaded.crop(-26)


def test_layers_that_slide_keep_every_slot():
    model = build("Gemma2", sliding_window=16)
    ids = tokens(200)
    cache, got = read(model, ids, ratio=0.3, recent=16)
    assert [layer.physical for layer in cache.layers] == [200, 60, 200]
    assert cache.report.skipped == (0, 2) and cache.report.tokens == 200
    model.set_attn_implementation("eager")
    assert (got - logits(model, ids)).abs().max() < 5e-5
    assert generate_from(model, cache, tokens(2), max_new_tokens=5, do_sample=False).shape == (1, 7)
    with pytest.raises(InvalidInputError, match="attends to the last 8 tokens alone"):
        merging_cache(build("Mistral", sliding_window=8), ratio=0.5)


def test_bad_input():
    model = tiny("Llama")
    for options, words in (
        ({}, "either a ratio or a budget"),
        ({"ratio": 0.5, "budget": 100}, "either a ratio or a budget"),
        ({"ratio": 0.0}, "above 0 and at most 1"),
        ({"ratio": 1.5}, "above 0 and at most 1"),
        ({"ratio": float("nan")}, "above 0 and at most 1"),
        ({"budget": 69}, "a budget is at least 70 slots"),
        ({"ratio": 0.5, "chunk": 7}, "even number of slots"),
        ({"ratio": 0.5, "chunk": 0}, "even number of slots"),
        ({"ratio": 0.5, "sinks": -1}, "sinks are at least 0"),
        ({"ratio": 0.5, "recent": 0}, "recent tokens at least 1"),
        ({"ratio": 0.5, "guard": 1.0}, "guarded share is at least 0 and below 1"),
    ):
        with pytest.raises(ValueError, match=words):
            merging_cache(model, **options)
    with pytest.raises(CacheStateError, match=r"attach\(model\) first"):
        model(tokens(3), **{CACHE_KEYWORD: merging_cache(model, ratio=0.5)})
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, :2] = 0
    with attach(model), pytest.raises(ValueError, match="give each row alone"):
        model(tokens(12, batch=2), attention_mask=mask, **{CACHE_KEYWORD: merging_cache(model, ratio=0.5)})
    held = states(10)
    with pytest.raises(ValueError, match="one pass removes 0 to 5 of 10 slots; got 6"):
        soft_match(*held, 6)
    with pytest.raises(ValueError, match="cannot be merged to 0"):
        merge_to(*held, 0)
    with pytest.raises(ValueError, match="even number of slots"):
        merge_to(*held, 5, chunk=3)

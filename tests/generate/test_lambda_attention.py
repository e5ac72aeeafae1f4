from __future__ import annotations

import pytest
import torch

from byteloom.errors import CacheStateError, InvalidInputError, UnsupportedPositionError
from byteloom.generate import LambdaLayer, LambdaStream, extend
from byteloom.models import CACHE_KEYWORD, AttentionCall, KeyRotation, KVCache, attach
from tests.models.families import build, tiny, tokens
from tests.models.test_attention import greedy, logits
from tests.reference.lambda_attention import lambda_attention

FAMILIES = ["Llama", "Qwen2", "Qwen3", "Mistral", "GPTNeoX"]


def read(model, cache, ids, size):
    parts = [logits(model, part, **{CACHE_KEYWORD: cache}) for part in ids.split(size, dim=1)]
    return torch.cat(parts, dim=1)


def small_chunks(cache, chunk=7):
    for layer in cache.layers:
        layer.chunk = chunk
    return cache


@pytest.mark.parametrize("family", FAMILIES)
def test_up_to_the_window_it_is_the_plain_model(family):
    model = tiny(family)
    ids = tokens(40, batch=2)
    expected = logits(model, ids)
    with extend(model, window=40, sinks=4) as fresh:
        for size in (40, 11, 1):
            assert (read(model, fresh(), ids, size) - expected).abs().max() < 2e-5
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("window, sinks", [(16, 4), (16, 1), (8, 3), (8, 8 - 1), (8, 0)])
def test_any_chunking_reads_the_same(family, window, sinks):
    model = tiny(family)
    ids = tokens(61, batch=2)
    with extend(model, window, sinks) as fresh:
        whole = read(model, fresh(), ids, 61)
        for size in (11, 5, 1):
            assert (read(model, small_chunks(fresh()), ids, size) - whole).abs().max() < 2e-5
    assert (whole - logits(model, ids)).abs().max() > 0.01


@pytest.mark.parametrize("family", ["Llama", "GPTNeoX"])
@pytest.mark.parametrize("window, sinks, ceiling", [(8, 3, 8), (16, 10, 16), (5, 1, 3), (6, 0, 6), (5, 4, 40)])
def test_it_is_the_definition(family, window, sinks, ceiling):
    model = tiny(family)
    rotation = KeyRotation.from_model(model)
    generator = torch.Generator().manual_seed(0)
    count, kv_heads = 33, 2
    query, key, value = (
        torch.randn(heads, count, 16, generator=generator, dtype=torch.float64) for heads in (4, kv_heads, kv_heads)
    )
    expected = lambda_attention(query, key, value, rotation, window=window, sinks=sinks, ceiling=ceiling, scaling=0.5)
    positions = torch.arange(count)
    turned_query, turned_key = (rotation.shift(part[None], positions, 0) for part in (query, key))
    for size in (count, 4, 1):
        layer = LambdaLayer(rotation=rotation, window=window, sinks=sinks, ceiling=ceiling, chunk=7)
        outputs = []
        for start in range(0, count, size):
            part = slice(start, start + size)
            layer.expected = True
            states = layer.update(turned_key[:, :, part], value[None, :, part])
            outputs.append(layer.attend(AttentionCall(turned_query[:, :, part], *states, None, 0.5)))
            assert layer.physical <= window - 1 and layer._sink_keys.shape[2] <= sinks
        assert (torch.cat(outputs, dim=2)[0] - expected).abs().max() < 1e-6


def test_without_sinks_it_is_a_sliding_window():
    plain, sliding = build("Mistral", sliding_window=None), build("Mistral", sliding_window=9)
    ids = tokens(50, batch=2)
    expected = logits(sliding, ids)
    with extend(plain, 9, sinks=0) as fresh:
        assert (read(plain, fresh(), ids, 13) - expected).abs().max() < 2e-5


def test_layers_that_slide_already_go_on_so():
    model = build("Gemma2", sliding_window=6)
    ids = tokens(30)
    with extend(model, 30) as fresh:
        assert fresh.own_windows == {0: 6, 2: 6}
        cache = fresh()
        model.set_attn_implementation("eager")
        expected = logits(model, ids)
        model.set_attn_implementation("byteloom")
        assert (read(model, cache, ids, 7) - expected).abs().max() < 2e-5
        assert [layer.physical for layer in cache.layers] == [5, 29, 5]
        read(model, cache, ids, 7)
        assert [layer.physical for layer in cache.layers] == [5, 29, 5]


def test_memory_stays_while_the_text_grows():
    model = build("Llama", num_hidden_layers=1)
    with LambdaStream(model, 64, sinks=4, rebase_at=1000) as stream:
        sizes = []
        for at in range(40):
            stream.feed(tokens(256, seed=at))
            sizes.append(stream.cache.nbytes())
        for at in range(600):
            stream.feed(tokens(1, seed=at))
            sizes.append(stream.cache.nbytes())
        assert max(sizes[2:]) <= 2 * (64 + 256 + 256) * 1.3 * 2 * 16 * 4
        layer = stream.cache.layers[0]
        assert layer.physical == 63 and layer.logical <= 1000 + 256
    # The buffer of one long prompt does not live on.
    with extend(model, 64) as fresh:
        cache = fresh()
        logits(model, tokens(2000), **{CACHE_KEYWORD: cache})
        assert cache.nbytes() < 2 * 80 * 2 * 16 * 4


def test_rebasing_does_not_change_what_is_read():
    model = tiny("Llama")
    ids = tokens(1500)
    losses = []
    for rebase_at in (100, 1 << 20):
        with LambdaStream(model, 32, sinks=4, rebase_at=rebase_at) as stream:
            losses.append(torch.cat(list(stream.nll(ids.split(64, dim=1)))))
    assert len(losses[0]) == 1499
    assert (losses[0] - losses[1]).abs().max() < 1e-3


def test_stream_losses_are_those_of_the_model():
    model = tiny("Qwen3")
    ids = tokens(300)
    expected = torch.nn.functional.cross_entropy(logits(model, ids)[0, :-1], ids[0, 1:], reduction="none")
    with LambdaStream(model, 300) as stream:
        got = list(stream.nll([ids[0, :1], ids[:, 1:40], ids[0, 40:40], ids[0, 40:]]))
    assert [len(part) for part in got][:2] == [0, 39]
    assert (torch.cat(got) - expected).abs().max() < 2e-4


def test_streams_generate_as_generate_does():
    model = tiny("Llama")
    ids = tokens(30)
    with extend(model, 24, sinks=3) as fresh:
        expected = greedy(model, ids, **{CACHE_KEYWORD: fresh()})[0, 30:].tolist()
        lookup = extend(model, 24, sinks=3, spare=8)
        again = greedy(model, ids, prompt_lookup_num_tokens=4, **{CACHE_KEYWORD: lookup()})[0, 30:].tolist()
        lookup.detach()
        assert again == expected
        beams = greedy(model, ids, num_beams=3, **{CACHE_KEYWORD: fresh()})
        assert beams.shape == (1, 62)
    with LambdaStream(model, 24, sinks=3) as stream:
        assert list(stream.generate(ids, 32)) == expected
    options = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 3}
    drawn = []
    for _ in range(2):
        with LambdaStream(model, 24) as stream:
            drawn.append(list(stream.generate(ids, 20, **options)))
    assert drawn[0] == drawn[1] and len(drawn[0]) == 20
    model = build("Llama")
    model.generation_config.eos_token_id = expected[2]
    with LambdaStream(model, 24, sinks=3) as stream:
        assert list(stream.generate(ids, 32)) == expected[: expected.index(expected[2]) + 1]


@pytest.mark.parametrize("family", ["Llama", "GPTNeoX"])
def test_the_last_token_looks_up_the_best_of_what_left(family):
    model = tiny(family)
    rotation = KeyRotation.from_model(model)
    generator = torch.Generator().manual_seed(0)
    count, window, sinks, top_k, insert_at = 40, 8, 3, 4, 13
    query, key, value = (torch.randn(1, heads, count, 16, generator=generator) for heads in (4, 2, 2))
    positions = torch.arange(count)
    turned_query, turned_key = (rotation.shift(part, positions, 0) for part in (query, key))
    for size in (count, 9, 1):
        layer = LambdaLayer(rotation=rotation, window=window, sinks=sinks, top_k=top_k, insert_at=insert_at)
        for start in range(0, count, size):
            part = slice(start, start + size)
            layer.expected = True
            states = layer.update(turned_key[:, :, part], value[:, :, part])
            output = layer.attend(AttentionCall(turned_query[:, :, part], *states, None, 0.5))
        assert (
            output[0, :, -1] - looked_up(rotation, query, key, value, window, sinks, top_k, insert_at)
        ).abs().max() < 1e-5
    # As many as have left: all of them are seen.
    distance = count - 1 - positions
    layer = LambdaLayer(
        rotation=rotation, window=window, sinks=sinks, top_k=count - window - sinks, insert_at=insert_at
    )
    layer.expected = True
    output = layer.attend(AttentionCall(turned_query, *layer.update(turned_key, value), None, 0.5))
    distance = torch.where(distance < window, distance, torch.where(positions < sinks, window, insert_at))
    for head in range(4):
        turned = rotation.shift(query[:, head : head + 1, -1:].expand(-1, -1, count, -1), distance, 0)[0, 0]
        weights = (0.5 * (turned * key[0, head // 2]).sum(-1)).softmax(-1)
        assert (output[0, head, -1] - weights @ value[0, head // 2]).abs().max() < 1e-5


def looked_up(rotation, query, key, value, window, sinks, top_k, insert_at):
    """The last token of [1, H, n, D], with the best of the middle added."""
    count, rows = query.shape[2], []
    for head in range(4):
        mine = query[:, head : head + 1, -1:]
        scores, values = [], []
        middle = range(sinks, count - window)
        inserted = [0.5 * rotation.shift(mine, insert_at, 0).flatten() @ key[0, head // 2, place] for place in middle]
        best = {middle[place] for place in torch.stack(inserted).topk(top_k).indices.tolist()}
        for place in range(count):
            distance = count - 1 - place
            if distance >= window:
                if place >= sinks and place not in best:
                    continue
                distance = window if place < sinks else insert_at
            scores.append(0.5 * rotation.shift(mine, distance, 0).flatten() @ key[0, head // 2, place])
            values.append(value[0, head // 2, place])
        rows.append(torch.stack(scores).softmax(0) @ torch.stack(values))
    return torch.stack(rows)


def test_looking_up_grows_with_the_text_alone():
    model = tiny("Llama")
    ids = tokens(60, batch=2)
    with extend(model, 16, sinks=3, top_k=4, top_k_from_layer=1) as fresh:
        cache = fresh()
        assert [layer.top_k for layer in cache.layers] == [0, 4, 4]
        read(model, cache, ids, 50)
        cache.reorder_cache(torch.tensor([1, 0]))
        assert [layer._history.physical for layer in cache.layers] == [0, 57, 57]
        other = fresh()
        read(model, other, ids.flip(0), 50)
        last = tokens(4, batch=2)
        assert (read(model, cache, last, 1) - read(model, other, last, 1)).abs().max() < 2e-5


def test_a_saved_window_goes_on(tmp_path):
    model = tiny("Llama")
    ids = tokens(40, batch=2)
    options = {"rotation": KeyRotation.from_model(model), "window": 16, "sinks": 3, "top_k": 2}
    with attach(model):
        cache = KVCache.for_model(model, LambdaLayer, **options)
        read(model, cache, ids, 30)
        cache.save(tmp_path / "cache")
        loaded = KVCache.load(tmp_path / "cache", model, LambdaLayer, **options)
        assert torch.equal(read(model, loaded, ids, 1), read(model, cache, ids, 1))
        KVCache.for_model(model, LambdaLayer, **options).save(tmp_path / "empty")
        assert KVCache.load(tmp_path / "empty", model, LambdaLayer, **options).get_seq_length() == 0


def test_what_a_window_cannot_do_is_refused():
    model = tiny("Llama")
    with extend(model, 16, sinks=3) as fresh:
        cache = fresh()
        logits(model, tokens(30), **{CACHE_KEYWORD: cache})
        layer = cache.layers[0]
        with pytest.raises(CacheStateError, match="cannot be edited in the middle"):
            layer.splice(3, 4, layer.keys[:, :, :1], layer.values[:, :, :1])
        with pytest.raises(CacheStateError, match="cannot be picked or merged"):
            layer.gather(torch.tensor([1, 2]))
        with pytest.raises(CacheStateError, match="cannot be taken back"):
            cache.truncate(3, 3)
        layer.bias = torch.zeros(1, 2, layer.physical)
        with pytest.raises(CacheStateError, match="takes no bias"):
            logits(model, tokens(1), **{CACHE_KEYWORD: cache})


def test_calls_may_be_in_any_mode():
    model = tiny("Llama")
    ids = tokens(40)
    with extend(model, 16, sinks=3, top_k=2, top_k_from_layer=0) as fresh:
        whole = read(model, fresh(), ids, 20)
        cache = fresh()
        with torch.inference_mode():
            model(ids[:, :20], **{CACHE_KEYWORD: cache})
            cache.reorder_cache(torch.tensor([0]))
        assert torch.allclose(model(ids[:, 20:], **{CACHE_KEYWORD: cache}).logits, whole[:, 20:], atol=2e-5)


def test_batches_and_crops():
    model = tiny("Llama")
    ids = tokens(50, batch=2)
    with extend(model, 16, sinks=3, spare=4) as fresh:
        whole = read(model, fresh(), ids, 50)
        cache = fresh()
        read(model, cache, ids[:, :47], 47)
        cache.crop(-4)
        assert (read(model, cache, ids[:, 43:], 3) - whole[:, 43:]).abs().max() < 2e-5
        cache.reorder_cache(torch.tensor([1, 1]))
        cache.batch_select_indices(torch.tensor([0]))
        other = fresh()
        read(model, other, ids[1:], 50)
        last = tokens(3)
        assert (read(model, cache, last, 3) - read(model, other, last, 3)).abs().max() < 2e-5
        cache = fresh()
        read(model, cache, ids[:, :12], 12)
        cache.crop(-11)
        assert cache.layers[0]._sink_keys.shape[2] == 1
        assert (read(model, cache, ids[:, 1:], 7) - whole[:, 1:]).abs().max() < 2e-5
        with pytest.raises(CacheStateError, match="5 tokens cannot be taken back"):
            cache.crop(-5)
        cache.reset()
        assert (read(model, cache, ids, 9) - whole).abs().max() < 2e-5


def test_bad_input():
    model = tiny("Llama")
    for window, sinks in ((1, 0), (8, 8), (8, -1)):
        with pytest.raises(ValueError, match="2 tokens or more"):
            extend(model, window, sinks)
    with pytest.warns(UserWarning, match="window of 5000 tokens exceeds the 4096"):
        extend(model, 5000).detach()
    with pytest.raises(UnsupportedPositionError):
        extend(build("GPT2", n_embd=32, n_layer=2, n_head=2, n_positions=64))
    with extend(model, 8, sinks=2) as fresh:
        mask = torch.ones(2, 12, dtype=torch.long)
        mask[0, :2] = 0
        with pytest.raises(InvalidInputError, match="end at the window of 8 tokens"):
            model(tokens(12, batch=2), attention_mask=mask, **{CACHE_KEYWORD: fresh()})
        cache = fresh()
    with pytest.raises(CacheStateError, match=r"attach\(model\) first"):
        model(tokens(3), **{CACHE_KEYWORD: cache})
    with LambdaStream(model, 8, sinks=2) as stream:
        with pytest.raises(InvalidInputError, match="ids of the shape"):
            stream.feed(tokens(3, batch=2))
        with pytest.raises(InvalidInputError, match="top_p above 0"):
            next(stream.generate(tokens(3), 5, top_p=0.0))
    assert model.config._attn_implementation == "sdpa"

from __future__ import annotations

import copy

import pytest
import torch
from transformers.cache_utils import DynamicCache

from byteloom.errors import CacheMismatchError, CacheStateError, FileError, InvalidInputError
from byteloom.models import CACHE_KEYWORD, KeyRotation, KVCache, KVLayer, attach, generate_from
from byteloom.models import kvcache as module
from tests.models.families import build, tiny, tokens
from tests.models.test_attention import greedy, logits


def filled(model, ids, **kwargs):
    cache = KVCache.for_model(model, **kwargs)
    with torch.no_grad():
        model(ids, **{CACHE_KEYWORD: cache})
    return cache


def states(count, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, 2, count, 4, generator=generator) for _ in range(2))


def layer_with(count, bias=False, batch=2):
    layer = KVLayer()
    layer.update(*states(count, batch))
    if bias:
        layer.bias = torch.arange(batch * 2 * count).view(batch, 2, count).float()
    return layer


def test_appending_copies_little(monkeypatch):
    copies = []
    grown = module.grown
    monkeypatch.setattr(module, "grown", lambda *args: copies.append(args) or grown(*args))
    layer = KVLayer()
    key, value = states(5000, batch=1)
    for at in range(5000):
        layer.update(key[:, :, at : at + 1], value[:, :, at : at + 1])
    assert len(copies) <= 2 * 20
    assert sum(used for _, used, _ in copies) < 2 * 5 * 5000
    assert torch.equal(layer.keys, key) and torch.equal(layer.values, value)
    assert layer.logical == layer.physical == layer.get_seq_length() == 5000
    assert layer.get_mask_sizes(3) == (5003, 0)
    assert layer.nbytes() <= 1.3 * (key.nbytes + value.nbytes)


def test_rows_and_crops_keep_everything_together():
    layer = layer_with(6, bias=True)
    key, value, bias = layer.keys.clone(), layer.values.clone(), layer.bias.clone()
    layer.crop(0)
    layer.crop(-2)
    assert layer.logical == layer.physical == 4
    layer.append(key[:, :, 4:5], value[:, :, 4:5])
    assert torch.equal(layer.keys, key[:, :, :5])
    assert torch.equal(layer.bias[:, :, :4], bias[:, :, :4]) and not layer.bias[:, :, 4].any()
    layer.truncate(4, 9)
    assert layer.get_mask_sizes(1) == (5, 5)
    layer.reorder_cache(torch.tensor([1, 0]))
    assert torch.equal(layer.keys, key[[1, 0], :, :4]) and torch.equal(layer.bias, bias[[1, 0], :, :4])
    layer.batch_repeat_interleave(2)
    assert torch.equal(layer.values, value[[1, 1, 0, 0], :, :4])
    layer.batch_select_indices(torch.tensor([3]))
    assert torch.equal(layer.keys, key[:1, :, :4]) and torch.equal(layer.bias, bias[:1, :, :4])
    layer.crop(-99)
    assert layer.physical == 0 and layer.logical == 5
    layer.reset()
    assert layer.physical == layer.logical == layer.nbytes() == 0 and layer.bias is None
    with pytest.raises(ValueError, match="give -3"):
        layer.crop(3)


def test_gather_by_slot_and_by_head():
    layer = layer_with(6, bias=True)
    key, bias = layer.keys.clone(), layer.bias.clone()
    layer.gather(torch.tensor([5, 0, 2]))
    assert torch.equal(layer.keys, key[:, :, [5, 0, 2]]) and torch.equal(layer.bias, bias[:, :, [5, 0, 2]])
    assert layer.logical == 6 and layer.physical == 3
    index = torch.tensor([[[2, 0], [1, 1]], [[0, 1], [2, 2]]])
    layer.gather(index)
    assert torch.equal(layer.keys[0, 1], key[0, 1, [0, 0]]) and torch.equal(layer.bias[1, 1], bias[1, 1, [2, 2]])


def test_splice_replaces_inserts_and_deletes():
    layer = layer_with(6, bias=True)
    key, value, bias = layer.keys.clone(), layer.values.clone(), layer.bias.clone()
    new_key, new_value = states(3, seed=1)
    layer.splice(1, 2, new_key, new_value)
    assert torch.equal(layer.keys, torch.cat((key[:, :, :1], new_key, key[:, :, 2:]), dim=2))
    assert torch.equal(layer.values, torch.cat((value[:, :, :1], new_value, value[:, :, 2:]), dim=2))
    assert torch.equal(layer.bias[:, :, 4:], bias[:, :, 2:]) and not layer.bias[:, :, 1:4].any()
    assert layer.logical == layer.physical == 8
    layer.splice(1, 4, new_key[:, :, :0], new_value[:, :, :0])
    layer.splice(1, 1, key[:, :, 1:2], value[:, :, 1:2])
    assert torch.equal(layer.keys, key) and layer.logical == 6
    layer.splice(6, 6, new_key, new_value)
    assert torch.equal(layer.keys[:, :, 6:], new_key)
    with pytest.raises(InvalidInputError, match="slots 3 to 99 do not lie in a cache of 9"):
        layer.splice(3, 99, new_key, new_value)
    with pytest.raises(InvalidInputError, match="without a rotation"):
        layer.splice(0, 0, new_key, new_value, shift=2)


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Mistral", "GPTNeoX", "SmolLM3"])
def test_an_edit_in_the_middle_moves_the_suffix(family):
    model = tiny(family)
    ids, new = tokens(30), tokens(4, seed=1)
    start, stop = 10, 13
    cache = filled(model, ids, rotation=KeyRotation.from_model(model))
    tails = [(layer.keys[:, :, stop:].clone(), layer.values[:, :, stop:].clone()) for layer in cache.layers]
    cache.truncate(start, start)
    logits(model, new, **{CACHE_KEYWORD: cache})
    for layer, tail in zip(cache.layers, tails, strict=True):
        layer.splice(layer.physical, layer.physical, *tail, shift=new.shape[1] - (stop - start))
    again = filled(model, torch.cat((ids[:, :start], new, ids[:, stop:]), dim=1))
    assert cache.get_seq_length() == 31
    # The first layer has seen nothing but its tokens and their places; the others agree up to the edit's end.
    torch.testing.assert_close(cache.layers[0].keys, again.layers[0].keys, atol=1e-5, rtol=0)
    torch.testing.assert_close(cache.layers[0].values, again.layers[0].values, atol=1e-5, rtol=0)
    for edited, fresh in zip(cache.layers, again.layers, strict=True):
        torch.testing.assert_close(edited.keys[:, :, :14], fresh.keys[:, :, :14], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "GPTNeoX", "SmolLM3"])
def test_rebasing_changes_no_output(family):
    model = tiny(family)
    ids = tokens(40, batch=2)
    expected = logits(model, ids)[:, 30:]
    cache = filled(model, ids[:, :30])
    cache.rebase(KeyRotation.from_model(model), 500)
    assert cache.get_seq_length() == 530
    cache.rebase(KeyRotation.from_model(model), -520)
    with attach(model):
        moved = logits(model, ids[:, 30:], **{CACHE_KEYWORD: cache})
    assert (moved - expected).abs().max() < 5e-5
    assert cache.get_seq_length() == 20


@pytest.mark.parametrize("implementation", ["byteloom", "sdpa", "eager"])
def test_more_slots_than_positions(implementation):
    """Two texts after one prefix, both at the same positions, against one forward with the mask written out."""
    model = build("Llama")
    model.set_attn_implementation("eager" if implementation == "byteloom" else implementation)
    prefix, one, two, query = tokens(5), tokens(12, seed=1), tokens(9, seed=2), tokens(15, seed=3)
    cache = filled(model, torch.cat((prefix, one), dim=1))
    other = filled(model, torch.cat((prefix, two), dim=1))
    for layer, more in zip(cache.layers, other.layers, strict=True):
        layer.append(more.keys[:, :, 5:], more.values[:, :, 5:])
    assert cache.get_seq_length() == 17 and cache.layers[0].physical == 26
    whole = torch.cat((prefix, one, two, query), dim=1)
    positions = torch.cat((torch.arange(17), torch.arange(5, 14), torch.arange(17, 32)))[None]
    mask = torch.ones(1, 1, 41, 41, dtype=torch.bool).tril()
    mask[:, :, 17:26, 5:17] = False
    additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    model.set_attn_implementation("eager")
    expected = logits(model, whole, position_ids=positions, attention_mask=additive)[:, 26:]
    if implementation == "byteloom":
        attach(model)
    else:
        model.set_attn_implementation(implementation)
    assert (logits(model, query[:, :6], **{CACHE_KEYWORD: cache}) - expected[:, :6]).abs().max() < 2e-5
    assert (logits(model, query[:, 6:], **{CACHE_KEYWORD: cache}) - expected[:, 6:]).abs().max() < 2e-5


def test_generation_over_joined_texts_is_a_loop():
    model = tiny("Llama")

    def joined():
        cache = filled(model, tokens(9))
        other = filled(model, tokens(6, seed=1))
        for layer, more in zip(cache.layers, other.layers, strict=True):
            layer.append(more.keys, more.values)
        return cache

    query = tokens(3, seed=2)
    with attach(model):
        cache, ids, expected = joined(), query, []
        for _ in range(12):
            ids = logits(model, ids, **{CACHE_KEYWORD: cache})[:, -1:].argmax(-1)
            expected.append(ids.item())
    new = generate_from(model, joined(), query, max_new_tokens=12, do_sample=False)
    assert new[0, 3:].tolist() == expected


def test_a_bias_of_log_two_is_the_key_twice():
    model = tiny("Llama")
    ids, query = tokens(20, batch=2), tokens(6, batch=2, seed=1)
    twice, once = filled(model, ids), filled(model, ids)
    for layer, weighted in zip(twice.layers, once.layers, strict=True):
        layer.append(layer.keys[:, :, 3:8].clone(), layer.values[:, :, 3:8].clone())
        bias = torch.zeros(2, 2, 20)
        bias[:, :, 3:8] = torch.log(torch.tensor(2.0))
        weighted.bias = bias
    with attach(model):
        for part in (query[:, :5], query[:, 5:]):
            expected = logits(model, part, **{CACHE_KEYWORD: twice})
            assert (logits(model, part, **{CACHE_KEYWORD: once}) - expected).abs().max() < 2e-5
    with pytest.raises(CacheStateError, match=r"call attach\(model\) first"):
        model(query, **{CACHE_KEYWORD: once})
    with pytest.raises(InvalidInputError, match="one number for each"):
        once.layers[0].bias = torch.zeros(2, 2, 3)


def test_a_layer_with_its_own_attention_needs_attach():
    class Uniform(KVLayer):
        def attend(self, call):
            query, value = call.query_BHQD, call.value_BKTD
            groups = query.shape[1] // value.shape[1]
            return value.mean(2, keepdim=True).repeat_interleave(groups, 1).expand(*query.shape[:3], -1)

    model = tiny("Llama")
    cache = KVCache.for_model(model, Uniform)
    with pytest.raises(CacheStateError, match="Uniform has its own attention"):
        model(tokens(5), **{CACHE_KEYWORD: cache})
    with attach(model):
        backward = tokens(5).flip(1)  # the order plays no role to the last token of a uniform attention
        ends = [
            logits(model, torch.cat((ids, tokens(1)), dim=1), **{CACHE_KEYWORD: KVCache.for_model(model, Uniform)})
            for ids in (tokens(5), backward)
        ]
    assert (ends[0][:, -1] - ends[1][:, -1]).abs().max() < 2e-5


@pytest.mark.parametrize("family", ["Llama", "GPTNeoX"])
def test_prompt_lookup_and_beams_are_those_of_transformers(family):
    model = tiny(family)
    ids = tokens(8).repeat(1, 4)
    for options in ({"prompt_lookup_num_tokens": 4}, {"num_beams": 3, "length_penalty": 0.7}):
        expected = greedy(model, ids, **options)
        assert torch.equal(greedy(model, ids, **options, **{CACHE_KEYWORD: KVCache.for_model(model)}), expected)
        with attach(model):
            assert torch.equal(greedy(model, ids, **options, **{CACHE_KEYWORD: KVCache.for_model(model)}), expected)


@pytest.mark.parametrize("reordered", [False, True])
def test_a_cache_may_leave_and_enter_inference_mode(reordered):
    model = tiny("Llama")
    ids = tokens(30)
    cache = KVCache.for_model(model)
    with torch.inference_mode():
        model(ids[:, :10], **{CACHE_KEYWORD: cache})
        if reordered:
            cache.reorder_cache(torch.tensor([0]))
    last = model(ids[:, 10:20], **{CACHE_KEYWORD: cache}).logits
    cache.layers[0].splice(3, 3, *(part[:, :, :0] for part in (cache.layers[0].keys, cache.layers[0].values)))
    with torch.inference_mode():
        model(ids[:, 20:], **{CACHE_KEYWORD: cache})
    assert (last - logits(model, ids)[:, 10:20]).abs().max() < 2e-5
    assert not cache.layers[0].keys.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_cache_gives_the_same_logits(tmp_path, dtype):
    model = build("Qwen2").to(dtype)
    ids = tokens(20, batch=2)
    cache = filled(model, ids)
    cache.token_ids = ids
    for layer in cache.layers:
        layer.bias = torch.linspace(0, 1, 80).view(2, 2, 20)
    cache.layers[1].truncate(19, 20)
    path = tmp_path / "deep" / "cache.safetensors"
    cache.save(path)
    loaded = KVCache.load(path, model)
    assert torch.equal(loaded.token_ids, ids)
    assert [layer.logical for layer in loaded.layers] == [20, 20, 20] and loaded.layers[1].physical == 19
    with attach(model):
        expected, again = (logits(model, ids[:, :3], **{CACHE_KEYWORD: each}) for each in (cache, loaded))
    assert torch.equal(again, expected)
    assert path.stat().st_size < 1.2 * sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) + 8192
    KVCache.for_model(model).save(path)
    assert KVCache.load(path, model).get_seq_length() == 0


def test_damaged_and_foreign_files_are_refused(tmp_path):
    model = build("Llama")
    path = tmp_path / "cache.safetensors"
    filled(model, tokens(5)).save(path)
    whole = path.read_bytes()
    with pytest.raises(FileError, match="it is no file"):
        KVCache.load(tmp_path / "missing", model)
    for broken in (b"", whole[:100], whole[:-9], b"\x08" + bytes(7) + b'{"a": 1}'):
        path.write_bytes(broken)
        with pytest.raises(FileError, match="encode it again"):
            KVCache.load(path, model)
    path.write_bytes(whole)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    with pytest.raises(CacheMismatchError, match="another model"):
        KVCache.load(path, model)
    with pytest.raises(CacheMismatchError, match="another dtype"):
        KVCache.load(path, build("Llama").half())


def test_a_cache_of_another_model_is_refused():
    cache = filled(tiny("Llama"), tokens(5))
    with pytest.raises(CacheMismatchError, match="2 key-value heads of 16, the model has 4 of 16"):
        tiny("GPTNeoX")(tokens(5), **{CACHE_KEYWORD: cache})
    deeper = build("Llama", num_hidden_layers=4)
    with pytest.raises(CacheMismatchError, match="3 layers"):
        deeper(tokens(5), **{CACHE_KEYWORD: cache})
    with pytest.raises(InvalidInputError, match="holds 1 rows and the input has 2"):
        tiny("Llama")(tokens(5, batch=2), **{CACHE_KEYWORD: filled(tiny("Llama"), tokens(5))})
    with pytest.raises(CacheMismatchError, match=r"holds torch.float32 and the model computes in torch.bfloat16"):
        build("Llama").bfloat16()(tokens(5), **{CACHE_KEYWORD: cache})
    cache = filled(tiny("Llama"), tokens(5))
    cache.check(tiny("Llama"))
    with pytest.raises(CacheMismatchError, match="encode the tokens again"):
        cache.check(deeper)


def test_a_copy_goes_its_own_way():
    model = tiny("Llama")
    cache = filled(model, tokens(9))
    fork = copy.deepcopy(cache)
    expected = logits(model, tokens(4, seed=1), **{CACHE_KEYWORD: fork})
    logits(model, tokens(6, seed=2), **{CACHE_KEYWORD: fork})
    assert cache.get_seq_length() == 9 and fork.get_seq_length() == 19
    assert torch.equal(logits(model, tokens(4, seed=1), **{CACHE_KEYWORD: cache}), expected)


def test_models_without_plain_caches_are_refused():
    for family, changes in (("Mamba", {"state_size": 4}), ("Bamba", {"attn_layer_indices": [1], "mamba_n_heads": 8})):
        with pytest.raises(InvalidInputError, match="not the keys and values of all tokens"):
            KVCache.for_model(build(family, **changes))


def test_padding_after_surgery_is_refused():
    model = tiny("Llama")
    ids = tokens(10, batch=2)
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[1, :3] = 0
    for logical in (12, 8):
        cache = filled(model, ids)
        cache.truncate(10, logical)
        longer = torch.cat((mask, torch.ones(2, logical - 6)), dim=1)[:, : logical + 4]
        with attach(model), pytest.raises(ValueError, match="padded batches cannot follow cache surgery"):
            model(ids[:, :4], attention_mask=longer, **{CACHE_KEYWORD: cache})


def test_the_stock_cache_and_ours_hold_the_same():
    model = tiny("Mistral")
    ids = tokens(20)
    stock = DynamicCache(config=model.config)
    logits(model, ids, **{CACHE_KEYWORD: stock})
    for mine, theirs in zip(filled(model, ids).layers, stock.layers, strict=True):
        assert torch.equal(mine.keys, theirs.keys) and torch.equal(mine.values, theirs.values)

from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DynamicCache

from byteloom.errors import InvalidInputError, UnsupportedPositionError
from byteloom.models import KVCache, attach, attend, attend_lse, generate_from, merge_lse
from byteloom.models.attention import CACHE_KEYWORD, QUERY_BLOCK
from tests.models.families import FAMILIES, build, tiny, tokens


def logits(model, ids, **kwargs):
    with torch.no_grad():
        return model(ids, **kwargs).logits


def chunked(model, ids, cache, sizes=(7, 1, 25)):
    parts, start = [], 0
    for size in (*sizes, ids.shape[1] - sum(sizes)):
        parts.append(logits(model, ids[:, start : start + size], **{CACHE_KEYWORD: cache}))
        start += size
    return torch.cat(parts, dim=1)


def greedy(model, ids, **kwargs):
    return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False, **kwargs)


def naive(query, key, value, *, scaling, seen, bias=None, softcap=None):
    """Attention written out: `seen` is bool [Q, T] or [B, 1, Q, T]."""
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, 1).mT * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if bias is not None:
        scores = scores + bias.repeat_interleave(groups, 1)[:, :, None]
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return weights @ value.repeat_interleave(groups, 1)


def states(queries, slots, dtype=torch.float64):
    generator = torch.Generator().manual_seed(queries * 1000 + slots)
    shapes = (2, 4, queries, 8), (2, 2, slots, 8), (2, 2, slots, 8)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_chunked_prefill_and_generation_equal_the_stock_model(family, implementation):
    model = build(family)
    model.set_attn_implementation("eager" if family == "Gemma2" else implementation)  # sdpa has no softcap
    ids = tokens(50, batch=2)
    expected = logits(model, ids)
    plain = greedy(model, ids)
    with attach(model):
        assert (chunked(model, ids, KVCache.for_model(model)) - expected).abs().max() < 2e-5
        assert (logits(model, ids) - expected).abs().max() < 2e-5  # no cache at all
        dynamic = DynamicCache(config=model.config)
        assert (chunked(model, ids, dynamic) - expected).abs().max() < 2e-5
        assert torch.equal(greedy(model, ids, **{CACHE_KEYWORD: KVCache.for_model(model)}), plain)
    # The cache alone, under the model's own attention.
    assert (chunked(model, ids, KVCache.for_model(model)) - expected).abs().max() < 2e-5
    assert torch.equal(greedy(model, ids, **{CACHE_KEYWORD: KVCache.for_model(model)}), plain)


@pytest.mark.parametrize("family", ["Mistral", "Qwen2", "Gemma2"])
def test_a_sliding_window_is_honoured(family):
    windows = {"Qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}}
    model = build(family, **windows.get(family, {"sliding_window": 8}))
    model.set_attn_implementation("eager")
    ids = tokens(60, batch=2)
    expected = logits(model, ids)
    with attach(model):
        assert (chunked(model, ids, KVCache.for_model(model)) - expected).abs().max() < 2e-5
        assert (chunked(model, ids, DynamicCache(config=model.config)) - expected).abs().max() < 2e-5
        assert (logits(model, ids) - expected).abs().max() < 2e-5


@pytest.mark.parametrize("family", ["Llama", "GPTNeoX", "Gemma2"])
def test_a_left_padded_row_is_the_row_alone(family):
    model = tiny(family)
    long, short = tokens(20), tokens(13, seed=1)
    ids = torch.cat((long, torch.cat((torch.zeros(1, 7, dtype=torch.long), short), dim=1)))
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    with attach(model):
        alone = greedy(model, short, **{CACHE_KEYWORD: KVCache.for_model(model)})
        both = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=32,
            do_sample=False,
            **{CACHE_KEYWORD: KVCache.for_model(model)},
        )
        assert torch.equal(both[1, 7:], alone[0])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        padded = logits(model, ids, attention_mask=mask, position_ids=positions)
        assert (padded[1, 7:] - logits(model, short)[0]).abs().max() < 2e-5


def test_detaching_restores_the_model_bit_for_bit():
    model = build("Llama")
    ids = tokens(30)
    before = logits(model, ids)
    outer = attach(model)
    with attach(model):
        assert model.config._attn_implementation == "byteloom"
    assert model.config._attn_implementation == "byteloom"
    outer.detach()
    outer.detach()
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(logits(model, ids), before)
    with pytest.raises(ZeroDivisionError), attach(model):
        raise ZeroDivisionError
    assert model.config._attn_implementation == "sdpa"
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_other_positions_are_no_packed_sequences():
    model = tiny("Llama")
    ids = tokens(12)
    positions = torch.cat((torch.arange(6), torch.arange(40, 46)))[None]
    stock = logits(model, ids, position_ids=positions, attention_mask=torch.ones_like(ids))
    with attach(model):
        cached = logits(model, ids, position_ids=positions, **{CACHE_KEYWORD: KVCache.for_model(model)})
        assert (cached - stock).abs().max() < 2e-5
        # Without a cache they are, and then attaching changes nothing either.
        packed = logits(model, ids, position_ids=positions, use_cache=False)
    assert (packed - logits(model, ids, position_ids=positions, use_cache=False)).abs().max() < 2e-5
    assert (packed - stock).abs().max() > 0.1


def test_a_mask_of_the_caller_decides():
    model = tiny("Llama")
    ids = tokens(9, batch=2)
    tree = torch.ones(2, 1, 9, 9, dtype=torch.bool).tril()
    tree[:, :, 5, 4] = tree[:, :, 7:, 2] = False
    stock = logits(model, ids, attention_mask=tree)
    with attach(model):
        cache = KVCache.for_model(model)
        assert (logits(model, ids, attention_mask=tree, **{CACHE_KEYWORD: cache}) - stock).abs().max() < 2e-5
        additive = torch.zeros(tree.shape).masked_fill(~tree, -torch.inf)
        assert (logits(model, ids, attention_mask=additive) - stock).abs().max() < 2e-5


def test_generate_from_goes_on_where_the_cache_ends():
    model = tiny("Qwen3")
    ids = tokens(30, batch=2)
    cache = KVCache.for_model(model)
    logits(model, ids[:, :22], **{CACHE_KEYWORD: cache})
    new = generate_from(model, cache, ids[:, 22:], max_new_tokens=32, do_sample=False)
    assert torch.equal(new, greedy(model, ids)[:, 22:])
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(InvalidInputError, match="a token to start from"):
        generate_from(model, cache, ids[:, :0])


@pytest.mark.parametrize("window", [None, 5, 300])
@pytest.mark.parametrize("queries, slots", [(1, 9), (1, 1), (6, 9), (9, 9), (QUERY_BLOCK + 3, QUERY_BLOCK + 30)])
@pytest.mark.parametrize("extra", ["nothing", "padding", "bias", "softcap", "all"])
def test_attend_is_attention(queries, slots, window, extra):
    query, key, value = states(queries, slots)
    own = torch.arange(queries)[:, None] + slots - queries
    slot = torch.arange(slots)
    seen = slot <= own
    if window is not None:
        seen = seen & (slot > own - window)
    options = {}
    if extra in ("padding", "all") and slots > 2:
        padding = torch.ones(2, slots, dtype=torch.bool)
        padding[1, : slots // 3] = False
        options["mask"] = padding
        seen = (seen & padding[:, None, None]) | (slot == own)
    if extra in ("bias", "all"):
        options["bias_BKT"] = torch.randn(2, 2, slots, generator=torch.Generator().manual_seed(0))
    if extra in ("softcap", "all"):
        options["softcap"] = 1.5
    expected = naive(
        query, key, value, scaling=0.4, seen=seen, bias=options.get("bias_BKT"), softcap=options.get("softcap")
    )
    output = attend(query, key, value, scaling=0.4, window=window, **options)
    torch.testing.assert_close(output, expected, atol=1e-9, rtol=0)
    narrow = attend(*(part.float() for part in (query, key, value)), scaling=0.4, window=window, **options)
    torch.testing.assert_close(narrow, expected.float(), atol=1e-5, rtol=0)
    half = attend(*(part.bfloat16() for part in (query, key, value)), scaling=0.4, window=window, **options)
    assert (half.double() - expected).abs().max() < 0.06 and half.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("queries", [1, 7, QUERY_BLOCK + 1])
def test_groups_of_keys_merge_into_one_attention(queries, dtype, bound):
    query, key, value = states(queries, 40, dtype)
    generator = torch.Generator().manual_seed(0)
    seen = torch.rand(2, 1, queries, 40, generator=generator) < 0.7
    seen[..., 0] = True
    seen[0, 0, 0, 15:] = False  # one query sees nothing of the second group
    parts = []
    for span in (slice(0, 15), slice(15, 40)):
        group = key[:, :, span], value[:, :, span]
        parts.append(attend_lse(query, *group, scaling=0.4, mask_BHQT=seen[..., span]))
        scores = query.double() @ group[0].double().repeat_interleave(2, 1).mT * 0.4
        lse = scores.masked_fill(~seen[..., span], -torch.inf).logsumexp(-1)
        assert parts[-1][1].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(parts[-1][1].double(), lse, atol=bound, rtol=bound)
    merged = merge_lse(parts)
    expected = naive(*(part.double() for part in (query, key, value)), scaling=0.4, seen=seen)
    torch.testing.assert_close(merged.double(), expected, atol=bound, rtol=0)
    assert merged.dtype == dtype
    whole, _ = attend_lse(query, key, value, scaling=0.4)
    torch.testing.assert_close(whole, attend_lse(query, key, value, scaling=0.4, mask_BHQT=seen | True)[0])


def test_values_of_another_width_go_the_eager_way():
    query, key, value = states(5, 9)
    wide = torch.cat((value, value), dim=-1)
    output, lse = attend_lse(query, key, wide, scaling=0.4)
    same, same_lse = attend_lse(query, key, value, scaling=0.4)
    torch.testing.assert_close(output[..., :8], same)
    torch.testing.assert_close(lse, same_lse)
    empty, nothing = attend_lse(query, key[:, :, :0], value[:, :, :0], scaling=0.4)
    assert not empty.any() and (nothing == -torch.inf).all()


def test_what_cannot_be_attached_is_refused():
    with pytest.raises(UnsupportedPositionError, match="in its own code"):
        attach(build("Mpt", d_model=32, n_heads=2, n_layers=2))
    with pytest.raises(UnsupportedPositionError, match="attends in chunks"):
        model = build("Llama")
        model.config.attention_chunk_size = 8
        attach(model)
    moe = {"sliding_window": 8, "max_window_layers": 0, "num_experts": 2, "num_experts_per_tok": 1}
    model = build("Qwen2Moe", use_sliding_window=True, **moe)
    with pytest.raises(UnsupportedPositionError, match="to the mask alone"), attach(model):
        model(tokens(5))
    model = build("Llama", attention_dropout=0.1)
    ids = tokens(5)
    with attach(model):
        with pytest.raises(InvalidInputError, match=r"call model.eval\(\) first"):
            model.train()(ids)
        with pytest.raises(InvalidInputError, match="leave output_attentions off"):
            model.eval()(ids, output_attentions=True)

from __future__ import annotations

import numpy as np
import pytest
import torch

from byteloom.errors import InvalidInputError
from byteloom.models import RaggedCache, attach
from byteloom.models import ragged_cache as module
from tests.models.families import build, tiny, tokens

WINDOWS = {
    "Qwen2": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    "Mistral": {"sliding_window": 6},
    "Gemma2": {"sliding_window": 6},
}
CASES = [
    (family, implementation, window)
    for family in ["Llama", "Qwen2", "Qwen3", "Mistral", "GPTNeoX", "Phi", "Gemma2"]
    for implementation in ["sdpa", "eager", "byteloom"]
    for window in [False, True]
    if (family in WINDOWS or not window) and (family, implementation) != ("Gemma2", "sdpa")  # sdpa has no softcap
]
LENGTHS = [5, 30, 1, 17, 9]
NEW = 20


def prompts(lengths=LENGTHS):
    return [tokens(length, seed=seed)[0] for seed, length in enumerate(lengths)]


def alone(model, prompt, new=NEW):
    ids = prompt[None]
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
    return out[0, len(prompt) :].tolist()


def right_padded(rows):
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for row, content in enumerate(rows):
        ids[row, : len(content)] = torch.as_tensor(content)
    return ids, lengths


def drafted(model, rows, expected, *, noise, chunk=None):
    """Greedy decoding of all rows at once, each step verifying up to four drafted tokens, some of them wrong."""
    generator = np.random.default_rng(0)
    cache = RaggedCache(model.config, len(rows), capacity=8)
    ids, lengths = right_padded(rows)
    new = [[] for _ in rows]
    with torch.no_grad():
        for start in range(0, ids.shape[1], chunk or ids.shape[1]):  # the prompts may come in pieces
            part = ids[:, start : start + (chunk or ids.shape[1])]
            count = (lengths - start).clamp(0, part.shape[1])
            logits = model(**cache.inputs(part, count)).logits
            cache.commit(count)
            for row in range(len(rows)):
                if 0 < lengths[row] - start <= part.shape[1]:
                    new[row].append(int(logits[row, count[row] - 1].argmax()))
        while min(map(len, new)) < NEW:
            drafts = []
            for row, done in enumerate(new):
                draft = expected[row][len(done) : len(done) + int(generator.integers(0, 5))]
                drafts.append([token if generator.random() > noise else (token + 1) % 61 for token in draft])
            step, counts = right_padded([[done[-1], *draft] for done, draft in zip(new, drafts, strict=True)])
            best = model(**cache.inputs(step, counts)).logits.argmax(-1)
            accepted = []
            for row, draft in enumerate(drafts):
                right = 0
                while right < len(draft) and draft[right] == int(best[row, right]):
                    right += 1
                new[row] += [*draft[:right], int(best[row, right])]
                accepted.append(right + 1)
            cache.commit(torch.tensor(accepted))
    return [done[:NEW] for done in new], cache


@pytest.mark.parametrize("family, implementation, window", CASES)
def test_rows_of_any_length_decode_as_each_alone(family, implementation, window):
    model = build(family, **(WINDOWS[family] if window else {})).double()
    model.set_attn_implementation("eager" if implementation == "byteloom" else implementation)
    rows = prompts()
    expected = [alone(model, row) for row in rows]
    if implementation == "byteloom":
        attach(model)
    got, cache = drafted(model, rows, expected, noise=0.3, chunk=None if window else 11)
    assert got == expected
    for row, prompt in enumerate(rows):  # positions and content are those of the row alone
        assert len(prompt) + NEW - 1 <= int(cache.lens[row]) <= len(prompt) + NEW + 4


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_all_or_nothing_accepted(noise):
    model = build("Llama").double()
    rows = prompts([3, 8])
    expected = [alone(model, row) for row in rows]
    assert drafted(model, rows, expected, noise=noise)[0] == expected


def test_rows_leave_and_join():
    model = build("Llama").double()
    first, second, third = prompts([12, 5, 40])
    cache = RaggedCache(model.config, 2, capacity=4)
    with torch.no_grad():
        ids, lengths = right_padded([first, second])
        logits = model(**cache.inputs(ids, lengths)).logits
        cache.commit(lengths)
        cache.compact(torch.tensor([0]))
        single = RaggedCache(model.config, 1)
        last = model(**single.inputs(third[None])).logits[0, -1]
        single.commit(torch.tensor([40]))
        cache.join(single)
        assert cache.lens.tolist() == [12, 40]
        token = torch.stack((logits[0, 11], last)).argmax(-1)[:, None]
        got = [[int(token[0])], [int(token[1])]]
        cache.compact(torch.tensor([1, 0, 0]))
        assert cache.lens.tolist() == [40, 12, 12]
        token = token[[1, 0, 0]]
        for _ in range(6):
            token = model(**cache.inputs(token)).logits[:, -1:].argmax(-1)
            cache.commit(torch.ones(3, dtype=torch.long))
            got[1].append(int(token[0]))
            got[0].append(int(token[1]))
            assert token[1] == token[2]
    assert got == [alone(model, first, 7), alone(model, third, 7)]


def test_a_cache_without_rows_takes_those_of_another():
    model = tiny("GPTNeoX")
    ids = tokens(10)
    full = RaggedCache(model.config, 1)
    cache = RaggedCache(model.config, 0)
    with torch.no_grad():
        model(**full.inputs(ids))
        full.commit(torch.tensor([10]))
        cache.join(full)
        assert cache.lens.tolist() == [10] and cache.nbytes() == full.nbytes()
        got = model(**cache.inputs(ids[:, :3])).logits
        expected = model(torch.cat([ids, ids[:, :3]], dim=1)).logits[:, 10:]
        assert torch.allclose(got, expected, atol=2e-5)
        cache.compact(torch.tensor([], dtype=torch.long))
        assert len(cache.lens) == 0


def test_rows_that_have_read_nothing_join_too():
    model = build("Llama").double()
    ids = tokens(9, batch=2)
    for read in ((0, 1), (1, 0)):  # which of the two has read its row
        caches = [RaggedCache(model.config, 1) for _ in read]
        with torch.no_grad():
            for row, (cache, before) in enumerate(zip(caches, read, strict=True)):
                if before:
                    model(**cache.inputs(ids[row : row + 1, :6]))
                    cache.commit(torch.tensor([6]))
            caches[0].join(caches[1])
            new = torch.stack([ids[row, 6 * before : 6 * before + 3] for row, before in enumerate(read)])
            got = model(**caches[0].inputs(new)).logits
            for row, before in enumerate(read):
                expected = model(ids[row : row + 1, : 6 * before + 3]).logits[0, 6 * before :]
                assert torch.allclose(got[row], expected)


def test_what_was_read_is_forgotten_row_by_row():
    model = build("Llama").double()
    ids = tokens(12, batch=2)
    cache = RaggedCache(model.config, 2)
    with torch.no_grad():
        model(**cache.inputs(ids))
        cache.commit(torch.tensor([12, 12]))
        cache.truncate(torch.tensor([5, 9]))
        got = model(**cache.inputs(ids[:, :1])).logits[:, 0]
        for row, length in enumerate((5, 9)):
            alone = torch.cat([ids[row, :length], ids[row, :1]])[None]
            assert torch.allclose(got[row], model(alone).logits[0, -1])
    with pytest.raises(InvalidInputError, match="cannot be cut"):
        cache.truncate(torch.tensor([6, 6]))


def test_growth_is_rare_and_memory_bounded(monkeypatch):
    copies = []
    grown = module.grown
    monkeypatch.setattr(module, "grown", lambda *args: copies.append(args) or grown(*args))
    config = tiny("Llama").config
    cache = RaggedCache(config, 2)
    key, value = torch.randn(2, 2, 1, 16), torch.randn(2, 2, 1, 16)
    for step in range(3000):
        cache._pending = 1
        cache.layers[0].update(key, value)
        cache.commit(torch.tensor([1, step % 2]))
    assert len(copies) <= 2 * 16
    assert cache.layers[0].keys.shape[2] <= 1.3 * 3000
    assert cache.get_seq_length() == 3000 and cache.get_mask_sizes(2, 0) == (3002, 0)


def test_bad_input():
    config = tiny("Llama").config
    with pytest.raises(InvalidInputError, match="batch_size is at least 0 and capacity at least 1"):
        RaggedCache(config, -1)
    cache = RaggedCache(config, 2)
    with pytest.raises(InvalidInputError, match="each of 2 rows; got 3x4"):
        cache.inputs(tokens(4, batch=3))
    with pytest.raises(InvalidInputError, match="0 to 4 new tokens"):
        cache.inputs(tokens(4, batch=2), torch.tensor([1, 5]))
    cache.inputs(tokens(4, batch=2))
    for wrong in ([1], [-1, 2], [0, 5]):
        with pytest.raises(InvalidInputError, match="keeps 0 to 4 tokens"):
            cache.commit(torch.tensor(wrong))
    with pytest.raises(InvalidInputError, match="cache has 2 rows and the input 1"):
        cache.layers[0].update(torch.zeros(1, 2, 1, 16), torch.zeros(1, 2, 1, 16))
    with pytest.raises(InvalidInputError, match="not the keys and values of all tokens"):
        RaggedCache(build("Mamba", state_size=4).config, 1)
    flash = build("Llama")
    flash.config._attn_implementation_internal = "flash_attention_2"
    cache = RaggedCache(flash.config, 2)
    cache.inputs(tokens(4, batch=2))  # rows of one length need no mask
    cache.commit(torch.tensor([1, 2]))
    with pytest.raises(InvalidInputError, match="takes no mask for rows of different lengths"):
        cache.inputs(tokens(4, batch=2))

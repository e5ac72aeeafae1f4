from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, T5Config

from byteloom.errors import InvalidInputError
from byteloom.evaluate.bits_per_byte import bits_per_byte
from byteloom.generate.word_synchronous import word_synchronous
from byteloom.models.word_pooled import WordPooledConfig, WordPooledForCausalLM
from byteloom.tokenize.words import FIRST, LAST, WordSplitter
from tests.models.families import build as build_causal
from tests.reference import word_pooled as reference

torch.set_num_threads(1)
WORDS = WordSplitter()
TEXT = b"Hello there, general 1234 Kenobi!! extraordinarily long words  and\nmore x"


def backbone(**changes) -> dict:
    shape = {"vocab_size": 1, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    nothing = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    return LlamaConfig(**{**shape, **heads, **nothing, **changes}).to_dict()


def new(prefix: int = 1, **changes) -> WordPooledForCausalLM:
    torch.manual_seed(0)
    shape = {"backbone": backbone(), "byte_hidden_size": 32, "num_heads": 4, "num_prefix": prefix}
    return WordPooledForCausalLM(WordPooledConfig(**{**shape, **changes})).eval()


@cache
def model(prefix: int = 1) -> WordPooledForCausalLM:
    return new(prefix)


def ids(data: bytes, start: bool = True) -> torch.Tensor:
    return torch.tensor([[0] * start + WORDS.encode(data).tolist()])


def batch(*texts: bytes, side: str = "left") -> dict[str, torch.Tensor]:
    rows = [ids(text)[0].tolist() for text in texts]
    longest = max(map(len, rows))
    padding = [[0] * (longest - len(row)) for row in rows]
    pairs = list(zip(padding, rows, strict=True))
    masks = [[*pad, *[1] * len(row)] if side == "left" else [*[1] * len(row), *pad] for pad, row in pairs]
    filled = [[2] * len(pad) + row if side == "left" else row + [2] * len(pad) for pad, row in pairs]
    return {"input_ids": torch.tensor(filled), "attention_mask": torch.tensor(masks)}


def same(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return torch.equal(one.isinf(), other.isinf()) and torch.allclose(
        one.nan_to_num(neginf=0), other.nan_to_num(neginf=0), atol=tolerance
    )


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=1, max_size=60), st.sampled_from([1, 4]), st.booleans(), st.integers(0, 3))
def test_logits_are_those_of_words_one_by_one(data, prefix, start, cut):
    row = ids(data, start)[:, cut:] if len(data) > cut else ids(data, start)  # may begin inside a word
    with torch.no_grad():
        assert same(model(prefix)(row).logits[0], reference.logits(model(prefix), row[0].tolist()))


def test_a_prompt_may_end_inside_a_word():
    whole = ids(b"some words")
    for count in range(2, whole.shape[1]):
        with torch.no_grad():
            assert same(model()(whole[:, :count]).logits[0], model()(whole).logits[0, :count])


@pytest.mark.parametrize("prefix", [1, 4])
def test_no_id_looks_ahead(prefix):
    row = ids(TEXT)
    with torch.no_grad():
        before = model(prefix)(row).logits[0]
        for place in range(1, row.shape[1]):
            other = row.clone()
            other[0, place] = FIRST + LAST + 5  # ends a word, so that none grows too long
            assert same(model(prefix)(other).logits[0, :place], before[:place])


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_do_not_see_each_other(side):
    texts = (TEXT, b"short ", b"a middling text, of 34 bytes or so")
    together = batch(*texts, side=side)
    with torch.no_grad():
        found = model()(**together).logits
        for row, text in enumerate(texts):
            assert same(found[row][together["attention_mask"][row].bool()], model()(ids(text)).logits[0])


def test_gradients_are_those_of_words_one_by_one():
    row, trained = ids(TEXT), new()
    trained(row, labels=row).loss.backward()
    found = {
        name: parameter.grad.clone() for name, parameter in trained.named_parameters() if parameter.grad is not None
    }
    trained.zero_grad()
    scores = reference.logits(trained, row[0].tolist())
    torch.nn.functional.cross_entropy(scores[:-1], row[0, 1:]).backward()
    for name, gradient in found.items():
        assert torch.allclose(gradient, dict(trained.named_parameters())[name].grad, atol=1e-4), name


@torch.no_grad()
def test_probabilities_of_all_continuations_are_one():
    first_V = model()(ids(b"the ")).logits[0, -1].double().softmax(-1)
    assert first_V.sum().item() == pytest.approx(1)
    for byte in range(0, 256, 37):
        row = torch.cat([ids(b"the "), torch.tensor([[FIRST + byte]])], 1)
        second_V = model()(row).logits[0, -1].double().softmax(-1)
        assert second_V[:FIRST].sum() == 0  # inside a word there is nothing special
        assert second_V.sum().item() == pytest.approx(1)


def test_the_last_byte_that_fits_ends_its_word():
    row = torch.tensor([[0, *[FIRST + 97] * 15]])
    scores = model()(row).logits[0, -1]
    assert scores[: FIRST + LAST].isneginf().all() and scores[FIRST + LAST :].isfinite().all()


def test_bits_per_byte_are_those_of_the_loss():
    with torch.no_grad():
        loss = model()(ids(TEXT), labels=ids(TEXT)).loss.item()
    judged = bits_per_byte(model(), WORDS, [TEXT])
    assert judged.bits_per_byte == pytest.approx(loss / torch.log(torch.tensor(2.0)).item(), rel=1e-4)
    assert judged.tokens == judged.bytes == len(TEXT)


@pytest.mark.parametrize("prefix", [1, 2])
def test_words_at_once_are_the_words_of_generate(prefix):
    texts = (b"Hello there, gen", b"short ", b"this is a longer prompt, isn't it? yes")
    for some in (texts[:1], texts):
        inputs = batch(*some)
        inputs["input_ids"][0, -1] -= LAST  # the first ends inside a word
        wanted = {"max_new_tokens": 25, "do_sample": False}
        plain = model(prefix).generate(**inputs, **wanted)
        assert torch.equal(model(prefix).generate(**inputs, **wanted, custom_generate=word_synchronous), plain)
        end = int(plain[0, inputs["input_ids"].shape[1] + 3])
        plain = model(prefix).generate(**inputs, **wanted, eos_token_id=end)
        fast = model(prefix).generate(**inputs, **wanted, eos_token_id=end, custom_generate=word_synchronous)
        assert torch.equal(fast, plain[:, : fast.shape[1]])


def test_sampling_follows_the_probabilities():
    inputs = ids(b"the ").repeat(400, 1)
    torch.manual_seed(0)
    found = model().generate(
        inputs, max_new_tokens=1, do_sample=True, top_k=3, temperature=0.7, custom_generate=word_synchronous
    )[:, -1]
    scores = model()(ids(b"the ")).logits[0, -1] / 0.7
    best = scores.topk(3)
    assert set(found.tolist()) <= set(best.indices.tolist())
    share = (found == best.indices[0]).float().mean().item()
    assert share == pytest.approx(best.values.softmax(0)[0].item(), abs=0.1)


def test_beams_run_and_are_refused_where_there_are_none():
    assert model().generate(ids(b"the "), num_beams=3, max_new_tokens=4, do_sample=False).shape[1] == 9
    with pytest.raises(InvalidInputError, match="no beams"):
        model().generate(ids(b"the "), num_beams=3, max_new_tokens=4, custom_generate=word_synchronous)
    with pytest.raises(InvalidInputError, match="WordPooledForCausalLM"):
        build_causal("Llama").generate(torch.tensor([[5]]), max_new_tokens=4, custom_generate=word_synchronous)


def test_save_and_load(tmp_path):
    model(2).save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(again, WordPooledForCausalLM) and again.config.num_prefix == 2
    with torch.no_grad():
        assert same(again(ids(TEXT)).logits, model(2)(ids(TEXT)).logits, 1e-4)


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Mistral"])
def test_a_trained_body_is_kept(family):
    causal = build_causal(family)
    pooled = WordPooledForCausalLM.with_backbone(causal, byte_hidden_size=32, num_heads=4)
    body = pooled.backbone.state_dict()
    for name, value in causal.base_model.state_dict().items():
        if not name.startswith("embed_tokens"):
            assert torch.equal(body[name], value)
    assert pooled(ids(TEXT), labels=ids(TEXT)).loss.isfinite()


def test_bf16_is_finite():
    half = new().to(torch.bfloat16)
    assert half(ids(TEXT), labels=ids(TEXT)).loss.isfinite()


def test_it_learns_a_text_by_heart():
    text = (b"All happy families are alike; each unhappy family is unhappy in its own way. " * 2)[:120]
    trained = new().train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        trained(ids(text), labels=ids(text)).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
    written = trained.eval().generate(
        ids(text)[:, :5], max_new_tokens=len(text) - 4, do_sample=False, custom_generate=word_synchronous
    )
    assert WORDS.decode(written[0].numpy()) == text


@pytest.mark.parametrize(
    "row, mask, part",
    [
        ([[5, 519]], None, "id 519"),
        ([[5, -1]], None, "id -1"),
        ([[]], None, "one id at least"),
        ([[0, *[FIRST + 97] * 17]], None, "row 0 has a word of 17 bytes at 1; the longest has 16"),
        ([[2, 2, 300]], None, "attention_mask"),
        ([[300, 301]], [[1]], "attention_mask"),
        ([[300, 301], [2, 2]], [[1, 1], [0, 0]], "row 1 holds padding only"),
        ([[FIRST + LAST] * 513], None, "513 words of 1 vectors do not fit in the 512 positions"),
    ],
)
def test_bad_input_is_refused(row, mask, part):
    with pytest.raises(InvalidInputError, match=part):
        model()(torch.tensor(row, dtype=torch.int64), None if mask is None else torch.tensor(mask))


def test_bad_shapes_are_refused():
    with pytest.raises(InvalidInputError, match="t5 is no decoder-only"):
        WordPooledConfig(backbone=T5Config().to_dict())
    with pytest.raises(InvalidInputError, match="no multiple of the 5 heads"):
        WordPooledConfig(num_heads=5)

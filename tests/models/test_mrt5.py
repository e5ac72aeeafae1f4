from __future__ import annotations

from functools import cache

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

from byteloom.errors import InvalidInputError
from byteloom.models.mrt5 import BYTE_0, MrT5Config, MrT5ForConditionalGeneration, compact, fixed_keep
from byteloom.models.softmax1 import softmax1_attention

torch.set_num_threads(1)
SHAPE = {"d_model": 48, "d_kv": 12, "d_ff": 64, "num_layers": 4, "num_decoder_layers": 2, "num_heads": 4}


@cache
def byt5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=384, feed_forward_proj="gated-gelu", decoder_start_token_id=0, dropout_rate=0.0, **SHAPE
    )
    model = T5ForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def mrt5(**gate) -> MrT5ForConditionalGeneration:
    torch.manual_seed(1)
    return MrT5ForConditionalGeneration.from_byt5(byt5(), **{"delete_gate_layer": 2, **gate}).eval()


def batch(*lengths: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for row, length in enumerate(lengths):
        input_ids[row, :length] = torch.randint(BYTE_0, 259, (length,), generator=generator)
    labels = torch.randint(BYTE_0, 259, (len(lengths), 9), generator=generator)
    return {"input_ids": input_ids, "attention_mask": (input_ids != 0).long(), "labels": labels}


def close(one: torch.Tensor, other: torch.Tensor, share: float = 1e-4) -> bool:
    return ((one - other).abs().max() <= share * other.abs().max()).item()


@torch.no_grad()
def test_without_gate_and_softmax1_it_is_t5_exactly():
    inputs = batch(30, 17)
    ours, theirs = mrt5(gate="none", softmax1=False)(**inputs), byt5()(**inputs)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.allclose(ours.loss, theirs.loss)


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 2, 4])
@pytest.mark.parametrize("softmax1", [True, False])
def test_hard_deletion_is_soft_deletion_that_hides_all(layer, softmax1):
    model, inputs = mrt5(delete_gate_layer=layer, softmax1=softmax1), batch(40, 25, 33)
    for seed in range(3):
        kept = torch.rand(3, 40, generator=torch.Generator().manual_seed(seed)) < 0.4
        kept[:, 0] = True
        gate = torch.where(kept, 0.0, -1e9)
        soft, hard = (model(**inputs, gate=gate, hard_delete=hard) for hard in (False, True))
        assert close(hard.logits, soft.logits)
        expected = [1 - kept[row, :length].float().mean().item() for row, length in enumerate((40, 25, 33))]
        assert hard.deletion_rate.tolist() == pytest.approx(expected)


def test_softmax1_is_its_formula():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 8) for _ in range(3))
    bias = torch.randn(1, 3, 5, 5)
    mask = torch.rand(2, 1, 5, 5) < 0.7
    module = torch.nn.Module()
    module.is_causal = False
    found, _ = softmax1_attention(module, query, key, value, mask, scaling=0.5, position_bias=bias)
    score = (query @ key.transpose(2, 3) * 0.5 + bias).masked_fill(~mask, -torch.inf)
    weight = score.exp() / (1 + score.exp().sum(-1, keepdim=True))
    assert (weight.sum(-1) < 1).all()
    assert torch.allclose(found, (weight @ value).transpose(1, 2), atol=1e-5)
    nothing, _ = softmax1_attention(module, query, key, value, torch.zeros_like(mask), scaling=0.5)
    assert not nothing.any()
    query.requires_grad_()
    softmax1_attention(module, query, key, value, torch.zeros_like(mask), scaling=0.5)[0].sum().backward()
    assert query.grad.isfinite().all()


def test_softmax1_without_a_mask_is_causal_where_the_module_is():
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 6, 8) for _ in range(3))
    module = torch.nn.Module()
    module.is_causal = True
    found, _ = softmax1_attention(module, query, key, value, None)
    explicit, _ = softmax1_attention(module, query, key, value, torch.ones(6, 6, dtype=torch.bool).tril()[None, None])
    assert torch.allclose(found, explicit, atol=1e-6)
    last, _ = softmax1_attention(module, query[:, :, -2:], key, value, None)
    assert torch.allclose(last, explicit[:, -2:], atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("hard", [False, True])
def test_rows_do_not_see_each_other(hard):
    model, lengths = mrt5(), (40, 9, 27)
    inputs = batch(*lengths)
    together = model(**inputs, hard_delete=hard).logits
    for row, length in enumerate(lengths):
        alone = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
        alone |= {name: alone[name][:, :length] for name in ("input_ids", "attention_mask")}
        assert close(model(**alone, hard_delete=hard).logits[0], together[row], 1e-4)


@torch.no_grad()
def test_keeping_everything_is_having_no_gate():
    inputs = batch(30, 17)
    kept = mrt5()(**inputs, gate=torch.zeros(2, 30), hard_delete=True)
    assert close(kept.logits, mrt5(gate="none")(**inputs).logits, 1e-5)
    assert kept.deletion_rate.tolist() == [0, 0]


@torch.no_grad()
def test_kept_positions_are_in_order_and_at_least_one_stays():
    inputs = batch(30, 12)
    for gate in (
        mrt5().encoder(**{k: inputs[k] for k in ("input_ids", "attention_mask")}).gate,
        torch.full((2, 30), -30.0),
    ):
        output = mrt5()(**inputs, gate=gate)
        for row, positions in enumerate(output.kept_positions):
            kept = positions[positions >= 0]
            assert len(kept) >= 1 and (kept.diff() > 0).all() and kept.max() < (30, 12)[row]
    states, kept = torch.arange(10.0).view(1, 10, 1), torch.rand(1, 10) < 0.5
    kept[0, 3] = True
    moved, positions = compact(states, kept)
    assert torch.equal(moved[0, :, 0], positions[0].float())


def test_the_gate_learns_from_positions_that_others_attend_to():
    model = mrt5().train()
    output = model(**batch(20, 20))
    assert output.kept_positions.shape == (2, 20)  # nothing is removed in training
    output.loss.backward()
    gate = model.encoder.gate
    assert gate.feed_forward.weight.grad.abs().sum() > 0 and gate.feed_forward.bias.grad.abs() > 0
    logit = torch.zeros(2, 20, requires_grad=True)
    model(**batch(20, 20), gate=-30 * torch.sigmoid(-logit)).loss.backward()
    assert (logit.grad != 0).all()


@torch.no_grad()
def test_greedy_generation_is_a_loop_of_forwards():
    model, inputs = mrt5(), batch(30, 11)
    del inputs["labels"]
    written = model.generate(**inputs, max_new_tokens=7, do_sample=False)
    for row, length in enumerate((30, 11)):
        ids = torch.zeros(1, 1, dtype=torch.int64)
        source = inputs["input_ids"][row : row + 1, :length]
        while ids.shape[1] < 8 and (ids.shape[1] == 1 or ids[0, -1] != 1):
            logits = model(input_ids=source, decoder_input_ids=ids).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
        assert torch.equal(written[row, : ids.shape[1]], ids[0])
    assert model.generate(**inputs, num_beams=4, max_new_tokens=5).shape[0] == 2


@torch.no_grad()
@pytest.mark.parametrize("gate", ["learned", "random", "fixed", "none"])
def test_gates_of_all_kinds_run_save_and_load(gate, tmp_path):
    model, inputs = mrt5(gate=gate, gate_rate=0.5), batch(40, 20)
    torch.manual_seed(3)
    output = model(**inputs)
    if gate == "random":
        assert output.deletion_rate.tolist() == [0.5, 0.5]
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert isinstance(again, MrT5ForConditionalGeneration) and again.config.gate == gate
    torch.manual_seed(3)
    assert close(again(**inputs).logits, output.logits, 1e-5)
    if gate == "learned":
        assert "encoder.block.2.delete_gate.feed_forward.weight" in model.state_dict()


def test_the_fixed_gate_keeps_the_beginnings_of_pieces():
    text = b"hello, a world of  seven\n"
    ids = torch.tensor([[byte + BYTE_0 for byte in text] + [1], [BYTE_0 + 97] * (len(text) + 1)])
    kept = fixed_keep(ids, 0.5)
    letters = "".join(chr(byte) if keep else "_" for byte, keep in zip(text, kept[0].tolist(), strict=False))
    assert letters == "hel___ a_wor___of_ sev___"[: len(letters)]
    assert kept[1].sum() == 13


def test_bf16_is_finite():
    half = mrt5().to(torch.bfloat16)
    output = half(**batch(20, 13))
    assert output.loss.isfinite() and output.logits.isfinite().all()


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"delete_gate_layer": 5}, "delete_gate_layer 5 is not from 0 to the 4"),
        ({"delete_gate_layer": -1}, "delete_gate_layer -1"),
        ({"gate_scale": 0.0}, "gate_scale"),
        ({"gate_rate": 1.0}, "gate_rate"),
        ({"gate": "some"}, "learned, random, fixed, none"),
    ],
)
def test_impossible_gates_are_refused(changes, part):
    with pytest.raises(ValueError, match=part):
        MrT5Config(**SHAPE, **changes)


def test_bad_input_is_refused():
    model, inputs = mrt5(), batch(10)
    embeds = torch.randn(1, 10, 48)
    cases = [
        ({"input_ids": torch.tensor([[5, 384]])}, "id 384"),
        ({"input_ids": torch.tensor([[5, -2]])}, "id -2"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.int64)}, "row 0 is empty"),
        ({"input_ids": torch.tensor([[5, 6], [0, 0]])}, "row 1 is empty"),
        ({"inputs_embeds": embeds}, "pass attention_mask"),
        ({"input_ids": inputs["input_ids"], "attention_mask": torch.ones(1, 9)}, r"\[1, 9\]"),
        ({}, "give input_ids"),
    ]
    for arguments, part in cases:
        with pytest.raises(InvalidInputError, match=part):
            model(**arguments, labels=inputs["labels"])
    assert model(inputs_embeds=embeds, attention_mask=torch.ones(1, 10), labels=inputs["labels"]).loss.isfinite()
    with pytest.warns(UserWarning, match="not of bytes"):
        MrT5ForConditionalGeneration(MrT5Config(**{**SHAPE, "vocab_size": 32128}))

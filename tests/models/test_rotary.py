from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DynamicCache

from byteloom.errors import UnsupportedPositionError
from byteloom.models.attention import CACHE_KEYWORD, attach
from byteloom.models.rotary import KeyRotation
from tests.models.families import build, tiny, tokens

ROTARY = ["Llama", "Qwen2", "Qwen3", "Mistral", "GPTNeoX", "Phi", "Gemma2", "SmolLM3"]
MORE = {
    "linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}),
    "yarn": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 10000.0,
                "original_max_position_embeddings": 1024,
            }
        },
    ),
    "llama3": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 8.0,
                "rope_theta": 10000.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 1024,
            }
        },
    ),
    "two tables": (
        "Gemma3",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 512,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "interleaved": ("Cohere", {}),
    "interleaved and partial": ("Glm4", {"head_dim": 16}),
}


def filled(model: torch.nn.Module, ids: torch.Tensor, start: int) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    positions = torch.arange(start, start + ids.shape[1])[None]
    with torch.no_grad():
        model(ids, position_ids=positions, attention_mask=torch.ones_like(ids), **{CACHE_KEYWORD: cache})
    return cache


def largest_error(model: torch.nn.Module, start: int, delta: int) -> float:
    rotation = KeyRotation.from_model(model)
    ids = tokens(20, batch=2)
    before, after = filled(model, ids, start), filled(model, ids, start + delta)
    errors = []
    for index, (old, new) in enumerate(zip(before.layers, after.layers, strict=True)):
        scale = new.keys.abs().max()
        errors.append(((rotation.shift(old.keys, delta, index) - new.keys).abs().max() / scale).item())
        # Equal values show that only relative positions count.
        errors.append(((old.values - new.values).abs().max() / new.values.abs().max()).item())
    return max(errors)


@pytest.mark.parametrize("family", ROTARY)
@pytest.mark.parametrize("start, delta", [(0, 1), (0, 57), (100, -9)])
def test_shifted_keys_are_the_keys_of_the_shifted_text(family, start, delta):
    sliding = {"sliding_window": 512} if family == "Gemma2" else {}
    assert largest_error(tiny(family, **sliding), start, delta) < 2e-5


@pytest.mark.parametrize("kind", MORE)
def test_other_layouts_and_rope_types(kind):
    family, changes = MORE[kind]
    assert largest_error(build(family, **changes), 3, 57) < 2e-5


def test_sixteen_bits_stay_in_their_bounds():
    model = build("Llama").to(torch.bfloat16)
    assert largest_error(model, 0, 57) < 0.05


def test_layers_without_positions_are_found():
    rotation = KeyRotation.from_model(tiny("SmolLM3"))
    assert rotation.kinds == ("rotary", "none", "rotary")
    keys = torch.randn(1, 2, 3, 16)
    assert rotation.shift(keys, 5, 1) is keys
    assert rotation.shift(keys, 0, 0) is keys


def test_delta_by_token_and_by_row():
    rotation = KeyRotation.from_model(tiny("GPTNeoX"))
    keys = torch.randn(2, 4, 3, 16, generator=torch.Generator().manual_seed(0))
    by_token = rotation.shift(keys, torch.tensor([1, -4, 9]), 0)
    by_row = rotation.shift(keys, torch.tensor([[1, -4, 9], [0, 2, 2]]), 0)
    for token, delta in enumerate([1, -4, 9]):
        one = rotation.shift(keys[:, :, token : token + 1], delta, 0)
        torch.testing.assert_close(by_token[:, :, token : token + 1], one)
    torch.testing.assert_close(by_row[0], by_token[0])
    torch.testing.assert_close(by_row[1, :, 1:], rotation.shift(keys[1:, :, 1:], 2, 0)[0])
    torch.testing.assert_close(by_row[1, :, 0], keys[1, :, 0])
    width = 4  # a quarter of each head is rotated
    assert torch.equal(by_token[..., width:], keys[..., width:])


@pytest.mark.parametrize("family", ["Llama", "GPTNeoX", "Cohere"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_place_block_by_block(family, dtype, monkeypatch):
    rotation = KeyRotation.from_model(tiny(family))
    keys = torch.randn(2, 2, 50, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    for delta in (0, -9, torch.arange(40) % 3, torch.arange(80).view(2, 40)):
        expected, turned = rotation.shift(keys[:, :, 5:45], delta, 1), keys.clone()
        monkeypatch.setattr("byteloom.models.rotary.TURN_BLOCK", 7)
        rotation.shift_(turned[:, :, 5:45], delta, 1)
        monkeypatch.undo()
        assert torch.equal(turned[:, :, 5:45], expected)
        assert torch.equal(turned[:, :, :5], keys[:, :, :5]) and torch.equal(turned[:, :, 45:], keys[:, :, 45:])


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 5e-6), (torch.float16, 0.005), (torch.bfloat16, 0.04)])
def test_drift_of_a_hundred_shifts(dtype, bound):
    rotation = KeyRotation.from_model(tiny("Llama"))
    generator = torch.Generator().manual_seed(1)
    keys = torch.randn(1, 2, 64, 16, generator=generator)
    shifted, total = keys.to(dtype), 0
    for delta in torch.randint(-500, 500, (100,), generator=generator).tolist():
        shifted, total = rotation.shift(shifted, delta, 0), total + delta
    error = (shifted.float() - rotation.shift(keys, total, 0)).norm() / keys.norm()
    assert error < bound
    assert shifted.dtype == dtype


def test_the_measurement_is_made_once_and_leaves_the_model_alone():
    model = build("Llama").train()
    rotation = KeyRotation.from_model(model)
    assert KeyRotation.from_model(model) is rotation
    assert model.training
    with attach(build("Llama")) as attached:
        assert KeyRotation.from_model(attached._model).kinds == rotation.kinds


@pytest.mark.parametrize(
    "family, changes, message",
    [
        (
            "Llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
            "depend on the length",
        ),
        (
            "Phi3",
            {
                "max_position_embeddings": 4096,
                "original_max_position_embeddings": 2048,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "short_factor": [1.0] * 8,
                    "long_factor": [4.0] * 8,
                    "factor": 2.0,
                    "original_max_position_embeddings": 2048,
                },
            },
            "depend on the length",
        ),
        (
            "DeepseekV3",
            {
                "n_routed_experts": 4,
                "n_group": 1,
                "topk_group": 1,
                "num_experts_per_tok": 2,
                "kv_lora_rank": 16,
                "q_lora_rank": 16,
                "qk_rope_head_dim": 8,
                "qk_nope_head_dim": 8,
                "v_head_dim": 16,
                "num_key_value_heads": 4,
            },
            "values that know their position|cannot be undone",
        ),
        ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}, "no rotary embedding"),
        ("OPT", {"word_embed_proj_dim": 64, "ffn_dim": 64}, "no rotary embedding"),
        ("Mpt", {"d_model": 32, "n_heads": 2, "n_layers": 2}, "in its own code"),
        ("Bloom", {"n_head": 4, "n_layer": 2}, "in its own code"),
        ("GPTJ", {"n_embd": 64, "n_layer": 2, "n_head": 2, "rotary_dim": 8}, "no rotary|in its own code"),
        ("Mamba", {"state_size": 4}, "in its own code"),
    ],
)
def test_positions_that_cannot_be_moved_are_refused(family, changes, message):
    with pytest.raises(UnsupportedPositionError, match=message) as error:
        KeyRotation.from_model(build(family, **changes))
    assert "\n" not in str(error.value)


def test_a_rotation_that_nothing_explains_is_refused():
    model = build("Llama")
    model.model.rotary_emb.register_forward_hook(lambda module, args, output: tuple(part**3 for part in output))
    with pytest.raises(
        UnsupportedPositionError, match="layer 0 of LlamaForCausalLM turns its keys in a way that cannot be undone"
    ):
        KeyRotation.from_model(model)


def test_an_ambiguous_rotation_is_refused():
    """Turning by next to nothing and not turning at all look alike over 17 positions."""
    rope = {"rope_type": "linear", "factor": 1e9, "rope_theta": 10000.0}
    with pytest.raises(UnsupportedPositionError, match="that several rotations explain alike"):
        KeyRotation.from_model(build("Llama", rope_parameters=rope))

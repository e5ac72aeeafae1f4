"""Tiny random causal language models of many families, whose attention is far from uniform."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel

from byteloom.tokenize import byte_tokenizer
from byteloom.train.plan import Backbone

SHARED = {
    "vocab_size": 61,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
    "attention_dropout": 0.0,
}
FAMILIES = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Mistral": {"sliding_window": None},
    "GPTNeoX": {"rotary_pct": 0.25},
    "Phi": {},
    "Gemma2": {"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16},
    "SmolLM3": {"no_rope_layers": [1, 0, 1]},
}


@cache
def tiny(family: str, **changes: object) -> PreTrainedModel:
    """A model of `family`, float32, the same for every call; do not change it."""
    return build(family, **changes)


def build(family: str, **changes: object) -> PreTrainedModel:
    """A new model of `family`, float32, in evaluation mode."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = getattr(transformers, "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config")(
        **{**SHARED, **FAMILIES.get(family, {}), **changes}
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.pad_token_id = 0
    return model


def tokens(count: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Random ids [batch, count], none of them special."""
    return torch.randint(2, SHARED["vocab_size"], (batch, count), generator=torch.Generator().manual_seed(seed))


def save_byte_model(folder: Path, window: int) -> Path:
    """An untrained model of bytes and its tokenizer, as `byteloom fit` leaves them: what it writes is noise."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(Backbone(32, 1, 2, window).config(263)).save_pretrained(folder)
    byte_tokenizer().save(folder)
    return folder

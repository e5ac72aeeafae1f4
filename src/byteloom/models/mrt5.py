"""MrT5: a ByT5 that drops the bytes which it no longer needs after its first encoder blocks.

A gate behind `delete_gate_layer` blocks says of each byte whether the rest of the encoder and the decoder's
cross-attention may still see it; what is kept has absorbed what is dropped. In training gates are added to attention
scores (soft deletion); at inference sequences are made shorter (hard deletion), which saves time by more, the longer
the input. Use it where you would fine-tune ByT5: noisy text, spelling, many scripts, assembly; `from_byt5` puts the
gate on a checkpoint of ByT5. Train it with `byteloom.train.mrt5`, which steers the share of deleted bytes.
Source: MrT5: Dynamic Token Merging for Efficient Byte-level Language Models, Kallini et al., ICLR 2025, arXiv
2410.20771; names of weights are those of its checkpoints. Cost: at 50 % deletion 0.64 of ByT5-small's multiplications
at 1,024 bytes.
"""

# Shape suffixes: B batch, N input bytes, M kept bytes, T target bytes, D hidden size, H heads.

from __future__ import annotations

import string
import warnings
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.models.t5.modeling_t5 import T5LayerNorm, T5Stack

from byteloom.errors import InvalidInputError
from byteloom.models.attention import CACHE_KEYWORD
from byteloom.models.softmax1 import NAME as SOFTMAX1

PAD, END, BYTE_0, SENTINEL_0, VOCABULARY = 0, 1, 3, 259, 384
"""Ids of ByT5: padding, end, byte 0, the first of 125 sentinels, and how many there are."""
Gate = Literal["learned", "random", "fixed", "none"]

_SEPARATORS = frozenset(BYTE_0 + byte for byte in f"\t\n {string.punctuation}".encode()) | {END}


class MrT5Config(T5Config):
    """A T5Config with a gate. Without arguments it has the vocabulary of ByT5.

    delete_gate_layer: encoder blocks before the gate. gate_scale: what a deleted byte's gate adds to scores. gate:
    "learned"; "random" or "fixed", the paper's baselines, which delete the share gate_rate; "none" for a ByT5.
    softmax1: let a query attend to nothing. Raises InvalidInputError for values out of range.
    """

    model_type = "mrt5"

    vocab_size: int = VOCABULARY
    feed_forward_proj: str = "gated-gelu"
    decoder_start_token_id: int | None = PAD
    delete_gate_layer: int = 3
    gate_scale: float = -30.0
    gate: Gate = "learned"
    gate_rate: float = 0.5
    softmax1: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if not 0 <= self.delete_gate_layer <= self.num_layers:
            raise InvalidInputError(
                f"delete_gate_layer {self.delete_gate_layer} is not from 0 to the {self.num_layers} encoder blocks"
            )
        if not self.gate_scale < 0:
            raise InvalidInputError(f"gate_scale is below 0, so that it hides; got {self.gate_scale}")
        if not 0 <= self.gate_rate < 1:
            raise InvalidInputError(f"gate_rate, a share of the bytes, lies from 0 to below 1; got {self.gate_rate}")
        if self.gate not in get_args(Gate):
            raise InvalidInputError(f"the gate is one of {', '.join(get_args(Gate))}, not {self.gate!r}")


@dataclass
class MrT5EncoderOutput(BaseModelOutput):
    """What the encoder gives. All of it has a batch dimension, so that beam search can repeat it.

    last_hidden_state: float [B, M, D]. kept_mask: int64 [B, M]. kept_positions: int64 [B, M], -1 in padding. gate:
    float [B, N], from gate_scale (deleted) to 0 (kept). key_bias: float [B, M], what soft deletion adds to the scores
    of keys. deletion_rate, mean_gate: float [B], over the bytes that are no padding.
    """

    kept_mask: Tensor | None = None
    kept_positions: Tensor | None = None
    gate: Tensor | None = None
    key_bias: Tensor | None = None
    deletion_rate: Tensor | None = None
    mean_gate: Tensor | None = None


@dataclass
class MrT5Seq2SeqLMOutput(Seq2SeqLMOutput):
    """A Seq2SeqLMOutput with the gate; its fields are those of `MrT5EncoderOutput`."""

    gate: Tensor | None = None
    kept_positions: Tensor | None = None
    deletion_rate: Tensor | None = None
    mean_gate: Tensor | None = None


class DeleteGate(nn.Module):
    """A gate for each position: scale x sigmoid(-logit), where the logit is a linear function of the normed state."""

    def __init__(self, config: MrT5Config) -> None:
        super().__init__()
        self.layer_norm = T5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.feed_forward = nn.Linear(config.d_model, 1)
        self.scale = config.gate_scale

    def forward(self, states_BND: Tensor) -> Tensor:
        """float [B, N], between the scale and 0."""
        return self.scale * torch.sigmoid(-self.feed_forward(self.layer_norm(states_BND)).squeeze(-1))


class MrT5Stack(T5Stack):
    """T5's encoder with a gate behind `delete_gate_layer` blocks."""

    def __init__(self, config: MrT5Config) -> None:
        super().__init__(config)
        if config.gate == "learned" and config.delete_gate_layer < config.num_layers:
            self.block[config.delete_gate_layer].delete_gate = DeleteGate(config)  # where its checkpoints have it
        elif config.gate == "learned":
            self.delete_gate = DeleteGate(config)
        self.post_init()

    @property
    def gate(self) -> DeleteGate | None:
        """The learned gate, if there is one."""
        layer = self.config.delete_gate_layer
        owner = self.block[layer] if layer < self.config.num_layers else self
        return getattr(owner, "delete_gate", None)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        hard_delete: bool | None = None,
        gate: Tensor | None = None,
        **kwargs: Any,
    ) -> MrT5EncoderOutput:
        """hard_delete: shorten the sequences; default: when not in training. gate: float [B, N], instead of the own."""
        hard = not self.training if hard_delete is None else hard_delete
        if input_ids is None and inputs_embeds is None:
            raise InvalidInputError("give input_ids or inputs_embeds")
        mask_BN = self._checked_mask(input_ids, inputs_embeds, attention_mask)
        states_BND = self.dropout(self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds)
        places_BN = torch.arange(mask_BN.shape[1], device=mask_BN.device).expand_as(mask_BN)
        padding_B11N = _hide(mask_BN, states_BND.dtype)
        bias_BHNN = self._position_bias(places_BN[:1]) + padding_B11N
        gate_BN = key_bias_BM = None
        kept_BN = mask_BN.bool()
        positions_BM = torch.where(kept_BN, places_BN, -1)
        for number in range(self.config.num_layers + 1):
            if number == self.config.delete_gate_layer and (self.config.gate != "none" or gate is not None):
                gate_BN = self._gates(states_BND, input_ids, mask_BN) if gate is None else gate.to(states_BND.dtype)
                gate_BN = gate_BN.masked_fill(mask_BN == 0, self.config.gate_scale)
                if hard:
                    kept_BN = self._kept(gate_BN, mask_BN)
                    states_BND, positions_BM = compact(states_BND, kept_BN)
                    bias_BHNN = self._position_bias(positions_BM) + _hide(positions_BM >= 0, states_BND.dtype)
                else:
                    key_bias_BM = gate_BN
                    bias_BHNN = bias_BHNN + gate_BN[:, None, None, :]
            if number < self.config.num_layers:
                states_BND = self.block[number](states_BND, None, bias_BHNN)[0]
        states_BND = self.dropout(self.final_layer_norm(states_BND))
        length_B = mask_BN.sum(1)
        rate_B = mean_B = None
        if gate_BN is not None:
            deleted_BN = (gate_BN <= self.config.gate_scale / 2) & (mask_BN == 1)
            rate_B = deleted_BN.sum(1) / length_B
            mean_B = (gate_BN * mask_BN).sum(1) / length_B
        return MrT5EncoderOutput(
            last_hidden_state=states_BND,
            kept_mask=(positions_BM >= 0).long(),
            kept_positions=positions_BM,
            gate=gate_BN,
            key_bias=key_bias_BM,
            deletion_rate=rate_B,
            mean_gate=mean_B,
        )

    def _checked_mask(self, ids_BN: Tensor | None, embeds: Tensor | None, mask_BN: Tensor | None) -> Tensor:
        """int64 [B, N]: 1 where there is a byte. Raises InvalidInputError for ids that are none and empty rows."""
        given = ids_BN if ids_BN is not None else embeds
        assert given is not None
        shape = given.shape[:2]
        if ids_BN is not None and ids_BN.numel() and (ids_BN.min() < 0 or ids_BN.max() >= self.config.vocab_size):
            wrong = int(ids_BN.max()) if ids_BN.max() >= self.config.vocab_size else int(ids_BN.min())
            raise InvalidInputError(f"id {wrong} is none of the model's {self.config.vocab_size}")
        if mask_BN is None:
            if ids_BN is None and self.config.gate == "learned":
                raise InvalidInputError("the gate needs to know the padding; pass attention_mask with inputs_embeds")
            mask_BN = (
                (ids_BN != self.config.pad_token_id).long() if ids_BN is not None else given.new_ones(shape).long()
            )
        if mask_BN.shape != shape:
            raise InvalidInputError(f"the attention_mask is {list(mask_BN.shape)}, but the input {list(shape)}")
        if not shape[1] or (mask_BN.sum(1) == 0).any():
            row = int((mask_BN.sum(1) == 0).int().argmax()) if shape[1] else 0
            raise InvalidInputError(f"row {row} is empty or padding only; give every row a byte at least")
        return mask_BN.long()

    def _gates(self, states_BND: Tensor, ids_BN: Tensor | None, mask_BN: Tensor) -> Tensor:
        if (gate := self.gate) is not None:
            return gate(states_BND)
        if self.config.gate == "random":
            order_BN = torch.rand(mask_BN.shape, device=mask_BN.device).masked_fill(mask_BN == 0, 2)
            rank_BN = order_BN.argsort(1).argsort(1)
            deleted_BN = rank_BN < torch.round(self.config.gate_rate * mask_BN.sum(1, keepdim=True))
        else:
            if ids_BN is None:
                raise InvalidInputError("the fixed gate looks at bytes; give input_ids")
            deleted_BN = ~fixed_keep(ids_BN, self.config.gate_rate)
        return deleted_BN.to(states_BND.dtype) * self.config.gate_scale

    def _kept(self, gate_BN: Tensor, mask_BN: Tensor) -> Tensor:
        """bool [B, N]: gates above half of the scale, and of a row without any the highest."""
        kept_BN = (gate_BN > self.config.gate_scale / 2) & (mask_BN == 1)
        highest_BN = F.one_hot(gate_BN.masked_fill(mask_BN == 0, -torch.inf).argmax(1), gate_BN.shape[1]).bool()
        return kept_BN | (highest_BN & ~kept_BN.any(1, keepdim=True))

    def _position_bias(self, positions_BM: Tensor) -> Tensor:
        """float [B, H, M, M] of the original positions: no larger tensor is made."""
        attention = self.block[0].layer[0].SelfAttention
        bucket_BMM = attention._relative_position_bucket(
            positions_BM[:, None, :] - positions_BM[:, :, None],
            bidirectional=True,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        return attention.relative_attention_bias(bucket_BMM).permute(0, 3, 1, 2)


class MrT5ForConditionalGeneration(T5ForConditionalGeneration):
    """ByT5 with a gate; `generate` and the Trainer work as with T5.

    With `hard_delete=None` it deletes softly in training and hard otherwise. The gate gets no gradient from hard
    deletion. Outputs carry gate, kept_positions and deletion_rate.
    """

    config_class = MrT5Config
    config: MrT5Config

    def __init__(self, config: MrT5Config) -> None:
        super().__init__(config)
        if config.vocab_size > 2 * VOCABULARY:
            warnings.warn(
                f"a vocabulary of {config.vocab_size} is not of bytes; deletion was shown to work on bytes",
                stacklevel=2,
            )
        self.encoder: Any = MrT5Stack(self.encoder.config)
        if config.softmax1:
            for stack in (self.encoder, self.decoder):
                stack.config._attn_implementation = SOFTMAX1
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DeleteGate):  # most bytes begin kept
            nn.init.xavier_uniform_(module.feed_forward.weight)
            nn.init.ones_(module.feed_forward.bias)

    @classmethod
    def from_byt5(cls, model: T5ForConditionalGeneration, **gate: Any) -> Self:
        """`model` with a new gate; `gate`: fields of MrT5Config. Without gate and softmax1 its logits stay the same."""
        settings = {key: value for key, value in model.config.to_dict().items() if key != "model_type"}
        config = MrT5Config(**{**settings, **gate})
        config.scale_decoder_outputs = model.config.scale_decoder_outputs
        gated = cls(config).to(model.dtype)
        gated.load_state_dict(model.state_dict(), strict=False)
        return gated

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: MrT5EncoderOutput | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        hard_delete: bool | None = None,
        gate: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> MrT5Seq2SeqLMOutput:
        """labels: int64 [B, T], -100 where nothing counts; then the output has the mean cross entropy as its loss.

        gate: float [B, N], instead of what the model says of its input. Raises InvalidInputError for bad input.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                hard_delete=hard_delete,
                gate=gate,
            )
        if labels is not None and decoder_input_ids is None:
            decoder_input_ids = self._shift_right(labels)
        states_BMD = encoder_outputs.last_hidden_state
        bias = None
        if encoder_outputs.key_bias is not None:
            bias = encoder_outputs.key_bias[:, None, None, :].expand(-1, self.config.num_heads, -1, -1)
        inputs = {"input_ids": decoder_input_ids, "attention_mask": decoder_attention_mask, "use_cache": use_cache}
        decoded = self._decode(encoder_outputs, bias, **inputs, **kwargs)
        sequence_BTD = decoded[0]
        if self.config.scale_decoder_outputs:
            sequence_BTD = sequence_BTD * self.model_dim**-0.5
        logits_BTV = self.lm_head(sequence_BTD)
        loss = None
        if labels is not None:
            total = F.cross_entropy(logits_BTV.flatten(0, 1).float(), labels.flatten(), reduction="sum")
            loss = total / ((labels != -100).sum() if num_items_in_batch is None else num_items_in_batch)
        return MrT5Seq2SeqLMOutput(
            loss=loss,
            logits=logits_BTV,
            encoder_last_hidden_state=states_BMD,
            gate=encoder_outputs.gate,
            kept_positions=encoder_outputs.kept_positions,
            deletion_rate=encoder_outputs.deletion_rate,
            mean_gate=encoder_outputs.mean_gate,
            **{CACHE_KEYWORD: decoded.get(CACHE_KEYWORD)},
        )

    def _decode(self, encoded: MrT5EncoderOutput, bias: Tensor | None, **inputs: Any) -> Any:
        """The decoder; with soft deletion its cross-attention gets the gates as a bias of its keys."""
        hooks = []
        if bias is not None:
            crosses = [block.layer[1].EncDecAttention for block in self.decoder.block]
            hooks = [cross.register_forward_pre_hook(_with_bias(bias), with_kwargs=True) for cross in crosses]
        try:
            return self.decoder(
                encoder_hidden_states=encoded.last_hidden_state, encoder_attention_mask=encoded.kept_mask, **inputs
            )
        finally:
            for hook in hooks:
                hook.remove()


def compact(states_BND: Tensor, kept_BN: Tensor) -> tuple[Tensor, Tensor]:
    """(states [B, M, D], positions int64 [B, M], -1 in padding) of what is kept, in order, moved to the left."""
    most = int(kept_BN.sum(1).max())
    order_BN = (~kept_BN).int().argsort(dim=1, stable=True)[:, :most]
    positions_BM = torch.where(kept_BN.gather(1, order_BN), order_BN, -1)
    return states_BND.gather(1, order_BN[..., None].expand(-1, -1, states_BND.shape[-1])), positions_BM


def fixed_keep(ids_BN: Tensor, rate: float) -> Tensor:
    """bool [B, N]: of each piece that ends behind a separator (blank, punctuation, the end) its first bytes."""
    ends_BN = torch.isin(ids_BN, torch.tensor(sorted(_SEPARATORS), device=ids_BN.device))
    begins_BN = torch.cat([ends_BN.new_ones(len(ids_BN), 1), ends_BN[:, :-1]], 1)
    piece_N = begins_BN.flatten().cumsum(0) - 1
    start_P = begins_BN.flatten().nonzero()[:, 0]
    length_P = torch.diff(start_P, append=start_P.new_tensor([ids_BN.numel()]))
    place_N = torch.arange(ids_BN.numel(), device=ids_BN.device) - start_P[piece_N]
    return (place_N < torch.ceil((1 - rate) * length_P)[piece_N]).view_as(ids_BN)


def _hide(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """float [B, 1, 1, N]: what is added to scores of keys, the lowest number where there is none."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask.bool(), torch.finfo(dtype).min)[:, None, None, :]


def _with_bias(bias: Tensor) -> Any:
    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        queries = (args[0] if args else kwargs["hidden_states"]).shape[1]
        return args, kwargs | {"position_bias": bias.expand(-1, -1, queries, -1)}

    return hook


AutoConfig.register(MrT5Config.model_type, MrT5Config, exist_ok=True)
AutoModelForSeq2SeqLM.register(MrT5Config, MrT5ForConditionalGeneration, exist_ok=True)

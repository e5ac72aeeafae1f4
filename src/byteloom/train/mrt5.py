"""What MrT5 is trained with: hidden spans to fill in, and a controller that steers how many bytes it deletes.

Source: MrT5, Kallini et al., ICLR 2025, arXiv 2410.20771, section 3.2; span corruption of T5 (arXiv 1910.10683).
"""

# Shape suffixes: B batch, N input ids, T target ids.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from byteloom.errors import InvalidInputError
from byteloom.models.mrt5 import BYTE_0, END, PAD, SENTINEL_0, VOCABULARY

SENTINELS = VOCABULARY - SENTINEL_0


@dataclass(frozen=True)
class DeletionTarget:
    """The share of bytes to delete, and the gains of the controller that gets there.

    kp, ki: of the proportional and the integral part. ki = 1e-5 is the paper's, for thousands of steps; short trainings
    need about 0.05 / steps. start_alpha: weight of the gates in the loss at the beginning. delay: optimiser steps
    before the controller sets in. Raises InvalidInputError for a share outside 0 to below 1.
    """

    rate: float
    kp: float = 0.5
    ki: float = 1e-5
    start_alpha: float = 0.0
    delay: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise InvalidInputError(f"the share of bytes to delete lies from 0 to below 1; got {self.rate}")


class DeletionController:
    """Sets the weight of the gates in the loss, so that the deletion rate comes to the target. alpha: the weight."""

    def __init__(self, target: DeletionTarget) -> None:
        self.target = target
        self.alpha = target.start_alpha
        self._proportional, self._integral, self._steps = 0.0, target.start_alpha, 0

    def update(self, rate: float) -> float:
        """The next weight, after a step in which the share `rate` was deleted; never negative."""
        self._steps += 1
        if self._steps > self.target.delay:
            error = self.target.rate - rate
            self._proportional = 0.9 * self._proportional + 0.1 * self.target.kp * error
            self._integral += self.target.ki * error
            self.alpha = max(0.0, self._proportional + self._integral)
        return self.alpha

    def state_dict(self) -> dict[str, float]:
        """What `load_state_dict` goes on from."""
        return {
            "alpha": self.alpha,
            "proportional": self._proportional,
            "integral": self._integral,
            "steps": self._steps,
        }

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on where another controller was."""
        self.alpha, self._steps = state["alpha"], int(state["steps"])
        self._proportional, self._integral = state["proportional"], state["integral"]


class DeletionControl(TrainerCallback, ExportableState):
    """The controller inside a Trainer: Trainer(compute_loss_func=control.loss, callbacks=[control], ...).

    It moves once an optimiser step, whatever the accumulation, not while the model is judged; its state is part of
    every checkpoint, and a resumed training goes on with it.
    """

    def __init__(self, target: DeletionTarget) -> None:
        self.controller = DeletionController(target)
        self._rates: list[Tensor] = []  # of the micro-batches of a step

    def loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Cross entropy of `labels`, and the mean gate times the controller's weight.

        Raises InvalidInputError when the model deletes hard, from which the gate learns nothing.
        """
        total = F.cross_entropy(outputs.logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")
        count = (labels != -100).sum()
        whole = count if num_items_in_batch is None else num_items_in_batch
        loss = total / whole
        if torch.is_grad_enabled() and outputs.gate is not None:
            if outputs.kept_positions.shape[1] != outputs.gate.shape[1]:
                raise InvalidInputError("the gate learns nothing from hard deletion; train with hard_delete=None")
            self._rates.append(outputs.deletion_rate.detach().mean())
            loss = loss + self.controller.alpha * outputs.mean_gate.mean() * (count / whole)
        return loss

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on with the state of the checkpoint, if the training goes on from one."""
        kept = (state.stateful_callbacks or {}).get(type(self).__name__)
        if state.global_step and isinstance(kept, dict):
            self.controller.load_state_dict(kept["attributes"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the controller by the mean rate of the step."""
        if self._rates:
            self.controller.update(torch.stack(self._rates).mean().item())
            self._rates.clear()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": self.controller.state_dict()}


def span_corruption(
    data: bytes, length: int, density: float, mean_span: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(input ids, target ids) of ByT5: spans of `data` hidden behind sentinels 259, 260, ..., and what they hide.

    As much of `data` is used as gives `length` input ids; `density` of it is hidden, in spans of `mean_span` bytes on
    average. Sentinels are no bytes, so any file will do. Both end with the end id.
    Raises InvalidInputError for data too short to hide a byte, and for more spans than there are sentinels.
    """
    size = min(len(data), raw_length(length, density, mean_span))
    hidden = max(1, round(size * density))
    spans = max(1, round(hidden / mean_span))
    if spans > SENTINELS:
        raise InvalidInputError(
            f"{spans} spans need more than the {SENTINELS} sentinels; shorten the sequence or lengthen mean_span"
        )
    if size - hidden < spans:
        raise InvalidInputError(f"{size} bytes are too few to hide {hidden} of them in {spans} spans")
    ids = np.frombuffer(data, np.uint8, size).astype(np.int64) + BYTE_0
    holes = _parts(hidden, spans, rng)
    kept = _parts(size - hidden, spans, rng)
    inputs, targets, at = [], [], 0
    for number, (keep, hide) in enumerate(zip(kept, holes, strict=True)):
        sentinel = [np.array([SENTINEL_0 + number])]
        inputs += [ids[at : at + keep], *sentinel]
        targets += [*sentinel, ids[at + keep : at + keep + hide]]
        at += keep + hide
    end = np.array([END])
    return np.concatenate([*inputs, end]), np.concatenate([*targets, end])


def raw_length(length: int, density: float, mean_span: float) -> int:
    """The bytes that give at most `length` input ids: what stays, a sentinel for each span, and the end."""
    size = length
    while True:
        hidden = max(1, round((size + 1) * density))
        if size + 1 - hidden + max(1, round(hidden / mean_span)) + 1 > length:
            return size
        size += 1


class SpanCorruption:
    """A collator: documents, and a generator that says which spans of them are hidden.

    length: input ids of a row. The result has input_ids and attention_mask [B, N], labels and decoder_input_ids [B, T].
    """

    def __init__(self, length: int, density: float = 0.15, mean_span: float = 20.0) -> None:
        if not 0 < density < 1 or mean_span < 1:
            raise InvalidInputError(
                f"hide a share between 0 and 1, in spans from 1 byte on; got {density}, {mean_span}"
            )
        self.length, self.density, self.mean_span = length, density, mean_span

    def __call__(self, documents: Sequence[bytes], rng: np.random.Generator) -> dict[str, Tensor]:
        pairs = [span_corruption(data, self.length, self.density, self.mean_span, rng) for data in documents]
        inputs_BN = _padded([inputs for inputs, _ in pairs], PAD)
        labels_BT = _padded([targets for _, targets in pairs], -100)
        shifted_BT = F.pad(labels_BT[:, :-1], (1, 0), value=PAD)
        return {
            "input_ids": inputs_BN,
            "attention_mask": (inputs_BN != PAD).long(),
            "labels": labels_BT,
            "decoder_input_ids": shifted_BT.masked_fill(shifted_BT == -100, PAD),
        }


def _parts(total: int, count: int, rng: np.random.Generator) -> list[int]:
    """`count` positive whole numbers that add up to `total`, all ways equally likely."""
    cuts = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]])).tolist()


def _padded(rows: Sequence[npt.NDArray[np.int64]], value: int) -> Tensor:
    padded = np.full((len(rows), max(map(len, rows))), value, np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return torch.from_numpy(padded)

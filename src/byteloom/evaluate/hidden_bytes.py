"""Bits per hidden byte: how well a model that sees both sides fills in what is hidden.

Use it to compare models that do not predict the next byte, such as MrT5 and Byte2Word; it is no measure of compression,
and not comparable with bits per byte. Cost: one forward pass over every window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from byteloom.errors import InvalidInputError
from byteloom.evaluate.bits_per_byte import BitsPerByte

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Hide = Callable[[Sequence[bytes], np.random.Generator], tuple[dict[str, torch.Tensor], int]]
SHORTEST = 64  # bytes of a window that is judged


def hidden_bits_per_byte(
    model: PreTrainedModel, hide: Hide, documents: Iterable[Any], *, window: int, batch: int = 16, seed: int = 0
) -> BitsPerByte:
    """The bits of what `hide` hides in windows of `window` bytes, beside the number of hidden bytes.

    hide: (documents, generator) -> (a batch with labels, the bytes hidden in it). The same windows and seed hide the
    same. The model runs in evaluation mode on its own device, under the caller's autocast.
    Raises InvalidInputError when the documents hold no window of SHORTEST bytes.
    """
    windows = []
    for document in documents:
        view = memoryview(document).cast("B")
        windows += [bytes(view[at : at + window]) for at in range(0, len(view), window)]
    windows = sorted((each for each in windows if len(each) >= SHORTEST), key=len)
    if not windows:
        raise InvalidInputError(f"there is no window of {SHORTEST} bytes to judge the model on; name longer documents")
    was_training = model.training
    model.eval()
    bits, hidden, targets = 0.0, 0, 0
    try:
        with torch.no_grad():
            for at in range(0, len(windows), batch):
                inputs, count = hide(windows[at : at + batch], np.random.default_rng((seed, at)))
                labelled = int((inputs["labels"] != -100).sum())
                loss = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()}).loss
                bits += loss.item() * labelled / math.log(2)
                hidden += count
                targets += labelled
    finally:
        model.train(was_training)
    return BitsPerByte(bits=bits, bytes=hidden, tokens=targets)

"""Which bytes an MrT5 keeps: its gate, looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForSeq2SeqLM

from byteloom.errors import FileError, InvalidInputError
from byteloom.files import StrPath
from byteloom.models.mrt5 import BYTE_0, MrT5ForConditionalGeneration
from byteloom.tasks.continuation import load_model

KINDS = {
    "letters": lambda byte: chr(byte).isalpha() and byte < 128,
    "digits": lambda byte: 48 <= byte < 58,
    "blanks": lambda byte: byte in b" \t\n\r\v\f",
    "punctuation": lambda byte: 32 < byte < 127 and not chr(byte).isalnum(),
    "zeros": lambda byte: byte == 0,
    "other control bytes": lambda byte: (0 < byte < 32 and byte not in b"\t\n\r\v\f") or byte == 127,
    "high bytes": lambda byte: byte >= 128,
}
"""What a byte is; every byte is of one kind."""
_KIND_OF = [next(name for name, holds in KINDS.items() if holds(byte)) for byte in range(256)]


@dataclass(frozen=True)
class Survivors:
    """kept: bool [bytes], which bytes of the data the model keeps."""

    data: bytes
    kept: npt.NDArray[np.bool_]

    @property
    def deletion_rate(self) -> float:
        """The share of bytes that are dropped."""
        return float(1 - self.kept.mean())

    def rates(self) -> dict[str, float]:
        """By kind of byte that occurs, the share that is dropped."""
        kinds = np.array(_KIND_OF)[np.frombuffer(self.data, np.uint8)]
        return {kind: float(1 - self.kept[kinds == kind].mean()) for kind in KINDS if (kinds == kind).any()}


def survivors(folder: StrPath, data: bytes, *, window: int = 1024) -> Survivors:
    """What the MrT5 in `folder` keeps of `data`, window by window.

    Raises FileError when there is no model, InvalidInputError for another kind of model and for no data.
    """
    if not data:
        raise InvalidInputError("there are no bytes to look at; name a file that is not empty")
    model = load_model(folder, AutoModelForSeq2SeqLM)
    if not isinstance(model, MrT5ForConditionalGeneration):
        raise FileError(f"{folder} holds a {type(model).__name__}; survivors needs an mrt5 of `byteloom fit`")
    kept = np.zeros(len(data), bool)
    with torch.inference_mode():
        for at in range(0, len(data), window):
            ids_1N = torch.tensor([[byte + BYTE_0 for byte in data[at : at + window]]], device=model.device)
            positions_M = model.encoder(input_ids=ids_1N, hard_delete=True).kept_positions[0]
            kept[at + positions_M[positions_M >= 0].cpu().numpy()] = True
    return Survivors(data, kept)

"""A language model over bytes as a `ByteModel`: for arithmetic coding, and for training equal-info dictionaries.

Use it where counts are not enough: `train_equal_info(documents, model=CausalByteModel(model))` asks it once for each
string, in batches. `compress` and `WindowCoder` ask it once a byte, one prefix at a time, because a batch of another
shape may change the last bits of its numbers: decode on the machine, the device and the versions that encoded.
Source: the role of M1 in Training LLMs over Neurally Compressed Text, TMLR 2024, arXiv 2404.03626, section 3.7.
Cost: one forward pass over each prefix.
"""

# Shape suffixes: B prefixes in a batch, T tokens of a prefix, X the 256 bytes.

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from byteloom.errors import InvalidInputError
from byteloom.tokenize import Codec, byte_tokenizer
from byteloom.tokenize.byte_model import quantise

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CausalByteModel:
    """What a Hugging Face causal LM says about the next byte.

    model: on any device; it is asked in evaluation mode. tokenizer: which of its ids are the bytes, and its
    <|start|>, which stands before the first byte; default `byte_tokenizer()`. batch: prefixes asked about at once.
    A prefix longer than the model's max_position_embeddings is cut on the left.
    Raises InvalidInputError when the tokenizer lacks a single-byte id or <|start|>, or the model has too few ids.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Codec | None = None, *, batch: int = 256) -> None:
        tokenizer = tokenizer or byte_tokenizer()
        encoded = [tokenizer.encode(bytes([byte])) for byte in range(256)]
        if any(len(ids) != 1 for ids in encoded) or "<|start|>" not in tokenizer.special_tokens:
            raise InvalidInputError("the tokenizer must have an id for every byte, and <|start|>; use byte_tokenizer()")
        rows = model.get_input_embeddings().weight.shape[0]
        if rows < tokenizer.vocab_size:
            raise InvalidInputError(
                f"the model has {rows} token embeddings, but the tokenizer {tokenizer.vocab_size} tokens; "
                "give the tokenizer that belongs to the model"
            )
        self.model = model
        self.batch = batch
        self._byte_ids = np.concatenate(encoded).astype(np.int64)
        self._start = tokenizer.special_tokens["<|start|>"]

    @property
    def context(self) -> int:
        """How many bytes at the end of a prefix matter: the model's window."""
        return self.model.config.max_position_embeddings

    def cumulative(self, prefixes: Sequence[bytes]) -> npt.NDArray[np.uint32]:
        """uint32 [n, 257]: the table after each prefix; see `byteloom.tokenize.byte_model.ByteModel`."""
        tables = np.zeros((len(prefixes), 257), np.uint32)
        places = defaultdict(list)  # of one length, so that nothing is padded
        for place, prefix in enumerate(prefixes):
            places[min(len(prefix), self.context)].append(place)
        was_training = self.model.training
        self.model.eval()
        try:
            for _, same in sorted(places.items()):
                for at in range(0, len(same), self.batch):
                    some = same[at : at + self.batch]
                    tables[some] = quantise(self._probabilities([prefixes[place] for place in some]))
        finally:
            self.model.train(was_training)
        return tables

    def _probabilities(self, prefixes: Sequence[bytes]) -> npt.NDArray[np.float64]:
        """float [B, 256]; the prefixes have one length, or are all longer than the window."""
        inputs_BT = torch.tensor(
            [[self._start, *self._byte_ids[list(prefix[-self.context :])]][-self.context :] for prefix in prefixes]
        )
        with torch.no_grad():
            output = self.model(input_ids=inputs_BT.to(self.model.device), use_cache=False, logits_to_keep=1)
        logits_BX = output.logits[:, -1, torch.from_numpy(self._byte_ids)].double()
        return logits_BX.softmax(-1).cpu().numpy()

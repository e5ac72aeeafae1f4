"""Continue real bytes with a fitted model, or with any local causal language model of transformers.

Use it to see what a model has learned. Source: temperature, top-k (Fan et al. 2018, arXiv 1805.04833) and nucleus
sampling (Holtzman et al. 2020, arXiv 1904.09751) as transformers does them. Cost: one forward pass a token.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from byteloom.errors import ByteloomError, FileError, InvalidInputError
from byteloom.files import StrPath
from byteloom.tokenize import BPE, Tokenizer
from byteloom.tokenize.hf import ByteTokenizer
from byteloom.tokenize.loading import load_bpe
from byteloom.train.trainer import quiet_transformers


@dataclass(frozen=True)
class Continuation:
    """What a model wrote. data: the new bytes alone. ids: their tokens. prompt_tokens: those of the whole prompt;
    used_tokens: how many of the last of them the window had room for. ended: whether the model ended the document.
    tokenizer: the byte tokenizer, None for a text tokenizer."""

    data: bytes
    ids: np.ndarray
    prompt_tokens: int
    used_tokens: int
    ended: bool
    seconds: float
    tokenizer: Tokenizer | None


def continue_bytes(
    folder: StrPath,
    prompt: bytes = b"",
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Continuation:
    """Let the model in `folder` continue `prompt`; the same seed gives the same bytes on the same machine.

    temperature 0 takes the most probable token each time; top_k 0 and top_p 1 leave all tokens in. What exceeds the
    window of the model slides: the older half of it is dropped when it is full. Without a prompt the model begins a
    new document. Raises FileError when `folder` holds no model, InvalidInputError for numbers out of range and for a
    prompt that a text tokenizer cannot take.
    """
    if max_new_tokens < 1 or temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise InvalidInputError(
            "max_new_tokens must be at least 1, temperature and top_k at least 0, top_p above 0 and at most 1"
        )
    model, tokenizer = load_model(folder), _load_tokenizer(Path(folder))
    if isinstance(tokenizer, ByteTokenizer):
        start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        ids = start + tokenizer.tokenizer.encode(prompt).tolist()
        only_bytes = [token for token in tokenizer.tokenizer.special_tokens.values() if token != tokenizer.eos_token_id]
    else:
        try:
            ids = tokenizer(prompt.decode("utf-8"))["input_ids"]
        except UnicodeDecodeError as error:
            raise InvalidInputError(
                f"the tokenizer in {folder} takes text and the prompt is not UTF-8 ({error.reason} at byte "
                f"{error.start}); give a text, or a model that `byteloom fit` made"
            ) from error
        only_bytes = []
    if not ids:
        raise InvalidInputError(f"the tokenizer in {folder} makes no token of an empty prompt; give a prompt")

    window = getattr(model.config, "max_position_embeddings", None) or 1 << 30
    used = ids[-max(window // 2, window - max_new_tokens) :]
    transformers.set_seed(seed)
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p} if temperature else {"top_k": None}
    began = time.perf_counter()
    new: list[int] = []
    ended = False
    context = used
    while len(new) < max_new_tokens and not ended:
        if len(context) >= window:
            context = context[-(window // 2) :]
        room = min(max_new_tokens - len(new), window - len(context))
        ids_BT = torch.tensor([context], device=model.device)
        with torch.inference_mode():
            output_BT = model.generate(
                input_ids=ids_BT,
                attention_mask=torch.ones_like(ids_BT),
                max_new_tokens=room,
                do_sample=temperature > 0,
                suppress_tokens=only_bytes or None,
                **sampling,
            )
        written = output_BT[0, len(context) :].tolist()
        ended = bool(written) and written[-1] == tokenizer.eos_token_id
        new += written
        context = context + written
    seconds = time.perf_counter() - began
    if ended:
        new.pop()
    array = np.array(new, dtype=np.uint32)
    bpe = tokenizer.tokenizer if isinstance(tokenizer, ByteTokenizer) else None
    data = bpe.decode(array) if bpe else tokenizer.decode(new, skip_special_tokens=True).encode()
    return Continuation(
        data=data,
        ids=array,
        prompt_tokens=len(ids),
        used_tokens=len(used),
        ended=ended,
        seconds=seconds,
        tokenizer=bpe,
    )


def load_model(folder: StrPath) -> PreTrainedModel:
    """The causal language model in `folder`, on the accelerator if there is one.

    Raises FileError when there is none or it cannot be read.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileError(f"{folder} holds no model (no config.json); name a folder that `byteloom fit` made")
    with quiet_transformers(), _reading(f"the model in {folder}"):
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    return model.to(device).eval()


def load_bpe_of_model(path: StrPath, model: PreTrainedModel) -> BPE | transformers.PreTrainedTokenizerBase:
    """The tokenizer of `model` at `path`: byteloom's as a BPE, and from a folder also any other of transformers.

    Raises FileError when it cannot be read, InvalidInputError when it is another kind of byteloom's, or has ids that
    the model does not have.
    """
    tokenizer: BPE | transformers.PreTrainedTokenizerBase | None = None
    if Path(path).is_dir():
        tokenizer = _load_tokenizer(Path(path))
    if tokenizer is None or isinstance(tokenizer, ByteTokenizer):
        tokenizer = load_bpe(path, "another segmentation")
    ids = tokenizer.vocab_size if isinstance(tokenizer, BPE) else len(tokenizer)
    rows = model.get_input_embeddings().weight.shape[0]
    if ids > rows:
        raise InvalidInputError(
            f"the tokenizer {path} has {ids:,} tokens and the model {rows:,}; give the one it was trained with"
        )
    return tokenizer


def _load_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerBase:
    with quiet_transformers(), _reading(f"the tokenizer in {folder}"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    try:
        yield
    except ByteloomError:
        raise
    except (OSError, ValueError) as error:
        raise FileError(f"cannot load {what}: {str(error).splitlines()[0]}") from error

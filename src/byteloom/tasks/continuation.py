"""Continue real bytes with a fitted model, or with any local causal language model of transformers.

Use it to see what a model has learned. Source: temperature, top-k (Fan et al. 2018, arXiv 1805.04833) and nucleus
sampling (Holtzman et al. 2020, arXiv 1904.09751) as transformers does them. Cost: one forward pass a token.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessorList,
    PreTrainedModel,
    SuppressTokensLogitsProcessor,
)

import byteloom.models.architectures  # noqa: F401 - so that the Auto classes know them
from byteloom.compress import merging_cache
from byteloom.errors import ByteloomError, FileError, InvalidInputError
from byteloom.files import StrPath
from byteloom.generate import (
    BatchEngine,
    Drafter,
    DraftModel,
    PromptLookup,
    Sampling,
    Speculation,
    Statistics,
    SuffixCache,
    extend,
)
from byteloom.generate.batch import Layout
from byteloom.generate.texts import Text, end_ids
from byteloom.generate.word_synchronous import word_synchronous
from byteloom.models import CACHE_KEYWORD, KVCache, attach
from byteloom.models.word_pooled import WordPooledForCausalLM
from byteloom.tokenize import BPE, Tokenizer
from byteloom.tokenize.hf import ByteTokenizer
from byteloom.tokenize.loading import load_bpe
from byteloom.train.progress import Progress, silent
from byteloom.train.trainer import quiet_transformers

PREFILL_TOKENS = 2048  # of a prompt that go through the model at once, where the cache is smaller than the prompt
SPARE = 128  # tokens that a draft may have, and that are taken back


@dataclass(frozen=True)
class Continuation:
    """What a model wrote. data: the new bytes alone. ids: their tokens. prompt_tokens: those of the whole prompt;
    used_tokens: how many of the last of them the window had room for. ended: whether the model ended the document.
    tokenizer: the byte tokenizer, None for a text tokenizer. statistics: of speculation, where there was any."""

    data: bytes
    ids: np.ndarray
    prompt_tokens: int
    used_tokens: int
    ended: bool
    seconds: float
    tokenizer: Tokenizer | None
    statistics: Statistics | None = None


def continue_bytes(
    folder: StrPath,
    prompt: bytes = b"",
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    draft: StrPath | None = None,
    cache: StrPath | None = None,
    unlimited: bool = False,
    kv_ratio: float | None = None,
) -> Continuation:
    """Let the model in `folder` continue `prompt`; the same seed gives the same bytes on the same machine.

    temperature 0 takes the most probable token each time; top_k 0 and top_p 1 leave all tokens in. What exceeds the
    window of the model slides: the older half of it is dropped when it is full. Without a prompt the model begins a
    new document. draft: "suffix", "lookup" or the folder of a smaller model of the same vocabulary, which propose what
    the model verifies: the text is the same, and sooner there where it repeats. cache: a file that keeps the answers
    which "suffix" proposes from; made if there is none. unlimited: nothing slides, the model reads all of the prompt
    and goes on without end, in the memory of one window: `byteloom.generate.lambda_attention`. kv_ratio: share of the
    keys and values that is kept, similar ones averaged: `byteloom.compress.cache.merging`.
    Raises FileError when `folder` holds no model, InvalidInputError for numbers out of range and for a prompt that a
    text tokenizer cannot take.
    """
    if max_new_tokens < 1 or temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise InvalidInputError(
            "max_new_tokens must be at least 1, temperature and top_k at least 0, top_p above 0 and at most 1"
        )
    model, tokenizer = load_model(folder), load_model_tokenizer(Path(folder))
    ids = encoded(tokenizer, prompt, folder)
    only_bytes, ends = control_ids(tokenizer), end_ids(model)

    window = 1 << 60 if unlimited else getattr(model.config, "max_position_embeddings", None) or 1 << 60
    used = ids[-max(window // 2, window - max_new_tokens) :]
    method = None
    is_of_words = isinstance(model, WordPooledForCausalLM)
    if is_of_words and (draft is not None or unlimited or kv_ratio is not None):
        raise InvalidInputError("a word-pooled model writes word by word; leave drafts, unlimited and kv_ratio out")
    if cache is not None and draft != "suffix":
        raise InvalidInputError('a cache of answers goes with draft="suffix"')
    if draft is not None:
        drafter = _drafter(draft, model, cache, tokenizer)
        method = Speculation(drafter)
    transformers.set_seed(seed)
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p} if temperature else {"top_k": None}
    began = time.perf_counter()
    new: list[int] = []
    ended = False
    context = used
    with _caches(model, unlimited=unlimited, kv_ratio=kv_ratio) as fresh_cache:
        while len(new) < max_new_tokens and not ended:
            if len(context) >= window:
                context = context[-(window // 2) :]
            room = min(max_new_tokens - len(new), window - len(context))
            ids_BT = torch.tensor([context], device=model.device)
            with torch.inference_mode(), quiet_transformers():
                output_BT = model.generate(
                    input_ids=ids_BT,
                    attention_mask=torch.ones_like(ids_BT),
                    max_new_tokens=room,
                    do_sample=temperature > 0,
                    suppress_tokens=only_bytes or None,
                    custom_generate=word_synchronous if is_of_words else method,
                    prefill_chunk_size=None if fresh_cache is None else PREFILL_TOKENS,
                    **({} if fresh_cache is None else {CACHE_KEYWORD: fresh_cache()}),
                    **sampling,
                )
            written = output_BT[0, len(context) :].tolist()
            ended = bool(written) and written[-1] in ends
            new += written
            context = context + written
    seconds = time.perf_counter() - began
    if cache is not None and isinstance(drafter, SuffixCache):
        drafter.save(cache, vocabulary_digest(tokenizer))
    if ended:
        new.pop()
    return _continuation(tokenizer, new, ids, len(used), ended, seconds, method.statistics if method else None)


@contextmanager
def _caches(
    model: PreTrainedModel, *, unlimited: bool, kv_ratio: float | None
) -> Iterator[Callable[[], KVCache] | None]:
    """Who makes the caches of a text; None: transformers does."""
    if unlimited and kv_ratio is not None:
        raise InvalidInputError("an unlimited text keeps one window and has nothing to merge; give one of the two")
    if unlimited:
        with extend(model, spare=SPARE) as fresh_cache:
            yield fresh_cache
    elif kv_ratio is not None:
        with attach(model):
            yield partial(merging_cache, model, ratio=kv_ratio)
    else:
        yield None


def continue_many(
    folder: StrPath,
    prompts: Sequence[bytes],
    *,
    batch_size: int = 8,
    layout: Layout = "ragged",
    max_new_tokens: int = 256,
    sampling: Sampling,
    draft: StrPath | None = None,
    cache: StrPath | None = None,
    progress: Progress = silent,
) -> Iterator[tuple[int, Continuation]]:
    """Let the model in `folder` continue many prompts, `batch_size` at a time; each text is that of its prompt alone.

    Gives the number of a prompt and its text as soon as that has ended. What exceeds the window of the model is cut
    from the beginning of a prompt. draft, cache: as in `continue_bytes`. statistics: of all texts so far.
    Raises as `continue_bytes` and `BatchEngine` do.
    """
    model, tokenizer = load_model(folder), load_model_tokenizer(Path(folder))
    if isinstance(model, WordPooledForCausalLM):
        raise InvalidInputError("a word-pooled model has no tokens to share a cache; continue one prompt at a time")
    if cache is not None and draft != "suffix":
        raise InvalidInputError('a cache of answers goes with draft="suffix"')
    drafter = PromptLookup() if draft is None else _drafter(draft, model, cache, tokenizer)
    control = control_ids(tokenizer)
    processors = [SuppressTokensLogitsProcessor(control, device=model.device)] if control else []
    window = getattr(model.config, "max_position_embeddings", None) or 1 << 30
    engine = BatchEngine(
        model,
        drafter,
        batch_size=batch_size,
        layout=layout,
        num_draft_tokens=0 if draft is None else None,
        sampling=sampling,
        logits_processor=LogitsProcessorList(processors),
    )
    began = time.perf_counter()
    waiting: dict[int, tuple[Text, list[int], int]] = {}
    for number, prompt in enumerate(prompts):
        try:
            ids = encoded(tokenizer, prompt, folder)
        except InvalidInputError as error:
            raise InvalidInputError(f"prompt {number}: {error}") from error
        used = ids[-max(window // 2, window - max_new_tokens) :]
        room = min(max_new_tokens, window - len(used))
        waiting[number] = engine.add(used, max_new_tokens=room), ids, len(used)
    try:
        going = True
        while going:
            going = engine.step()
            for number in [number for number, (text, _, _) in waiting.items() if text.finish is not None]:
                text, ids, used_tokens = waiting.pop(number)
                new = list(text.new_ids)
                ended = text.finish == "stop"
                if ended:
                    new.pop()
                seconds = time.perf_counter() - began
                yield number, _continuation(tokenizer, new, ids, used_tokens, ended, seconds, engine.statistics)
                progress("texts", len(prompts) - len(waiting), len(prompts))
    finally:
        engine.close()
    if cache is not None and isinstance(drafter, SuffixCache):
        drafter.save(cache, vocabulary_digest(tokenizer))


def encoded(tokenizer: transformers.PreTrainedTokenizerBase, prompt: bytes, folder: StrPath) -> list[int]:
    """The ids that a model reads for `prompt`, at least one."""
    if isinstance(tokenizer, ByteTokenizer):
        start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        ids: list[int] = start + tokenizer.tokenizer.encode(prompt).tolist()
    else:
        try:
            ids = tokenizer(prompt.decode("utf-8"))["input_ids"]
        except UnicodeDecodeError as error:
            raise InvalidInputError(
                f"the tokenizer in {folder} takes text and the prompt is not UTF-8 ({error.reason} at byte "
                f"{error.start}); give a text, or a model that `byteloom fit` made"
            ) from error
    if not ids:
        raise InvalidInputError(f"the tokenizer in {folder} makes no token of an empty prompt; give a prompt")
    return ids


def control_ids(tokenizer: transformers.PreTrainedTokenizerBase) -> list[int]:
    """Ids of a byte tokenizer that are no bytes and no end: they are not to be written."""
    if not isinstance(tokenizer, ByteTokenizer):
        return []
    return [token for token in tokenizer.tokenizer.special_tokens.values() if token != tokenizer.eos_token_id]


def _continuation(
    tokenizer: transformers.PreTrainedTokenizerBase,
    new: list[int],
    prompt: list[int],
    used: int,
    ended: bool,
    seconds: float,
    statistics: Statistics | None,
) -> Continuation:
    array = np.array(new, dtype=np.uint32)
    bpe = tokenizer.tokenizer if isinstance(tokenizer, ByteTokenizer) else None
    return Continuation(
        data=bpe.decode(array) if bpe else tokenizer.decode(new, skip_special_tokens=True).encode(),
        ids=array,
        prompt_tokens=len(prompt),
        used_tokens=used,
        ended=ended,
        seconds=seconds,
        tokenizer=bpe,
        statistics=statistics,
    )


def _drafter(
    draft: StrPath, model: PreTrainedModel, cache: StrPath | None, tokenizer: transformers.PreTrainedTokenizerBase
) -> Drafter:
    if draft == "lookup":
        return PromptLookup()
    if draft == "suffix":
        answers = SuffixCache(trees=True)
        return (
            answers.load(cache, vocabulary_digest(tokenizer)) if cache is not None and Path(cache).exists() else answers
        )
    return DraftModel(load_model(draft).to(model.device))


def vocabulary_digest(tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    """What tells one vocabulary from another: a cache of ids is of no use with another."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    return hashlib.sha256(vocabulary.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def load_model(folder: StrPath, kind: type[Any] = AutoModelForCausalLM) -> PreTrainedModel:
    """The model in `folder`, on the accelerator if there is one; kind: the Auto class of transformers.

    Raises FileError when there is none or it cannot be read.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileError(f"{folder} holds no model (no config.json); name a folder that `byteloom fit` made")
    with quiet_transformers(), _reading(f"the model in {folder}"):
        model = kind.from_pretrained(folder, local_files_only=True)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    return model.to(device).eval()


def load_bpe_of_model(path: StrPath, model: PreTrainedModel) -> BPE | transformers.PreTrainedTokenizerBase:
    """The tokenizer of `model` at `path`: byteloom's as a BPE, and from a folder also any other of transformers.

    Raises FileError when it cannot be read, InvalidInputError when it is another kind of byteloom's, or has ids that
    the model does not have.
    """
    tokenizer: BPE | transformers.PreTrainedTokenizerBase | None = None
    if Path(path).is_dir():
        tokenizer = load_model_tokenizer(Path(path))
    if tokenizer is None or isinstance(tokenizer, ByteTokenizer):
        tokenizer = load_bpe(path, "another segmentation")
    ids = tokenizer.vocab_size if isinstance(tokenizer, BPE) else len(tokenizer)
    rows = model.get_input_embeddings().weight.shape[0]
    if ids > rows:
        raise InvalidInputError(
            f"the tokenizer {path} has {ids:,} tokens and the model {rows:,}; give the one it was trained with"
        )
    return tokenizer


def load_model_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer in `folder`; of byteloom's, one for raw bytes. Raises FileError when there is none."""
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

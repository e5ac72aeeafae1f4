"""Answer questions over the files of a folder, which are read once and kept for the next question.

Files are cut into pieces that a model's window has room for; those that share most words with the question are joined
in parallel: `byteloom.generate.parallel_context`. Source: APE, ICLR 2025, arXiv 2502.05431. Cost: reading a piece for
the first time is a forward pass over it; later it is mapped from disk.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from byteloom.corpus import Corpus
from byteloom.errors import InvalidInputError
from byteloom.files import StrPath, open_bytes
from byteloom.generate import ContextStore, Example, Tuning, tune
from byteloom.generate import answer as write_answer
from byteloom.generate.texts import end_ids
from byteloom.tasks.continuation import control_ids, load_model, load_model_tokenizer
from byteloom.tasks.retrieval import bm25
from byteloom.tokenize.hf import ByteTokenizer
from byteloom.train.progress import Progress, silent
from byteloom.train.trainer import quiet_transformers


@dataclass(frozen=True)
class Piece:
    """A part of a file that is one context. part: its number in the file, of `parts`."""

    name: str
    part: int
    parts: int
    ids: list[int]
    data: bytes


@dataclass(frozen=True)
class Answer:
    """What a model wrote. data: the new bytes. pieces: what it saw, the best first; found: how many pieces there were;
    read: how many of those seen had to be read now. skipped: files that are no text where the tokenizer takes text.
    seconds_to_join: from the question to a cache with all contexts, reading included."""

    data: bytes
    ids: list[int]
    pieces: list[Piece]
    found: int
    read: int
    skipped: int
    tuning: Tuning
    seconds_to_join: float
    seconds: float


def answer_question(
    folder: StrPath,
    contexts: StrPath,
    question: str,
    *,
    prefix: str = "",
    best: int = 16,
    piece_tokens: int | None = None,
    max_new_tokens: int = 64,
    tuning: Tuning | None = None,
    examples: StrPath | None = None,
    store: StrPath | None = None,
    sampling: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> Answer:
    """Let the model in `folder` answer `question` with the files under `contexts` in sight.

    prefix: what stands before every context, such as instructions. best: how many pieces the model sees, those that
    share most words with the question; 0: all. piece_tokens: of a piece at most, default half the window of the model.
    examples: a file of JSON lines {"question": ..., "answer": ...} that choose the tuning. store: the folder that keeps
    what was read, default in the user's cache. sampling: arguments of `generate`, default the most probable tokens.
    Raises FileError for a folder without model, InvalidInputError where nothing under `contexts` can be read, and for
    numbers out of range.
    """
    if best < 0 or (piece_tokens is not None and piece_tokens < 1):
        raise InvalidInputError("best is at least 0 and a piece has at least one token")
    listed = None if examples is None else _examples(examples)
    model, tokenizer = load_model(folder), load_model_tokenizer(Path(folder))
    began = time.perf_counter()
    window = getattr(model.config, "max_position_embeddings", None) or 1 << 20
    pieces, skipped = _pieces(tokenizer, Path(contexts), piece_tokens or max(1, window // 2), progress)
    if not pieces:
        raise InvalidInputError(f"nothing under {os.fspath(contexts)} can be read; name a folder with files of text")
    held = ContextStore(model, _prefix(tokenizer, prefix), path=store or _default_store())
    if listed is not None:
        tuning = tune(
            model,
            held,
            [
                Example(
                    held.add_many([piece.ids for piece in _best(pieces, asked, best)], progress=progress),
                    _encoded(tokenizer, asked.encode()),
                    _encoded(tokenizer, wanted.encode()),
                )
                for asked, wanted in listed
            ],
        )
    chosen = _best(pieces, question, best)
    read = 0

    def told(what: str, done: int, total: int) -> None:
        nonlocal read
        read = done
        progress(what, done, total)

    names = held.add_many([piece.ids for piece in chosen], progress=told)
    joined = time.perf_counter() - began
    with quiet_transformers():
        ids = write_answer(
            model,
            held,
            names,
            _encoded(tokenizer, question.encode()),
            max_new_tokens,
            tuning=tuning,
            suppress_tokens=control_ids(tokenizer) or None,
            **(sampling or {}),
        )
    if ids and ids[-1] in end_ids(model):
        ids.pop()
    return Answer(
        data=_decoded(tokenizer, ids),
        ids=ids,
        pieces=chosen,
        found=len(pieces),
        read=read,
        skipped=skipped,
        tuning=tuning or Tuning(),
        seconds_to_join=joined,
        seconds=time.perf_counter() - began,
    )


def _pieces(
    tokenizer: transformers.PreTrainedTokenizerBase, folder: Path, most: int, progress: Progress
) -> tuple[list[Piece], int]:
    """The files cut into pieces of equal length, equal ones once, and how many files were skipped."""
    found: dict[tuple[int, ...], Piece] = {}
    skipped = 0
    corpus = Corpus(folder)
    total = corpus.size_on_disk()
    for document in corpus:
        progress("files", corpus.visited_bytes, total)
        data = bytes(document.data)
        try:
            ids = _encoded(tokenizer, data)
        except UnicodeDecodeError:
            skipped += 1
            continue
        parts = -(-len(ids) // most)
        for part in range(parts):
            piece = ids[part * len(ids) // parts : (part + 1) * len(ids) // parts]
            if tuple(piece) not in found:
                found[tuple(piece)] = Piece(document.name, part + 1, parts, piece, _decoded(tokenizer, piece))
    return list(found.values()), skipped + len(corpus.skipped)


def _best(pieces: Sequence[Piece], question: str, count: int) -> list[Piece]:
    """Those that share most words with the question, these first; earlier ones where it is equal."""
    if not count:
        return list(pieces)
    scores = bm25(question.encode(), [piece.data for piece in pieces])
    return [pieces[at] for at in sorted(range(len(pieces)), key=lambda at: -scores[at])[:count]]


def _encoded(tokenizer: transformers.PreTrainedTokenizerBase, data: bytes) -> list[int]:
    """The ids of bytes without special tokens. Raises UnicodeDecodeError where a tokenizer of text gets none."""
    if isinstance(tokenizer, ByteTokenizer):
        ids: list[int] = tokenizer.tokenizer.encode(data).tolist()
        return ids
    return list(tokenizer(data.decode("utf-8"), add_special_tokens=False, verbose=False)["input_ids"])


def _decoded(tokenizer: transformers.PreTrainedTokenizerBase, ids: list[int]) -> bytes:
    if isinstance(tokenizer, ByteTokenizer):
        return tokenizer.tokenizer.decode(np.array(ids, dtype=np.uint32))
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return text.encode()


def _prefix(tokenizer: transformers.PreTrainedTokenizerBase, text: str) -> list[int]:
    """The token that begins a text, a line end where there is none, and the words of the user."""
    begin = tokenizer.bos_token_id
    start = _encoded(tokenizer, b"\n") if begin is None else [int(begin)]
    return start + (_encoded(tokenizer, text.encode()) if text else [])


def _examples(path: StrPath) -> list[tuple[str, str]]:
    found = []
    for number, line in enumerate(bytes(open_bytes(path)).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            asked, wanted = value["question"], value["answer"]
            if not (isinstance(asked, str) and isinstance(wanted, str) and asked and wanted):
                raise TypeError
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(
                f"line {number} of {os.fspath(path)} is no example; "
                'write {"question": "...", "answer": "..."} as JSON'
            ) from error
        found.append((asked, wanted))
    return found


def _default_store() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "byteloom" / "contexts"

"""How surprising is each part of a file to a model: the loss of every token, however long the file is.

Use it to find what does not belong: packed sections, generated code, foreign languages, damage. The file is read as one
stream in constant memory, by a model that was trained on far shorter texts. Source: LM-Infinite, NAACL 2024, arXiv
2308.16137. Cost: one forward pass over the file; memory of one window.
"""

from __future__ import annotations

import codecs
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import transformers

from byteloom.errors import InvalidInputError
from byteloom.files import StrPath, atomic_write, read_blocks
from byteloom.generate import LambdaStream
from byteloom.tasks.continuation import load_model, load_model_tokenizer
from byteloom.tasks.plots import check_plot
from byteloom.tokenize.hf import ByteTokenizer
from byteloom.train.progress import Progress, silent

PARTS = 400  # of a file, that are told apart
SMALLEST_PART = 256  # bytes
PIECE = 64 << 10  # bytes of text that are encoded at once

OnTokens = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]], None]


@dataclass(frozen=True)
class Part:
    """A part of a file: the tokens that begin in the bytes [start, stop), and their loss in bits."""

    start: int
    stop: int
    tokens: int
    bits: float

    @property
    def bits_per_byte(self) -> float:
        """Bits by the bytes of the part."""
        return self.bits / (self.stop - self.start)


@dataclass(frozen=True)
class Score:
    """The loss of a file. bits: of all tokens. parts: in order. window: tokens that the model saw at once."""

    bytes: int
    tokens: int
    bits: float
    parts: list[Part]
    window: int
    seconds: float

    @property
    def bits_per_byte(self) -> float:
        """0 for an empty file."""
        return self.bits / self.bytes if self.bytes else 0.0

    def most_surprising(self, count: int = 5) -> list[Part]:
        """The parts with the most bits a byte, these first."""
        return sorted(self.parts, key=lambda part: -part.bits_per_byte)[:count]


def score_file(
    folder: StrPath,
    path: StrPath,
    *,
    window: int | None = None,
    sinks: int = 10,
    on_tokens: OnTokens | None = None,
    progress: Progress = silent,
) -> Score:
    """Score the file at `path` with the model in `folder`, a folder of `byteloom fit` or any rotary causal LM.

    window: tokens that the model sees at once, default what it was trained at; sinks: first tokens that stay visible.
    on_tokens: told of all tokens in order: where they begin, how many bytes they are, and their loss in bits.
    A tokenizer of text reads pieces of whole lines, so that tokens across their ends are others than in the whole.
    Raises FileError for files that cannot be read, UnsupportedPositionError for a model without rotary positions,
    InvalidInputError for a text tokenizer and a file that is not UTF-8.
    """
    size = Path(path).stat().st_size if Path(path).is_file() else 0
    width = max(SMALLEST_PART, -(-size // PARTS))
    blocks = read_blocks(path)  # refuses what is no file
    tokenizer = load_model_tokenizer(Path(folder))
    model = load_model(folder)
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise InvalidInputError(
            f"the tokenizer in {folder} has no token for the beginning of a text; set its bos_token"
        )
    pieces = _of_bytes(tokenizer, blocks) if isinstance(tokenizer, ByteTokenizer) else _of_text(tokenizer, blocks, path)
    tokens_of, bits_of = np.zeros(0, np.int64), np.zeros(0)
    offset = tokens = 0
    bits = 0.0
    began = time.perf_counter()
    with LambdaStream(model, window, sinks) as stream:
        stream.feed(torch.tensor([[start]], device=model.device), last_only=True)
        for ids, lengths in pieces:
            nats = torch.cat(list(stream.nll([torch.from_numpy(ids.astype(np.int64))]))).cpu().numpy()
            losses = (nats / math.log(2)).astype(np.float32)
            starts = offset + np.cumsum(lengths) - lengths
            offset += int(lengths.sum())
            tokens += len(ids)
            bits += float(losses.sum(dtype=np.float64))
            parts = starts // width
            room = int(parts.max()) + 1 - len(bits_of)
            if room > 0:
                tokens_of, bits_of = np.pad(tokens_of, (0, room)), np.pad(bits_of, (0, room))
            np.add.at(tokens_of, parts, 1)
            np.add.at(bits_of, parts, losses)
            if on_tokens is not None:
                on_tokens(starts, lengths, losses)
            progress("scoring", offset, size)
        window = stream.window
    found = [
        Part(at * width, min((at + 1) * width, offset), int(tokens_of[at]), float(bits_of[at]))
        for at in range(len(bits_of))
    ]
    return Score(offset, tokens, bits, found, window, time.perf_counter() - began)


def draw_score(score: Score, path: StrPath, title: str) -> None:
    """Draw bits per byte over the file, and its most surprising parts, into an .svg, .pdf or .png file, atomically.

    Raises InvalidInputError for another suffix, MissingExtraError without matplotlib.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    unit, name = next(((unit, name) for unit, name in _UNITS if score.bytes >= unit), _UNITS[-1])
    edges = np.array([part.start for part in score.parts] + [score.bytes]) / unit
    heights = [part.bits_per_byte for part in score.parts]
    if not heights:  # an empty file has an empty picture
        edges, heights = np.array([0, 1]), [0.0]
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.stairs(heights, edges, fill=True, alpha=0.35)
    axes.stairs(heights, edges, linewidth=1)
    axes.axhline(score.bits_per_byte, color="black", linewidth=0.8, linestyle="--")
    axes.annotate(
        f"{score.bits_per_byte:.2f} in all",
        (1, score.bits_per_byte),
        (4, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
    )
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"offset, {name}")
    axes.set_ylabel("bits per byte")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as file:
        figure.savefig(file, format=Path(path).suffix[1:], dpi=150)


_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "bytes"))


def _of_bytes(
    tokenizer: ByteTokenizer, blocks: Iterable[bytes]
) -> Iterator[tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]]:
    """Ids and how many bytes each is."""
    lengths = tokenizer.tokenizer.token_lengths.astype(np.int64)
    for ids in tokenizer.tokenizer.encode_blocks(blocks):
        yield ids, lengths[ids]


def _of_text(
    tokenizer: transformers.PreTrainedTokenizerBase, blocks: Iterable[bytes], path: StrPath
) -> Iterator[tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]]:
    if not tokenizer.is_fast:
        raise InvalidInputError(
            f"give a fast tokenizer, one of the library tokenizers; {type(tokenizer).__name__} is slow"
        )
    for text in _lines(blocks, path):
        encoding = tokenizer(text, add_special_tokens=False, verbose=False).encodings[0]
        # Bytes before each character, and behind the last.
        characters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        widths = 1 + sum((characters >= least).astype(np.int64) for least in (0x80, 0x800, 0x10000))
        before = np.concatenate([[0], np.cumsum(widths)])
        ends = np.maximum.accumulate([before[end] for _, end in encoding.offsets])
        ends[-1] = before[-1]  # what a normaliser dropped at the end counts for the last token
        yield np.array(encoding.ids, np.uint32), np.diff(ends, prepend=0)


def _lines(blocks: Iterable[bytes], path: StrPath) -> Iterator[str]:
    """The text in pieces of whole lines, or of PIECE where a line is longer."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest, read = "", 0
    for block in blocks:
        try:
            rest += decoder.decode(block)
        except UnicodeDecodeError as error:
            raise InvalidInputError(
                f"the tokenizer takes text and {path} is not UTF-8 ({error.reason} near byte {read + error.start}); "
                "give a text, or a model that `byteloom fit` made"
            ) from error
        read += len(block)
        while len(rest) >= PIECE:
            cut = rest.rfind("\n", 0, PIECE) + 1 or PIECE
            yield rest[:cut]
            rest = rest[cut:]
    try:
        rest += decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} ends inside of a character and is not UTF-8; give a text") from error
    if rest:
        yield rest

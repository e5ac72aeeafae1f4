"""The BPE kernels against Hugging Face `tokenizers` and tiktoken: speed, memory, and identical results.

Everything is measured on uncompressed executables of this machine, without pre-tokenization. Each training
runs in a fresh process, so that its peak memory is its own. The peers get what suits them: text already
mapped to their byte alphabet, and as many threads of their own pool as we use.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from byteloom.bench.binaries import system_binaries
from byteloom.bench.bpe_peers import MergeBytes, hf_tokenizer, hf_train, merge_bytes, tiktoken_encoding
from byteloom.bench.catalogue import Progress
from byteloom.bench.measure import Span, bench_machine, best_of, timed
from byteloom.bench.result import Card, Figure, Result, Row, Scale
from byteloom.errors import MissingExtraError
from byteloom.files import open_bytes
from byteloom.processes import in_fresh_process, peak_memory
from byteloom.tokenize import BPE, SPECIAL_TOKENS, train_bpe
from byteloom.tokenize.byte_alphabet import to_characters

if TYPE_CHECKING:
    from typing_extensions import Buffer

CARD = Card(
    method="bpe-kernels",
    title="Exact byte-pair encoding of raw bytes without pre-tokenization: training, encoding, decoding.",
    paper="Neural Machine Translation of Rare Words with Subword Units, Sennrich, Haddow and Birch, 2016",
    arxiv="1508.07909",
    stage="tokenize",
    module="byteloom.tokenize",
    headline="the paper gives no speed; the encoder's nearest relative, Incremental BPE Tokenization "
    "(arXiv 2605.30813), claims up to about 3 times the speed of Hugging Face tokenizers",
    measures="time and memory on executables beside Hugging Face tokenizers and tiktoken, with merges and "
    "ids compared one by one; start-up time",
)

CHUNK = 4096  # bytes; the unit of training, since the peer does not finish on whole files
PIECE = 64 << 10  # bytes; the documents on which encoders are compared
SIZES = (8 << 10, 64 << 10, 1 << 20, 8 << 20)  # bytes of a document, and then everything in one
MIN_FREQUENCY = 4  # of every training
MAX_TOKEN_LENGTH = 32  # bytes; of every training
ONE_THREAD = {"RAYON_NUM_THREADS": "1"}
TWO_THREADS = {"RAYON_NUM_THREADS": "2"}


@dataclass(frozen=True)
class _Plan:
    """How much is measured at one scale; sizes in bytes."""

    train: int  # trained by byteloom, and by the peer with two threads
    train_some: int  # trained by byteloom and the peer with one thread
    train_more: int  # trained by byteloom alone
    vocab: int  # of the training
    encode: int  # encoded by byteloom and the peers
    encode_more: int  # encoded by byteloom alone
    vocabs: tuple[int, int, int]  # of the encoding; the middle one where only one is measured
    hard: int  # each adversarial input


_PLANS: dict[Scale, _Plan] = {
    "smoke": _Plan(200_000, 100_000, 400_000, 512, 100_000, 400_000, (400, 450, 512), 300_000),
    "cpu": _Plan(
        train=64_000_000,
        train_some=16_000_000,
        train_more=1_000_000_000,
        vocab=16_384,
        encode=4_000_000,
        encode_more=64_000_000,
        vocabs=(4_096, 16_384, 65_536),
        hard=100_000_000,
    ),
}


@dataclass
class _Findings:
    """What a part of the benchmark adds to the result."""

    numbers: dict[str, Figure] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __iadd__(self, other: _Findings) -> _Findings:
        self.numbers |= other.numbers
        self.rows += other.rows
        self.notes += other.notes
        return self


@dataclass(frozen=True)
class _Stream:
    """This machine's executables one after the other in a file, so that every process sees the same bytes."""

    path: Path
    sizes: tuple[int, ...]  # bytes of each executable

    def data(self, start: int, stop: int) -> memoryview:
        return open_bytes(self.path)[start:stop]

    def documents(self, stop: int) -> list[memoryview]:
        """The first `stop` bytes, cut where executables begin."""
        data = self.data(0, stop)
        edges = np.minimum(np.cumsum((0, *self.sizes)), stop).tolist()
        return [data[begin:end] for begin, end in pairwise(edges) if end > begin]


@dataclass(frozen=True)
class _Training:
    """One training in a process of its own."""

    span: Span
    peak: int  # bytes of resident memory of the whole process, the input included
    merges: MergeBytes


def run(scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
    """Measure on this machine's executables; nothing is downloaded, so `data` is not used.

    Raises InvalidInputError where there are no executables, MissingExtraError without tiktoken.
    """
    if find_spec("tiktoken") is None:
        raise MissingExtraError("tiktoken", "bench")
    began = time.perf_counter()
    found = _Findings()
    report = progress or (lambda what, done, total: None)
    with tempfile.TemporaryDirectory(prefix="byteloom-bench-") as folder:
        plan = _PLANS[scale]
        stream = _write_stream(Path(folder, "some"), plan.train + plan.encode_more)
        plan = _fit(plan, sum(stream.sizes), found)
        report("bpe-kernels: training", 0, 4)
        found += _train(plan, stream)
        report("bpe-kernels: training", 2, 4)
        found += _train_more(plan, _write_stream(Path(folder, "more"), plan.train_more, largest=64 << 20))
        report("bpe-kernels: encoding", 3, 4)
        found += in_fresh_process(_encode, plan, stream, environment=ONE_THREAD)
        found += _start()
        report("bpe-kernels: encoding", 4, 4)
    numbers = found.numbers
    machine = bench_machine("tokenizers", "tiktoken")
    seconds = time.perf_counter() - began
    return Result(CARD.method, scale, numbers, found.rows, machine, seconds, found.notes)


def _write_stream(path: Path, size: int, largest: int = 8 << 20) -> _Stream:
    """At least `size` bytes of executables, if the machine has them; its two halves are alike."""
    documents = chain(*system_binaries(size + size // 50, largest=largest).split(0.5))
    with path.open("wb") as file:
        return _Stream(path, tuple(file.write(document.data) for document in documents))


def _fit(plan: _Plan, available: int, found: _Findings) -> _Plan:
    """The plan for a machine that has fewer bytes of executables than the plan asks for."""
    share = available / (plan.train + plan.encode_more)
    if share >= 1:
        return plan
    found.notes.append(f"This machine has only {available:,} bytes of executables, so less was measured.")
    return replace(plan, train=int(plan.train * share), encode_more=int(plan.encode_more * share))


def _train(plan: _Plan, stream: _Stream) -> _Findings:
    """On chunks byteloom and the peer, one and two threads; on whole files byteloom, since no peer can."""
    some, full, vocab = plan.train_some, plan.train, plan.vocab
    peer_some = in_fresh_process(_train_peer, stream, some, vocab, environment=ONE_THREAD)
    ours_some = in_fresh_process(_train_ours, stream, some, vocab, CHUNK, 1)
    peer_2 = in_fresh_process(_train_peer, stream, full, vocab, environment=TWO_THREADS)
    ours_2 = in_fresh_process(_train_ours, stream, full, vocab, CHUNK, 2)
    ours_1 = in_fresh_process(_train_ours, stream, full, vocab, CHUNK, 1)
    files_1 = in_fresh_process(_train_ours, stream, full, vocab, None, 1)
    same = sum(a == b for a, b in zip(peer_2.merges, ours_2.merges, strict=False))
    merges = max(len(peer_2.merges), len(ours_2.merges))
    numbers = {
        f"training {_mb(full)}, 2 threads each: speed over Hugging Face": Figure(
            peer_2.span.wall / ours_2.span.wall, "x", at_least=40
        ),
        f"training {_mb(full)}, 1 thread: speed over Hugging Face with 2": Figure(
            peer_2.span.wall / ours_1.span.wall, "x"
        ),
        f"training {_mb(some)}, 1 thread each: speed over Hugging Face": Figure(
            peer_some.span.cpu / ours_some.span.cpu, "x", at_least=27
        ),
        "training: merges identical to Hugging Face": Figure(100 * same / merges, "%", at_least=100),
        "training: peak memory for each input byte": Figure(max(ours_1.peak, ours_2.peak) / full, "bytes", at_most=14),
        "training on whole files: time over that on chunks": Figure(
            files_1.span.cpu / ours_1.span.cpu, "x", at_most=1.5
        ),
    }
    rows = [
        _training_row("Hugging Face", f"{CHUNK:,}", 1, some, peer_some),
        _training_row("byteloom", f"{CHUNK:,}", 1, some, ours_some),
        _training_row("Hugging Face", f"{CHUNK:,}", 2, full, peer_2),
        _training_row("byteloom", f"{CHUNK:,}", 2, full, ours_2),
        _training_row("byteloom", f"{CHUNK:,}", 1, full, ours_1),
        _training_row("byteloom", "whole files", 1, full, files_1),
    ]
    notes = [
        f"Training: vocabulary {vocab:,}, that is {merges:,} merges; tokens of at most "
        f"{MAX_TOKEN_LENGTH} bytes. Speed is by wall time with two threads and by processor time "
        "with one. Memory is the peak of the whole process, input and interpreter included."
    ]
    return _Findings(numbers, rows, notes)


def _train_more(plan: _Plan, stream: _Stream) -> _Findings:
    available = sum(stream.sizes)
    if available < plan.train_more:
        note = f"Training on {_mb(plan.train_more)} was not measured: executables here have {_mb(available)}."
        return _Findings(notes=[note])
    training = in_fresh_process(_train_ours, stream, plan.train_more, plan.vocab, None, 2)
    name = f"training on {_mb(plan.train_more)}: peak memory"
    return _Findings(
        {name: Figure(training.peak / 1e9, "GB", at_most=12 * plan.train_more / 1e9)},
        [_training_row("byteloom", "whole files", 2, plan.train_more, training)],
    )


def _train_bpe(documents: list[memoryview], vocab: int, chunk: int | None, threads: int | None) -> BPE:
    return train_bpe(
        documents,
        vocab_size=vocab,
        min_frequency=MIN_FREQUENCY,
        max_token_length=MAX_TOKEN_LENGTH,
        chunk_size=chunk,
        tie_break="hf",
        threads=threads,
    )


def _train_ours(stream: _Stream, size: int, vocab: int, chunk: int | None, threads: int) -> _Training:
    documents = stream.documents(size)
    tokenizer, span = timed(partial(_train_bpe, documents, vocab, chunk, threads))
    return _Training(span, peak_memory(), merge_bytes(tokenizer))


def _train_peer(stream: _Stream, size: int, vocab: int) -> _Training:
    chunks = (chunk for document in stream.documents(size) for chunk in _pieces(document, CHUNK))
    texts = [to_characters(bytes(chunk)) for chunk in chunks]
    merges = vocab - 256 - len(SPECIAL_TOKENS)
    learned, span = timed(partial(hf_train, texts, merges, MIN_FREQUENCY, MAX_TOKEN_LENGTH))
    return _Training(span, peak_memory(), learned)


def _training_row(who: str, unit: str, threads: int, size: int, training: _Training) -> Row:
    return {
        "table": "Training",
        "trainer": who,
        "unit (bytes)": unit,
        "threads": threads,
        "input": _mb(size),
        "wall s": training.span.wall,
        "processor s": training.span.cpu,
        "MB/s": size / 1e6 / training.span.wall,
        "peak memory (bytes for each input byte)": training.peak / size,
    }


def _encode(plan: _Plan, stream: _Stream) -> _Findings:
    """Encoding and decoding of executables that the training has not seen; one thread by processor time."""
    documents = stream.documents(plan.train)
    tokenizer = _train_bpe(documents, plan.vocabs[-1], CHUNK, None)
    unseen = stream.data(plan.train, plan.train + plan.encode_more)
    found = _Findings()
    for vocab, bounds in zip(plan.vocabs, ((20, 8), (15, 6), (10, 4)), strict=True):
        found += _encode_with_peers(tokenizer.truncate(vocab), unseen[: plan.encode], bounds)
    tokenizer = tokenizer.truncate(plan.vocabs[1])
    found += _encode_sizes(tokenizer, unseen)
    found += _encode_threads(tokenizer, unseen)
    found += _encode_hard(tokenizer, unseen, plan.hard)
    found += _decode(tokenizer, unseen)
    found.notes.append(
        f"Encoding: {_mb(plan.encode_more)} of executables that the training has not seen; the peers get "
        f"{_mb(plan.encode)} of them in pieces of {PIECE:,} bytes; best of several runs. The vocabularies are "
        f"one, truncated; where only one is measured it has {plan.vocabs[1]:,} tokens."
    )
    return found


def _encode_with_peers(tokenizer: BPE, data: memoryview, bounds: tuple[int, int]) -> _Findings:
    pieces = [bytes(piece) for piece in _pieces(data, PIECE)]
    texts = [to_characters(piece) for piece in pieces]
    hf, tiktoken = hf_tokenizer(tokenizer), tiktoken_encoding(tokenizer)
    same = sum(
        tokenizer.encode(piece).tolist() == hf.encode(text).ids == tiktoken._encode_single_piece(piece)
        for piece, text in zip(pieces, texts, strict=True)
    )
    seconds = {
        "byteloom": best_of(5, partial(_encode_all, tokenizer, pieces)).cpu,
        "Hugging Face `encode`": best_of(2, lambda: [hf.encode(text) for text in texts]).cpu,
        "Hugging Face `encode_batch_fast`": best_of(2, lambda: hf.encode_batch_fast(texts)).cpu,
        "tiktoken": best_of(2, lambda: [tiktoken._encode_single_piece(piece) for piece in pieces]).cpu,
    }
    ours, encode, fast, rank = seconds.values()
    name = f"encoding, vocabulary {tokenizer.vocab_size:,}"
    return _Findings(
        {
            f"{name}: speed over Hugging Face `encode`": Figure(encode / ours, "x", at_least=bounds[0]),
            f"{name}: speed over Hugging Face `encode_batch_fast`": Figure(fast / ours, "x"),
            f"{name}: speed over tiktoken": Figure(rank / ours, "x", at_least=bounds[1]),
            f"{name}: pieces with ids identical to both": Figure(100 * same / len(pieces), "%", at_least=100),
        },
        [
            {
                "table": "Encoding, one thread, MB/s",
                "vocabulary": tokenizer.vocab_size,
                **{who: len(data) / 1e6 / spent for who, spent in seconds.items()},
            }
        ],
    )


def _encode_sizes(tokenizer: BPE, data: memoryview) -> _Findings:
    rows: list[Row] = []
    speeds = []
    for size in [*(size for size in SIZES if size < len(data)), len(data)]:
        pieces = list(_pieces(data, size))
        seconds = best_of(3, partial(_encode_all, tokenizer, pieces)).cpu
        speeds.append(len(data) / 1e6 / seconds)
        rows.append({"table": "Encoding by size of document", "bytes": size, "MB/s": speeds[-1]})
    flatness = Figure(min(speeds) / max(speeds), "x", at_least=0.8)
    return _Findings({"encoding: slowest over fastest size of document": flatness}, rows)


def _encode_threads(tokenizer: BPE, data: memoryview) -> _Findings:
    pieces = list(_pieces(data, PIECE))
    one, two = (best_of(3, partial(tokenizer.encode_batch, pieces, threads)).wall for threads in (1, 2))
    return _Findings({"encoding many documents: speed of 2 threads over 1": Figure(one / two, "x", at_least=1.8)})


def _encode_hard(tokenizer: BPE, data: memoryview, size: int) -> _Findings:
    usual = len(data) / 1e6 / best_of(2, partial(tokenizer.encode, data)).cpu
    rows: list[Row] = [{"table": "Encoding of hard input", "input": "executables", "MB/s": usual}]
    for what, hard in _hard_inputs(tokenizer, size):
        speed = len(hard) / 1e6 / timed(partial(tokenizer.encode, hard))[1].cpu
        rows.append({"table": "Encoding of hard input", "input": f"{_mb(len(hard))} of {what}", "MB/s": speed})
    slowest = min(float(row["MB/s"] or 0) for row in rows)
    return _Findings({"encoding: hardest input over executables": Figure(slowest / usual, "x", at_least=0.2)}, rows)


def _decode(tokenizer: BPE, data: memoryview) -> _Findings:
    ids = tokenizer.encode(data)
    assert tokenizer.decode(ids) == data
    seconds = best_of(3, partial(tokenizer.decode, ids)).cpu
    return _Findings({"decoding": Figure(len(data) / 1e6 / seconds, "MB/s", at_least=500)})


def _hard_inputs(tokenizer: BPE, size: int) -> Iterator[tuple[str, memoryview]]:
    yield "zeros", memoryview(bytes(size))
    yield "random bytes", memoryview(np.random.default_rng(0).bytes(size))
    longest = tokenizer.token_bytes(int(np.argmax(tokenizer.token_lengths)))
    yield "the longest token", _repeat(longest, size)
    yield "a de Bruijn sequence of order 3", _repeat(_de_bruijn(), size)


def _repeat(data: bytes, size: int) -> memoryview:
    return memoryview(data * -(-size // len(data)))[:size]


def _de_bruijn() -> bytes:
    """Every three bytes once: all Lyndon words of length 1 and 3 over the bytes, in order; 16.8 MB."""
    parts = []
    for first in range(256):
        second, third = np.mgrid[first:256, first + 1 : 256].reshape(2, -1)
        words = np.stack([np.full_like(second, first), second, third], axis=1)
        parts += [bytes([first]), words.astype(np.uint8).tobytes()]
    return b"".join(parts)


def _start() -> _Findings:
    main = "from byteloom.cli.main import main; main()"
    return _Findings(
        {
            "`import byteloom`": Figure(_python("-c", "import byteloom"), "s", at_most=0.3),
            "`byteloom --help`": Figure(_python("-c", main, "--help"), "s", at_most=0.5),
        }
    )


def _python(*arguments: str) -> float:
    """Seconds of a fresh interpreter, its own start included."""
    command = [sys.executable, *arguments]
    return best_of(5, partial(subprocess.run, command, check=True, capture_output=True)).wall


def _encode_all(tokenizer: BPE, pieces: Sequence[Buffer]) -> list[np.ndarray]:
    return [tokenizer.encode(piece) for piece in pieces]


def _pieces(data: memoryview, size: int) -> Iterator[memoryview]:
    return (data[start : start + size] for start in range(0, len(data), size))


def _mb(size: int) -> str:
    return f"{size / 1e6:,.3g} MB" if size < 1e9 else f"{size / 1e9:,.3g} GB"

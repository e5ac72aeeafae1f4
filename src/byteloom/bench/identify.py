"""Telling what bytes are, beside Magika and libmagic: whole files, and fragments from the middle of files.

`data` (or the user's cache) holds identify-corpus/, which scripts/identify/collect.py makes: labelled pieces of
packages, of which the test part was never trained on. Without it files of this Python do, which are few kinds.
"""

# Shape suffixes: W windows, C labels.

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
import wave
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import numpy.typing as npt

from byteloom.bench.catalogue import Progress
from byteloom.bench.identify_names import MAGIKA, MIME
from byteloom.bench.measure import bench_machine, best_of
from byteloom.bench.result import Card, Figure, Plot, Result, Row, Scale
from byteloom.corpus import Corpus
from byteloom.tasks.identify import GROUP_OF, content_map, identify, shipped_network
from byteloom.tasks.identify.labels import CODE_OF, GROUPS, WITHIN

CARD = Card(
    method="identify",
    title="What a file or a fragment is, from its bytes: a network of hashed n-grams that needs no name and no header.",
    paper="Magika: AI-Powered Content-Type Detection, Fratantonio et al., ICSE 2025 (the peer); Bag of Tricks for "
    "Efficient Text Classification, Joulin et al., EACL 2017 (the n-grams)",
    arxiv="2409.13768",
    stage="tasks",
    module="byteloom.tasks.identify",
    headline="Magika: 99 % precision and recall on whole files of over 100 types, 5 ms a file on one core",
    measures="accuracy on whole files and on fragments of 512 B, 4 KiB and 64 KiB beside Magika, libmagic and byte "
    "histograms; megabytes a second, time a file",
)

SIZES = (512, 4096, 65_536)
FRAGMENTS = "Accuracy on fragments from the middle of files, in per cent"
WHOLE = "Accuracy on whole files, in per cent"


@dataclass(frozen=True)
class _Sample:
    """Bytes and what they are."""

    label: str
    data: bytes


@dataclass(frozen=True)
class _Plan:
    """How much is measured: whole files and fragments of a label, and megabytes that are scanned."""

    files: int
    fragments: int
    scanned: int


_PLANS: dict[Scale, _Plan] = {"smoke": _Plan(2, 2, 1), "cpu": _Plan(30, 30, 64)}


def run(scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
    """Measure on the test part of the corpus in `data`, or on files of this Python."""
    plan = _PLANS[scale]
    report = progress or (lambda what, done, total: None)
    began = time.perf_counter()
    corpus = _corpus(data)
    pieces = _test_pieces(corpus) if corpus is not None and scale != "smoke" else _own_pieces()
    notes = (
        []
        if corpus is not None
        else [
            "Only files of this Python and this machine: for all labels run scripts/identify/collect.py -o "
            "FOLDER/identify-corpus and name FOLDER with --data."
        ]
    )
    tools = _tools()
    missing = {"Magika", "libmagic"} - set(tools)
    if missing:
        notes.append(f"Not installed, so not measured: {', '.join(sorted(missing))}.")
    if corpus is not None and scale != "smoke":
        tools["byte histograms"] = _histograms(corpus)
    rows: list[Row] = []
    numbers: dict[str, Figure] = {}
    files = _files(pieces, plan.files)
    found = {}
    for number, (tool, tell) in enumerate(tools.items()):
        report("telling whole files", number, len(tools))
        if tool != "byte histograms":
            found[tool] = tell([sample.data for sample in files])
    numbers |= _whole(files, found, rows)
    for size in SIZES:
        report(f"telling fragments of {size:,} bytes", 0, 1)
        samples = _fragments(pieces, size, plan.fragments)
        if samples:
            numbers |= _fragment_figures(samples, size, tools, rows)
    numbers |= _speed(pieces, files, plan, tools)
    rows += _confusions(pieces, plan.fragments)
    notes.append(
        f"{len(files):,} whole files of {len({sample.label for sample in files})} labels. A peer is right when it "
        "gives any name that could mean the label: for the parts of programs any executable, for source the language."
    )
    plots = [Plot(FRAGMENTS, "bytes", "right", "tool", log="x")]
    machine = bench_machine("magika", "onnxruntime", "numpy")
    return Result(CARD.method, scale, numbers, rows, machine, time.perf_counter() - began, notes, plots)


# What is told


def _corpus(data: Path | None) -> Path | None:
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "byteloom")
    for place in (data, cached):
        if place is not None and (place / "identify-corpus" / "manifest.jsonl").exists():
            return place / "identify-corpus"
    return None


Pieces = dict[str, list[tuple[bool, Callable[[], bytes]]]]  # label -> (a whole file?, its bytes)


def _test_pieces(corpus: Path, part: str = "test") -> Pieces:
    pieces: Pieces = defaultdict(list)
    for line in (corpus / "manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["part"] == part:
            pieces[row["label"]].append((row["whole"], _reader(corpus, row)))
    for label in pieces:
        random.Random(label).shuffle(pieces[label])
    return pieces


def _reader(corpus: Path, row: dict[str, Any]) -> Callable[[], bytes]:
    def read() -> bytes:
        with (corpus / row["file"]).open("rb") as file:
            file.seek(row["offset"])
            return file.read(row["size"])

    return read


def _own_pieces() -> Pieces:
    """A few kinds that every machine with Python has."""
    pieces: Pieces = defaultdict(list)

    def add(label: str, data: bytes, whole: bool = True) -> None:
        pieces[label].append((whole, lambda: data))

    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"), key=lambda path: -path.stat().st_size)[:40]
    for path in sources:
        data = path.read_bytes()
        add("python", data)
        add("gzip", gzip.compress(data, mtime=0))
        add("bzip2", bz2.compress(data))
        add("xz", lzma.compress(data))
        add("utf-16 text", data.decode("utf-8", "replace").encode("utf-16"))
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as container:
            container.writestr(path.name, data)
        add("zip", stream.getvalue())
    stream = io.BytesIO()
    with wave.open(stream, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes((np.sin(np.arange(80_000) / 20) * 9000).astype("<i2").tobytes())
    add("wav", stream.getvalue())
    for document in Corpus(["/bin", sys.executable], formats=["elf"], archives=False, max_size=8 << 20).sample(
        32 << 20
    ):
        label = CODE_OF.get(document.info.architecture or "")
        for section in document.info.sections:
            if label and section.name == ".text" and section.size > 8192:
                add(label, bytes(document.data[section.offset : section.offset + section.size]), False)
        add("elf", bytes(document.data))
        if len(pieces["elf"]) >= 20:
            break
    return pieces


def _files(pieces: Pieces, count: int) -> list[_Sample]:
    """Whole files, `count` of a label."""
    samples = []
    for label in sorted(pieces):
        whole = [read for is_whole, read in pieces[label] if is_whole]
        samples += [_Sample(label, read()) for read in whole[:count]]
    return samples


def _fragments(pieces: Pieces, size: int, count: int) -> list[_Sample]:
    """Fragments that begin behind the first half kilobyte, `count` of a label; whole executables give none."""
    draw = random.Random(size)
    samples = []
    for label in sorted(pieces):
        own: list[_Sample] = []
        if label in ("elf", "pe", "mach-o", "tar", "ar"):
            continue
        for _, read in pieces[label]:
            data = read()
            if len(data) < 512 + size or len(own) == count:
                continue
            start = draw.randrange(512, len(data) - size + 1)
            fragment = data[start : start + size]
            if max(np.bincount(np.frombuffer(fragment, np.uint8))) < 0.9 * size:
                own.append(_Sample(label, fragment))
        samples += own
    return samples


# Who tells


Tell = Callable[[Sequence[bytes]], list[str]]


def _tools() -> dict[str, Tell]:
    tools: dict[str, Tell] = {"byteloom": lambda samples: [identify(sample).alternatives[0][0] for sample in samples]}
    if find_spec("magika") is not None:
        tools["Magika"] = lambda samples: [_magika().identify_bytes(sample).output.label for sample in samples]
    if which("file"):
        tools["libmagic"] = _libmagic
    return tools


@cache
def _magika() -> Any:
    from magika import Magika

    return Magika()


def _libmagic(samples: Sequence[bytes]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        for number, sample in enumerate(samples):
            Path(folder, str(number)).write_bytes(sample)
        listing = Path(folder, "list")
        listing.write_text("".join(f"{folder}/{number}\n" for number in range(len(samples))))
        command = ["file", "--brief", "--mime-type", "--files-from", str(listing)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _histograms(corpus: Path) -> Tell:
    """Logistic regression on byte histograms of fragments of the training part."""
    import torch

    train = _fragments(_test_pieces(corpus, "train"), 4096, 60)
    names = sorted({WITHIN.get(sample.label, sample.label) for sample in train})
    inputs_WX = torch.from_numpy(_shares([sample.data for sample in train]))
    truth_W = torch.tensor([names.index(WITHIN.get(sample.label, sample.label)) for sample in train])
    torch.manual_seed(0)
    layer = torch.nn.Linear(256, len(names))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(inputs_WX), truth_W).backward()
        optimizer.step()

    def tell(samples: Sequence[bytes]) -> list[str]:
        with torch.no_grad():
            return [names[row] for row in layer(torch.from_numpy(_shares(samples))).argmax(1).tolist()]

    return tell


def _shares(samples: Sequence[bytes]) -> npt.NDArray[np.float32]:
    counts = [np.bincount(np.frombuffer(sample, np.uint8), minlength=256) / len(sample) for sample in samples]
    return np.sqrt(np.array(counts, np.float32))


def _is_right(tool: str, label: str, told: str) -> bool:
    labels = {label, WITHIN.get(label, label)}
    if tool == "Magika":
        return any(told in MAGIKA.get(name, ()) for name in labels)
    if tool == "libmagic":
        return any(told.startswith(prefix) for name in labels for prefix in MIME.get(name, ()))
    return told in labels


def _is_silent(tool: str, told: str) -> bool:
    """Whether the tool says that it does not know, or only that these are bytes or text."""
    return told in ("unknown", "application/octet-stream", "txt", "text/plain", "", *GROUPS)


# What is measured


def _whole(files: list[_Sample], found: dict[str, list[str]], rows: list[Row]) -> dict[str, Figure]:
    numbers = {}
    for label in sorted({sample.label for sample in files}):
        places = [place for place, sample in enumerate(files) if sample.label == label]
        row: Row = {"table": WHOLE, "label": label, "files": len(places)}
        for tool, told in found.items():
            known = tool == "byteloom" or label in (MAGIKA if tool == "Magika" else MIME)
            right = 100 * float(np.mean([_is_right(tool, label, told[place]) for place in places]))
            row[tool] = round(right, 1) if known else None
        rows.append(row)
    labels = [row for row in rows if row["table"] == WHOLE]
    mean = float(np.mean([float(row["byteloom"] or 0) for row in labels]))
    numbers["whole files: right, mean over all labels"] = Figure(mean, "%")
    for tool in ("Magika", "libmagic"):
        shared = [row for row in labels if row.get(tool) is not None]
        if tool in found and shared:
            ours, theirs = (float(np.mean([float(row[name] or 0) for row in shared])) for name in ("byteloom", tool))
            bound = -2.0 if tool == "Magika" else None
            numbers[f"whole files: points above {tool} on its labels"] = Figure(ours - theirs, "points", bound)
            numbers[f"whole files: {tool} right, mean over its labels"] = Figure(theirs, "%")
    return numbers


def _fragment_figures(samples: list[_Sample], size: int, tools: dict[str, Tell], rows: list[Row]) -> dict[str, Figure]:
    numbers: dict[str, Figure] = {}
    right: dict[str, float] = {}
    for tool, tell in tools.items():
        told = tell([sample.data for sample in samples])
        by_label: dict[str, list[bool]] = defaultdict(list)
        for sample, name in zip(samples, told, strict=True):
            by_label[sample.label].append(_is_right(tool, sample.label, name))
        right[tool] = 100 * float(np.mean([np.mean(of_label) for of_label in by_label.values()]))
        silent = 100 * float(np.mean([_is_silent(tool, name) for name in told]))
        row: Row = {"table": FRAGMENTS, "tool": tool, "bytes": size, "right": round(right[tool], 1)}
        rows.append(row | {"names nothing": round(silent, 1), "fragments": len(samples), "labels": len(by_label)})
        if tool == "byteloom":
            groups = [_group_of(name) == _group_of(sample.label) for sample, name in zip(samples, told, strict=True)]
            numbers[f"{size:,} B: right"] = Figure(right[tool], "%")
            numbers[f"{size:,} B: right group"] = Figure(100 * float(np.mean(groups)), "%")
    for tool in right:
        if tool != "byteloom":
            bound = None if tool == "byte histograms" else 20.0
            numbers[f"{size:,} B: points above {tool}"] = Figure(right["byteloom"] - right[tool], "points", bound)
    return numbers


def _group_of(label: str) -> str:
    return GROUP_OF.get(WITHIN.get(label, label), label)


def _speed(pieces: Pieces, files: list[_Sample], plan: _Plan, tools: dict[str, Tell]) -> dict[str, Figure]:
    numbers = {}
    mixed = b"".join(sample.data for sample in files)
    mixed = (mixed * (1 + (plan.scanned << 20) // len(mixed)))[: plan.scanned << 20]
    shipped_network()
    span = best_of(3, lambda: content_map(mixed))
    numbers["scanning, map of 4 KiB windows"] = Figure(len(mixed) / 1e6 / span.wall, "MB/s", 20.0)
    some = [sample.data for sample in files[:: max(1, len(files) // 200)]]
    times = {tool: best_of(2, lambda tell=tell: tell(some)).wall for tool, tell in tools.items()}  # type: ignore[misc]
    numbers["a file"] = Figure(1000 * times["byteloom"] / len(some), "ms", at_most=5.0)
    if "Magika" in times:
        numbers["a file, Magika"] = Figure(1000 * times["Magika"] / len(some), "ms")
    command = [sys.executable, "-m", "byteloom", "identify", sys.executable]
    start = best_of(3, lambda: subprocess.run(command, capture_output=True, check=True))
    numbers["one file from the command line"] = Figure(start.wall, "s")
    return numbers


def _confusions(pieces: Pieces, count: int) -> list[Row]:
    """The labels that are told least well at 4 KiB, and what they are taken for."""
    samples = _fragments(pieces, 4096, count)
    told = [identify(sample.data).alternatives[0][0] for sample in samples]
    by_label: dict[str, list[str]] = defaultdict(list)
    for sample, name in zip(samples, told, strict=True):
        by_label[sample.label].append(name)
    rows: list[Row] = []
    for label, names in by_label.items():
        right = 100 * float(np.mean([_is_right("byteloom", label, name) for name in names]))
        wrong = [name for name in names if not _is_right("byteloom", label, name)]
        mostly = max(set(wrong), key=wrong.count) if wrong else ""
        rows.append(
            {"table": "By label at 4 KiB", "label": label, "right": round(right, 1), "mostly taken for": mostly}
        )
    return sorted(rows, key=lambda row: (float(row["right"] or 0), str(row["label"])))

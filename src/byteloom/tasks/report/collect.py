"""What a report says, gathered from a fitted folder: numbers and short texts, no markup."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from byteloom.errors import FileError, InvalidInputError
from byteloom.evaluate.compression import ALL, CompressionRow, bytes_per_token, context_bytes
from byteloom.files import read_json
from byteloom.tasks.report.charts import Line, LineChart, line_chart, round_ticks, short
from byteloom.tasks.report.hexdump import HexView, hex_view
from byteloom.tasks.report.next_steps import next_steps
from byteloom.tasks.report.samples import read_samples
from byteloom.tasks.report.telling import TellingToken, token_table
from byteloom.tokenize import load_tokenizer
from byteloom.tokenize.analysis import length_statistics, token_counts

if TYPE_CHECKING:
    from byteloom.tokenize import Tokenizer

FORMAT = 1  # of fit.json
WINDOW = 2048  # tokens, the context length at which the report compares
BYTE_VOCABULARY = 263  # 7 special tokens and 256 bytes: the size of the raw-byte tokenizer
CURVE_POINTS = 160  # of a loss curve, as drawn
MAX_LINES = 6  # as many colours as the style sheet has
MAX_ROWS = 12  # of a table by format
LONGEST_BAR = 32  # bytes; longer tokens share the last bar

# Options of `byteloom fit` that are given in other units than fit.json keeps them in.
IN_UNITS = {"sample_bytes": ("sample_mb", 1e6), "validation_bytes": ("validation_kb", 1024)}

MODEL_NAMES = {"bpe": "BPE", "dna": "DNA BPE", "equal-info": "Equal-info", "subword": "Subwords", "bytes": "Raw bytes"}
MODEL_COLOURS = {kind: 2 if kind == "bytes" else 1 for kind in MODEL_NAMES}
FILTER_NAMES = {
    "format": "another format", "duplicate": "duplicate", "entropy": "entropy", "min_size": "too small",
    "max_size": "too large",
}  # fmt: skip
FORMAT_NAMES = {
    "elf": "ELF", "pe": "PE", "mach-o": "Mach-O", "mach-o fat": "Mach-O fat", "coff": "COFF", "dex": "DEX",
    "apk": "APK", "wasm": "WebAssembly", "text": "text", "empty": "empty", "other": "other",
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One headline number."""

    value: str
    unit: str
    detail: str


@dataclass(frozen=True)
class CompressionTable:
    """Bytes per token: a row for each group, a column for each vocabulary size."""

    vocab_sizes: tuple[int, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]
    used: tuple[float, ...]  # share of each vocabulary that the held-out files use
    bytes: int  # held out


@dataclass(frozen=True)
class WindowBar:
    """How much file one window of WINDOW tokens holds."""

    label: str
    bytes: int
    gain: float  # times as much as WINDOW bytes
    percent: float  # of the longest bar


@dataclass(frozen=True)
class LengthBar:
    """Tokens of one length: their share of the vocabulary and of the held-out token stream."""

    label: str
    vocabulary: float
    stream: float


@dataclass(frozen=True)
class Lengths:
    """The token-length histogram."""

    bars: tuple[LengthBar, ...]
    mean: float  # bytes, over learned and byte tokens
    three: float  # share of 3-byte tokens in the vocabulary
    top: float  # share at the top of the chart
    ticks: tuple[tuple[float, str], ...]  # (percent from the top, text)


@dataclass(frozen=True)
class Report:
    """Everything that the template shows; None or empty where the fit has no such thing."""

    title: str
    made: str  # date and time
    byteloom: str
    paths: tuple[str, ...]
    command: str
    seed: int
    machine: Mapping[str, Any]
    notes: tuple[str, ...]
    figures: tuple[Figure, ...]
    corpus: Mapping[str, Any]
    corpus_rows: tuple[Mapping[str, Any], ...]
    left_out: tuple[tuple[str, int], ...]  # reason, files
    tokenizer: Mapping[str, Any]
    largest: int  # vocabulary of the largest family member, which `lengths` and `tokens` show
    compression: CompressionTable | None
    compression_chart: LineChart | None
    window_gain: float | None  # bytes per token of all held-out files
    windows: tuple[WindowBar, ...]
    lengths: Lengths | None
    tokens: tuple[tuple[str, tuple[TellingToken, ...]], ...]  # kind, rows
    models: tuple[tuple[str, Mapping[str, Any]], ...]  # name, MODEL of fit.json
    gain: float | None  # share of the bits per byte that tokens save against raw bytes
    loss_chart: LineChart | None
    entropy: float | None  # bits per byte, order 0, mean over the corpus by bytes
    hex: HexView | None
    next_steps: tuple[tuple[str, str], ...]  # what it does, command


def collect(folder: Path) -> Report:
    """Read a folder that `byteloom fit` made. Raises FileError or InvalidInputError when it is not one."""
    if not (folder / "fit.json").exists():
        raise FileError(f"{folder} has no fit.json; name a folder that `byteloom fit` made, or run that first")
    facts = read_json(folder / "fit.json")
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise InvalidInputError(f"{folder}/fit.json is not of format {FORMAT}; run `byteloom fit` again")
    kinds = {facts["task"]} if "task" in facts else {model.get("model") for model in facts["models"].values()}
    if foreign := kinds & {"classify", "mrt5", "byte2word"}:
        raise InvalidInputError(f"there is no report of {foreign.pop()}; {folder}/fit.json has its figures")
    tokenizer = load_tokenizer(folder)
    largest = _largest(folder, facts["tokenizer"]["family"], tokenizer)
    samples = read_samples(folder)
    learned = facts["tokenizer"]["kind"] != "bytes"
    rows: list[CompressionRow] = facts.get("compression") or []
    vocab_size = facts["tokenizer"]["vocab_size"]
    overall = _row(rows, vocab_size, ALL)
    compression = _compression_table(rows) if learned else None
    windows = _windows(rows, vocab_size) if learned else ()
    models = tuple((name, facts["models"][name]) for name in MODEL_NAMES if name in facts["models"])
    telling = token_table(largest, samples) if learned else []
    entropy = _mean_entropy(facts["corpus"]["rows"])
    return Report(
        title=_title(facts["corpus"]),
        made=f"{datetime.fromisoformat(facts['made']):%d %B %Y, %H:%M}".lstrip("0"),
        byteloom=facts["byteloom"],
        paths=tuple(facts["paths"]),
        command=shlex.join(_command(facts, folder)),
        seed=facts["seed"],
        machine=facts["machine"],
        notes=tuple(facts["notes"]),
        figures=_figures(facts, rows, dict(models)),
        corpus=facts["corpus"],
        corpus_rows=_corpus_rows(facts["corpus"]["rows"]),
        left_out=_left_out(facts["corpus"]),
        tokenizer=facts["tokenizer"],
        largest=largest.vocab_size,
        compression=compression,
        compression_chart=_compression_chart(compression),
        window_gain=bytes_per_token(overall) if learned and overall else None,
        windows=windows,
        lengths=_lengths(largest, [sample.data for sample in samples]) if learned else None,
        tokens=tuple(
            (kind, tuple(token for token in telling if token.kind == kind))
            for kind in dict.fromkeys(token.kind for token in telling)
        ),
        models=models,
        gain=_gain(dict(models)),
        loss_chart=_loss_chart(models),
        entropy=entropy,
        hex=hex_view(tokenizer, samples),
        next_steps=tuple(next_steps(folder, facts, samples)),
    )


def _command(facts: Mapping[str, Any], folder: Path) -> list[str]:
    """The words of the command that makes this fit again: the paths, and the options that are not defaults."""
    options = {name: value for name, value in facts["options"].items() if name not in ("paths", "seed")}
    options |= options.pop("backbone", None) or {}
    words = ["byteloom", "fit", *facts["paths"], "-o", str(folder)]
    for name, value in [*options.items(), ("seed", facts["seed"])]:
        if name in IN_UNITS:
            name, unit = IN_UNITS[name]
            value = f"{value / unit:g}"
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-"))
        else:
            words += [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return words


def group_name(group: str) -> str:
    """A group of the compression rows as a reader knows it: "elf x86-64" -> "ELF x86-64"."""
    for format in sorted(FORMAT_NAMES, key=len, reverse=True):
        if group == format or group.startswith(format + " "):
            return FORMAT_NAMES[format] + group[len(format) :]
    return "All files" if group == ALL else group


def size(count: float) -> str:
    """Bytes in decimal units, three digits: 31234567 -> "31.2 MB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            value = count / scale
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{count:.0f} bytes"


def _title(corpus: Mapping[str, Any]) -> str:
    rows = _corpus_rows(corpus["rows"])
    names = [row["name"] for row in rows if row["bytes"] >= 0.05 * corpus["bytes"]]
    shown, rest = names[:3], len(rows) - len(names[:3])
    if rest and len(names) > 3:
        what = f"{', '.join(shown)} and {rest} more kinds"
    else:
        what = " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
    return f"{size(corpus['bytes'])} of {what}" if what else size(corpus["bytes"])


def _corpus_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The corpus table, largest first, with a reader's names; what exceeds MAX_ROWS is added up in the last row."""
    named = [
        {**row, "name": group_name(" ".join(filter(None, [row["format"], row["architecture"]])))}
        for row in sorted(rows, key=lambda row: -row["bytes"])
    ]
    if len(named) <= MAX_ROWS:
        return tuple(named)
    rest = named[MAX_ROWS - 1 :]
    total = {"name": f"{len(rest)} more kinds", "files": sum(r["files"] for r in rest)}
    total |= {"bytes": sum(r["bytes"] for r in rest), "entropy": _mean_entropy(rest)}
    return (*named[: MAX_ROWS - 1], total)


def _left_out(corpus: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """What the filters kept out, then what could not be read, by reason."""
    filtered = Counter({FILTER_NAMES.get(name, name): count for name, count in corpus["filtered"].items()})
    unreadable = Counter(entry["reason"] for entry in corpus["skipped"])
    return (*filtered.most_common(), *unreadable.most_common(MAX_ROWS))


def _largest(folder: Path, family: Sequence[int], tokenizer: Tokenizer) -> Tokenizer:
    """The largest vocabulary that fit kept; the model's own where it kept no other."""
    place = folder / "tokenizers" / str(max(family, default=0))
    return load_tokenizer(place) if place.exists() else tokenizer


def _mean_entropy(rows: Sequence[Mapping[str, Any]]) -> float | None:
    known = [(row["entropy"], row["bytes"]) for row in rows if row["entropy"] is not None]
    total = sum(count for _, count in known)
    return sum(entropy * count for entropy, count in known) / total if total else None


def _figures(facts: Mapping[str, Any], rows: Sequence[CompressionRow], models: Mapping[str, Any]) -> tuple[Figure, ...]:
    figures = []
    kind = facts["tokenizer"]
    overall = _row(rows, kind["vocab_size"], ALL)
    if kind["kind"] != "bytes" and overall:
        most = _row(rows, max(kind["family"]), ALL) or overall
        larger = most["vocab_size"] > overall["vocab_size"]
        detail = f"vocabulary {kind['vocab_size']:,}"
        detail += f"; {bytes_per_token(most):.2f} with {most['vocab_size']:,}" if larger else ", on held-out files"
        figures.append(Figure(f"{bytes_per_token(overall):.2f}", "bytes per token", detail))
        times = f"{bytes_per_token(overall):.1f}"
        times += f" to {bytes_per_token(most):.1f}" if larger else ""
        window = f"{times} times what raw bytes give"
        figures.append(Figure(f"{context_bytes(overall, WINDOW):,}", f"bytes in {WINDOW:,} tokens", window))
    best = _learned(models) or models.get("bytes")
    if best:
        other = models.get("bytes") if best is not models.get("bytes") else None
        detail = f"raw-byte model: {other['bits_per_byte']:.3f}" if other else "on held-out files"
        figures.append(Figure(f"{best['bits_per_byte']:.3f}", "bits per byte", detail))
    if kind.get("training_mb_per_s"):
        detail = f"{size(kind['bytes'])} in {kind['seconds']:.1f} s"
        figures.append(Figure(f"{kind['training_mb_per_s']:.3g} MB/s", "tokenizer training", detail))
    return tuple(figures)


def _row(rows: Sequence[CompressionRow], vocab_size: int, group: str) -> CompressionRow | None:
    return next((row for row in rows if row["vocab_size"] == vocab_size and row["group"] == group), None)


def _groups(rows: Sequence[CompressionRow]) -> list[str]:
    """ALL first, then by size; ALL alone is left out when one group is everything."""
    sizes = {row["group"]: row["bytes"] for row in rows}
    groups = sorted(sizes, key=lambda group: (group != ALL, -sizes[group], group))
    return groups[1:] if len(groups) == 2 else groups


def _compression_table(rows: Sequence[CompressionRow]) -> CompressionTable | None:
    vocab_sizes = tuple(sorted({row["vocab_size"] for row in rows} - {BYTE_VOCABULARY}))
    if not vocab_sizes:
        return None
    table = []
    for group in _groups(rows)[:MAX_ROWS]:
        cells = [_row(rows, vocab_size, group) for vocab_size in vocab_sizes]
        table.append((group_name(group), tuple(bytes_per_token(cell) for cell in cells if cell)))
    overall = [row for v in vocab_sizes if (row := _row(rows, v, ALL))]
    used = tuple(row["tokens_used"] / row["vocab_size"] for row in overall)
    return CompressionTable(vocab_sizes, tuple(table), used, overall[0]["bytes"] if overall else 0)


def _compression_chart(table: CompressionTable | None) -> LineChart | None:
    if table is None:
        return None
    lines = [
        Line(name, list(zip(table.vocab_sizes, values, strict=True)), colour)
        for colour, (name, values) in enumerate(table.rows[:MAX_LINES], start=1)
    ]
    return line_chart(
        lines,
        title="Bytes per token by vocabulary size and format",
        x_title="vocabulary",
        y_title="bytes per token",
        x_ticks=[(v, short(v)) for v in table.vocab_sizes],
        log_x=True,
        y_bottom=1.0,  # raw bytes
    )


def _windows(rows: Sequence[CompressionRow], vocab_size: int) -> tuple[WindowBar, ...]:
    """A bar for each group at `vocab_size`; where there is but one group, a bar for each vocabulary size."""
    groups = _groups(rows)
    if len(groups) == 1:
        found = [(f"Vocabulary {row['vocab_size']:,}", row) for row in rows if row["group"] == groups[0]]
        found = sorted(
            (pair for pair in found if pair[1]["vocab_size"] > BYTE_VOCABULARY), key=lambda p: p[1]["vocab_size"]
        )
    else:
        found = [(group_name(group), row) for group in groups if (row := _row(rows, vocab_size, group))]
    longest = max((context_bytes(row, WINDOW) for _, row in found), default=1)
    return tuple(
        WindowBar(
            label=label,
            bytes=context_bytes(row, WINDOW),
            gain=bytes_per_token(row),
            percent=100 * context_bytes(row, WINDOW) / max(longest, WINDOW),
        )
        for label, row in found[:MAX_ROWS]
    )


def _lengths(tokenizer: Tokenizer, documents: Sequence[bytes]) -> Lengths:
    known = length_statistics(tokenizer)
    lengths = tokenizer.token_lengths.astype(np.int64)
    emitted = token_counts(tokenizer, documents)
    last = min(known.longest, LONGEST_BAR)
    clipped = np.minimum(lengths, last)
    vocabulary = np.bincount(clipped[lengths > 0], minlength=last + 1) / known.tokens
    stream = np.bincount(clipped, weights=emitted, minlength=last + 1) / max(int(emitted.sum()), 1)
    more = "+" if known.longest > last else ""
    bars = tuple(
        LengthBar(f"{n}{more * (n == last)}", float(vocabulary[n]), float(stream[n])) for n in range(1, last + 1)
    )
    shares = round_ticks(0.0, max(max(bar.vocabulary, bar.stream) for bar in bars))
    return Lengths(
        bars=bars,
        mean=known.mean,
        three=known.three_byte_share,
        top=shares[-1],
        ticks=tuple((round(100 * (1 - share / shares[-1]), 2), f"{share:.0%}") for share in shares),
    )


def _gain(models: Mapping[str, Any]) -> float | None:
    learned = _learned(models)
    if learned is None or "bytes" not in models:
        return None
    return 1 - learned["bits_per_byte"] / models["bytes"]["bits_per_byte"]


def _learned(models: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The model with a tokenizer that was learned."""
    return next((model for kind, model in models.items() if kind != "bytes"), None)


def _loss_chart(models: Sequence[tuple[str, Mapping[str, Any]]]) -> LineChart | None:
    lines = []
    settled: list[float] = []  # what must be seen; the fall from the first steps may begin above the chart
    for name, model in models:
        curve = [(point["seconds"], point["bits_per_byte"]) for point in model["curve"]]
        validation = [(point["seconds"], point["bits_per_byte"]) for point in model["validation_curve"]]
        label, colour = MODEL_NAMES[name], MODEL_COLOURS[name]
        lines.append(Line(f"{label}, training", _thin(curve), colour, marks=False, faint=True))
        lines.append(Line(label, validation, colour))
        settled += [y for _, y in validation] + [y for _, y in curve[len(curve) // 4 :]]
    return line_chart(
        lines,
        title="Bits per byte over training time",
        x_title="seconds of training",
        y_title="bits per byte",
        y_top=max(settled, default=None),
    )


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most CURVE_POINTS points: means of neighbours."""
    step = -(-len(points) // CURVE_POINTS)
    groups = [points[i : i + step] for i in range(0, len(points), max(step, 1))]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]

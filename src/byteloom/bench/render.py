"""Results and catalogue as Markdown: docs/results.md and docs/methods.md are what these functions give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from byteloom.bench.catalogue import benchmarks
from byteloom.bench.result import Card, Figure, Result, Row, load_results
from byteloom.files import StrPath

PICTURES = "images/results"  # beside the page
_RESULTS_HEAD = """\
# Results

Measured by `byteloom bench`, written by it from the files under `results/`; not edited by hand.
Peers are measured in the same run on the same bytes. MB is 10^6 bytes.
Figures marked *published* or *reference* are quotations, everything else was measured.
"""
_METHODS_HEAD = """\
# Methods

Every method is one choice at one stage of the pipeline, and has one benchmark: `byteloom bench METHOD`.
Written by `byteloom bench` from the cards in `src/byteloom/bench/`; `byteloom methods` prints a table of it.
"""


def render_results(results_dir: StrPath) -> str:
    """The page of all results under `results_dir`, but for smoke runs: they only show that the code works."""
    results = [result for result in load_results(results_dir) if result.scale != "smoke"]
    cards = {method: module.CARD for method, module in benchmarks().items()}
    parts = [_RESULTS_HEAD]
    for method, runs in groupby(results, key=lambda result: result.method):
        if method in cards:
            parts.append(_render_heading(cards[method]))
            parts.extend(map(_render_result, runs))
    return "\n".join(parts)


def render_methods() -> str:
    """The page of all methods, from their cards."""
    parts = [_METHODS_HEAD]
    for card in (module.CARD for module in benchmarks().values()):
        facts = [
            ("Stage", f"{card.stage} (`{card.module}`)"),
            ("Paper", _paper(card)),
            ("Published", card.headline),
            ("Measured", card.measures),
        ]
        parts.append(f"## {card.method}\n\n{card.title}\n")
        parts.append("".join(f"- **{name}:** {text}\n" for name, text in facts))
    return "\n".join(parts)


def format_value(value: str | int | float | None) -> str:
    """A cell: three significant digits, thousands separated, a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def format_bound(figure: Figure) -> str:
    """The bound of a figure in words; empty where there is none."""
    bounds = (("at least", figure.at_least), ("at most", figure.at_most))
    return ", ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


def _render_heading(card: Card) -> str:
    return f"## {card.method}\n\n{card.title}\n{_paper(card)}\n\n*Published:* {card.headline}\n"


def _render_result(result: Result) -> str:
    machine = result.machine
    versions = ("python", "byteloom", "numpy", "torch", "transformers", "tokenizers", "tiktoken")
    parts = [
        f"### {machine['cpu']}, {machine['cores']} cores, scale {result.scale}\n",
        f"{machine['platform']}, {machine['memory_gib']} GiB, device {machine['device']}; "
        + ", ".join(f"{name} {machine[name]}" for name in versions if name in machine)
        + f"; {result.seconds:,.0f} s in all.\n",
        _table(
            ["Figure", "Measured", "Required", "Met"],
            (
                [
                    name,
                    f"{format_value(figure.value)} {figure.unit}".strip(),
                    format_bound(figure),
                    _mark(figure),
                ]
                for name, figure in result.numbers.items()
            ),
        ),
    ]
    for table, rows in groupby(result.rows, key=lambda row: row["table"]):
        parts.append(f"#### {table}\n")
        parts.append(_rows(list(rows)))
        parts.extend(
            f"![{plot.y} over {plot.x}, by {plot.by}]({PICTURES}/{result.picture(plot)})\n"
            for plot in result.plots
            if plot.table == table
        )
    if result.notes:
        parts.append("".join(f"- {note}\n" for note in result.notes))
    return "\n".join(parts)


def _rows(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "table"))
    return _table(columns, ([format_value(row.get(column)) for column in columns] for row in rows))


def _table(columns: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *cells]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _paper(card: Card) -> str:
    link = f" [arXiv {card.arxiv}](https://arxiv.org/abs/{card.arxiv})" if card.arxiv else ""
    return f"{card.paper}.{link}"


def _mark(figure: Figure) -> str:
    return {None: "", True: "yes", False: "**no**"}[figure.met]

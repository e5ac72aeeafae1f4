"""What a benchmark says about itself (`Card`) and what a run found (`Result`), in memory and as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from byteloom.errors import FileError
from byteloom.files import StrPath, read_json, write_json

Scale = Literal["smoke", "cpu", "gpu"]
Row = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Card:
    """One entry of the catalogue: a published method, and what its benchmark measures."""

    method: str  # the name on the command line, such as "binary-bpe"
    title: str  # what it does, in one line
    paper: str  # title, authors, year
    arxiv: str  # "2511.17573"; empty when the paper is not on arXiv
    stage: str  # the stage of the pipeline: "corpus", "tokenize", "train", ...
    module: str  # where the method lives: "byteloom.tokenize"
    headline: str  # the result as published: a quotation, not a measurement
    measures: str  # what a run measures, in one line
    scales: tuple[Scale, ...] = ("smoke", "cpu")


@dataclass(frozen=True)
class Figure:
    """One measured number and, where one was promised, the bound that it has to keep."""

    value: float
    unit: str  # "x" for a ratio, "MB/s", "B/B", "s", "%"; empty for a count
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the bound is kept; None where there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )


@dataclass(frozen=True)
class Plot:
    """A picture of one table: y over x, a line for each value of the column `by`; the axes in `log` are logarithmic."""

    table: str
    x: str
    y: str
    by: str
    log: str = ""  # "x", "y" or "xy"


@dataclass(frozen=True)
class Result:
    """One run of one benchmark.

    `numbers` are the few figures that matter, by name. `rows` are the tables behind them: each row names its
    table under "table", its other keys are the columns. `plots` draw some of these. `notes` say what else a reader must
    know: what was measured on what, and what could not be.
    """

    method: str
    scale: Scale
    numbers: dict[str, Figure]
    rows: list[Row]
    machine: dict[str, Any]
    seconds: float
    notes: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.scale == "smoke":  # too little work for a bound to mean anything
            bare = {name: Figure(figure.value, figure.unit) for name, figure in self.numbers.items()}
            object.__setattr__(self, "numbers", bare)

    @property
    def file_name(self) -> str:
        """`method-scale-machine.json`: a second run on the same kind of machine replaces the first."""
        machine = "-".join(str(self.machine[key]) for key in ("device", "cpu", "cores"))
        return f"{self.method}-{self.scale}-{re.sub(r'[^a-z0-9]+', '-', machine.lower()).strip('-')}.json"

    def picture(self, plot: Plot) -> str:
        """The file name of a plot: that of the result with its number."""
        return f"{self.file_name.removesuffix('.json')}-{1 + self.plots.index(plot)}.svg"

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists; numbers keep six significant digits, and missing bounds are left out."""
        fields = asdict(self)
        fields["numbers"] = {
            name: {key: _tidy(value) for key, value in figure.items() if value is not None}
            for name, figure in fields["numbers"].items()
        }
        fields["rows"] = [{key: _tidy(value) for key, value in row.items()} for row in self.rows]
        fields["seconds"] = round(self.seconds, 1)
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Result:
        """The inverse of `to_json`. Raises KeyError or TypeError where the fields are not a result's."""
        numbers = {name: Figure(**figure) for name, figure in fields["numbers"].items()}
        plots = [Plot(**plot) for plot in fields.get("plots", [])]
        return cls(**{**fields, "numbers": numbers, "plots": plots})


def save_result(result: Result, folder: StrPath) -> Path:
    """Write a result into `folder` under its `file_name`; gives the path."""
    path = Path(folder) / result.file_name
    write_json(path, result.to_json())
    return path


def load_results(folder: StrPath) -> list[Result]:
    """All results of a folder in order of file name; raises FileError when a JSON file is not a result."""
    return list(_load(sorted(Path(folder).glob("*.json"))))


def _load(paths: Iterable[Path]) -> Iterable[Result]:
    for path in paths:
        try:
            yield Result.from_json(read_json(path))
        except (KeyError, TypeError, AttributeError) as error:
            raise FileError(f"cannot read {path}: it is not a result of `byteloom bench`; move it away") from error


def _tidy(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value

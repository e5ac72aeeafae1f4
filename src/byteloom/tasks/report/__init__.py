"""The report of a fitted folder: one self-contained HTML file that needs no network.

Use `write_report(folder)` after `byteloom fit`, which does so itself; `byteloom report DIR` writes it anew.
Cost: a second or two; the file is a few hundred kilobytes.
"""

from __future__ import annotations

import os
from pathlib import Path

from byteloom.errors import MissingExtraError
from byteloom.files import atomic_write
from byteloom.tasks.report.collect import MODEL_COLOURS, MODEL_NAMES, WINDOW, Report, collect, group_name, size
from byteloom.tasks.report.hexdump import short_hex
from byteloom.tasks.report.next_steps import next_steps
from byteloom.tasks.report.samples import read_samples
from byteloom.tokenize.segments import printable

__all__ = ["next_steps", "read_samples", "write_report"]

REPORT = "report.html"
_HERE = Path(__file__).parent


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write `folder`/report.html from what `byteloom fit` left in `folder`, and return its path.

    Raises FileError or InvalidInputError when `folder` is not a fitted one, MissingExtraError without jinja2.
    """
    path = Path(folder) / REPORT
    html = _render(collect(Path(folder)))
    with atomic_write(path, "w") as file:
        file.write(html)
    return path


def _render(report: Report) -> str:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtraError("jinja2", "tasks") from error
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"size": size, "printable": printable, "group_name": group_name, "short_hex": short_hex}
    return environment.get_template("report.html").render(
        r=report,
        window=WINDOW,
        model_names=MODEL_NAMES,
        model_colours=MODEL_COLOURS,
        best=min((model["bits_per_byte"] for _, model in report.models), default=None),
        css=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup((_HERE / "report.js").read_text(encoding="utf-8")),
    )

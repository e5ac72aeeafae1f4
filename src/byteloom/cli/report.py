"""`byteloom report`: write the report of a fitted folder anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from byteloom.cli.console import JsonFlag, out, print_json


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `byteloom fit` made.")],
    json: JsonFlag = False,
) -> None:
    """Write DIR/report.html anew.

    Use it after an update of byteloom, or when `fit` ran where jinja2 was missing; nothing is trained or measured.
    The report is one file that needs no network: corpus, compression, learned tokens, loss, speed, a hex view.

    Example: byteloom report my-model
    """
    from byteloom.tasks.report import write_report

    path = write_report(folder)
    if json:
        print_json({"report": str(path), "bytes": path.stat().st_size})
    else:
        out.print(f"Report  {path}", markup=False)

"""The demonstration: a fit of this machine's own executables, small enough to wait for.

Use it to see the whole pipeline work, and to check an installation. Cost: five minutes on two cores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from byteloom.corpus import machine_executables, machine_format
from byteloom.errors import InvalidInputError
from byteloom.files import StrPath, read_json
from byteloom.tasks.fit import WORK, fit
from byteloom.tasks.prepare import Source
from byteloom.tasks.report import write_report
from byteloom.train.plan import Wish
from byteloom.train.progress import Progress, silent

SAMPLE_BYTES = 32_000_000
MINUTES = 1.5  # of training, for each of the two models


def demo(folder: StrPath, *, overwrite: bool = False, progress: Progress = silent) -> dict[str, Any]:
    """Fit this machine's executables into `folder`, and give the facts, as `fit` does.

    Goes on after a kill; what was finished earlier is only shown again, with its report written anew, unless
    `overwrite`. Raises InvalidInputError when `folder` holds anything else.
    """
    folder = Path(folder)
    paths = tuple(str(path) for path in machine_executables())
    begun = (folder / WORK / "request.json").exists()  # fit takes it away at its end
    if (folder / "fit.json").exists() and not begun and not overwrite:
        facts: dict[str, Any] = read_json(folder / "fit.json")
        if facts["options"].get("sample_bytes") != SAMPLE_BYTES or tuple(facts["paths"]) != paths:
            raise InvalidInputError(f"{folder} holds another fit; name another folder with -o, or add --overwrite")
        write_report(folder)
        return facts
    source = Source(paths=paths, formats=(machine_format(),), archives=False, sample_bytes=SAMPLE_BYTES)
    return fit(source, Wish(minutes=MINUTES), folder, overwrite=overwrite, progress=progress)

"""The folder of a run: whose it is, what of it can be replaced, and when it is finished.

A run keeps its intermediate results in DIR/.work. While DIR/.work/request.json is there the run is unfinished, and the
same request goes on with it; DIR/fit.json is written when all is done.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byteloom.errors import FileError, InvalidInputError
from byteloom.files import atomic_write, read_json, write_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

WORK = ".work"
FACTS = "fit.json"
_OURS = (
    *(WORK, "samples", "tokenizers", "baseline", FACTS, "report.html", "tokenizer.json", "tokenizer_config.json"),
    *("config.json", "generation_config.json", "model.safetensors"),
)


def claim(folder: Path, request: dict[str, Any], overwrite: bool) -> None:
    """Make `folder` the home of the run that `request` asks for, or find that it is already.

    Raises InvalidInputError when it holds another run or other files (`overwrite` clears a run, and nothing else).
    """
    request = json.loads(json.dumps(request))  # tuples become lists, as they do in the file
    begun = folder / WORK / "request.json"
    if folder.exists() and not folder.is_dir():
        raise FileError(f"{folder} is a file, not a folder; name another output folder")
    ours = begun.exists() or (folder / FACTS).exists()
    if overwrite and ours:
        for path in [*(folder / name for name in _OURS), *folder.glob("model-*-of-*.safetensors")]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    if begun.exists():
        earlier = read_json(begun)
        if earlier != request:
            differing = [
                key for part in request for key in request[part] if earlier.get(part, {}).get(key) != request[part][key]
            ]
            raise InvalidInputError(
                f"{folder} holds an unfinished run with another {', '.join(differing)}; "
                "give the same options to go on, name another folder, or add --overwrite"
            )
    elif (folder / FACTS).exists():
        raise InvalidInputError(f"{folder} holds a finished run; name another folder or add --overwrite")
    elif not ours and folder.exists() and any(path.name != WORK for path in folder.iterdir()):
        raise InvalidInputError(f"{folder} holds other files; name a new or an empty folder")
    else:
        write_json(begun, request)


def install(model: Path, place: Path) -> None:
    """Copy the files of a trained model to `place`, each atomically."""
    for file in sorted(model.iterdir()):
        with atomic_write(place / file.name) as target, file.open("rb") as origin:
            shutil.copyfileobj(origin, target)


def finish(folder: Path, keep_work: bool) -> None:
    """Declare the run finished, and clear its work unless it is to be kept."""
    (folder / WORK / "request.json").unlink()
    if not keep_work:
        shutil.rmtree(folder / WORK)


def chosen(request: DataclassInstance) -> dict[str, Any]:
    """The options that are not at their defaults: what one has to type again."""
    given = asdict(request)
    return {option.name: given[option.name] for option in fields(request) if given[option.name] != option.default}

"""`byteloom embed`: a vector for each file or line, by a Byte2Word encoder."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from byteloom.cli.console import JsonFlag, out, print_json, progress
from byteloom.errors import FileError, InvalidInputError
from byteloom.files import atomic_write, open_bytes

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from byteloom.models.byte2word import Byte2WordModel

_AT_ONCE = 4096  # documents between two reports of progress


def embed(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder with a Byte2Word model, of any head.")],
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files of any length; - for standard input.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where vectors go: a .npy file, float32, a row each.")
    ],
    lines: Annotated[bool, typer.Option("--lines", help="A vector for each line instead of each file.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write a vector for each file, or line, with which like texts can be found and grouped.

    It is the mean of the model's states of the words. Long files are read in windows; an empty one has a vector too.

    Example: byteloom embed my-encoder logs/*.txt -o logs.npy

    Example: grep error app.log | byteloom embed my-encoder - --lines -o errors.npy
    """
    import numpy as np

    from byteloom.models.byte2word import embed as vectors_of

    encoder = _load(model)
    names: list[str] = []
    documents: list[Buffer] = []
    for name in files:
        data = sys.stdin.buffer.read() if name == "-" else open_bytes(name)
        some = bytes(data).splitlines() if lines else [data]
        documents += some
        names += [f"{name}:{number}" for number in range(1, 1 + len(some))] if lines else [name]
    if not documents:
        raise InvalidInputError("there is no line to embed")
    began = time.perf_counter()
    found = []
    with progress() as report:
        for at in range(0, len(documents), _AT_ONCE):
            report("embedding", at, len(documents))
            found.append(vectors_of(encoder, documents[at : at + _AT_ONCE]))
        report("embedding", len(documents), len(documents))
    vectors_BD = np.concatenate(found)
    seconds = time.perf_counter() - began
    with atomic_write(output) as file:
        np.save(file, vectors_BD)
    count, width = vectors_BD.shape
    if json:
        facts = {"output": str(output), "vectors": count, "width": width, "documents": names, "seconds": seconds}
        print_json(facts)
    else:
        out.print(f"{count:,} vectors of {width:,} numbers in {seconds:.1f} s, written to {output}", markup=False)


def _load(folder: Path) -> Byte2WordModel:
    import torch
    from transformers import AutoConfig, AutoModel

    from byteloom.models.byte2word import Byte2WordConfig
    from byteloom.train.trainer import quiet_transformers

    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            if not isinstance(config, Byte2WordConfig):
                raise InvalidInputError(f"{folder} holds a {config.model_type} model; embed takes a byte2word model")
            model = AutoModel.from_pretrained(folder, local_files_only=True)
        except InvalidInputError:
            raise
        except (OSError, ValueError) as error:
            raise FileError(f"cannot load the model in {folder}: {str(error).splitlines()[0]}") from error
    return model.to(torch.accelerator.current_accelerator() or torch.device("cpu")).eval()

"""`byteloom answer`: answer a question over the files of a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from byteloom.cli.console import JsonFlag, err, print_json, progress

if TYPE_CHECKING:
    from byteloom.tasks.answering import Answer


def answer(
    folder: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A folder of `byteloom fit`, or any rotary causal LM.")
    ],
    contexts: Annotated[Path, typer.Option(metavar="DIR", help="The files that the model shall see.")],
    question: Annotated[str, typer.Option(metavar="TEXT", help="What follows them; the model continues it.")],
    best: Annotated[
        int, typer.Option(help="Pieces to show, those that share most words with the question; 0: all.")
    ] = 16,
    piece: Annotated[
        int | None, typer.Option(help="Tokens of a piece at most (default: half the window of the model).")
    ] = None,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="What stands before every piece: instructions.")] = "",
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to write at most.")] = 64,
    temperature: Annotated[
        float, typer.Option(help="Of sampling: below 1 more probable, above 1 more surprising; 0: greedy.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of sampling: the same seed writes the same.")] = 0,
    context_temperature: Annotated[float, typer.Option(help="Below 1 attention inside the pieces is sharper.")] = 0.9,
    context_scale: Annotated[float, typer.Option(help="Below 1 the pieces get less of the attention.")] = 0.9,
    tune: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Choose these two by examples, a JSON line each: {"question": "...", "answer": "..."}.',
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep here what was read (default: in the user's cache).")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Answer a question over the files of a folder.

    Use it for many questions over the same files: each is read once, cut into pieces, and kept on disk, so that the
    next question begins at once. Pieces share the model's window, and together may be longer than it.

    Example: byteloom answer DIR --contexts docs --question "Q: How is a cache saved? A:"
    """
    if temperature < 0:
        from byteloom.errors import InvalidInputError

        raise InvalidInputError("temperature is at least 0")
    import transformers

    from byteloom.generate import Tuning
    from byteloom.tasks.answering import answer_question

    transformers.set_seed(seed)
    with progress() as report:
        found = answer_question(
            folder,
            contexts,
            question,
            prefix=prefix,
            best=best,
            piece_tokens=piece,
            max_new_tokens=max_new_tokens,
            tuning=Tuning(context_temperature, context_scale),
            examples=tune,
            store=cache,
            sampling={"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else None,
            progress=report,
        )
    if json:
        print_json(_facts(found))
        return
    sys.stdout.buffer.write(found.data)
    if sys.stdout.isatty():
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    err.print(
        f"{len(found.ids):,} tokens in {found.seconds:.2f} s; {len(found.pieces):,} of {found.found:,} pieces seen, "
        f"{found.read:,} of them read now; contexts at hand after {found.seconds_to_join:.2f} s"
    )
    if found.skipped:
        err.print(f"{found.skipped:,} files were skipped: they cannot be read, or are no text as this model needs it")
    if tune is not None:
        err.print(f"temperature {found.tuning.temperature}, scale {found.tuning.scale} suit the examples best")


def _facts(found: Answer) -> dict[str, Any]:
    return {
        "answer": found.data.decode(errors="replace"),
        "hex": found.data.hex(),
        "new_tokens": len(found.ids),
        "pieces": [
            {"file": piece.name, "part": piece.part, "parts": piece.parts, "tokens": len(piece.ids)}
            for piece in found.pieces
        ],
        "pieces_found": found.found,
        "pieces_read": found.read,
        "files_skipped": found.skipped,
        "context_temperature": found.tuning.temperature,
        "context_scale": found.tuning.scale,
        "seconds_to_join": found.seconds_to_join,
        "seconds": found.seconds,
    }

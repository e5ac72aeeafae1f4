"""`byteloom score`: how surprising each part of a file is to a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from byteloom.cli.console import JsonFlag, err, out, print_json, progress
from byteloom.files import atomic_write

if TYPE_CHECKING:
    from byteloom.tasks.scoring import Part, Score

_BLOCKS = "▁▂▃▄▅▆▇█"


def score(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of any length.")],
    model: Annotated[
        Path, typer.Option("--model", "-m", metavar="DIR", help="A folder of `byteloom fit`, or any rotary causal LM.")
    ],
    window: Annotated[
        int | None, typer.Option(help="Tokens that the model sees at once (default: what it was trained at).")
    ] = None,
    sinks: Annotated[int, typer.Option(help="First tokens of the file that stay visible.")] = 10,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the loss over the file: .svg, .pdf or .png.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write offset, bytes and bits of each token, a line each."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Tell how surprising each part of a file is to a model, in bits per byte.

    Use it to find what does not belong: packed sections, foreign languages, generated code, damage. The file is read as
    one stream, far beyond the length that the model was trained at, in constant memory.

    Example: byteloom score /bin/ls --model DIR --plot ls.svg
    """
    from byteloom.tasks.plots import check_plot
    from byteloom.tasks.scoring import draw_score, score_file

    if plot is not None:
        check_plot(plot)
    with progress() as report:
        if output is None:
            result = score_file(model, file, window=window, sinks=sinks, progress=report)
        else:
            with atomic_write(output, "w") as lines:

                def write(starts: Any, lengths: Any, bits: Any) -> None:
                    rows = zip(starts.tolist(), lengths.tolist(), bits.tolist(), strict=True)
                    lines.writelines(f"{start}\t{length}\t{loss:.4f}\n" for start, length, loss in rows)

                result = score_file(model, file, window=window, sinks=sinks, on_tokens=write, progress=report)
    if plot is not None:
        draw_score(result, plot, file.name)
    if json:
        print_json(
            {
                "bytes": result.bytes,
                "tokens": result.tokens,
                "bits": result.bits,
                "bits_per_byte": result.bits_per_byte,
                "window": result.window,
                "seconds": result.seconds,
                "parts": [_facts(part) for part in result.parts],
            }
        )
        return
    _show(result)
    for path in (plot, output):
        if path is not None:
            err.print(f"written to {path}", markup=False)


def _facts(part: Part) -> dict[str, Any]:
    return {
        "start": part.start,
        "stop": part.stop,
        "tokens": part.tokens,
        "bits": part.bits,
        "bits_per_byte": part.bits_per_byte,
    }


def _show(score: Score) -> None:
    out.print(
        f"{score.bits_per_byte:.3f} bits per byte: {score.bytes:,} bytes in {score.tokens:,} tokens, a window of "
        f"{score.window:,}; {score.tokens / max(score.seconds, 1e-9):,.0f} tokens a second"
    )
    if len(score.parts) < 2:
        return
    out.print(_line(score, out.width))
    out.print("most surprising:")
    for part in score.most_surprising():
        out.print(f"  {part.bits_per_byte:6.2f} bits per byte at {part.start:#x} to {part.stop:#x}")


def _line(score: Score, width: int) -> str:
    """The loss over the file as a line of blocks; the highest is the most surprising place."""
    columns = min(width, len(score.parts))
    places = [
        score.parts[at * len(score.parts) // columns : (at + 1) * len(score.parts) // columns] for at in range(columns)
    ]
    heights = [max(part.bits_per_byte for part in place) for place in places]
    top = max(max(heights), 1e-9)
    return "".join(_BLOCKS[min(len(_BLOCKS) - 1, int(height / top * len(_BLOCKS)))] for height in heights)

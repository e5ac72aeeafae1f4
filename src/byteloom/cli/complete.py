"""`byteloom complete`: several ways in which a model would go on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from byteloom.cli.console import JsonFlag, err, out, print_json
from byteloom.files import open_bytes

if TYPE_CHECKING:
    from rich.text import Text

    from byteloom.tasks.completion import Completions

_BAR = 8  # characters
_BLOCKS = " ▏▎▍▌▋▊▉█"
_SIGNS = {"\n": "↵", "\t": "⇥", "\r": "␍"}


def complete(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Go on after the end of it; - reads standard input.")],
    model: Annotated[
        Path, typer.Option("--model", "-m", metavar="DIR", help="A folder of `byteloom fit`, or any causal LM.")
    ],
    drafts: Annotated[int, typer.Option("--drafts", "-k", help="Completions to show.")] = 3,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of each, at most; beyond 10 they become worse.")] = 10,
    ngrams: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="From `byteloom ngrams build`; without, only the first one is any good."),
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="Below 1 the first completion is nearer to greedy text, and the others worse.")
    ] = 1.0,
    alpha: Annotated[float, typer.Option(help="What the n-grams count, beside the model: 0 to 1.")] = 0.3,
    json: JsonFlag = False,
) -> None:
    """Show several ways in which a model would go on after the end of a file.

    Use it as an editor would. All completions are made in one row of the model, for the price of one (superposed
    decoding), and n-grams of files like yours tell which word goes with which. The probability is the model's own, of
    exactly this completion; the bar is its mean for each token.

    Example: byteloom ngrams build src/ --tokenizer DIR -o code.ngr

    Then: head -c 3000 main.c | byteloom complete - --model DIR --ngrams code.ngr
    """
    data = sys.stdin.buffer.read() if file == "-" else bytes(open_bytes(file))
    from byteloom.generate import SuperposedConfig
    from byteloom.tasks.completion import complete_bytes

    config = SuperposedConfig(num_drafts=drafts, temperature=temperature, alpha=alpha)
    result = complete_bytes(model, data, max_new_tokens=max_new_tokens, ngrams=ngrams, config=config)
    if json:
        print_json(
            {
                "used_tokens": result.used_tokens,
                "forwards": result.forwards,
                "seconds": result.seconds,
                "completions": [
                    {
                        "text": completion.data.decode("utf-8", "replace"),
                        "hex": completion.data.hex(),
                        "tokens": completion.tokens,
                        "log_prob": completion.log_prob,
                        "probability": completion.probability,
                        "token_probability": completion.token_probability,
                        "ended": completion.ended,
                    }
                    for completion in result.completions
                ],
            }
        )
    else:
        _show(result, data[-200:])


def _show(result: Completions, before: bytes) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(justify="right", style="bold")
    table.add_column("Probability", justify="right", no_wrap=True)
    table.add_column("Each token", no_wrap=True)
    table.add_column(overflow="fold")
    line = _one_line(before).plain.rpartition("↵")[2]
    room = max(8, out.width // 3 - 8)
    cursor = Text(line if len(line) <= room else "…" + line[1 - room :], style="dim")
    for rank, completion in enumerate(result.completions, start=1):
        end = Text("∎", style="dim") if completion.ended else Text()
        table.add_row(
            str(rank),
            _percent(completion.probability),
            Text(_bar(completion.token_probability), style="green"),
            cursor + _one_line(completion.data).append_text(end),
        )
    out.print(table)
    err.print(
        f"{len(result.completions)} completions in {result.forwards} passes of the model, after "
        f"{result.used_tokens:,} tokens, in {1e3 * result.seconds:,.0f} ms"
    )


def _percent(probability: float) -> str:
    if probability < 1e-6:
        return f"{probability:.0e}"
    return f"{probability:.1%}" if probability >= 1e-3 else f"{100 * probability:.2g}%"


def _bar(share: float) -> str:
    eighths = round(share * _BAR * 8)
    return ("█" * (eighths // 8) + _BLOCKS[eighths % 8]).ljust(_BAR)[:_BAR]


def _one_line(data: bytes) -> Text:
    """Text with a sign for each character that would break the line, and for each byte that is no text."""
    from rich.text import Text

    shown = Text()
    for character in data.decode("utf-8", "surrogateescape"):
        if character in _SIGNS:
            shown.append(_SIGNS[character], style="dim")
        elif character.isprintable():
            shown.append(character)
        else:
            shown.append("·", style="dim")
    return shown

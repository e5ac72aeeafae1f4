"""`byteloom survivors`: which bytes of a file an MrT5 keeps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from byteloom.cli.console import JsonFlag, out, print_json
from byteloom.errors import InvalidInputError
from byteloom.files import open_bytes

if TYPE_CHECKING:
    from rich.text import Text

    from byteloom.tasks.survivors import Survivors

_ROW = 16  # bytes of a line of hexadecimal


def survivors(
    model: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of `byteloom fit --model mrt5`.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file, or - for standard input.")],
    max_bytes: Annotated[int, typer.Option(help="Look at no more than the first of them.")] = 4096,
    json: JsonFlag = False,
) -> None:
    """Show which bytes of a file an MrT5 keeps: those that it drops are dimmed.

    Text is shown as text and anything else in hexadecimal, with the share dropped by kind of byte.

    Example: byteloom survivors my-mrt5 README.md
    """
    from byteloom.tasks.survivors import survivors as look

    if max_bytes < 1:
        raise InvalidInputError(f"--max-bytes must be positive; got {max_bytes}")
    data = sys.stdin.buffer.read(max_bytes) if file == "-" else bytes(open_bytes(file)[:max_bytes])
    found = look(model, data)
    if json:
        kept = found.kept.nonzero()[0].tolist()
        print_json({"bytes": len(data), "deletion_rate": found.deletion_rate, "rates": found.rates(), "kept": kept})
        return
    out.print(_view(found))
    out.print(f"{100 * found.deletion_rate:.1f} % of {len(data):,} bytes are dropped:")
    for kind, rate in found.rates().items():
        out.print(f"  {kind:<20} {100 * rate:5.1f} %")


def _view(found: Survivors) -> Text:
    from rich.text import Text

    text = Text()
    if _is_text(found.data):
        for byte, keep in zip(found.data, found.kept.tolist(), strict=True):
            shown = chr(byte) if byte in b"\n\t" or 32 <= byte < 127 else "·"
            text.append(shown, style="bold" if keep else "dim")
        return text
    for at in range(0, len(found.data), _ROW):
        text.append(f"{at:08x}  ", style="cyan")
        for byte, keep in zip(found.data[at : at + _ROW], found.kept[at : at + _ROW].tolist(), strict=True):
            text.append(f"{byte:02x} ", style="bold" if keep else "dim")
        text.append("\n")
    return text


def _is_text(data: bytes) -> bool:
    try:
        data[: len(data) - 3].decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in data

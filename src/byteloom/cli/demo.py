"""`byteloom demo`: the whole pipeline on this machine's own executables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from byteloom.cli.console import JsonFlag, err, out, print_json, progress


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for what is made.")] = Path(
        "demo"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in DIR.")] = False,
    json: JsonFlag = False,
) -> None:
    """Run the whole pipeline on this machine's own executables, in about five minutes.

    Use it to see what byteloom does, and that it works here. It takes 32 MB of programs and libraries, trains a
    family of tokenizers up to 65,536 tokens, then two small models with equal compute, one on tokens and one on
    raw bytes, and writes DIR/report.html. When it was stopped, the same command goes on; when it has finished, it
    shows the result again.

    Example: byteloom demo -o demo
    """
    from byteloom.tasks.demo import demo as run

    with progress() as report:
        facts = run(output, overwrite=overwrite, progress=report)
    if json:
        print_json(facts)
    elif facts:
        _print(facts, output)


def _print(facts: dict[str, Any], folder: Path) -> None:
    from rich.filesize import decimal
    from rich.table import Table

    from byteloom.evaluate.compression import ALL, bytes_per_token
    from byteloom.tasks.report import next_steps, read_samples

    corpus = facts["corpus"]
    out.print(f"{decimal(corpus['bytes'])} of this machine's executables, {corpus['files']:,} files", markup=False)
    compression = Table(title="On held-out files", title_justify="left", title_style="bold")
    for title in ("Vocabulary", "Bytes per token", "Bytes in a 2,048-token window"):
        compression.add_column(title, justify="right")
    for row in facts["compression"]:
        if row["group"] == ALL:
            held = bytes_per_token(row)
            name = "raw bytes" if row["tokens"] == row["bytes"] else f"{row['vocab_size']:,}"
            compression.add_row(name, f"{held:.2f}", f"{2048 * held:,.0f}")
    out.print(compression)
    models = Table(title="Two models, equal compute", title_justify="left", title_style="bold")
    models.add_column("Reads")
    for title in ("Bits per byte", "Bytes seen", "Seconds"):
        models.add_column(title, justify="right")
    for kind, model in facts["models"].items():
        name = f"{model['vocab_size']:,} tokens" if kind != "bytes" else "raw bytes"
        seconds = f"{model['seconds']:.0f}"
        models.add_row(name, f"{model['bits_per_byte']:.3f}", decimal(model["bytes_seen"]), seconds)
    out.print(models)
    for note in facts["notes"]:
        err.print(f"note: {note}", markup=False)
    report = folder / "report.html"
    if report.exists():
        out.print(f"Report  {report}", markup=False)
    out.print("Next", markup=False)
    for what, command in next_steps(folder, facts, read_samples(folder)):
        out.print(f"  {what}", style="dim", markup=False, soft_wrap=True)
        out.print(f"  {command}", markup=False, soft_wrap=True)

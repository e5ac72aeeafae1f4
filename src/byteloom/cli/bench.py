"""`byteloom bench`: measure methods against their peers and keep the results."""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from byteloom.cli.console import JsonFlag, err, out, print_json, progress

if TYPE_CHECKING:
    from byteloom.bench import Result


class _Scale(StrEnum):
    smoke = "smoke"
    cpu = "cpu"
    gpu = "gpu"


def bench(
    methods: Annotated[
        list[str] | None, typer.Argument(help="Names from `byteloom methods`; all of them when none is given.")
    ] = None,
    scale: Annotated[
        _Scale, typer.Option(help="smoke: seconds; cpu: up to 10 minutes on 2 cores; gpu: up to 20 on one GPU.")
    ] = _Scale.cpu,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the data that a method asks for, or for downloads (default: a cache folder)."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results, one JSON file a method.")
    ] = Path("results"),
    json: JsonFlag = False,
) -> None:
    """Measure published methods against their peers on this machine.

    Use it to check the project's figures for yourself. Peers run in the same run on the same bytes, so close
    other programs first. In a checkout, docs/results.md is rewritten from the results.

    Example: byteloom bench bpe-kernels --scale smoke
    """
    from byteloom.bench import benchmark, benchmarks, save_result

    chosen = [benchmark(method) for method in methods] if methods else list(benchmarks().values())
    results = []
    for module in chosen:
        if scale not in module.CARD.scales:
            err.print(f"{module.CARD.method} has no scale {scale}; it has {', '.join(module.CARD.scales)}")
            continue
        with progress() as report:
            result = module.run(cast(Any, scale.value), data=data, progress=report)
        path = save_result(result, output)
        results.append(result)
        if not json:
            _print(result)
        err.print(f"written to {path}")
    _rewrite_docs(output)
    if json:
        print_json([result.to_json() for result in results])


def _print(result: Result) -> None:
    from rich.table import Table

    from byteloom.bench.render import format_bound, format_value

    marks = {None: "", True: "[green]yes[/]", False: "[bold red]no[/]"}
    table = Table("Figure", "Measured", "Required", "Met", title=f"{result.method}, scale {result.scale}")
    for name, figure in result.numbers.items():
        value = f"{format_value(figure.value)} {figure.unit}"
        table.add_row(name, value, format_bound(figure), marks[figure.met])
    out.print(table)
    for note in result.notes:
        err.print(note)


def _rewrite_docs(results: Path) -> None:
    """In a checkout, where results/ and docs/ are neighbours, keep the generated pages true."""
    from byteloom.bench.draw import draw
    from byteloom.bench.render import PICTURES, render_methods, render_results
    from byteloom.bench.result import load_results
    from byteloom.files import atomic_write

    docs = results.resolve().parent / "docs"
    for name, text in (("results.md", render_results(results)), ("methods.md", render_methods())):
        if (docs / name).exists():
            with atomic_write(docs / name, "w") as file:
                file.write(text)
    if (docs / "results.md").exists() and find_spec("matplotlib") is not None:
        for result in load_results(results):
            for plot in result.plots:
                draw(result, plot, docs / PICTURES / result.picture(plot))

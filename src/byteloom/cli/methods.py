"""`byteloom methods`: the catalogue of published methods."""

from __future__ import annotations

from dataclasses import asdict

from byteloom.cli.console import JsonFlag, out, print_json


def methods(json: JsonFlag = False) -> None:
    """List the published methods: stage, paper and what their benchmarks measure.

    Use it to see what byteloom implements and what there is to measure with `byteloom bench METHOD`.

    Example: byteloom methods
    """
    from rich.table import Table

    from byteloom.bench import benchmarks

    cards = [module.CARD for module in benchmarks().values()]
    if json:
        print_json([asdict(card) for card in cards])
        return
    table = Table("Method", "Stage", "Paper", "Measured", show_lines=True)
    for card in cards:
        table.add_row(
            f"[bold]{card.method}[/]",
            card.stage,
            f"{card.paper}\narXiv {card.arxiv}" if card.arxiv else card.paper,
            card.measures,
        )
    out.print(table)

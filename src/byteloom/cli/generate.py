"""`byteloom generate`: let a fitted model continue bytes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from byteloom.cli.console import JsonFlag, err, out, print_json
from byteloom.errors import InvalidInputError
from byteloom.files import atomic_write, open_bytes

if TYPE_CHECKING:
    from byteloom.generate import Statistics
    from byteloom.tasks.continuation import Continuation


def generate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of `byteloom fit`, or any causal LM.")],
    prompt_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Continue the bytes of this file; - reads standard input.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="Continue this text, as UTF-8.")] = None,
    prompt_hex: Annotated[str | None, typer.Option(metavar="HEX", help='Continue these bytes: "7f454c46".')] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to write at most.")] = 256,
    temperature: Annotated[
        float, typer.Option(help="Below 1 more probable, above 1 more surprising; 0: greedy.")
    ] = 0.8,
    top_k: Annotated[int, typer.Option(help="Choose among the k most probable tokens; 0: among all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Choose among the most probable tokens that make up this share.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed writes the same bytes.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the new bytes here.")
    ] = None,
    draft: Annotated[
        str | None,
        typer.Option(
            metavar="suffix|lookup|DIR",
            help="Decode several tokens at once where the text repeats: by suffix trees, by prompt look-up, or by a "
            "smaller model. The text is the same.",
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep answers here, for --draft suffix of later runs.")
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Say what the drafts were worth.")] = False,
    json: JsonFlag = False,
) -> None:
    """Continue real bytes with a model.

    Use it to see what a model has learned: give it the beginning of a file. The new bytes go to standard output as
    they are, or as a hex dump with coloured tokens when that is a terminal. Without a prompt the model begins a
    document of its own.

    Example: head -c 600 /bin/ls | byteloom generate DIR --prompt-file - --max-new-tokens 100
    Faster where text repeats: byteloom generate DIR --prompt-file main.c --draft suffix --cache answers.sfx --stats
    """
    data = _prompt(prompt_file, prompt, prompt_hex)
    from byteloom.tasks.continuation import continue_bytes

    result = continue_bytes(
        folder,
        data,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        draft=draft,
        cache=cache,
    )
    if result.used_tokens < result.prompt_tokens:
        err.print(
            f"the prompt has {result.prompt_tokens:,} tokens; its last {result.used_tokens:,} fit into the "
            "model's window and were used"
        )
    if output is not None:
        with atomic_write(output) as file:
            file.write(result.data)
    if json:
        print_json(
            {
                "prompt_bytes": len(data),
                "prompt_tokens": result.prompt_tokens,
                "used_tokens": result.used_tokens,
                "new_bytes": len(result.data),
                "new_tokens": len(result.ids),
                "ended": result.ended,
                "seconds": result.seconds,
                "hex": result.data.hex(),
            }
            | ({"speculation": _facts(result.statistics)} if result.statistics else {})
        )
    elif output is not None:
        err.print(f"{len(result.data):,} bytes in {len(result.ids):,} tokens written to {output}", markup=False)
    elif sys.stdout.isatty():
        _show(result)
    else:
        sys.stdout.buffer.write(result.data)
        sys.stdout.buffer.flush()
    if stats and not json:
        if result.statistics is None:
            err.print("--stats is about drafts; give --draft too")
        else:
            _show_facts(_facts(result.statistics))


def _facts(statistics: Statistics) -> dict[str, Any]:
    return {
        "tokens": statistics.tokens,
        "forwards": statistics.forwards,
        "tokens_per_step": statistics.tokens_per_step,
        "acceptance": statistics.acceptance,
        "drafted": dict(statistics.drafted),
        "accepted": dict(statistics.accepted),
        "seconds": statistics.seconds,
    }


def _show_facts(facts: dict[str, Any]) -> None:
    err.print(
        f"{facts['tokens']:,} tokens in {facts['forwards']:,} passes of the model; {facts['tokens_per_step']:.2f} "
        f"tokens a step, {facts['acceptance']:.0%} of drafted tokens accepted"
    )
    for source, drafted in facts["drafted"].items():
        err.print(f"  from {source}: {facts['accepted'].get(source, 0):,} of {drafted:,} drafted tokens accepted")
    err.print("  seconds: " + ", ".join(f"{part} {value:.2f}" for part, value in facts["seconds"].items()))


def _prompt(file: str | None, text: str | None, hexadecimal: str | None) -> bytes:
    if sum(value is not None for value in (file, text, hexadecimal)) > 1:
        raise InvalidInputError("give one prompt only: --prompt-file, --prompt or --prompt-hex")
    if file == "-":
        return sys.stdin.buffer.read()
    if file is not None:
        return bytes(open_bytes(file))
    if hexadecimal is not None:
        try:
            return bytes.fromhex(hexadecimal)
        except ValueError as error:
            raise InvalidInputError(f"--prompt-hex takes pairs of hexadecimal digits ({error})") from error
    return (text or "").encode()


def _show(result: Continuation) -> None:
    if result.tokenizer is None:
        out.print(result.data.decode(), markup=False)
    else:
        from byteloom.cli.hexview import render_hex
        from byteloom.tokenize.segments import id_spans

        out.print(render_hex(result.data, id_spans(result.tokenizer, result.ids)))
    speed = len(result.ids) / result.seconds
    end = "; the model ended the document" if result.ended else ""
    err.print(f"{len(result.data):,} bytes in {len(result.ids):,} tokens, {speed:,.0f} tokens a second{end}")

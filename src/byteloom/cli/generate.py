"""`byteloom generate`: let a fitted model continue bytes."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from byteloom.cli.console import JsonFlag, err, out, print_json, progress
from byteloom.errors import InvalidInputError
from byteloom.files import atomic_write, open_bytes

if TYPE_CHECKING:
    from byteloom.generate import Statistics
    from byteloom.tasks.continuation import Continuation


class _Layout(StrEnum):
    ragged = "ragged"
    eqspec = "eqspec"
    exspec = "exspec"


def generate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of `byteloom fit`, or any causal LM.")],
    prompt_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Continue the bytes of this file; - reads standard input.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="Continue this text, as UTF-8.")] = None,
    prompt_hex: Annotated[str | None, typer.Option(metavar="HEX", help='Continue these bytes: "7f454c46".')] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help='Continue many prompts, a JSON line each: "text", {"prompt": "text"} or {"hex": "7f45"}; - reads '
            "standard input. Gives a JSON line for each, as it ends.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Of --prompts: texts that are written at once.")] = 8,
    layout: Annotated[
        _Layout,
        typer.Option(
            help="Of --prompts: how a batch is held. ragged is the fastest; eqspec (realigned) and exspec (grouped by "
            "length) are the published ways, to compare."
        ),
    ] = _Layout.ragged,
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
    unlimited: Annotated[
        bool,
        typer.Option(
            "--unlimited",
            help="Read a prompt of any length and write without end, in the memory of one window. What left the window "
            "is forgotten; without this the older half of a full window is dropped.",
        ),
    ] = False,
    kv_ratio: Annotated[
        float | None,
        typer.Option(
            metavar="R", help="Keep this share of the keys and values, 0 to 1, similar ones averaged: less memory."
        ),
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

    Many prompts: byteloom generate DIR --prompts prompts.jsonl --batch-size 16 --draft suffix -o texts.jsonl
    """
    if prompts is not None:
        if any(value is not None for value in (prompt_file, prompt, prompt_hex)):
            raise InvalidInputError("give one prompt, or many with --prompts")
        if unlimited or kv_ratio is not None:
            raise InvalidInputError("--unlimited and --kv-ratio are for one prompt; leave --prompts out")
        _generate_many(
            folder,
            _prompts(prompts),
            output,
            json=json,
            stats=stats,
            batch_size=batch_size,
            layout=layout.value,
            max_new_tokens=max_new_tokens,
            draft=draft,
            cache=cache,
            sampling=(temperature, top_k, top_p, seed),
        )
        return
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
        unlimited=unlimited,
        kv_ratio=kv_ratio,
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


def _generate_many(
    folder: Path,
    prompts: list[bytes],
    output: Path | None,
    *,
    json: bool,
    stats: bool,
    sampling: tuple[float, int, float, int],
    **options: Any,
) -> None:
    """Write a JSON line for each text: as it ends on standard output, in the order of the prompts into a file."""
    from byteloom.generate import Sampling
    from byteloom.tasks.continuation import continue_many

    began = time.perf_counter()
    lines: dict[int, dict[str, Any]] = {}
    statistics = None
    with progress() as report:
        for number, text in continue_many(folder, prompts, sampling=Sampling(*sampling), progress=report, **options):
            lines[number] = _line(number, text)
            statistics = text.statistics
            if output is None and not json:
                typer.echo(dumps(lines[number], ensure_ascii=False))
    ordered = [lines[number] for number in sorted(lines)]
    seconds = time.perf_counter() - began
    if output is not None:
        with atomic_write(output, "w") as file:
            file.writelines(dumps(line, ensure_ascii=False) + "\n" for line in ordered)
    facts = {} if statistics is None else _facts(statistics)
    if json:
        print_json({"texts": ordered, "seconds": seconds, "speculation": facts})
        return
    tokens = sum(line["new_tokens"] for line in ordered)
    err.print(f"{len(ordered):,} texts, {tokens:,} tokens in {seconds:,.1f} s, {tokens / seconds:,.0f} a second")
    if stats and facts:
        _show_facts(facts)


def _line(number: int, text: Continuation) -> dict[str, Any]:
    facts = {"prompt": number, "new_tokens": len(text.ids), "ended": text.ended}
    try:
        return facts | {"text": text.data.decode()}
    except UnicodeDecodeError:
        return facts | {"hex": text.data.hex()}


def _prompts(name: str) -> list[bytes]:
    data = sys.stdin.buffer.read() if name == "-" else bytes(open_bytes(name))
    found = []
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = loads(line)
            if isinstance(value, dict) and "hex" in value:
                found.append(bytes.fromhex(value["hex"]))
            else:
                found.append((value["prompt"] if isinstance(value, dict) else value).encode())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InvalidInputError(
                f'line {number} of {name} is no prompt; write "text", {{"prompt": "text"}} or {{"hex": "7f45"}} as JSON'
            ) from error
    return found


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

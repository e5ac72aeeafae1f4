"""`byteloom fit`: files in; a tokenizer, a model and a report out. Or labelled files in, and a classifier out."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from byteloom.cli.console import JsonFlag, err, out, print_json, progress
from byteloom.errors import InvalidInputError

if TYPE_CHECKING:
    from byteloom.train.plan import Backbone

_LABELS = "Classifiers (--task classify)"
_TOKENS = "The tokens"
_MODEL = "The model"
_TRAINING = "The training"


_LANGUAGE_ONLY = (
    *("formats", "no_archives", "sample_mb", "validation_kb", "tokenizer", "vocab_size", "family", "no_baseline"),
    "delete",
)
_CLASSIFY_ONLY = ("labels", "cut")


def fit(
    ctx: typer.Context,
    paths: Annotated[list[str], typer.Argument(help="Files, folders, archives or quoted glob patterns.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for everything that is made.")],
    task: Annotated[
        Literal["language", "classify"], typer.Option(help="A model of the bytes themselves, or one of their labels.")
    ] = "language",
    model: Annotated[
        str | None,
        typer.Option(
            help="llama, word-pooled, mrt5 or byte2word; to classify: byteformer or llama. Default: the first of these."
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Training time of the model; decides on its size too.")] = 2.0,
    formats: Annotated[
        str | None,
        typer.Option(help="Only these formats, with commas, such as elf,pe; see `byteloom corpus stats -h`."),
    ] = None,
    no_archives: Annotated[
        bool, typer.Option("--no-archives", help="Take archives as they are instead of reading their members.")
    ] = False,
    sample_mb: Annotated[
        float | None, typer.Option(help="Use a part of about this many megabytes, chosen by hash.")
    ] = None,
    validation: Annotated[float, typer.Option(help="Share of the documents to hold out and to judge on.")] = 0.1,
    validation_kb: Annotated[int, typer.Option(help="Kilobytes of held-out documents to judge the models on.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed, files and plan give the same result.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in DIR.")] = False,
    keep_work: Annotated[bool, typer.Option("--keep-work", help="Keep token shards and plan in DIR/.work.")] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_LABELS,
            help="A .tsv or .csv table of paths (below PATH) and labels. Default: each sub-folder of PATH is a label.",
        ),
    ] = None,
    cut: Annotated[
        Literal["head", "head+tail", "strided", "fragment"],
        typer.Option(
            rich_help_panel=_LABELS,
            help="What of a file longer than --context bytes the model sees; fragment: any piece, to map files later.",
        ),
    ] = "head+tail",
    tokenizer: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_TOKENS,
            help='"bpe" trains one; "bytes"; "words"; or a tokenizer folder or file, of any kind, to use as it is. '
            "Default: bpe for llama; the other models read bytes in their own way.",
        ),
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(rich_help_panel=_TOKENS, help="Vocabulary of the model. Default: by corpus size.")
    ] = None,
    family: Annotated[
        str, typer.Option(rich_help_panel=_TOKENS, help="Nested vocabularies to keep beside it, with commas.")
    ] = "4096,8192,16384,32768,65536",
    no_baseline: Annotated[
        bool, typer.Option("--no-baseline", rich_help_panel=_TOKENS, help="Train no raw-byte model to compare with.")
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_MODEL, help="nano, tiny, mini, small, base, medium or large. Default: by the minutes."
        ),
    ] = None,
    hidden_size: Annotated[
        int | None, typer.Option(rich_help_panel=_MODEL, help="Width, instead of the size's.")
    ] = None,
    layers: Annotated[int | None, typer.Option(rich_help_panel=_MODEL, help="Depth, instead of the size's.")] = None,
    heads: Annotated[
        int | None, typer.Option(rich_help_panel=_MODEL, help="Attention heads, instead of the size's.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(rich_help_panel=_MODEL, help="Window in tokens, instead of the size's.")
    ] = None,
    delete: Annotated[
        float, typer.Option(rich_help_panel=_MODEL, help="Share of the bytes that an mrt5 learns to drop.")
    ] = 0.5,
    tokens: Annotated[
        int | None, typer.Option(rich_help_panel=_TRAINING, help="Train on so many tokens, instead of minutes.")
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(rich_help_panel=_TRAINING, help="Tokens of an optimiser step, over all devices.")
    ] = None,
    micro_batch: Annotated[
        int | None, typer.Option(rich_help_panel=_TRAINING, help="Windows on a device at once; fewer need less memory.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(rich_help_panel=_TRAINING, help="Peak rate of AdamW.")] = None,
    precision: Annotated[
        Literal["fp32", "bf16"] | None, typer.Option(rich_help_panel=_TRAINING, help="Default: the faster one here.")
    ] = None,
    fsdp: Annotated[
        bool, typer.Option("--fsdp", rich_help_panel=_TRAINING, help="Under torchrun, shard the model (FSDP).")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Fit a tokenizer and a language model to files, and write a report.

    Use it for a first model of any bytes: executables, firmware, logs, text. It trains a byte-pair tokenizer, a
    small Llama on its tokens, and a raw-byte model with equal compute to compare with; then it judges both on
    held-out files. --model takes a model that needs no vocabulary instead. DIR loads with AutoTokenizer and AutoModel;
    DIR/report.html shows the rest. When it was killed, the same command goes on. On several GPUs:
    torchrun --nproc-per-node N -m byteloom fit ...

    With --task classify it fits a classifier to a folder that has a sub-folder for each label, and tells how well it
    does on held-out files; `byteloom identify --model DIR` uses it.

    Example: byteloom fit /usr/bin -o my-model --formats elf --minutes 10

    Example: byteloom fit samples -o my-classifier --task classify --cut fragment --context 2048
    """
    from byteloom.train.plan import Wish

    _check_task(ctx, task)
    shape = {"hidden_size": hidden_size, "layers": layers, "heads": heads, "context": context}
    wish = Wish(
        minutes=minutes,
        tokens=tokens,
        backbone=_backbone(size, shape),
        batch_tokens=batch_tokens,
        micro_batch=micro_batch,
        learning_rate=learning_rate,
        precision=precision,
        fsdp=fsdp,
        seed=seed,
        model=model or "llama",
        delete=delete,
    )
    if task == "classify":
        from byteloom.tasks.classification import LabelledSource, fit_classifier
        from byteloom.train.labels import ARCHITECTURES

        if len(paths) > 1:
            raise InvalidInputError("name one folder, with a sub-folder for each label, or with --labels for its files")
        table = None if labels is None else str(labels)
        labelled = LabelledSource(paths[0], table, model or "byteformer", cut, validation)
        wish = replace(wish, backbone=_backbone(size, shape, ARCHITECTURES[labelled.model].backbone))
        with progress() as report:
            facts = fit_classifier(labelled, wish, output, overwrite=overwrite, keep_work=keep_work, progress=report)
        if facts and json:
            print_json(facts)
        elif facts:
            _print_classifier(facts, output)
        return
    from byteloom.tasks.fit import fit as run
    from byteloom.tasks.prepare import Source
    from byteloom.tasks.trainees import tokenizer_of

    source = Source(
        paths=tuple(paths),
        formats=tuple(name.strip() for name in formats.split(",")) if formats else None,
        archives=not no_archives,
        sample_bytes=int(sample_mb * 1e6) if sample_mb is not None else None,
        validation=validation,
        validation_bytes=validation_kb << 10,
        tokenizer=tokenizer_of(wish.model, tokenizer),
        vocab_size=vocab_size,
        family=_sizes(family),
        baseline=not no_baseline,
        seed=seed,
    )
    with progress() as report:
        facts = run(source, wish, output, overwrite=overwrite, keep_work=keep_work, progress=report)
    if not facts:
        return  # another process of torchrun has them
    if json:
        print_json(facts)
    else:
        _print(facts, output)


def _sizes(family: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in family.split(","))
    except ValueError as error:
        raise InvalidInputError(f"--family takes vocabulary sizes with commas, not {family!r}") from error


def _check_task(ctx: typer.Context, task: str) -> None:
    """Refuse options that the task does not read, rather than pass over them."""
    for name in _LANGUAGE_ONLY if task == "classify" else _CLASSIFY_ONLY:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            other = "language" if task == "classify" else "classify"
            raise InvalidInputError(f"--{name.replace('_', '-')} belongs to --task {other}; leave it out")


def _backbone(size: str | None, shape: dict[str, int | None], base: Backbone | None = None) -> Backbone | None:
    """The wished shape; `base` when nothing was said about it."""
    from byteloom.train.plan import SIZES

    changes = {name: value for name, value in shape.items() if value is not None}
    if size is None and not changes:
        return base
    if size is not None and size not in SIZES:
        raise InvalidInputError(f"--size is one of {', '.join(SIZES)}, not {size!r}")
    return replace(SIZES[size] if size else base or SIZES["nano"], **changes)


def _print(facts: dict[str, Any], folder: Path) -> None:
    from rich.filesize import decimal
    from rich.table import Table

    size = facts["tokenizer"]["vocab_size"]
    names = {"bytes": "raw bytes", "bpe": f"bpe {size:,}", "words": "word-pooled"}
    first = next(iter(facts["models"].values()))
    table = Table("Model")
    for title in (first["measure"].capitalize(), "Bytes/token", "Parameters", "Seen", "Bytes/s", "Time"):
        table.add_column(title.replace(" per ", "/"), justify="right")
    for kind, model in facts["models"].items():
        table.add_row(
            names.get(kind, kind) if model["model"] != "llama" or kind in names else f"{kind} {size:,}",
            f"{model['bits_per_byte']:.3f}",
            f"{model['bytes_per_token']:.2f}",
            f"{model['parameters']:,}",
            decimal(model["bytes_seen"]),
            f"{model['bytes_per_s']:,.0f}",
            f"{model['seconds']:.0f} s",
        )
    out.print(table)
    for note in facts["notes"]:
        err.print(f"note: {note}", markup=False)
    rows = [("Model and tokenizer", str(folder))]
    if (folder / "report.html").exists():
        rows.append(("Report", str(folder / "report.html")))
    place = shlex.quote(str(folder))
    following = {"mrt5": f"survivors {place} FILE", "byte2word": f"embed {place} FILE -o vectors.npy"}
    rows.append(("Next", "byteloom " + following.get(first["model"], f"generate {place} --prompt-file FILE")))
    for name, value in rows:
        out.print(f"{name:<20} {value}", markup=False, soft_wrap=True)


def _print_classifier(facts: dict[str, Any], folder: Path) -> None:
    from rich.table import Table

    table = Table("Label")
    for title in ("Held-out files", "Told right", "Mostly mistaken for"):
        table.add_column(title, justify="right")
    for number, (label, row) in enumerate(zip(facts["labels"], facts["confusion"], strict=True)):
        mistakes = [(count, other) for other, count in zip(facts["labels"], row, strict=True) if other != label]
        count, other = max(mistakes)
        table.add_row(label, str(sum(row)), f"{100 * row[number] / max(1, sum(row)):.0f} %", other if count else "")
    out.print(table)
    out.print(
        f"{100 * facts['accuracy']:.1f} % of {facts['held_out']:,} held-out files told right; "
        f"{facts['parameters']:,} parameters, {facts['seconds']:.0f} s of training"
    )
    for name, value in (("Classifier", folder), ("Next", f"byteloom identify --model {shlex.quote(str(folder))} FILE")):
        out.print(f"{name:<20} {value}", markup=False, soft_wrap=True)

"""`byteloom evaluate`: judge models on files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from byteloom.cli.console import JsonFlag, out, print_json, progress
from byteloom.errors import InvalidInputError

if TYPE_CHECKING:
    from byteloom.evaluate.segmentation import Segmentation

evaluate_app = typer.Typer(no_args_is_help=True, help="Judge models on files that they have not seen.")


@evaluate_app.callback()
def _group() -> None:
    """A group of verbs, also while it has one."""


@evaluate_app.command()
def segmentation(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of `byteloom fit`, or any causal LM.")],
    paths: Annotated[list[str], typer.Argument(help="Files, folders, archives or quoted glob patterns.")],
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", "-t", help="The model's tokenizer, where it is not in DIR.")
    ] = None,
    inference: Annotated[
        str | None,
        typer.Option(
            help="With commas, such as greedy,minimal (default: all). Without merges: greedy, greedy_right, minimal, "
            "longest_first; damaged merges, as controls: shuffle, delete (a tenth), truncate (to half), bytes."
        ),
    ] = None,
    sample: Annotated[float, typer.Option(metavar="MB", help="Judge about so many MB, evenly spread.")] = 0.2,
    context: Annotated[
        int | None, typer.Option(help="Tokens of a window (default: that of the model, at most 1,024).")
    ] = None,
    questions: Annotated[
        int, typer.Option(help="Also ask so many times which of four continuations is the true one.")
    ] = 0,
    batch: Annotated[int, typer.Option(help="Windows at once.")] = 8,
    seed: Annotated[int, typer.Option(help="Draws the damaged merges and the questions.")] = 0,
    json: JsonFlag = False,
) -> None:
    """What it costs a model to segment text without its merge list, or with a damaged one.

    Use it before you publish a tokenizer without merges, or run a model on fewer tokens. The same bytes are segmented
    by each inference: bits per byte can be compared, and "kept" is the share of token boundaries of merge order that
    are still there. Models of Hugging Face need a fast byte-level or SentencePiece BPE tokenizer, and UTF-8 files.

    Example: byteloom evaluate segmentation DIR src --inference greedy,minimal --questions 200
    """
    from byteloom.corpus import Corpus
    from byteloom.evaluate.bits_per_byte import sample_blocks
    from byteloom.evaluate.choices import continuation_questions
    from byteloom.evaluate.segmentation import compare_inference
    from byteloom.evaluate.text_tokenizer import whole_characters
    from byteloom.tasks.continuation import load_bpe_of_model, load_model
    from byteloom.tokenize import BPE

    chosen = _inferences(inference)
    if sample <= 0 or batch < 1 or questions < 0:
        raise InvalidInputError("--sample must be above 0, --batch at least 1, and --questions not negative")
    corpus = Corpus(paths)
    blocks = sample_blocks((document.data for document in corpus), int(sample * 1e6))
    if not blocks:
        raise corpus.nothing_found()
    model = load_model(folder)
    used = load_bpe_of_model(tokenizer or folder, model)
    if not isinstance(used, BPE):
        blocks = [whole_characters(block) for block in blocks]
    with progress() as report:
        judged = compare_inference(
            model,
            used,
            blocks,
            chosen,
            questions=continuation_questions(blocks, questions, seed=seed) if questions else (),
            context=context or min(1024, getattr(model.config, "max_position_embeddings", None) or 1024),
            batch=batch,
            seed=seed,
            progress=lambda done: report("judging", done, len(chosen)),
        )
    if json:
        print_json([_facts(one) for one in judged])
    else:
        _print(judged)


def _inferences(names: str | None) -> list[Any]:
    from byteloom.tokenize.inference import INFERENCES

    if names is None:
        return list(INFERENCES)
    chosen = [name.strip() for name in names.split(",")]
    if unknown := [name for name in chosen if name not in INFERENCES]:
        raise InvalidInputError(f"--inference takes {', '.join(INFERENCES)}, with commas; got {unknown[0]!r}")
    return ["merge", *(name for name in dict.fromkeys(chosen) if name != "merge")]  # the one to compare with


def _facts(one: Segmentation) -> dict[str, Any]:
    return {
        "inference": one.inference,
        "bits_per_byte": one.judgement.bits_per_byte,
        "bytes": one.judgement.bytes,
        "tokens": one.judgement.tokens,
        "boundaries_kept": one.kept,
        "pre_tokens_kept": one.same_words,
        "accuracy": one.accuracy,
    }


def _print(judged: list[Segmentation]) -> None:
    merge = judged[0].judgement
    words = judged[0].same_words is not None
    asked = judged[0].accuracy is not None
    titles = ["Inference", "Bits per byte", "more", "Tokens", "more", "Boundaries kept"]
    table = Table(*titles, *["Pre-tokens kept"] * words, *["Questions right"] * asked)
    for column in table.columns[1:]:
        column.justify = "right"
    for one in judged:
        cells = [
            one.inference,
            f"{one.judgement.bits_per_byte:.4f}",
            f"{100 * (one.judgement.bits / merge.bits - 1):+.1f} %",
            f"{one.judgement.tokens:,}",
            f"{100 * (one.judgement.tokens / merge.tokens - 1):+.1f} %",
            f"{100 * one.kept:.1f} %",
        ]
        shares = [one.same_words] * words + [one.accuracy] * asked
        table.add_row(*cells, *(f"{100 * share:.1f} %" for share in shares if share is not None))
    out.print(table)
    out.print(f"{merge.bytes:,} bytes, the same for all.")

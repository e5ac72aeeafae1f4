"""`byteloom lexicon`: dictionaries of subwords for speech recognition: train, use, export and judge them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from byteloom.cli.console import JsonFlag, Progress, err, out, print_json, progress
from byteloom.cli.subword_choices import Estimation, SubwordMethod, Unit
from byteloom.errors import InvalidInputError

if TYPE_CHECKING:
    from byteloom.tasks.speech_lexicon.evaluation import Outcome

lexicon_app = typer.Typer(
    no_args_is_help=True, help="Subword dictionaries for speech recognition: train, use, export, judge."
)


class _Style(StrEnum):
    suffix = "suffix"
    prefix = "prefix"
    both = "both"


class _Pronunciation(StrEnum):
    grapheme = "grapheme"
    rules = "rules"
    espeak = "espeak"
    letters = "letters"


DictionaryFile = Annotated[Path, typer.Argument(help="A dictionary that `byteloom lexicon train` wrote.")]
StyleOption = Annotated[
    _Style,
    typer.Option(
        help="Where + marks that a word goes on: behind a piece, before it, or both, so that every piece tells."
    ),
]
SizeOption = Annotated[int, typer.Option(help="Units, atoms included.")]
UnitOption = Annotated[
    Unit, typer.Option(help="What is never cut: orthographic syllables, characters as read, or code points.")
]


@lexicon_app.command()
def train(
    words: Annotated[
        Path, typer.Argument(help="Words, the most frequent first, one a line; or word, tab, count; or sentences.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The dictionary, a JSON file.")],
    method: Annotated[
        SubwordMethod, typer.Option(help="How units are found; morfessor takes minutes.")
    ] = SubwordMethod.extended_bpe,
    estimation: Annotated[
        Estimation, typer.Option(help="How probabilities are found; with none, bpe cuts in the order of its merges.")
    ] = Estimation.viterbi,
    size: SizeOption = 5000,
    unit: UnitOption = Unit.akshara,
    min_count: Annotated[float, typer.Option(help="Keep no longer unit that is used less often.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the order in which morfessor takes words.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Learn a dictionary of subwords from words or sentences.

    Use it when a language has too many words to list, as Tamil and Kannada have. Units of aksharas can be pronounced
    without their neighbours; there are about 2,000 single ones, so take 3,000 units or more.

    Example: byteloom lexicon train words.txt -o subwords.json --size 5000
    """
    import warnings

    from byteloom.tokenize.subword_training import read_word_counts, train_subwords

    counts = read_word_counts(words)
    with progress() as report, warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        dictionary = train_subwords(
            counts, method=method.value, estimation=estimation.value, size=size, unit=unit.value, min_count=min_count,
            seed=seed, progress=report,
        )  # fmt: skip
    for note in notes:
        err.print(f"note: {note.message}", markup=False)
    dictionary.save(output)
    some = list(counts)[:10_000]
    pieces = sum(map(len, dictionary.segment_corpus(some))) / len(some)
    result = {
        "units": len(dictionary.units),
        "words": len(counts),
        "pieces_per_word": round(pieces, 3),
        "output": str(output),
    }
    if json:
        print_json(result)
        return
    _line(f"{result['units']:,} units from {len(counts):,} words; {pieces:.2f} pieces a word: {output}")
    _line(f"Next: byteloom lexicon segment {output} {some[0]}")


@lexicon_app.command()
def segment(
    dictionary: DictionaryFile,
    words: Annotated[
        list[str] | None, typer.Argument(help="Words; without any, sentences are read from standard input.")
    ] = None,
    style: StyleOption = _Style.both,
    nbest: Annotated[int, typer.Option(help="For words: so many segmentations, with their log-probabilities.")] = 1,
    join: Annotated[bool, typer.Option("--join", help="The way back: marked pieces into words.")] = False,
    json: JsonFlag = False,
) -> None:
    """Cut words into marked pieces, or join pieces into words again.

    Use it on the text of a language model, and with --join on what a recogniser puts out. One line in, one line out.

    Example: byteloom lexicon segment subwords.json < sentences.txt > pieces.txt
    """
    from byteloom.tokenize import marks
    from byteloom.tokenize.subword import SubwordDictionary

    loaded = SubwordDictionary.load(dictionary)
    symbol = loaded.mark_symbol
    if nbest > 1:
        if not words or join:
            raise InvalidInputError("--nbest is for words on the command line; give some, without --join")
        found = {word: loaded.segment(word, nbest=nbest) for word in words}
        if json:
            print_json({w: [{"pieces": p, "logp": logp} for p, logp in paths] for w, paths in found.items()})
            return
        for paths in found.values():
            for pieces, logp in paths:
                _line(f"{logp:9.3f}  {' '.join(marks.mark(pieces, style.value, symbol))}")
        return
    lines = words if words else _input_lines()
    results = []
    for line in lines:
        tokens = line.split()
        if join:
            result = marks.join(tokens, style.value, symbol)
        else:
            cut = loaded.segment_corpus(tokens, threads=1)
            result = " ".join(token for pieces in cut for token in marks.mark(pieces, style.value, symbol))
        if json:
            results.append(result)
        else:
            typer.echo(result)
    if json:
        print_json(results)


@lexicon_app.command()
def export(
    dictionary: DictionaryFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for lexicon.txt and what else is asked for.")],
    pronunciation: Annotated[
        _Pronunciation,
        typer.Option(
            help="grapheme: consonants and vowels of the script; rules: IPA with the voicing of Tamil stops; espeak: "
            "eSpeak NG; letters: code points."
        ),
    ] = _Pronunciation.grapheme,
    style: StyleOption = _Style.both,
    text: Annotated[
        Path | None,
        typer.Option(help="Sentences: write a language model of pieces too, lm.arpa; espeak learns from it."),
    ] = None,
    order: Annotated[int, typer.Option(help="Of the language model.")] = 3,
    fst: Annotated[bool, typer.Option("--fst", help="Write units.fst too, for OpenFst; needs pynini.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write what Kaldi, k2 and WFST tools need: a lexicon, and a language model over its units.

    Use it to build a recogniser of subwords. Its output becomes words with `byteloom lexicon segment --join`.

    Example: byteloom lexicon export subwords.json -o lang --text sentences.txt --pronunciation rules
    """
    from byteloom.tasks.speech_lexicon import NGram, build_lexicon, write_lexicon
    from byteloom.tokenize.marks import mark
    from byteloom.tokenize.subword import SubwordDictionary

    loaded = SubwordDictionary.load(dictionary)
    symbol = loaded.mark_symbol
    sentences = [line.split() for line in _lines(text)] if text else []
    words = [word for sentence in sentences for word in sentence]
    entries = build_lexicon(loaded, pronunciation=pronunciation.value, style=style.value, symbol=symbol, words=words)
    write_lexicon(output / "lexicon.txt", entries)
    written = ["lexicon.txt"]
    if text:
        cut = dict(zip(words, loaded.segment_corpus(words), strict=True))
        lm = NGram.train(
            ([token for word in sentence for token in mark(cut[word], style.value, symbol)] for sentence in sentences),
            order,
            vocabulary=(unit for unit, _ in entries),
        )
        lm.save_arpa(output / "lm.arpa")
        written.append("lm.arpa")
        strange = set(lm.units) - {unit for unit, _ in entries}
        if strange:
            shown = ", ".join(sorted(strange)[:10])
            err.print(
                f"note: {len(strange)} pieces of the text are no units, such as {shown}; the lexicon lacks them, so "
                "train the dictionary on this text too",
                markup=False,
            )
    if fst:
        loaded.to_fst().write(str(output / "units.fst"))
        written.append("units.fst")
    phones = len({phone for _, some in entries for phone in some})
    if json:
        print_json({"entries": len(entries), "phones": phones, "output": str(output), "files": written})
    else:
        _line(f"{len(entries):,} entries of {phones} phones: {', '.join(str(output / name) for name in written)}")


@lexicon_app.command()
def evaluate(
    sentences: Annotated[Path, typer.Argument(help="Sentences, one a line; one in ten is held out, up to --tests.")],
    dictionaries: Annotated[
        list[Path] | None,
        typer.Option("--dictionary", "-d", help="Judge these; without any, extended BPE of --size is trained."),
    ] = None,
    word_list: Annotated[
        Path | None, typer.Option("--words", help="More words, as `train` takes them; they teach all systems.")
    ] = None,
    size: SizeOption = 2000,
    unit: UnitOption = Unit.codepoint,
    tests: Annotated[int, typer.Option(help="Held-out sentences at most.")] = 200,
    separation: Annotated[
        float, typer.Option(help="How clearly is heard: at 2, 87 % of the characters are heard best; at 3, 97 %.")
    ] = 2.0,
    order: Annotated[int, typer.Option(help="Of the language models.")] = 2,
    beam: Annotated[int, typer.Option(help="Hypotheses kept at each character.")] = 30,
    style: StyleOption = _Style.both,
    seed: Annotated[int, typer.Option(help="Of what is heard.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Compare recognising whole words with recognising subwords on your sentences, with simulated acoustics.

    Use it to choose a dictionary before there are recordings. Every system hears the same characters, without spaces
    and with confusions; they differ in their units. A dictionary that was trained on the held-out sentences knows them.

    Example: byteloom lexicon evaluate sentences.txt --words words.txt --size 2000
    """
    import numpy as np

    from byteloom.tasks.speech_lexicon import SimulatedAcoustics
    from byteloom.tasks.speech_lexicon.evaluation import Recogniser, Segment, count_words, hold_out, whole_words
    from byteloom.tokenize.subword import SubwordDictionary
    from byteloom.tokenize.subword_training import read_word_counts, train_subwords

    training, test = hold_out(_lines(sentences), at_most=tests)
    listed = read_word_counts(word_list) if word_list else {}
    counts = count_words(training, listed)
    acoustics = SimulatedAcoustics(training + test, separation=separation)
    generator = np.random.default_rng(seed)
    networks = [acoustics.network(sentence, generator) for sentence in test]
    systems: dict[str, Segment] = {"words": whole_words, "code points": lambda some: [list(word) for word in some]}
    symbols = dict.fromkeys(systems, "+")
    for path in dictionaries or []:
        loaded = SubwordDictionary.load(path)
        systems[str(path)], symbols[str(path)] = loaded.segment_corpus, loaded.mark_symbol
    outcomes: dict[str, Outcome] = {}
    with progress() as report:
        if not dictionaries:
            name = f"extended BPE {size:,}"
            systems[name] = train_subwords(counts, size=size, unit=unit.value, progress=report).segment_corpus
            symbols[name] = "+"
        for name, cut in systems.items():
            recogniser = Recogniser(
                training, cut, word_list=listed, order=order, beam=beam, style=style.value, symbol=symbols[name]
            )
            outcomes[name] = recogniser.evaluate(
                networks, test, counts.keys(), progress=partial(_report, report, name, len(test))
            )
    if json:
        print_json(
            {"training": len(training), "test": len(test), "systems": {n: _json(o) for n, o in outcomes.items()}}
        )
    else:
        _print(outcomes, len(training), len(test))


def _report(report: Progress, name: str, total: int, done: int) -> None:
    report(name, done, total)


def _json(outcome: Outcome) -> dict[str, Any]:
    from dataclasses import asdict

    fields = asdict(outcome)
    return fields | {"wer": fields["wer"] | {"rate": outcome.wer.rate, "unseen_rate": outcome.wer.unseen_rate}}


def _print(outcomes: dict[str, Outcome], training: int, test: int) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("System", overflow="fold")
    for name in ("Units", "Pieces/word", "WER", "Unseen wrong", "No result"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, outcome in outcomes.items():
        unseen = outcome.wer.unseen_rate
        table.add_row(
            Text(name),
            f"{outcome.units:,}",
            f"{outcome.pieces_per_word:.2f}",
            f"{outcome.wer.rate:.1%}",
            "" if unseen is None else f"{unseen:.1%}",
            f"{outcome.failed}",
        )
    out.print(table)
    wer = next(iter(outcomes.values())).wer
    out.print(
        f"{training:,} training sentences; {test} test sentences of {wer.words:,} words, {wer.unseen:,} of them "
        "unseen. Simulated acoustics: compare the systems, do not quote the rates."
    )


def _lines(path: Path) -> list[str]:
    from byteloom.files import open_bytes

    try:
        lines = bytes(open_bytes(path)).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not UTF-8 text ({error.reason}); convert it first") from error
    return [line.strip() for line in lines if line.strip()]


def _input_lines() -> Iterator[str]:
    for line in sys.stdin.buffer:
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"standard input is not UTF-8 text ({error.reason}); convert it first") from error


def _line(text: str) -> None:
    """Print a line as it is: a path in it is neither markup nor broken in two."""
    out.print(text, markup=False, soft_wrap=True)

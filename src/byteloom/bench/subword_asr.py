"""Subwords for speech recognition: word error rates of words and of subwords in a language that chains suffixes.

Real text, simulated acoustics: every system hears the same confusion networks of the characters of held-out sentences,
without the spaces. They differ in what their lexicon and bigram model are made of.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from byteloom.bench.agglutinative import Texts, indic_texts, invented_texts
from byteloom.bench.catalogue import Progress
from byteloom.bench.measure import bench_machine, best_of, timed
from byteloom.bench.result import Card, Figure, Result, Row, Scale
from byteloom.tasks.speech_lexicon import SimulatedAcoustics
from byteloom.tasks.speech_lexicon.decoder import Network
from byteloom.tasks.speech_lexicon.evaluation import (
    Outcome,
    Recogniser,
    Segment,
    count_words,
    hold_out,
    whole_words,
)
from byteloom.tasks.speech_lexicon.lexicon import Style
from byteloom.tokenize.akshara import Unit, atoms
from byteloom.tokenize.subword import SubwordDictionary
from byteloom.tokenize.subword_training import train_subwords

CARD = Card(
    method="subword-asr",
    title="Dictionaries of subwords for recognising speech in languages with too many words to list.",
    paper="Subword Dictionary Learning and Segmentation Techniques for Automatic Speech Recognition in Tamil and "
    "Kannada, Madhavaraj, Pilar and Ramakrishnan, 2022",
    arxiv="2207.13331",
    stage="tasks",
    module="byteloom.tasks.speech_lexicon",
    headline="the best subword system has a word error rate that is 6.24 points (Tamil) and 6.63 points (Kannada) "
    "lower than that of the word baseline, with a deep-neural-network recogniser of 152 and 275 hours",
    measures="word error rate of words, code points and subwords on held-out Tamil sentences and Kannada words with "
    "simulated acoustics; on unseen words alone; speed of training and decoding beside SentencePiece",
)

OTHER_MARKS: tuple[Style, ...] = ("suffix", "prefix")
SEPARATIONS = (2.0, 3.0)  # of the simulated acoustics: the true character is heard best in 87 % and 97 % of places
WORDS, LISTED, LETTERS = "words of the sentences", "words of the sentences and the list", "code points"
SPELLED = "the most frequent words, the rest as code points"


@dataclass(frozen=True)
class _Plan:
    """How much is measured at one scale."""

    sentences: int | None  # how many of all; None for all
    words: int | None  # of the lists
    test: int  # sentences
    paired: int  # sentences on which a dictionary is compared with itself after re-estimation, which differ less
    sizes: tuple[int, int, int]  # of dictionaries of code points
    akshara: tuple[int, ...]  # of dictionaries of aksharas
    morfessor: tuple[int, int]  # words that it learns from, and the size
    isolated: int  # words of the test without sentences


_PLANS: dict[Scale, _Plan] = {
    "smoke": _Plan(600, 1_000, 20, 40, (80, 150, 300), (), (80, 60), 30),
    "cpu": _Plan(None, None, 200, 1_000, (500, 2_000, 5_000), (3_000, 5_000), (5_000, 1_500), 1_000),
}


@dataclass(frozen=True)
class _Task:
    """What the systems of one language share."""

    train: list[str]
    test: list[str]
    word_list: dict[str, float]
    networks: dict[float, list[Network]]
    known: set[str]
    counts: dict[str, float]  # what dictionaries are trained on

    def judge(self, segment: Segment, *, listed: bool = True, style: Style = "both") -> dict[float, Outcome]:
        recogniser = Recogniser(self.train, segment, word_list=self.word_list if listed else None, style=style)
        return {
            separation: recogniser.evaluate(networks, self.test, self.known)
            for separation, networks in self.networks.items()
        }


def run(scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
    """Measure on the Tamil and Kannada files in the folder `data`, or in its folder indic-text.

    Where they are not, an invented language stands in: no bound holds there, and the notes say so.
    """
    plan = _PLANS[scale]
    report = progress or (lambda what, done, total: None)
    began = time.perf_counter()
    real = indic_texts(data) if data is not None else None
    texts = real or invented_texts(plan.sentences or 5_000, plan.words or 20_000)
    task = _task(texts, plan, plan.test)
    notes = [
        f"Simulated acoustics on {texts.name} text, no speech: {len(task.test)} held-out sentences; the true character "
        "and two of its class are heard, without spaces. Differences of one or two points are within the noise.",
        "The marks tell a unit on both of its sides whether the word goes on there, so that no broken word can come "
        "out, except where the table names other marks. All language models are bigrams with a beam of 30.",
        "A word system recognises nothing in an utterance that no sequence of its words fits.",
    ]
    if real is None:
        notes.insert(
            0,
            "The Tamil and Kannada files were not found (give their folder as --data), so this was measured on an "
            "invented language of stems and suffixes and says nothing about a real one.",
        )
    numbers, rows = _sentences(task, plan, notes, report)
    more_numbers, more_rows = _isolated(texts, plan)
    numbers |= more_numbers
    rows += more_rows
    more_numbers, more_rows = _estimation(_task(texts, plan, plan.paired), plan)
    numbers |= more_numbers
    rows += more_rows
    rows += _boundaries(texts, plan)
    more_numbers, more_rows = _speed(task, plan)
    numbers |= more_numbers
    rows += more_rows
    if scale == "smoke" or real is None:  # nothing was promised of so little, or of no language
        numbers = {name: Figure(figure.value, figure.unit) for name, figure in numbers.items()}
    machine = bench_machine("sentencepiece", "morfessor")
    return Result(CARD.method, scale, numbers, rows, machine, time.perf_counter() - began, notes)


def _task(texts: Texts, plan: _Plan, at_most: int) -> _Task:
    train, test = hold_out(texts.sentences[: plan.sentences], at_most=at_most)
    word_list = _ranked(texts.words[: plan.words])
    networks: dict[float, list[Network]] = {}
    for separation in SEPARATIONS:
        acoustics = SimulatedAcoustics(train, separation=separation)
        generator = np.random.default_rng(0)
        networks[separation] = [acoustics.network(sentence, generator) for sentence in test]
    counts = count_words(train, word_list)
    return _Task(train, test, word_list, networks, set(counts), counts)


def _ranked(words: Sequence[str]) -> dict[str, float]:
    return {word: 3 / (1 + rank / 1000) for rank, word in enumerate(words)}


def _sentences(task: _Task, plan: _Plan, notes: list[str], report: Progress) -> tuple[dict[str, Figure], list[Row]]:
    """The word error rates of all systems, and the figures that were promised of them."""
    small, middle, large = plan.sizes
    learn = partial(_dictionary, task.counts)
    systems: dict[str, Callable[[], Segment]] = {
        LETTERS: lambda: _code_points,
        f"BPE {small:,}": lambda: learn("bpe", "none", small),
        f"BPE {middle:,}": lambda: learn("bpe", "none", middle),
        f"BPE {middle:,}, re-estimated (Viterbi)": lambda: learn("bpe", "viterbi", middle),
        f"BPE {middle:,}, re-estimated (maximum likelihood)": lambda: learn("bpe", "ml", middle),
        f"BPE {large:,}": lambda: learn("bpe", "none", large),
        f"extended BPE {middle:,}": lambda: learn("extended_bpe", "viterbi", middle),
        f"extended BPE {large:,}": lambda: learn("extended_bpe", "viterbi", large),
    }
    for size in plan.akshara:
        systems[f"extended BPE {size:,} of aksharas"] = partial(learn, "extended_bpe", "viterbi", size, "akshara")
    if find_spec("morfessor"):
        words, size = plan.morfessor
        frequent = dict(sorted(task.counts.items(), key=lambda item: (-item[1], item[0]))[:words])
        systems[f"Morfessor {size:,}, {words:,} words"] = partial(_dictionary, frequent, "morfessor", "none", size)
    else:
        notes.append("Morfessor was not measured: it needs the package morfessor.")
    if find_spec("sentencepiece"):
        systems[f"SentencePiece BPE {middle:,}"] = lambda: _sentencepiece(task.counts, "bpe", middle)
        systems[f"SentencePiece unigram {middle:,}"] = lambda: _sentencepiece(task.counts, "unigram", middle)
        systems[f"SentencePiece unigram {large:,}"] = lambda: _sentencepiece(task.counts, "unigram", large)
    else:
        notes.append("SentencePiece was not measured: it needs the package sentencepiece.")

    found = {
        WORDS: task.judge(whole_words, listed=False),
        LISTED: task.judge(whole_words),
        SPELLED: task.judge(_frequent_words(task.counts, large)),
    }
    for done, (name, build) in enumerate(systems.items()):
        report("subword-asr: systems", done, len(systems))
        found[name] = task.judge(build())
    report("subword-asr: systems", len(systems), len(systems))
    middle_bpe = learn("bpe", "none", middle)
    marks = {f"BPE {middle:,}, marks: {style}": task.judge(middle_bpe, style=style) for style in OTHER_MARKS}

    subwords = [name for name in found if name not in (WORDS, LISTED, SPELLED, LETTERS)]
    listed, low = found[LISTED], SEPARATIONS[0]
    best = min(subwords, key=lambda name: found[name][low].wer.rate)
    worst = max(subwords, key=lambda name: found[name][low].wer.rate)
    numbers: dict[str, Figure] = {}
    for separation in SEPARATIONS:
        at = f" at separation {separation:g}"
        rates = [found[name][separation].wer.rate for name in subwords]
        numbers["word error rate of words and list less that of the worst subword system" + at] = Figure(
            100 * (listed[separation].wer.rate - max(rates)), "points", at_least=30
        )
        numbers["word error rate of words and list less that of the best subword system" + at] = Figure(
            100 * (listed[separation].wer.rate - min(rates)), "points"
        )
        numbers["word error rate of frequent words and code points less that of the best subword system" + at] = Figure(
            100 * (found[SPELLED][separation].wer.rate - min(rates)), "points"
        )
    for which, name in (("best", best), ("worst", worst)):
        unseen = found[name][low].wer.unseen_rate
        if unseen is not None:
            numbers[f"errors on unseen words of the {which} subword system"] = Figure(unseen, "", at_most=0.75)
    speed = min(found[name][separation].utterances_per_second for name in subwords for separation in SEPARATIONS)
    numbers["decoding, the slowest subword system"] = Figure(speed, "utterances/s", at_least=50)
    return numbers, [_row(name, outcomes) for name, outcomes in (found | marks).items()]


def _row(name: str, outcomes: Mapping[float, Outcome], table: str = "Sentences") -> Row:
    first = next(iter(outcomes.values()))
    row: Row = {"table": table, "system": name, "units": first.units, "pieces/word": first.pieces_per_word}
    for separation, outcome in outcomes.items():
        row[f"WER, separation {separation:g}"] = outcome.wer.rate
        row[f"unseen words wrong, separation {separation:g}"] = outcome.wer.unseen_rate
    row["utterances without result"] = first.failed
    row["utterances/s"] = first.utterances_per_second
    return row


def _estimation(task: _Task, plan: _Plan) -> tuple[dict[str, Figure], list[Row]]:
    """What re-estimation changes about BPE, on more sentences."""
    size = plan.sizes[1]
    kinds = {"none": "in merge order", "viterbi": "re-estimated (Viterbi)", "ml": "re-estimated (maximum likelihood)"}
    found: dict[str, dict[float, Outcome]] = {}
    likelihood: dict[str, float] = {}
    weights = np.fromiter(task.counts.values(), np.float64, len(task.counts))
    for kind in kinds:
        dictionary = _trained(task.counts, "bpe", kind, size)
        found[kind] = task.judge(partial(dictionary.segment_corpus, threads=1))
        likelihood[kind] = float(np.average(list(map(dictionary.log_likelihood, task.counts)), weights=weights))
    numbers = {
        f"word error rate of BPE {size:,} less that after Viterbi re-estimation at separation {separation:g}": Figure(
            100 * (found["none"][separation].wer.rate - found["viterbi"][separation].wer.rate), "points", at_least=1
        )
        for separation in SEPARATIONS
    }
    table = f"BPE {size:,} and its re-estimation on {len(task.test)} sentences"
    rows = [
        _row(name, found[kind], table) | {"log-likelihood of a training word": likelihood[kind]}
        for kind, name in kinds.items()
    ]
    return numbers, rows


def _isolated(texts: Texts, plan: _Plan) -> tuple[dict[str, Figure], list[Row]]:
    """Single words of a list, none of which was seen: what words cannot recognise at all."""
    train, test = hold_out(texts.isolated[: plan.words], one_in=20, at_most=plan.isolated)
    weights = _ranked(train)
    acoustics, generator = SimulatedAcoustics(train, separation=SEPARATIONS[0]), np.random.default_rng(0)
    networks: dict[float, list[Network]] = {SEPARATIONS[0]: [acoustics.network(word, generator) for word in test]}
    task = _Task([], test, weights, networks, set(train), weights)
    middle = plan.sizes[1]
    systems: dict[str, Segment] = {
        "words of the list": whole_words,
        LETTERS: _code_points,
        f"BPE {middle:,}": _dictionary(weights, "bpe", "none", middle),
        f"BPE {middle:,}, re-estimated (Viterbi)": _dictionary(weights, "bpe", "viterbi", middle),
        f"extended BPE {middle:,}": _dictionary(weights, "extended_bpe", "viterbi", middle),
    }
    for size in plan.akshara[-1:]:
        systems[f"extended BPE {size:,} of aksharas"] = _dictionary(weights, "extended_bpe", "viterbi", size, "akshara")
    found = {name: task.judge(segment) for name, segment in systems.items()}
    rates = [found[name][SEPARATIONS[0]].wer.rate for name in list(systems)[2:]]
    name = f"single unseen words of {texts.isolated_name}: word error rate of the best subword system"
    table = f"Single unseen words, {texts.isolated_name}"
    return {name: Figure(min(rates), "")}, [_row(system, outcomes, table) for system, outcomes in found.items()]


def _boundaries(texts: Texts, plan: _Plan) -> list[Row]:
    """How often a form is cut where it begins to differ from its lemma, beside cuts at random places."""
    weights = _ranked(texts.isolated[: plan.words])
    rows: list[Row] = []
    kinds: list[tuple[str, Any, Any, int, Unit]] = [
        ("BPE", "bpe", "none", plan.sizes[1], "codepoint"),
        ("BPE, re-estimated (Viterbi)", "bpe", "viterbi", plan.sizes[1], "codepoint"),
        ("extended BPE", "extended_bpe", "viterbi", plan.sizes[1], "codepoint"),
        *(("extended BPE of aksharas", "extended_bpe", "viterbi", size, "akshara") for size in plan.akshara[-1:]),
    ]
    for name, method, estimation, size, unit in kinds:
        hits, expected, cut = boundary_hits(_dictionary(weights, method, estimation, size, unit), texts.forms, unit)
        rows.append(
            {
                "table": f"Cuts where a form leaves its lemma, {texts.isolated_name}",
                "dictionary": f"{name} {size:,}",
                "forms": cut,
                "found (%)": 100 * hits,
                "found by as many random cuts (%)": 100 * expected,
            }
        )
    return rows


def boundary_hits(segment: Segment, forms: Sequence[tuple[str, str]], unit: Unit) -> tuple[float, float, int]:
    """The share of forms that are cut at the end of the prefix they share with their lemma; the share that as many
    cuts at random ends of atoms would find; and how many forms have such a place inside."""
    hits = expected = 0.0
    count = 0
    for (lemma, form), pieces in zip(forms, segment([form for _, form in forms]), strict=True):
        ends = np.cumsum([len(atom) for atom in atoms(form, unit)])[:-1]
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(lemma, form, strict=False))))
        if not 0 < shared < len(form):
            continue
        count += 1
        hits += shared in np.cumsum([len(piece) for piece in pieces])[:-1]
        expected += (len(pieces) - 1) / len(ends) if shared in ends else 0
    return hits / max(count, 1), expected / max(count, 1), count


def _speed(task: _Task, plan: _Plan) -> tuple[dict[str, Figure], list[Row]]:
    """Training and segmenting beside SentencePiece, everything on one thread."""
    size = plan.sizes[2]
    seconds = {
        f"{name} {size:,}": timed(partial(_dictionary, task.counts, method, estimation, size))[1].wall
        for name, method, estimation in (
            ("BPE", "bpe", "none"),
            ("BPE, re-estimated (Viterbi)", "bpe", "viterbi"),
            ("extended BPE", "extended_bpe", "viterbi"),
        )
    }
    numbers = {f"training of BPE {size:,}": Figure(seconds[f"BPE {size:,}"], "s", at_most=1)}
    if find_spec("sentencepiece"):
        for model in ("bpe", "unigram"):
            name = f"SentencePiece {model} {size:,}"
            seconds[name] = timed(partial(_sentencepiece, task.counts, model, size))[1].wall
        numbers[f"training of extended BPE {size:,} over SentencePiece unigram"] = Figure(
            seconds[f"SentencePiece unigram {size:,}"] / seconds[f"extended BPE {size:,}"], "x", at_least=1
        )
    dictionary = _trained(task.counts, "extended_bpe", "viterbi", size)
    running = [word for sentence in task.train for word in sentence.split()] * 20
    rate = len(running) / best_of(3, lambda: dictionary.segment_corpus(running, threads=1)).wall
    numbers["segmentation of running text"] = Figure(rate / 1e6, "M words/s", at_least=1)
    table = f"Training on {len(task.counts):,} words"
    return numbers, [{"table": table, "dictionary": name, "seconds": spent} for name, spent in seconds.items()]


def _code_points(words: Sequence[str]) -> list[list[str]]:
    return [list(word) for word in words]


def _frequent_words(counts: Mapping[str, float], size: int) -> Segment:
    """The simplest open vocabulary of about `size` units: whole words, and letters for those that are not in it."""
    frequent = set(sorted(counts, key=lambda word: (-counts[word], word))[:size])
    return lambda words: [[word] if word in frequent else list(word) for word in words]


def _dictionary(words: dict[str, float], method: Any, estimation: Any, size: int, unit: Unit = "codepoint") -> Segment:
    return partial(_trained(words, method, estimation, size, unit).segment_corpus, threads=1)


def _trained(
    words: dict[str, float], method: Any, estimation: Any, size: int, unit: Unit = "codepoint"
) -> SubwordDictionary:
    with warnings.catch_warnings():  # of fewer units than asked for: the tables tell how many there are
        warnings.simplefilter("ignore")
        return train_subwords(words, method=method, estimation=estimation, size=size, unit=unit)


def _sentencepiece(words: dict[str, float], model: str, size: int) -> Segment:
    """The peer, on the same words with the same counts, as a function that gives the pieces of words."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    with tempfile.TemporaryDirectory(prefix="byteloom-bench-") as name:
        table = Path(name, "words.tsv")
        # Its counts are whole numbers. Larger ones, in proportion, make it keep all its seeds and take minutes.
        table.write_text("".join(f"{word}\t{max(1, round(count))}\n" for word, count in words.items()), "utf-8")
        SentencePieceTrainer.train(
            input=str(table), input_format="tsv", model_prefix=str(Path(name, "model")), model_type=model,
            vocab_size=size, hard_vocab_limit=False, character_coverage=1.0, add_dummy_prefix=False, num_threads=1,
            normalization_rule_name="identity", max_sentence_length=1 << 16, minloglevel=2,
        )  # fmt: skip
        processor = SentencePieceProcessor(model_file=str(Path(name, "model.model")))
    return lambda some: processor.encode(list(some), out_type=str, num_threads=1)

"""From a corpus to what training reads: a tokenizer family, token shards, held-out bytes. The first half of `fit`.

Every result is a file in the work folder. What is there already is read and not made again, so a run that was killed
goes on where it stopped, and one that had begun to train no longer looks at the corpus at all.
"""

from __future__ import annotations

import base64
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from byteloom.corpus import Corpus, Document, corpus_statistics
from byteloom.errors import InvalidInputError
from byteloom.evaluate.bits_per_byte import sample_blocks
from byteloom.evaluate.compression import group_of, measure_compression
from byteloom.files import atomic_write, read_json, write_json
from byteloom.machine import memory_bytes
from byteloom.tokenize import BPE, SPECIAL_TOKENS, Tokenizer, byte_tokenizer, load_tokenizer, train_bpe
from byteloom.train.progress import Progress
from byteloom.train.shards import Shards, read_shards, write_shards

FAMILY = (4096, 8192, 16_384, 32_768, 65_536)  # vocabulary sizes, published ones of Binary BPE, arXiv 2511.17573
TOKENIZER_MEMORY = 4 << 30  # bytes; training documents beyond what fits are sampled
SPEED_BYTES = 8 << 20  # encoded to measure the speed of encoding
SAMPLES = 8
SAMPLE_BYTES = 256 << 10


@dataclass(frozen=True)
class Source:
    """Which documents are read, and what tokens they become.

    paths, formats, archives: as in `Corpus`. sample_bytes: train on a deterministic part of about this size.
    validation: share of the documents that is held out; validation_bytes: of them that a model is judged on.
    tokenizer: "bpe" to train one, "bytes", "words", or the path of a saved one. vocab_size: of the model (default: by
    the size of the corpus). family: nested vocabularies to keep; the largest is trained, the others are its beginnings.
    """

    paths: tuple[str, ...]
    formats: tuple[str, ...] | None = None
    archives: bool = True
    sample_bytes: int | None = None
    validation: float = 0.1
    validation_bytes: int = 256 << 10
    tokenizer: str = "bpe"
    vocab_size: int | None = None
    family: tuple[int, ...] = FAMILY
    baseline: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        smallest = byte_tokenizer().vocab_size + 1
        if not self.family or min(*self.family, self.vocab_size or smallest) < smallest:
            raise InvalidInputError(f"a vocabulary holds at least {smallest} ids: special tokens, bytes and a merge")
        if self.validation_bytes < 1:
            raise InvalidInputError("at least one byte of validation is needed to judge a model on")


@dataclass(frozen=True)
class Prepared:
    """What the trainings need. Keys of the dicts: the kind of tokenizer, such as "bpe", and "bytes", or one of them.

    blocks: held-out bytes to judge models on. baseline: whether there is to be a model to compare with. facts: the
    parts "corpus", "tokenizer", "compression" of fit.json.
    """

    tokenizers: dict[str, Tokenizer]
    shards: dict[str, Shards]
    blocks: list[bytes]
    baseline: bool
    facts: dict[str, Any]


def prepare(source: Source, folder: Path, work: Path, progress: Progress) -> Prepared:
    """Read the corpus, train or load the tokenizer, write shards to `work` and family and samples to `folder`.

    Raises InvalidInputError when there is nothing to train on or nothing to judge on.
    """
    documents = _Documents(source)
    corpus = _once(work / "corpus.json", lambda: _corpus_facts(documents, progress))
    tokenizer = _once(work / "tokenizer.json", lambda: _tokenizer_facts(source, documents, corpus, folder, progress))
    tokenizers = _tokenizers(source, folder, tokenizer)
    shards = {}
    for kind, encoder in tokenizers.items():
        place = work / "shards" / kind
        shards[kind] = read_shards(place) or write_shards(
            documents.training_bytes(),
            encoder,
            place,
            progress=_labelled(progress, "packing bytes" if kind == "bytes" else "packing tokens"),
            total_bytes=corpus["train"]["bytes"],
        )
    blocks = _once(work / "held-out.json", lambda: _held_out(documents, source.validation_bytes))
    compression = _once(work / "compression.json", lambda: _compression(source, documents, folder, tokenizer, progress))
    _once(folder / "samples" / "samples.json", lambda: _samples(documents.validation, folder / "samples"))
    return Prepared(
        tokenizers=tokenizers,
        shards=shards,
        blocks=[base64.b64decode(block) for block in blocks],
        baseline=source.baseline,
        facts={"corpus": corpus, "tokenizer": tokenizer, "compression": compression},
    )


def _labelled(progress: Progress, label: str) -> Progress:
    return lambda what, done, total: progress(label, done, total)


def _once(path: Path, make: Callable[[], Any]) -> Any:
    """The JSON value in `path`; made and written there when it is missing."""
    if not path.exists():
        write_json(path, make())
    return read_json(path)


class _Documents:
    """The corpus and its two parts, found when first asked for."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @cached_property
    def corpus(self) -> Corpus:
        corpus = Corpus(self._source.paths, formats=self._source.formats, archives=self._source.archives)
        if self._source.sample_bytes is not None:
            corpus = corpus.sample(self._source.sample_bytes, seed=self._source.seed)
        return corpus

    @cached_property
    def _parts(self) -> tuple[Corpus, Corpus]:
        return self.corpus.split(self._source.validation)

    @property
    def training(self) -> Corpus:
        return self._parts[0]

    @property
    def validation(self) -> Corpus:
        return self._parts[1]

    def training_bytes(self) -> Iterator[memoryview]:
        return (document.data for document in self.training)


def _corpus_facts(documents: _Documents, progress: Progress) -> dict[str, Any]:
    facts = corpus_statistics(documents.corpus, progress).to_json()
    if facts["files"] == 0:
        raise documents.corpus.nothing_found()
    held_out = [(document.name, document.size) for document in documents.validation]
    validation = {"files": len(held_out), "bytes": sum(size for _, size in held_out)}
    training = {key: facts[key] - validation[key] for key in ("files", "bytes")}
    if training["bytes"] == 0 or validation["bytes"] == 0:
        missing = "training" if training["bytes"] == 0 else "validation"
        raise InvalidInputError(
            f"of the {facts['files']} documents found none fell to {missing}; "
            "add documents or change the validation share"
        )
    names = [name for name, _ in held_out]
    keys = ("files", "bytes", "rows", "skipped", "filtered", "duplicates")
    return {
        **{key: facts[key] for key in keys},
        "train": training,
        "validation": {**validation, "names": names},
    }


def _tokenizer_facts(
    source: Source, documents: _Documents, corpus: dict[str, Any], folder: Path, progress: Progress
) -> dict[str, Any]:
    """The part "tokenizer" of fit.json; a trained family is saved to folder/tokenizers/SIZE."""
    notes: list[str] = []
    trained: dict[str, float | None]
    if source.tokenizer == "bpe":
        largest = _train_family(source, documents, progress)
        training = largest.training
        assert training is not None
        wanted = source.vocab_size or _default_vocab_size(corpus["train"]["bytes"])
        sizes = sorted({*source.family, wanted})
        family = [size for size in sizes if size <= largest.vocab_size] or [largest.vocab_size]
        size = min(wanted, family[-1])
        if size < wanted:
            notes.append(f"the corpus supports {largest.vocab_size:,} tokens, so the vocabulary has {size:,}")
        for member in family:
            largest.truncate(member).save(folder / "tokenizers" / str(member))
        tokenizer: Tokenizer = largest.truncate(size)
        speed = training.bytes / 1e6 / training.seconds
        trained = {"seconds": training.seconds, "bytes": training.bytes, "training_mb_per_s": speed}
    else:
        tokenizer = _given(source)
        family = [tokenizer.vocab_size]
        trained = {"seconds": None, "bytes": None, "training_mb_per_s": None}
    return {
        "kind": "bytes" if tokenizer == byte_tokenizer() else tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "merges": len(tokenizer.compositions),
        **trained,
        "encode_mb_per_s": _encoding_speed(tokenizer, documents),
        "family": family,
        "notes": notes,
    }


def _train_family(source: Source, documents: _Documents, progress: Progress) -> BPE:
    labels = {"reading": "reading for the tokenizer", "training": "training the tokenizer"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a corpus too small for the largest size has the smaller ones
        return train_bpe(
            documents.training_bytes(),
            vocab_size=max(*source.family, source.vocab_size or 0),
            memory_limit=min(TOKENIZER_MEMORY, memory_bytes() // 2),
            seed=source.seed,
            progress=lambda what, done, total: progress(labels[what], done, total),
        )


def _default_vocab_size(train_bytes: int) -> int:
    """A larger corpus affords a larger vocabulary. In a small one rare tokens are never learned, and in the small
    model that it can train the output layer would eat the compute."""
    for size, limit in ((4096, 256 << 20), (8192, 2 << 30), (16_384, 16 << 30)):
        if train_bytes < limit:
            return size
    return 32_768


def _given(source: Source) -> Tokenizer:
    """The tokenizer that the user named. The model's start, end and padding ids must be those of byteloom."""
    tokenizer = load_tokenizer(source.tokenizer)
    if source.vocab_size is not None:
        if not isinstance(tokenizer, BPE):
            raise InvalidInputError(
                f"{source.tokenizer} is no BPE, so it has no smaller member of {source.vocab_size} tokens; leave "
                "--vocab-size out"
            )
        tokenizer = tokenizer.truncate(source.vocab_size)
    wanted = {name: id for id, name in enumerate(SPECIAL_TOKENS[:3])}
    if any(tokenizer.special_tokens.get(name) != id for name, id in wanted.items()):
        raise InvalidInputError(
            f"the tokenizer {source.tokenizer} does not begin with {', '.join(wanted)}; "
            "train one with `byteloom tokenizer train`, or leave --tokenizer out"
        )
    return tokenizer


def _tokenizers(source: Source, folder: Path, facts: dict[str, Any]) -> dict[str, Tokenizer]:
    if facts["kind"] == "bytes":
        return {"bytes": byte_tokenizer()}
    if source.tokenizer == "bpe":
        tokenizer = load_tokenizer(folder / "tokenizers" / str(facts["vocab_size"]))
    else:
        tokenizer = _given(source)
    learned = {tokenizer.kind: tokenizer}
    return learned | {"bytes": byte_tokenizer()} if source.baseline else learned


def _encoding_speed(tokenizer: Tokenizer, documents: _Documents) -> float:
    """MB a second on all cores, over the first training documents."""
    batch: list[memoryview] = []
    size = 0
    for data in documents.training_bytes():
        batch.append(data[: SPEED_BYTES - size])
        size += len(batch[-1])
        if size >= SPEED_BYTES:
            break
    began = time.perf_counter()
    tokenizer.encode_batch(batch)
    return size / 1e6 / (time.perf_counter() - began)


def _held_out(documents: _Documents, max_bytes: int) -> list[str]:
    blocks = sample_blocks((document.data for document in documents.validation), max_bytes)
    return [base64.b64encode(block).decode() for block in blocks]


def _compression(
    source: Source, documents: _Documents, folder: Path, facts: dict[str, Any], progress: Progress
) -> list[dict[str, Any]]:
    tokenizers: list[Tokenizer] = [byte_tokenizer()]
    if source.tokenizer == "bpe":
        tokenizers += [load_tokenizer(folder / "tokenizers" / str(size)) for size in facts["family"]]
    elif facts["kind"] != "bytes":
        tokenizers.append(_given(source))
    progress("measuring compression", 0, 1)
    rows = measure_compression(tokenizers, documents.validation)
    progress("measuring compression", 1, 1)
    return [dict(row) for row in rows]


def _samples(validation: Corpus, folder: Path) -> list[dict[str, Any]]:
    """Write up to SAMPLES held-out documents to `folder`, at most SAMPLE_BYTES of each, and give their index.

    Every kind of file comes before a second one of a kind; of a kind, whole documents before cut ones, large ones
    before small ones.
    """
    groups: dict[str, list[tuple[bool, int, str]]] = defaultdict(list)
    for document in validation:
        whole = document.size <= SAMPLE_BYTES
        groups[group_of(document)].append((whole, document.size if whole else -document.size, document.name))
    ranked = [
        (place, *entry)
        for entries in groups.values()
        for place, entry in enumerate(sorted(entries, key=lambda entry: (-entry[0], -entry[1], entry[2])))
    ]
    ranked.sort(key=lambda entry: (entry[0], -entry[1], -entry[2], entry[3]))
    order = {name: number for number, (*_, name) in enumerate(ranked[:SAMPLES])}
    chosen = [document for document in validation if document.name in order]
    chosen.sort(key=lambda document: order[document.name])
    return [_write_sample(document, number, folder) for number, document in enumerate(chosen)]


def _write_sample(document: Document, number: int, folder: Path) -> dict[str, Any]:
    plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in Path(document.name).name)
    file = f"{number:02}-{plain[:60]}.bin"
    with atomic_write(folder / file) as handle:
        handle.write(document.data[:SAMPLE_BYTES])
    return {
        "file": file,
        "name": document.name,
        "format": document.format,
        "architecture": document.info.architecture,
        "sections": [asdict(section) for section in document.info.sections],
    }

"""Tokenizing metagenomic reads: METAGENE-1's vocabulary and one of our own against Hugging Face, and what models gain.

Reads are simulated from genomes: those of `data`, a folder with metagenomics/*.fasta.gz and, for the comparison with
the published vocabulary, metagene-tokenizer/tokenizer.json; without it genomes are drawn from a Markov chain.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from byteloom.bench.catalogue import Progress
from byteloom.bench.measure import bench_machine, best_of
from byteloom.bench.result import Card, Figure, Result, Row, Scale
from byteloom.corpus import SequenceRecord, read_fasta, simulate_reads
from byteloom.processes import in_fresh_process
from byteloom.tokenize import SPECIAL_TOKENS, Codec, DNATokenizer, train_dna
from byteloom.tokenize.tokenizer import Ids, Stream
from byteloom.train.plan import SIZES, Backbone

if TYPE_CHECKING:
    import tokenizers
    import torch
    from typing_extensions import Buffer

CARD = Card(
    method="metagene-tokenizer",
    title="BPE over the letters of DNA, packed into rows: METAGENE-1's vocabulary, or one of your own reads.",
    paper="METAGENE-1: Metagenomic Foundation Model for Pandemic Monitoring, Liu et al., 2025",
    arxiv="2501.02045",
    stage="tokenize",
    module="byteloom.tokenize.dna",
    headline="pre-trained on over 1.5 trillion base pairs of wastewater in a byte-pair vocabulary of 1,024 tokens; "
    "pathogen detection at a Matthews correlation of 92.96, DNABERT-2 at 87.92",
    measures="ids against Hugging Face, bases per token, encoding speed on reads and contigs, FASTQ.gz reading against "
    "gzip, packing, and bits per base of one small model with BPE, single bases and 6-mers",
)

READ = 150  # bases
CONTIG = 1_000_000  # bases
VOCABULARY = 1024
KMER = 6
REPEATS = 5  # of what is timed


@dataclass(frozen=True)
class _Plan:
    """How much is measured at one scale."""

    learn: int  # reads that the vocabulary is learned from; 10,000 are 1.5 Mb
    same: int  # reads whose ids are compared
    timed: int  # reads encoded against the clock
    peer: int  # the same, by Hugging Face
    contig: int  # bases
    written: int  # reads in the FASTQ.gz
    packed: int  # documents packed
    train: int  # reads that the models are trained on
    test: int  # reads that they are judged on
    backbone: Backbone
    bases: int  # seen in training
    steps: int  # of the packed and the padded model, against the clock


_PLANS: dict[Scale, _Plan] = {
    "smoke": _Plan(800, 200, 400, 100, 20_000, 400, 2_000, 300, 40, Backbone(32, 1, 2, 64), 40_000, 1),
    "cpu": _Plan(10_000, 10_000, 40_000, 20_000, CONTIG, 100_000, 200_000, 60_000, 600, SIZES["nano"], 2_000_000, 3),
}


def run(scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
    """Measure on reads of the genomes in `data`, or of simulated ones when there are none."""
    plan = _PLANS[scale]
    report = progress or (lambda what, done, total: None)
    began = time.perf_counter()
    genomes, source = _genomes(data, plan)
    seen, unseen = _split(genomes)
    reads, held_out = (partial(simulate_reads, part, length=READ) for part in (seen, unseen))
    with tempfile.TemporaryDirectory(prefix="byteloom-bench-") as name:
        folder = Path(name)
        tokenizer = train_dna(reads(plan.learn, seed=1), vocab_size=VOCABULARY, min_frequency=2, progress=report)
        numbers, rows = _density(tokenizer, data, held_out(plan.same, seed=2), plan)
        for part in (
            lambda: _speed(tokenizer, reads(plan.timed, seed=3), _contig(genomes, plan), plan, folder),
            lambda: _reading(reads(plan.written, seed=4), folder),
            lambda: _packing(plan),
            lambda: _steps(tokenizer, genomes, plan),
            lambda: _models(tokenizer, reads(plan.train, seed=5), held_out(plan.test, seed=6), plan, folder, report),
        ):
            more, table = part()
            numbers |= more
            rows += table
    shape = plan.backbone
    notes = [
        f"Reads of {READ} bases with 0.5% substitutions, from either strand of {source}, groups alike. "
        "Bases per token and bits per base are those of the last tenth of every genome, which was held out.",
        f"Models are Llamas (layers {shape.layers}, hidden size {shape.hidden_size}, heads {shape.heads}, window "
        f"{shape.context} tokens) that all saw {plan.bases / 1e6:g} million bases. Bases between two windows of 6-mers "
        "are tokens of one letter.",
        "Encoding is timed on one thread on either side, in processor time. The peer has the same merges, no folding "
        "to do, and never sees a read twice, since it caches them.",
        "Not measured here: the detection of pathogens and the anomaly score, which need the model of the paper.",
    ]
    if data is None or not _published(data).exists():
        notes.append("The published vocabulary is not compared: give a folder with metagene-tokenizer/tokenizer.json.")
    return Result(CARD.method, scale, numbers, rows, bench_machine("tokenizers"), time.perf_counter() - began, notes)


# Genomes


def _genomes(data: Path | None, plan: _Plan) -> tuple[list[SequenceRecord], str]:
    files = sorted(data.glob("metagenomics/*.fasta.gz")) if data is not None else []
    if files:
        return [record for file in files for record in read_fasta(file)], "the genomes of " + ", ".join(
            file.name for file in files
        )
    genomes = [SequenceRecord(f"{group}|0", _markov(plan.contig * 2, seed=group), None, 1) for group in range(3)]
    return genomes, "three genomes drawn from Markov chains of order 5"


def _markov(bases: int, seed: int, order: int = 5) -> bytes:
    """A genome of which each base depends on the `order` before it, as strongly as in bacteria."""
    rng = np.random.default_rng(seed)
    chances = np.cumsum(rng.dirichlet([3.0] * 4, size=4**order), axis=1)
    chains = max(1, bases // 4096)  # grown side by side
    state = rng.integers(4**order, size=chains)
    letters = np.empty((bases // chains, chains), np.uint8)
    for row in letters:
        row[:] = np.minimum((rng.random(chains)[:, None] > chances[state]).sum(axis=1), 3)
        state = (state * 4 + row) % 4**order
    return np.frombuffer(b"ACGT", np.uint8)[letters.T.ravel()].tobytes()


def _split(genomes: Iterable[SequenceRecord]) -> tuple[list[SequenceRecord], list[SequenceRecord]]:
    """The first nine tenths of every genome, and the last: in related genomes the same places are held out."""
    seen, unseen = [], []
    for record in genomes:
        cut = len(record.seq) * 9 // 10
        seen.append(record._replace(seq=record.seq[:cut]))
        unseen.append(record._replace(seq=record.seq[cut:]))
    return seen, unseen


def _contig(genomes: Sequence[SequenceRecord], plan: _Plan) -> bytes:
    return max((record.seq for record in genomes), key=len)[: plan.contig]


# Ids and bases per token


def _published(data: Path) -> Path:
    return data / "metagene-tokenizer" / "tokenizer.json"


def _density(
    tokenizer: DNATokenizer, data: Path | None, reads: list[bytes], plan: _Plan
) -> tuple[dict[str, Figure], list[Row]]:
    """Bases per token of our vocabulary and the published one, and the ids of the latter beside Hugging Face's."""
    found = {"learned here": tokenizer}
    numbers: dict[str, Figure] = {}
    if data is not None and _published(data).exists():
        from tokenizers import Tokenizer

        published = found["METAGENE-1"] = DNATokenizer.load(_published(data))
        peer = Tokenizer.from_file(str(_published(data)))
        rng = np.random.default_rng(0)
        cut = [read[: int(size)] for read, size in zip(reads, rng.integers(1, READ, len(reads)), strict=True)]
        masked = [read[:40] + b"N" * (i % 9) + read[40:] for i, read in enumerate(reads)]
        texts = [*reads, *cut[: plan.same // 4], *masked[: plan.same // 4], *_samples(data)]
        theirs = peer.encode_batch([text.decode() for text in texts], add_special_tokens=False)
        other = sum(
            mine.tolist() != encoding.ids for mine, encoding in zip(published.encode_batch(texts), theirs, strict=True)
        )
        numbers["METAGENE-1's vocabulary: reads with other ids than in Hugging Face tokenizers"] = Figure(
            other, "", at_most=0
        )
    rows: list[Row] = []
    for name, one in found.items():
        density = sum(map(len, reads)) / sum(map(len, one.encode_batch(reads)))
        numbers[f"bases per token, vocabulary {name}"] = Figure(density, "bases")
        rows.append({"table": "Vocabularies", "vocabulary": name, "ids": one.vocab_size, "bases per token": density})
    return numbers, rows


def _samples(data: Path) -> list[bytes]:
    file = data / "metagene-tokenizer" / "sample_reads.txt"
    return file.read_bytes().split() if file.exists() else []


# Speed


def _speed(
    tokenizer: DNATokenizer, reads: list[bytes], contig: bytes, plan: _Plan, folder: Path
) -> tuple[dict[str, Figure], list[Row]]:
    """MB/s on one thread, beside the same merges in Hugging Face `tokenizers`."""
    tokenizer.save(folder / "peer.json")
    environment = {"TOKENIZERS_PARALLELISM": "false"}
    theirs = in_fresh_process(_peer_speed, folder / "peer.json", reads[: plan.peer], contig, environment=environment)
    ours = (
        _rate(reads, best_of(REPEATS, lambda: tokenizer.encode_batch(reads, 1)).cpu),
        _rate([contig], best_of(REPEATS, lambda: tokenizer.encode(contig)).cpu),
    )
    numbers: dict[str, Figure] = {}
    rows: list[Row] = []
    for name, mine, peer, bound in (
        (f"reads of {READ} bases", ours[0], theirs[0], 15),
        (f"a contig of {len(contig):,} bases", ours[1], theirs[1], 40),
    ):
        numbers[f"encoding {name}: speed over Hugging Face tokenizers"] = Figure(mine / peer, "x", at_least=bound)
        rows.append(
            {
                "table": "Encoding on one thread",
                "text": name,
                "MB/s": mine,
                "MB/s in Hugging Face tokenizers": peer,
                "times": mine / peer,
            }
        )
    return numbers, rows


def _peer_speed(file: Path, reads: list[bytes], contig: bytes) -> tuple[float, float]:
    from tokenizers import Tokenizer

    peer = Tokenizer.from_file(str(file))
    peer.normalizer = None
    part = -(-len(reads) // REPEATS)
    parts = [reads[at : at + part] for at in range(0, len(reads), part)]
    whole = contig.decode()
    return (
        max(_peer_rate(peer, part) for part in parts),
        _rate([contig], best_of(1, lambda: peer.encode(whole, add_special_tokens=False)).cpu),
    )


def _peer_rate(peer: tokenizers.Tokenizer, reads: list[bytes]) -> float:
    texts = [read.decode() for read in reads]
    return _rate(reads, best_of(1, lambda: peer.encode_batch(texts, add_special_tokens=False)).cpu)


def _rate(texts: Iterable[bytes], seconds: float) -> float:
    return sum(map(len, texts)) / 1e6 / seconds


def _reading(reads: list[bytes], folder: Path) -> tuple[dict[str, Figure], list[Row]]:
    """Reading a FASTQ.gz, beside `gzip -dc` of it, or Python's gzip where there is none."""
    rng = np.random.default_rng(0)
    qualities = np.repeat(rng.choice(np.frombuffer(b"FFFFFFFFFF:,", np.uint8), (len(reads), READ // 2)), 2, axis=1)
    text = b"".join(
        b"@read.%d\n%s\n+\n%s\n" % (i, read, quality.tobytes()[: len(read)])
        for i, (read, quality) in enumerate(zip(reads, qualities, strict=True))
    )
    file = folder / "reads.fastq.gz"
    file.write_bytes(gzip.compress(text, 6))
    program = shutil.which("gzip")

    def unpacked() -> None:
        if program:
            subprocess.run([program, "-dc", file], stdout=subprocess.DEVNULL, check=True)
        else:
            gzip.decompress(file.read_bytes())

    ours = best_of(REPEATS, lambda: sum(len(record.seq) for record in read_fasta(file))).wall
    theirs = best_of(REPEATS, unpacked).wall
    size = len(text) / 1e6
    return {"reading FASTQ.gz: time over gzip -dc": Figure(ours / theirs, "x", at_most=1)}, [
        {"table": "Reading FASTQ.gz", "reader": "byteloom, records and all", "MB/s of text": size / ours},
        {
            "table": "Reading FASTQ.gz",
            "reader": "gzip -dc" if program else "Python's gzip",
            "MB/s of text": size / theirs,
        },
    ]


# Packing


def _packing(plan: _Plan) -> tuple[dict[str, Figure], list[Row]]:
    from byteloom.train.packing import pack_documents

    rng = np.random.default_rng(0)
    sizes = rng.integers(25, 76, plan.packed)  # tokens of reads of 100 to 300 bases
    documents = np.split(rng.integers(12, VOCABULARY, sizes.sum()).astype(np.uint32), np.cumsum(sizes)[:-1])
    pack = partial(pack_documents, documents, length=512, end_id=1, seed=0)
    seconds = best_of(REPEATS, pack).cpu
    packed = pack()
    real = int((packed.input_ids != 1).sum())
    padding = packed.input_ids[-1].tolist()[::-1]
    unused = next(i for i, token in enumerate(padding) if token != 1) - 1
    full = 100 * (1 - unused / packed.input_ids.numel())
    return {
        "packing: rows full": Figure(full, "%", at_least=99.5),
        "packing: speed on one thread": Figure(plan.packed / seconds / 1e6, "M reads/s", at_least=1),
    }, [
        {
            "table": "Packing into rows of 512",
            "reads": plan.packed,
            "rows": len(packed),
            "full (%)": full,
            "tokens kept (%)": 100 * real / int(sizes.sum()),
            "M reads/s": plan.packed / seconds / 1e6,
        }
    ]


def _steps(
    tokenizer: DNATokenizer, genomes: Sequence[SequenceRecord], plan: _Plan
) -> tuple[dict[str, Figure], list[Row]]:
    """Training steps on the same reads of 100 to 300 bases, packed into rows and padded to the longest."""
    import torch
    from transformers import LlamaForCausalLM

    from byteloom.train.packing import IGNORED, pack_documents

    length, end = 256, tokenizer.special_tokens["<|end|>"]
    reads = [read for size in range(100, 301, 8) for read in simulate_reads(genomes, 8, length=size, seed=size)]
    documents = tokenizer.encode_batch(reads)
    packed = pack_documents(documents, length=length, end_id=end, seed=0)
    rows: list[
        tuple[torch.Tensor, torch.Tensor]
    ] = []  # ids and labels of the documents that the packed rows hold, cut as there
    for row in (packed[i] for i in range(len(packed))):
        cuts = (row["position_ids"] == 0).nonzero().flatten()[1:]
        rows += zip(row["input_ids"].tensor_split(cuts), row["labels"].tensor_split(cuts), strict=True)
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    torch.manual_seed(0)
    order = torch.randperm(len(rows)).tolist()
    torch.manual_seed(0)
    model = LlamaForCausalLM(Backbone(**{**vars(plan.backbone), "context": length}).config(tokenizer.vocab_size))
    batch = 8  # rows packed; padded, as many documents as these hold
    padded_batch = round(batch * len(rows) / len(packed))

    def step(inputs: dict[str, torch.Tensor]) -> float:
        loss = model(**inputs, use_cache=False, num_items_in_batch=1).loss  # the sum over tokens
        loss.backward()
        model.zero_grad()
        return loss.item()

    def packed_epoch() -> float:
        columns = ("input_ids", "position_ids", "labels")
        return sum(
            step({name: getattr(packed, name)[at : at + batch].long() for name in columns})
            for at in range(0, len(packed), batch)
        )

    def padded_epoch() -> float:
        total = 0.0
        for at in range(0, len(rows), padded_batch):
            some = [rows[i] for i in order[at : at + padded_batch]]
            ids = pad([ids for ids, _ in some])
            mask = pad([torch.ones_like(ids) for ids, _ in some])
            labels = pad([labels for _, labels in some], padding_value=IGNORED)
            total += step({"input_ids": ids, "attention_mask": mask, "labels": labels})
        return total

    losses = packed_epoch(), padded_epoch()  # sums over the same tokens
    packed_time, padded_time = (best_of(plan.steps, epoch).wall for epoch in (packed_epoch, padded_epoch))
    tokens = sum(len(ids) for ids, _ in rows)
    return {
        "packed training: tokens per second over padded": Figure(padded_time / packed_time, "x", at_least=1.3),
        "packed training: loss over padded, less one": Figure(abs(losses[0] / losses[1] - 1), "", at_most=1e-4),
    }, [
        {
            "table": f"Training on reads of 100 to 300 bases, rows of {length}",
            "batch": name,
            "tokens/s": tokens / seconds,
        }
        for name, seconds in (("packed", packed_time), ("padded to the longest", padded_time))
    ]


# Models


def _models(
    tokenizer: DNATokenizer, train: list[bytes], test: list[bytes], plan: _Plan, folder: Path, report: Progress
) -> tuple[dict[str, Figure], list[Row]]:
    """One model for each way of cutting reads into tokens, all having seen the same bases."""
    from byteloom.tasks.small_models import train_small_model

    arms: dict[str, Codec] = {
        f"BPE, {tokenizer.vocab_size:,} ids": tokenizer,
        "single bases": DNATokenizer(),
        f"{KMER}-mers, not overlapping": KMers(KMER),
    }
    models = {
        name: train_small_model(
            arm,
            plan.backbone,
            train,
            test,
            folder / str(number),
            bytes_seen=plan.bases,
            progress=report,
        )
        for number, (name, arm) in enumerate(arms.items())
    }
    speed = {name: model.bytes / model.seconds for name, model in models.items()}
    bpe, single, _ = models
    return {
        "bases per second in training, BPE over single bases": Figure(speed[bpe] / speed[single], "x"),
        "bits per base, BPE less single bases": Figure(models[bpe].bits_per_byte - models[single].bits_per_byte, "bit"),
    }, [
        {
            "table": "One model for each tokenization",
            "tokens": name,
            "parameters": model.parameters,
            "bases seen": model.bytes,
            "seconds": model.seconds,
            "bases/s": speed[name],
            "bits per base": model.bits_per_byte,
        }
        for name, model in models.items()
    ]


class KMers(Codec):
    """Words of `k` bases, from the first base on; what is left at the end, or has an N, is tokens of one letter."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._letters = DNATokenizer()
        special = dict(self._letters.special_tokens)
        letters = [self._letters.token_bytes(token) for token in range(len(special), self._letters.vocab_size)]
        words = [b""]
        for _ in range(k):
            words = [word + letter for word in words for letter in letters[:4]]
        self._set_up(self, [*(b"" for _ in special), *letters, *words], special)

    def encode(self, data: Buffer, *, add_special_tokens: bool = False) -> Ids:
        """Token ids of `data`: uint32 [n]."""
        first = len(SPECIAL_TOKENS)
        letters = self._letters.encode(data)
        whole = len(letters) // self._k * self._k
        digits = letters[:whole].reshape(-1, self._k) - np.uint32(first)
        words = digits @ (4 ** np.arange(self._k - 1, -1, -1)) + self._letters.vocab_size
        pieces: list[Any] = [
            [word] if plain else row + first
            for word, row, plain in zip(words, digits, digits.max(axis=1, initial=0) < 4, strict=True)
        ]
        ids = np.concatenate([*pieces, letters[whole:]]).astype(np.uint32)
        return self._wrap(ids) if add_special_tokens else ids

    def encode_batch(
        self, documents: Sequence[Buffer], threads: int | None = None, *, add_special_tokens: bool = False
    ) -> list[Ids]:
        """`encode` for many documents."""
        return [self.encode(document, add_special_tokens=add_special_tokens) for document in documents]

    def _stream(self) -> Stream:
        raise AssertionError("reads are not streamed")

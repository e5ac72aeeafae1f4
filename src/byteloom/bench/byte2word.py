"""Byte2Word beside WordPiece: how well hidden words are told, and what noise does to a classifier of text.

Both read the same windows of words with the same body (transformers' ModernBERT), hide the same words, and tell their
pieces in the same vocabulary; only what stands at the input differs: a vector for each piece, or one from the bytes of
the word. `data` is a folder with movie-reviews/ and sentence-polarity/; without it, both are made of this machine's
Python sources.
"""

# Shape suffixes: B rows, T places of a row, J pieces of a word, D hidden size, C labels.

from __future__ import annotations

import gzip
import random
import re
import string
import sysconfig
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from byteloom.bench.catalogue import Progress
from byteloom.bench.measure import bench_machine, best_of
from byteloom.bench.result import Card, Figure, Plot, Result, Row, Scale
from byteloom.tokenize.byte_alphabet import to_characters
from byteloom.tokenize.words import WordSplitter

if TYPE_CHECKING:
    from torch import Tensor, nn

CARD = Card(
    method="byte2word",
    title="An encoder whose words come from their bytes: no vocabulary at the input, no unknown words.",
    paper="Word-Level Representation From Bytes For Language Modeling, Lee, Guo and Qiu, 2022",
    arxiv="2211.12677",
    stage="models",
    module="byteloom.models.byte2word",
    headline="on par with BERT in language modelling and text classification with 10 % of its embedding size; "
    "competitive under synthetic noise",
    measures="nats a hidden word beside WordPiece with whole words hidden; accuracy of a classifier under noise; "
    "parameters and time of the input side, also beside CANINE and with a compiled vocabulary",
)

HIDDEN = "Nats a hidden word on held-out text after as many steps"
NOISE = "Accuracy of a classifier over the noise in what it is tested on"
LEARNING = "Nats a hidden word over steps"
SPEED = "Time forward and backward, on the same words"
READING = "Time forward alone, on the same words"
PIECES, BYTES, TRANSFORMER = "WordPiece", "Byte2Word", "Byte2Word, Transformer pooling"
NOISES = (0.0, 0.2, 0.5, 1.0)
CLS_ID, MASK_ID, PAD_ID = 2, 3, 0
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[MASK]"]


@dataclass(frozen=True)
class _Plan:
    """How much is measured at one scale."""

    width: int
    layers: int
    vocab: int
    words: int  # of a window
    batch: int  # windows of a step
    steps: int
    judged: int  # held-out batches
    epochs: int  # of the classifier
    snippets: int  # at most
    judgements: int  # of a training


_PLANS: dict[Scale, _Plan] = {
    "smoke": _Plan(32, 2, 300, 16, 4, 4, 1, 1, 60, 2),
    "cpu": _Plan(128, 4, 8000, 64, 32, 400, 20, 2, 9603, 4),
}
HEADS, RATE, WARMUP, TUNING_RATE, TUNED_BATCH = 4, 1e-3, 50, 5e-4, 32


def run(scale: Scale, *, data: Path | None = None, progress: Progress | None = None) -> Result:
    """Measure on movie reviews and snippets of reviews in `data`, or on this machine's Python sources."""
    plan = _PLANS[scale]
    report = progress or (lambda what, done, total: None)
    began = time.perf_counter()
    texts = _texts(data, plan)
    report("learning pieces", 0, 1)
    targets = _WordPiece(texts.train, plan.vocab)
    windows = _Windows(texts, targets, plan)
    notes = [
        f"{texts.source}. {plan.steps} steps of {plan.batch} windows of {plan.words} words, then {plan.epochs} epochs "
        f"of {len(texts.snippets)} snippets; one run of each, so that a point of accuracy is chance.",
        "Both sides are told how many pieces a hidden word has: WordPiece by as many [MASK], Byte2Word by being asked. "
        "WordPiece shares its table with its output, as transformers' model does; Byte2Word has an output table of the "
        "same size, needed in pre-training alone.",
    ]
    rows: list[Row] = []
    nats: dict[str, float] = {}
    trained: dict[str, Any] = {}
    for name in (PIECES, BYTES, TRANSFORMER):
        model = trained[name] = _new(name, plan, targets)
        nats[name], row = _pretrain(name, model, windows, plan, rows, report)
        rows.append(row)
    numbers = {
        "nats a hidden word, over WordPiece": Figure(nats[BYTES] / nats[PIECES], "x", at_most=1.03),
        "the same with a Transformer over the bytes": Figure(nats[TRANSFORMER] / nats[PIECES], "x"),
    }
    numbers |= _sizes(trained[BYTES], trained[PIECES])
    numbers |= _classifiers(trained, texts, targets, plan, rows, report)
    if numbers["points above WordPiece, clean"].met is False:
        notes.append(
            "Behind WordPiece on clean snippets, unlike what the paper reports: with a few thousand examples a table "
            "learns what single words say sooner than a network that reads their bytes."
        )
    report("timing", 0, 1)
    numbers |= _speed(trained, windows, texts, targets, plan, rows)
    plots = [
        Plot(NOISE, "words changed (%)", "right (%)", "model"),
        Plot(LEARNING, "step", "nats a hidden word", "model"),
    ]
    machine = bench_machine("torch", "transformers", "tokenizers")
    return Result(CARD.method, scale, numbers, rows, machine, time.perf_counter() - began, notes, plots)


# Text


@dataclass(frozen=True)
class _Texts:
    """train, held_out: text with blanks collapsed. snippets, tests: (label, text), two labels."""

    train: bytes
    held_out: bytes
    snippets: list[tuple[int, bytes]]
    tests: list[tuple[int, bytes]]
    source: str


def _texts(data: Path | None, plan: _Plan) -> _Texts:
    reviews = None if data is None else data / "movie-reviews" / "train.zip"
    polarity = None if data is None else data / "sentence-polarity" / "train.tsv.gz"
    if reviews is not None and polarity is not None and reviews.exists() and polarity.exists():
        with zipfile.ZipFile(reviews) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".txt"))
            files = [b" ".join(archive.read(name).split()) for name in names]
        lines = gzip.decompress(polarity.read_bytes()).splitlines()
        snippets = [(int(line[:1]), line[2:].strip()) for line in lines]
        source = "Movie reviews; snippets of reviews, for or against"
    else:
        library = Path(sysconfig.get_path("stdlib"))
        sources = {path: path.read_bytes() for path in sorted(library.glob("*.py"))}
        files = [b" ".join(text.split()) for text in sources.values()][:60]
        snippets = []
        for label, folder in enumerate(("asyncio", "email")):
            for path in sorted((library / folder).glob("*.py")):
                code = path.read_bytes().splitlines()
                snippets += [(label, b" ".join(b" ".join(code[at : at + 4]).split())) for at in range(0, len(code), 4)]
        snippets = [(label, text) for label, text in snippets if len(text) > 20]
        source = "Sources of this Python's library; snippets of asyncio and of email"
    draw = random.Random(0)
    draw.shuffle(files)
    draw.shuffle(snippets)
    snippets = snippets[: plan.snippets]
    cut, tests = max(1, len(files) // 20), len(snippets) // 10
    train, held_out = b" ".join(files[cut:]), b" ".join(files[:cut])
    return _Texts(train, held_out, snippets[tests:], snippets[:tests], source)


def noisy(text: bytes, share: float, draw: random.Random) -> bytes:
    """`text` where each word of more than two letters has, with probability `share`, one letter deleted, added,
    changed, or swapped with the next."""

    def change(match: re.Match[bytes]) -> bytes:
        word = match[0]
        if draw.random() >= share:
            return word
        at, letter = draw.randrange(len(word)), draw.choice(string.ascii_lowercase).encode()
        kind = draw.randrange(4)
        if kind == 0:
            return word[:at] + word[at + 1 :]
        if kind == 1:
            return word[:at] + letter + word[at:]
        if kind == 2:
            return word[:at] + letter + word[at + 1 :]
        at = min(at, len(word) - 2)
        return word[:at] + word[at + 1 : at + 2] + word[at : at + 1] + word[at + 2 :]

    return re.sub(rb"[A-Za-z]{3,}", change, text)


class _WordPiece:
    """BERT's vocabulary over our words, learned from text: pieces of words, and the ids that a BERT reads."""

    def __init__(self, text: bytes, size: int) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        self._splitter = WordSplitter()
        self._tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
        self._tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False)
        parts = [text[at : at + 100_000] for at in range(0, len(text), 100_000)]
        self._tokenizer.train_from_iterator(
            (" ".join(map(to_characters, self._splitter.split(part))) for part in parts), trainer
        )
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        names = [self._tokenizer.id_to_token(id) for id in range(self.vocab_size)]
        self.token_lengths = np.array([0 if name in SPECIAL else len(name.removeprefix("##")) for name in names])
        self._known: dict[bytes, npt.NDArray[np.int64]] = {}

    def encode_batch(self, words: Sequence[bytes]) -> list[npt.NDArray[np.int64]]:
        """The pieces of words, each by itself."""
        return [self.pieces(word) for word in words]

    def pieces(self, word: bytes) -> npt.NDArray[np.int64]:
        """int64: the pieces of a word, remembered."""
        if word not in self._known:
            self._known[word] = np.array(self._tokenizer.encode(to_characters(word)).ids, np.int64)
        return self._known[word]

    def rows(self, documents: Sequence[bytes], words: int) -> dict[str, Tensor]:
        """[CLS] and the pieces of the first words of documents, as a ModernBERT takes them."""
        rows = [
            [CLS_ID, *(int(id) for word in self._splitter.split(text)[:words] for id in self.pieces(word))]
            for text in documents
        ]
        return _padded(rows)


class _Windows:
    """Batches of hidden words, the same for both kinds of model."""

    def __init__(self, texts: _Texts, targets: _WordPiece, plan: _Plan) -> None:
        from byteloom.train.masked_words import MaskedWordCollator

        splitter = WordSplitter()
        self._targets, self._plan = targets, plan
        self._parts = []
        for text in (texts.train, texts.held_out):
            ends = np.cumsum(splitter.word_lengths(text), dtype=np.int64)
            self._parts.append((text, np.concatenate([[0], ends])))
        self._collate = MaskedWordCollator(splitter, targets, max_words=plan.words)

    def documents(self, step: int, held_out: bool = False) -> list[bytes]:
        """Windows of `plan.words` words."""
        text, ends = self._parts[held_out]
        rng = np.random.default_rng((int(held_out), step))
        starts = rng.integers(0, len(ends) - self._plan.words, self._plan.batch)
        return [text[ends[start] : ends[start + self._plan.words]] for start in starts]

    def batch(self, name: str, step: int, held_out: bool = False) -> dict[str, Tensor]:
        """What the model of that name reads."""
        return (self.pieces if name == PIECES else self.words)(step, held_out)

    def words(self, step: int, held_out: bool = False) -> dict[str, Tensor]:
        """A batch for Byte2Word."""
        return self._collate(self.documents(step, held_out), np.random.default_rng((2, int(held_out), step)))

    def pieces(self, step: int, held_out: bool = False) -> dict[str, Tensor]:
        """The same batch for a BERT: all pieces of a hidden word are hidden."""
        from byteloom.models.word_batch import MASK

        batch = self.words(step, held_out)
        rng = np.random.default_rng((3, int(held_out), step))
        shown = [bytes(symbol for symbol in row if symbol < 256) for row in batch["table"].tolist()]
        is_mask = (batch["table"][:, 0] == MASK).tolist()
        rows, labels = [], []
        asked_BTJ = batch["labels"].numpy()
        for index_T, mask_T, asked_TJ in zip(
            batch["index"].tolist(), batch["attention_mask"].tolist(), asked_BTJ, strict=True
        ):
            row, label = [CLS_ID], [-100]
            for index, kept, asked_J in zip(index_T[1:], mask_T[1:], asked_TJ[1:], strict=True):
                if not kept:
                    continue
                pieces = asked_J[asked_J != -100].tolist()
                seen = [MASK_ID] * len(pieces) if is_mask[index] else self._targets.pieces(shown[index]).tolist()
                if not pieces:
                    label += [-100] * len(seen)
                else:
                    if len(seen) != len(pieces) or not (is_mask[index] or seen[: len(pieces)] == pieces):
                        seen = rng.integers(len(SPECIAL), self._targets.vocab_size, len(pieces)).tolist()
                    label += pieces
                row += seen
            rows.append(row)
            labels.append(label)
        return _padded(rows) | {"labels": _padded(labels, -100)["input_ids"]}


def _padded(rows: list[list[int]], value: int = PAD_ID) -> dict[str, Tensor]:
    import torch

    longest = max(map(len, rows))
    ids_BT = torch.tensor([row + [value] * (longest - len(row)) for row in rows])
    mask_BT = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids_BT, "attention_mask": mask_BT}


# Models


def _new(name: str, plan: _Plan, targets: _WordPiece) -> Any:
    import torch
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    from byteloom.models.byte2word import Byte2WordConfig, Byte2WordForMaskedLM

    shape = {
        "hidden_size": plan.width,
        "intermediate_size": 2 * plan.width,
        "num_hidden_layers": plan.layers,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 512,
    }
    torch.manual_seed(0)
    if name == PIECES:
        ids = {"pad_token_id": PAD_ID, "cls_token_id": CLS_ID, "bos_token_id": None, "eos_token_id": None}
        ids |= {"sep_token_id": None, "vocab_size": targets.vocab_size}
        return ModernBertForMaskedLM(ModernBertConfig(**shape, **ids, sparse_prediction=True))
    pooling = "transformer" if name == TRANSFORMER else "attention"
    config = Byte2WordConfig(body=shape, pooling=pooling, target_vocab_size=targets.vocab_size)
    return Byte2WordForMaskedLM(config)


def _optimize(
    model: nn.Module,
    rate: float,
    steps: int,
    loss_of: Callable[[int], Tensor],
    tick: Callable[[int], None],
) -> float:
    """Train for `steps`; seconds of processor time, without those of `tick`, which is called before each step."""
    import torch

    model.train()
    values = list(model.parameters())
    optimizer = torch.optim.AdamW(values, lr=rate)
    warmup = min(WARMUP, steps // 4 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    )
    seconds = 0.0
    for step in range(steps):
        tick(step)
        began = time.process_time()
        optimizer.zero_grad()
        loss_of(step).backward()
        torch.nn.utils.clip_grad_norm_(values, 1.0)
        optimizer.step()
        schedule.step()
        seconds += time.process_time() - began
    return seconds


def _pretrain(
    name: str, model: Any, windows: _Windows, plan: _Plan, rows: list[Row], report: Progress
) -> tuple[float, Row]:
    """(nats a hidden word on held-out text, what else is told of it)."""

    def tick(step: int) -> None:
        report(f"training {name}", step, plan.steps)
        if step and step % (plan.steps // plan.judgements) == 0:
            found, _ = _judge(name, model, windows, plan)
            rows.append({"table": LEARNING, "model": name, "step": step, "nats a hidden word": found})

    took = _optimize(model, RATE, plan.steps, lambda step: model(**windows.batch(name, step)).loss, tick)
    nats, right = _judge(name, model, windows, plan)
    rows.append({"table": LEARNING, "model": name, "step": plan.steps, "nats a hidden word": nats})
    row: Row = {"table": HIDDEN, "model": name, "nats": nats, "words told (%)": 100 * right}
    return nats, row | {"parameters at the input": _input_parameters(model), "processor time (s)": round(took, 1)}


def _judge(name: str, model: Any, windows: _Windows, plan: _Plan) -> tuple[float, float]:
    """(nats a hidden word, share of hidden words of which all pieces are told)."""
    import torch

    model.eval()
    nats, words, right = 0.0, 0, 0
    with torch.inference_mode():
        for number in range(plan.judged):
            labels_BTJ = windows.words(number, held_out=True)["labels"]
            place_M3 = (labels_BTJ != -100).nonzero()
            _, word_M = place_M3[:, :2].unique(dim=0, return_inverse=True)
            target_M = labels_BTJ[labels_BTJ != -100]
            logits_MV = model(**windows.batch(name, number, held_out=True)).logits  # in the order of the words
            nats += float(torch.nn.functional.cross_entropy(logits_MV, target_M, reduction="sum"))
            missed_M = word_M[logits_MV.argmax(-1) != target_M]
            count = int(word_M.max()) + 1
            words, right = words + count, right + count - len(missed_M.unique())
    model.train()
    return nats / words, right / words


def _input_parameters(model: Any) -> int:
    """Parameters that make vectors of what is read."""
    side = model.byte2word.words if hasattr(model, "byte2word") else model.get_input_embeddings()
    return sum(value.numel() for value in side.parameters())


def _classifiers(
    trained: dict[str, Any], texts: _Texts, targets: _WordPiece, plan: _Plan, rows: list[Row], report: Progress
) -> dict[str, Figure]:
    """Fine-tune both models on clean snippets and judge them on noisy ones."""
    right: dict[tuple[str, float], float] = {}
    for name in (PIECES, BYTES):
        model, collate = _classifier(name, trained[name], texts, targets, plan, report)
        for share in NOISES:
            right[name, share] = _accuracy(model, collate, texts, share)
            row: Row = {"table": NOISE, "model": name, "words changed (%)": 100 * share}
            rows.append(row | {"right (%)": right[name, share]})
    gain = {share: right[BYTES, share] - right[PIECES, share] for share in NOISES}
    return {
        "points above WordPiece, clean": Figure(gain[0.0], "points", at_least=-2.0),
        "points above WordPiece, half the words changed": Figure(gain[0.5], "points"),
        "points above WordPiece, all words changed": Figure(gain[1.0], "points", at_least=2.0),
    }


Inputs = dict[str, Any]


def _classifier(
    name: str, pretrained: Any, texts: _Texts, targets: _WordPiece, plan: _Plan, report: Progress
) -> tuple[Callable[[Inputs], Tensor], Callable[[Sequence[bytes]], Inputs]]:
    """(a model that gives logits [B, C] of inputs, what makes inputs of snippets)."""
    import torch

    from byteloom.models.word_batch import collate_words

    splitter = WordSplitter()

    def collate(some: Sequence[bytes]) -> Inputs:
        if name == PIECES:
            return targets.rows(some, plan.words)
        return collate_words(some, splitter, plan.words).inputs()

    torch.manual_seed(1)
    body = pretrained.base_model
    layer = torch.nn.Linear(plan.width, 2)

    def logits(batch: Inputs) -> Tensor:
        return layer(body(**batch).last_hidden_state[:, 0])

    order = np.concatenate(
        [np.random.default_rng(epoch).permutation(len(texts.snippets)) for epoch in range(plan.epochs)]
    )

    def loss_of(step: int) -> Tensor:
        some = [texts.snippets[place] for place in order[step * TUNED_BATCH : (step + 1) * TUNED_BATCH]]
        labels_B = torch.tensor([label for label, _ in some])
        return torch.nn.functional.cross_entropy(logits(collate([text for _, text in some])), labels_B)

    steps = len(order) // TUNED_BATCH
    both = torch.nn.ModuleList([body, layer])
    _optimize(both, TUNING_RATE, steps, loss_of, lambda step: report(f"tuning {name}", step, steps))
    both.eval()
    return logits, collate


def _accuracy(
    logits: Callable[[Inputs], Tensor], collate: Callable[[Sequence[bytes]], Inputs], texts: _Texts, share: float
) -> float:
    """In per cent, on the held-out snippets; noisy ones are read with three draws of the noise."""
    import torch

    right: list[bool] = []
    for seed in range(3 if share else 1):
        draw = random.Random(seed)
        rows = [(label, noisy(text, share, draw)) for label, text in texts.tests]
        for at in range(0, len(rows), 64):
            some = rows[at : at + 64]
            with torch.inference_mode():
                told = logits(collate([text for _, text in some])).argmax(-1).tolist()
            right += [label == name for (label, _), name in zip(some, told, strict=True)]
    return 100 * float(np.mean(right))


# Size and speed


def _sizes(ours: Any, theirs: Any) -> dict[str, Figure]:
    from transformers import BertConfig

    from byteloom.models.byte2word import Byte2WordConfig
    from byteloom.models.word_encoder import WordVectors

    base = BertConfig()
    config = Byte2WordConfig(body=base.to_dict())
    large = sum(value.numel() for value in WordVectors(base.hidden_size, int(config.pooling_heads or 1)).parameters())
    return {
        "parameters at the input, over WordPiece": Figure(
            _input_parameters(ours) / _input_parameters(theirs), "x", at_most=0.12
        ),
        "the same at the size of BERT": Figure(large / (base.vocab_size * base.hidden_size), "x", at_most=0.12),
    }


def _speed(
    trained: dict[str, Any], windows: _Windows, texts: _Texts, targets: _WordPiece, plan: _Plan, rows: list[Row]
) -> dict[str, Figure]:
    import torch
    from transformers import CanineConfig, CanineModel

    from byteloom.models.word_batch import collate_words

    documents = windows.documents(0)
    splitter = WordSplitter()
    words = collate_words(documents, splitter, plan.words).inputs()
    canine = CanineModel(
        CanineConfig(
            hidden_size=plan.width,
            intermediate_size=4 * plan.width,
            num_hidden_layers=plan.layers,
            num_attention_heads=HEADS,
            max_position_embeddings=2048,
        ),
        add_pooling_layer=False,
    )
    codes = _padded([list(text) for text in documents])
    ours, theirs = trained[BYTES], trained[PIECES]
    steps: dict[str, Callable[[], Tensor]] = {
        PIECES: partial(_loss, theirs, windows.pieces(0)),
        BYTES: partial(_loss, ours, windows.words(0)),
        TRANSFORMER: partial(_loss, trained[TRANSFORMER], windows.words(0)),
        "bytes of words alone": lambda: ours.byte2word.words(words["table"]).sum(),
        "Byte2Word without head": lambda: ours.byte2word(**words).last_hidden_state.sum(),
        "CANINE without head": lambda: canine(**codes).last_hidden_state.sum(),
    }
    took = {name: best_of(5, lambda step=step: step().backward()).wall for name, step in steps.items()}  # type: ignore[misc]
    for name, seconds in took.items():
        rows.append({"table": SPEED, "model": name, "ms": 1e3 * seconds})
    ours, theirs = ours.byte2word.eval(), theirs.model.eval()
    pieces = targets.rows(documents, plan.words)
    with torch.inference_mode():
        plain = best_of(5, lambda: theirs(**pieces)).wall
        slow = best_of(5, lambda: ours(**words)).wall
        ours.compile_vocabulary(dict.fromkeys(splitter.split(texts.train)))
        fast = best_of(5, lambda: ours(**words)).wall
    some = [texts.train[at : at + 300] for at in range(0, min(len(texts.train), 3_000_000), 300)]
    batches = [some[at : at + 256] for at in range(0, len(some), 256)]
    collated = best_of(2, lambda: [collate_words(batch, splitter, plan.words) for batch in batches]).wall
    for name, seconds in ((PIECES, plain), (BYTES, slow), ("Byte2Word, words looked up", fast)):
        rows.append({"table": READING, "model": name, "ms": 1e3 * seconds})
    return {
        "time of a training step, over WordPiece": Figure(took[BYTES] / took[PIECES], "x", at_most=1.1),
        "of it the bytes of words": Figure(100 * took["bytes of words alone"] / took[BYTES], "%", at_most=15.0),
        "speed of training over CANINE, without heads": Figure(
            took["CANINE without head"] / took["Byte2Word without head"], "x", at_least=3.0
        ),
        "time of reading with a compiled vocabulary, over WordPiece": Figure(fast / plain, "x", at_most=1.0),
        "collating": Figure(sum(map(len, some)) / 1e6 / collated, "MB/s", at_least=20.0),
    }


def _loss(model: Any, batch: Inputs) -> Tensor:
    return model(**batch).loss

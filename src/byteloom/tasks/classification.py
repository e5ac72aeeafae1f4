"""Labelled files in; a classifier of files or of fragments out, and how well it tells the labels of others.

Use it for labels of your own, over bytes of any kind: which compiler, which sensor, which family. For what a file is,
`byteloom.tasks.identify` comes trained. Cost: the wished training time.
"""

# Shape suffixes: B windows in a batch, C labels.

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

import byteloom
from byteloom.corpus.cuts import Cut, check_cut, cut
from byteloom.corpus.labels import LabelledDocuments, labelled_documents
from byteloom.errors import FileError, InvalidInputError
from byteloom.files import StrPath, read_json, write_json
from byteloom.machine import machine_facts
from byteloom.tasks.run_folder import FACTS, WORK, chosen, claim, finish, install
from byteloom.train.labels import ARCHITECTURES, TellLabel
from byteloom.train.plan import Backbone, Plan, Wish
from byteloom.train.processes import part, process, wait_for_all
from byteloom.train.progress import Progress, silent
from byteloom.train.trainer import plan_training, quiet_transformers, torch_threads, train_model

if TYPE_CHECKING:
    from typing_extensions import Buffer

FORMAT = 1  # of fit.json
LABEL = "training the classifier"
JUDGED = 512  # files that a training is judged on while it runs
VIEWS = 8  # pieces of a long file that a classifier of fragments looks at
BATCH_BYTES = 256 << 10  # that a model reads at once
BATCH_FILES = 64  # of an optimiser step
LEARNING_RATE = 1e-3  # as published for ByteFormer


@dataclass(frozen=True)
class LabelledSource:
    """Which files, and what of them a model sees.

    path: a folder with a sub-folder for each label, or, with `table` (a .tsv or .csv of paths and labels), of files.
    model: one of byteloom.train.labels.ARCHITECTURES. cut: which bytes of a longer file; see byteloom.corpus.cuts.
    validation: the share of each label's files that is held out.
    """

    path: str
    table: str | None = None
    model: str = "byteformer"
    cut: Cut = "head+tail"
    validation: float = 0.1

    def __post_init__(self) -> None:
        if self.model not in ARCHITECTURES:
            raise InvalidInputError(f"a classifier is one of {', '.join(ARCHITECTURES)}, not {self.model!r}")
        check_cut(self.cut)


@dataclass(frozen=True)
class Judgement:
    """How well labels are told. confusion: int64 [true, told]. nats: mean cross entropy of the true labels."""

    labels: tuple[str, ...]
    confusion: npt.NDArray[np.int64]
    nats: float

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return float(self.confusion.trace() / self.confusion.sum())

    @property
    def recall(self) -> dict[str, float]:
        """By label, the share of its files that was told right."""
        rows = zip(self.labels, self.confusion, strict=True)
        return {label: float(row[number] / max(1, row.sum())) for number, (label, row) in enumerate(rows)}


class Classifier:
    """A fitted classifier. labels: the names; window: bytes that it sees at once; cut: which of a longer file.

    Any classifier of transformers that reads bytes as one of ARCHITECTURES does can be one.
    """

    def __init__(self, model: PreTrainedModel, architecture: str, window: int, how: Cut) -> None:
        self.model, self.window, self.cut = model.eval(), window, how
        self.labels: tuple[str, ...] = tuple(model.config.id2label[n] for n in range(model.config.num_labels))
        self._collate = ARCHITECTURES[architecture].collate

    @classmethod
    def load(cls, folder: StrPath) -> Self:
        """The classifier that `fit_classifier` left in `folder`, on the accelerator if there is one.

        Raises FileError when there is none.
        """
        place = Path(folder)
        facts = read_json(place / FACTS) if (place / FACTS).is_file() else {}
        if facts.get("task") != "classify":
            raise FileError(f"{folder} holds no classifier; make one with `byteloom fit --task classify`")
        with quiet_transformers():
            try:
                model = AutoModelForSequenceClassification.from_pretrained(place, local_files_only=True)
            except (OSError, ValueError) as error:
                raise FileError(f"cannot load the classifier in {folder}: {str(error).splitlines()[0]}") from error
        device = torch.accelerator.current_accelerator() or torch.device("cpu")
        return cls(model.to(device), facts["model"], facts["window"], facts["cut"])

    def probabilities(
        self, windows: Sequence[Buffer], at_start: Sequence[bool] | None = None
    ) -> npt.NDArray[np.float32]:
        """float32 [windows, labels]: of pieces of files. Longer ones than `window` are cut; at_start is not used.

        Raises InvalidInputError for an empty one.
        """
        rows = [cut(window, self.window, self.cut) for window in windows]
        if empty := [number for number, row in enumerate(rows) if not row]:
            raise InvalidInputError(f"window {empty[0]} is empty; there is nothing to classify")
        found_BC = np.empty((len(rows), len(self.labels)), np.float32)
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))  # of like lengths together
        with torch.inference_mode():
            for places in _batches(order, rows):
                batch = {
                    name: tensor.to(self.model.device)
                    for name, tensor in self._collate([rows[p] for p in places]).items()
                }
                found_BC[places] = self.model(**batch).logits.float().softmax(-1).cpu().numpy()
        return found_BC

    def classify(self, documents: Sequence[Buffer]) -> npt.NDArray[np.float32]:
        """float32 [documents, labels]: of whole files; a classifier of fragments gives the mean over VIEWS of them."""
        if self.cut != "fragment":
            return self.probabilities(documents)
        views = [_views(document, self.window) for document in documents]
        found = self.probabilities([view for some in views for view in some])
        ends = np.cumsum([len(some) for some in views])
        return np.stack([piece.mean(0) for piece in np.split(found, ends[:-1])])

    def judge(self, documents: LabelledDocuments) -> Judgement:
        """How well the labels of `documents` are told."""
        truth = np.array([label for _, label in documents.documents])
        found = self.classify([document.data for document, _ in documents.documents])
        confusion = np.zeros((len(self.labels), len(self.labels)), np.int64)
        np.add.at(confusion, (truth, found.argmax(1)), 1)
        nats = -np.log(np.maximum(found[np.arange(len(truth)), truth], 1e-9)).mean()
        return Judgement(self.labels, confusion, float(nats))


def fit_classifier(
    source: LabelledSource,
    wish: Wish,
    folder: StrPath,
    *,
    overwrite: bool = False,
    keep_work: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Fit a classifier to labelled files; the result is what folder/fit.json holds.

    The context of `wish.backbone` counts bytes; without a backbone it is that of the architecture. `folder` then loads
    with AutoModelForSequenceClassification and with `Classifier.load`. After a kill the same call goes on where it
    stopped, if the files are the same. Under torchrun every process calls this.
    Raises InvalidInputError for labels that cannot be learned and a folder that holds something else, FileError when a
    file cannot be read or written.
    """
    folder = Path(folder)
    work = folder / WORK
    rank, processes = process()
    if rank == 0:
        claim(folder, {"source": asdict(source), "wish": asdict(wish)}, overwrite)
    documents = labelled_documents(source.path, source.table)
    train, held_out = documents.split(source.validation)
    if rank == 0 and not (work / "plan.json").exists():
        write_json(work / "plan.json", _plan(source, _completed(wish, source.model), train, processes).to_json())
    wait_for_all()
    plan = Plan.from_json(read_json(work / "plan.json"))
    if plan.world_size != processes:
        raise InvalidInputError(
            f"the run in {folder} was begun with {plan.world_size} processes; go on with as many, or --overwrite"
        )
    trained = train_model(
        plan,
        _objective(source, train, plan.backbone),
        work / "classifier",
        judge=functools.partial(_nats, source=source, plan=plan, documents=_some(held_out, JUDGED)),
        progress=progress if rank == 0 else silent,
        label=LABEL,
    )
    part()
    if rank != 0:
        return {}
    install(trained.folder, folder)
    with quiet_transformers(), torch_threads(plan.threads):
        model = AutoModelForSequenceClassification.from_pretrained(folder).to(plan.device)
        judged = _judge(model, source, plan, held_out)
    facts = {
        "format": FORMAT,
        "task": "classify",
        "byteloom": byteloom.__version__,
        "seed": wish.seed,
        "paths": [source.path],
        "made": datetime.now().astimezone().isoformat(timespec="seconds"),
        "options": chosen(source) | chosen(wish),
        "machine": machine_facts(torch.cuda.get_device_name() if plan.device == "cuda" else plan.device),
        "model": source.model,
        "window": plan.backbone.context,
        "cut": source.cut,
        "config": asdict(plan.backbone),
        "parameters": model.num_parameters(),
        "labels": list(judged.labels),
        "train": len(train.documents),
        "held_out": len(held_out.documents),
        "steps": plan.steps,
        "seconds": trained.seconds,
        "curve": trained.curve,
        "validation_curve": trained.validation_curve,
        "accuracy": judged.accuracy,
        "nats": judged.nats,
        "recall": judged.recall,
        "confusion": judged.confusion.tolist(),
    }
    write_json(folder / FACTS, facts)
    finish(folder, keep_work)
    return facts


def _completed(wish: Wish, model: str) -> Wish:
    """The wish with a shape and a rate, and with batches counted in files: a file is one thing to learn from."""
    backbone = wish.backbone or ARCHITECTURES[model].backbone
    files = wish.micro_batch or max(1, min(32, BATCH_BYTES // backbone.context))
    batch = wish.batch_tokens or BATCH_FILES * backbone.context
    rate = wish.learning_rate or LEARNING_RATE
    return replace(wish, backbone=backbone, micro_batch=files, batch_tokens=batch, learning_rate=rate)


def _plan(source: LabelledSource, wish: Wish, train: LabelledDocuments, processes: int) -> Plan:
    assert wish.backbone is not None
    device = torch.accelerator.current_accelerator()
    name, threads = device.type if device else "cpu", torch.get_num_threads()
    objective = _objective(source, train, wish.backbone)
    return plan_training(objective, wish, device=name, threads=threads, world_size=processes)


def _objective(source: LabelledSource, train: LabelledDocuments, backbone: Backbone) -> TellLabel:
    return TellLabel(ARCHITECTURES[source.model], train, source.cut, backbone.context)


def _judge(model: PreTrainedModel, source: LabelledSource, plan: Plan, documents: LabelledDocuments) -> Judgement:
    """In the precision of the training; the model is left in the mode that it was in."""
    was_training = model.training
    try:
        with torch.autocast(plan.device, torch.bfloat16, enabled=plan.precision == "bf16"):
            return Classifier(model, source.model, plan.backbone.context, source.cut).judge(documents)
    finally:
        model.train(was_training)


def _nats(model: PreTrainedModel, source: LabelledSource, plan: Plan, documents: LabelledDocuments) -> float:
    return _judge(model, source, plan, documents).nats


def _some(documents: LabelledDocuments, count: int) -> LabelledDocuments:
    """At most about `count` of the documents, evenly spread, so that every label keeps its share."""
    step = -(-len(documents.documents) // count)
    return replace(documents, documents=documents.documents[::step])


def _views(document: Buffer, window: int) -> list[bytes]:
    """Pieces of a document, evenly spread from its beginning to its end."""
    count = max(1, min(VIEWS, -(-memoryview(document).nbytes // window)))
    return [cut(document, window, "fragment", number / max(1, count - 1)) for number in range(count)]


def _batches(order: Sequence[int], rows: Sequence[bytes]) -> Iterator[list[int]]:
    """`order`, in groups whose rows have together about BATCH_BYTES, padding included, when they come by length."""
    group: list[int] = []
    for place in order:
        if group and (len(group) + 1) * len(rows[place]) > BATCH_BYTES:
            yield group
            group = []
        group.append(place)
    if group:
        yield group

"""Several models and tokenizers on the same bytes at equal compute: what each predicts, how fast, in how much memory.

Use it before a large training, to choose a model for a kind of data. Every model is trained in a process of its own, so
that memory is its own. Models that predict the next byte and models that fill in hidden bytes are judged by different
figures, which are not compared. Cost: the given seconds a model, somewhat more for those that are slower an operation.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byteloom.errors import InvalidInputError
from byteloom.files import StrPath, atomic_write, read_json, write_json
from byteloom.machine import usable_cores
from byteloom.processes import in_fresh_process, peak_memory
from byteloom.tasks.plots import check_plot
from byteloom.tasks.trainees import HIDDEN, NEXT, Trainee, tokenizer_of, trainee
from byteloom.tokenize import Tokenizer, byte_tokenizer, load_tokenizer, train_bpe
from byteloom.train.plan import SIZES, Backbone, Plan, Wish
from byteloom.train.progress import Progress, silent
from byteloom.train.shards import Shards, read_shards, write_shards
from byteloom.train.trainer import plan_training, quiet_transformers, torch_threads, train_model

if TYPE_CHECKING:
    from typing_extensions import Buffer

WINDOW_BYTES = 512  # of training text that a model sees at once, whatever its tokens


@dataclass(frozen=True)
class ComparedModel:
    """One model. bits_per_byte: held out, of the kind that `measure` names. read_bytes_per_s: of judging.

    bytes: seen in training, in training_seconds. memory_bytes: the most that its process held, or its accelerator.
    curve: (operations, figure) during the training and at its end.
    """

    name: str
    measure: str
    bits_per_byte: float
    parameters: int
    operations: int
    bytes: int
    training_seconds: float
    read_bytes_per_s: float
    memory_bytes: int
    curve: tuple[tuple[float, float], ...]

    @property
    def training_bytes_per_s(self) -> float:
        """Of text, in training."""
        return self.bytes / self.training_seconds


def compare_models(
    names: Sequence[str],
    train: Sequence[Buffer],
    held_out: Sequence[bytes],
    folder: Path,
    *,
    seconds: float,
    backbone: Backbone = SIZES["nano"],
    vocab_size: int = 2048,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, ComparedModel]:
    """Train the models `names` one after another, at equal operations, and judge them on `held_out`.

    names: "model" or "model:tokenizer", as `byteloom.tasks.trainees.MODELS` and `load_tokenizer` have them; "bpe" is
    one of `vocab_size` tokens, trained on `train`. The first one gets about `seconds` on this machine, at most four
    passes; the others get its operations. Windows hold about WINDOW_BYTES of text for all. What `folder` holds is not
    made again.
    Raises InvalidInputError for unknown names, the same name twice, and documents that are too short.
    """
    if len(set(names)) < len(names):
        raise InvalidInputError("a model is named twice; name each once")
    if not names:
        raise InvalidInputError("name at least one model")
    for name in names:
        tokenizer_of(*_parts(name))
    tokenizers = {name: _tokenizer(name, train, folder, vocab_size) for name in names}
    found: dict[str, ComparedModel] = {}
    base: Plan | None = None
    for number, (name, tokenizer) in enumerate(tokenizers.items()):
        progress("training models", number, len(tokenizers))
        place = folder / f"{number}-{name.replace('/', '_').replace(':', '-')}"
        read = byte_tokenizer() if _parts(name)[0] == "byte2word" else tokenizer
        shards = read_shards(place / "shards") or write_shards(train, read, place / "shards")
        tokens = max(16, round(WINDOW_BYTES / shards.bytes_per_token / 16) * 16)
        shape = replace(backbone, context=tokens)
        plan = _plan(name, tokenizer, shards, shape, place, base, seconds, seed)
        base = base or plan
        done = place / "compared.json"
        if not done.exists():
            write_json(done, in_fresh_process(_train, name, tokenizer, shards, plan, list(held_out), place))
        facts = read_json(done)
        found[name] = ComparedModel(**{**facts, "curve": tuple(tuple(point) for point in facts["curve"])})
    progress("training models", len(tokenizers), len(tokenizers))
    return found


def draw_comparison(models: Mapping[str, ComparedModel], path: StrPath) -> None:
    """Bits per byte over operations, and bars of the end, speed and memory, into an .svg, .pdf or .png file.

    Models of the two measures have panels of their own.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    measures = [measure for measure in (NEXT, HIDDEN) if any(model.measure == measure for model in models.values())]
    colours = {name: f"C{number % 10}" for number, name in enumerate(models)}
    figure = Figure(figsize=(11, 3.4 * (len(measures) + 1)), layout="constrained")
    grid = figure.subplots(len(measures) + 1, 2, squeeze=False)
    for row, measure in zip(grid, measures, strict=False):
        some = {name: model for name, model in models.items() if model.measure == measure}
        for name, model in some.items():
            operations, bits = zip(*model.curve, strict=True)
            row[0].plot(operations, bits, marker="o", markersize=3, color=colours[name], label=name)
        row[0].set_xlabel("training operations")
        row[0].set_ylabel(f"{measure}, held out")
        row[0].legend(frameon=False)
        _bars(row[1], {name: model.bits_per_byte for name, model in some.items()}, colours, measure, "{:.3f}")
    speeds = {name: model.read_bytes_per_s / 1e3 for name, model in models.items()}
    _bars(grid[-1][0], speeds, colours, "kB/s that are read", "{:,.0f}")
    memory = {name: model.memory_bytes / 2**20 for name, model in models.items()}
    _bars(grid[-1][1], memory, colours, "MiB of memory in training", "{:,.0f}")
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as file:
        figure.savefig(file, format=Path(path).suffix[1:], dpi=150)


def _bars(axes: Any, values: Mapping[str, float], colours: Mapping[str, str], label: str, form: str) -> None:
    names = list(values)
    bars = axes.barh(names[::-1], [values[name] for name in names[::-1]], color=[colours[name] for name in names[::-1]])
    axes.bar_label(bars, labels=[form.format(values[name]) for name in names[::-1]], padding=4)
    axes.set_xlabel(label)
    axes.margins(x=0.2)


def _parts(name: str) -> tuple[str, str | None]:
    """(model, tokenizer or None) of a name."""
    model, _, tokenizer = name.partition(":")
    return model, tokenizer or None


def _tokenizer(name: str, train: Sequence[Buffer], folder: Path, vocab_size: int) -> Tokenizer:
    wanted = tokenizer_of(*_parts(name))
    if wanted != "bpe":
        return load_tokenizer(wanted)
    place = folder / "bpe"
    if not (place / "tokenizer.json").exists():
        train_bpe(train, vocab_size=vocab_size).save(place)
    return load_tokenizer(place)


def _plan(
    name: str,
    tokenizer: Tokenizer,
    shards: Shards,
    backbone: Backbone,
    place: Path,
    base: Plan | None,
    seconds: float,
    seed: int,
) -> Plan:
    """Eight windows a step. The first plan has the given seconds, the others its operations."""
    if (place / "plan.json").exists():
        return Plan.from_json(read_json(place / "plan.json"))
    wanted = _trainee(name, tokenizer, shards, backbone)
    wanted.objective.dataset(backbone.context, 1, seed)  # raises where there is no whole window
    wish = Wish(
        minutes=seconds / 60,
        tokens=None if base is None else 8 * backbone.context,
        backbone=backbone,
        batch_tokens=8 * backbone.context,
        micro_batch=8,
        learning_rate=1e-3,
        precision="fp32",
        seed=seed,
    )
    plan = plan_training(wanted.objective, wish, device="cpu", threads=usable_cores())
    if base is not None:
        plan = plan.with_operations(base.flops)
    write_json(place / "plan.json", plan.to_json())
    return plan


def _trainee(name: str, tokenizer: Tokenizer, shards: Shards, backbone: Backbone) -> Trainee:
    return trainee(_parts(name)[0], tokenizer, shards, backbone.context)


def _train(
    name: str, tokenizer: Tokenizer, shards: Shards, plan: Plan, held_out: list[bytes], place: Path
) -> dict[str, Any]:
    """In a process of its own: the fields of a ComparedModel."""
    wanted = _trainee(name, tokenizer, shards, plan.backbone)
    few = held_out[:: max(1, len(held_out) // 4)]
    trained = train_model(
        plan, wanted.objective, place, judge=lambda model: wanted.judge(model, few).bits_per_byte, label=name
    )
    memory = peak_memory()
    with quiet_transformers(), torch_threads(plan.threads):
        model = wanted.load(trained.folder)
        began = time.perf_counter()
        judged = wanted.judge(model, held_out)
        seconds = time.perf_counter() - began
    cost = plan.tokens_per_step * plan.flops_per_token
    curve = [(point["step"] * cost, point["bits_per_byte"]) for point in trained.validation_curve]
    scale = wanted.objective.scale(plan.backbone.context)
    return asdict(
        ComparedModel(
            name=name,
            measure=wanted.measure,
            bits_per_byte=judged.bits_per_byte,
            parameters=model.num_parameters(),
            operations=plan.flops,
            bytes=round(plan.steps * plan.tokens_per_step * scale.bytes_per_token),
            training_seconds=trained.seconds,
            read_bytes_per_s=sum(map(len, held_out)) / seconds,
            memory_bytes=memory,
            curve=(*curve, (plan.flops, judged.bits_per_byte)),
        )
    )

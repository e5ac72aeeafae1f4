"""The main job: a folder of files in; a tokenizer, a language model, measurements and a report out.

Use it for a first model of any bytes, and for an honest comparison of BPE with raw bytes: both models have one
backbone, are trained with equal compute, and are judged in bits per byte on the same held-out bytes. Source: Binary
BPE, arXiv 2511.17573. Cost: the wished training time, somewhat more for the raw-byte model (equal operations, smaller
ones), and about a minute for the rest.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

import byteloom
from byteloom.errors import InvalidInputError, MissingExtraError
from byteloom.evaluate.bits_per_byte import BitsPerByte
from byteloom.files import StrPath, read_json, write_json
from byteloom.machine import machine_facts
from byteloom.tasks.prepare import Prepared, Source, prepare
from byteloom.tasks.report import write_report
from byteloom.tasks.run_folder import FACTS, WORK, chosen, claim, finish, install
from byteloom.tasks.trainees import Trainee, trainee
from byteloom.train.plan import PASSES, SIZES, Plan, Wish
from byteloom.train.processes import part, process, wait_for_all
from byteloom.train.progress import Progress, silent
from byteloom.train.trainer import Trained, plan_training, quiet_transformers, torch_threads, train_model

FORMAT = 1  # of fit.json
REPORTED = ("llama", "word-pooled")  # models of which there is a report
LABELS = {"bytes": "training the raw-byte model", "byt5": "training the model without a gate"}  # others: LABEL
LABEL = "training the model"


def fit(
    source: Source,
    wish: Wish,
    folder: StrPath,
    *,
    overwrite: bool = False,
    keep_work: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Fit a tokenizer and a model (and a raw-byte baseline) to `source`; the result is what folder/fit.json holds.

    `folder` then loads with AutoTokenizer and AutoModelForCausalLM, folder/baseline likewise. After a kill or an
    interruption the same call goes on where it stopped and gives the same result. Under torchrun every process calls
    this; the first one prepares and judges. Raises InvalidInputError for a corpus that is too small and for a folder
    that holds something else (`overwrite` clears a run of fit, and nothing else), FileError when writing fails.
    """
    folder = Path(folder)
    work = folder / WORK
    if wish.model == "byte2word":
        source = replace(source, baseline=True)  # packs the bytes, which it reads, beside the pieces, which it guesses
    rank, processes = process()
    if rank == 0:
        claim(folder, {"source": asdict(source), "wish": asdict(wish)}, overwrite)
        prepared = prepare(source, folder, work, progress)
        _plan(wish, prepared, work, processes)
    wait_for_all()
    if rank != 0:
        prepared = prepare(source, folder, work, silent)  # reads what the first process made
    plans = {kind: Plan.from_json(plan) for kind, plan in read_json(work / "plan.json").items()}
    trained = {}
    for kind, plan in plans.items():
        if plan.world_size != processes:
            raise InvalidInputError(
                f"the run in {folder} was begun with {plan.world_size} processes; go on with as many, or --overwrite"
            )
        trained[kind] = train_model(
            plan,
            _trainees(wish, prepared, plan.backbone.context)[kind].objective,
            work / kind,
            judge=functools.partial(_bits, wish=wish, prepared=prepared, plan=plan, kind=kind),
            progress=progress if rank == 0 else silent,
            label=LABELS.get(kind, LABEL),
        )
    part()
    if rank != 0:
        return {}
    return _finish(source, wish, folder, prepared, plans, trained, keep_work, progress)


def _plan(wish: Wish, prepared: Prepared, work: Path, processes: int) -> None:
    """Decide on the training and write it down, once: a resumed run reads the plan and measures nothing."""
    if (work / "plan.json").exists():
        return
    for shards in prepared.shards.values():
        shards.check((wish.backbone or SIZES["nano"]).context)
    context = (wish.backbone or SIZES["nano"]).context
    first, *others = _trainees(wish, prepared, context).items()
    device = torch.accelerator.current_accelerator()
    name, threads = device.type if device else "cpu", torch.get_num_threads()
    plan = plan_training(first[1].objective, wish, device=name, threads=threads, world_size=processes)
    plans = {first[0]: plan}
    for kind, other in others:
        cost = other.objective.flops_per_token(plan.backbone)
        plans[kind] = plan.with_equal_compute(other.objective.vocab_size, cost)
    write_json(work / "plan.json", {kind: planned.to_json() for kind, planned in plans.items()})


def _trainees(wish: Wish, prepared: Prepared, context: int) -> dict[str, Trainee]:
    """What is trained, the user's model first; then what it is compared with: raw bytes, or an MrT5 without a gate."""
    stride = max(1, context * 3 // 4)  # every token is judged behind a quarter of a window
    kind, *others = prepared.shards
    if wish.model == "mrt5":
        names = ["mrt5", "byt5"] if prepared.baseline else ["mrt5"]
        tokenizer, shards = prepared.tokenizers[kind], prepared.shards[kind]
        return {name: trainee(name, tokenizer, shards, context, delete=wish.delete) for name in names}
    if wish.model == "byte2word":
        shards = prepared.shards["bytes"]
        return {"byte2word": trainee("byte2word", prepared.tokenizers[kind], shards, context)}
    models = {kind: wish.model, **dict.fromkeys(others, "llama")}
    return {
        kind: trainee(model, prepared.tokenizers[kind], prepared.shards[kind], context, stride=stride)
        for kind, model in models.items()
    }


def _judge(model: PreTrainedModel, wish: Wish, prepared: Prepared, plan: Plan, kind: str) -> BitsPerByte:
    """Held-out bits per (hidden) byte in the precision of the training."""
    with torch.autocast(plan.device, torch.bfloat16, enabled=plan.precision == "bf16"):
        return _trainees(wish, prepared, plan.backbone.context)[kind].judge(model, prepared.blocks)


def _bits(model: PreTrainedModel, wish: Wish, prepared: Prepared, plan: Plan, kind: str) -> float:
    return _judge(model, wish, prepared, plan, kind).bits_per_byte


def _finish(
    source: Source,
    wish: Wish,
    folder: Path,
    prepared: Prepared,
    plans: dict[str, Plan],
    trained: dict[str, Trained],
    keep_work: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Put models and tokenizers in place, judge them, write fit.json and the report, clear the work folder."""
    models = {}
    for number, (kind, training) in enumerate(trained.items()):
        place = "baseline" if number else "."
        progress("judging on held-out bytes", number, len(trained))
        install(training.folder, folder / place)
        _trainees(wish, prepared, plans[kind].backbone.context)[kind].save_tokenizer(folder / place)
        models[kind] = _model_facts(place, folder / place, wish, plans[kind], training, prepared, kind)
    progress("judging on held-out bytes", len(trained), len(trained))
    kind, plan = next(iter(plans.items()))
    notes = prepared.facts["tokenizer"].pop("notes") + _notes(wish, plan, next(iter(prepared.shards.values())).tokens)
    facts = {
        "format": FORMAT,
        "byteloom": byteloom.__version__,
        "seed": source.seed,
        "paths": list(source.paths),
        "made": datetime.now().astimezone().isoformat(timespec="seconds"),
        "options": chosen(source) | chosen(wish),
        "machine": machine_facts(torch.cuda.get_device_name() if plan.device == "cuda" else plan.device),
        **prepared.facts,
        "models": models,
        "notes": notes,
    }
    write_json(folder / FACTS, facts)
    if wish.model in REPORTED:
        try:
            write_report(folder)
        except MissingExtraError as error:
            facts["notes"].append(f"no report was written: {error}")
            write_json(folder / FACTS, facts)
    finish(folder, keep_work)
    return facts


def _model_facts(
    place: str, folder: Path, wish: Wish, plan: Plan, training: Trained, prepared: Prepared, kind: str
) -> dict[str, Any]:
    trained = _trainees(wish, prepared, plan.backbone.context)[kind]
    with quiet_transformers(), torch_threads(plan.threads):
        model = trained.load(folder).to(plan.device)
        judged = _judge(model, wish, prepared, plan, kind)
    bytes_per_token = trained.objective.scale(plan.backbone.context).bytes_per_token
    tokens = plan.steps * plan.tokens_per_step
    last = {"step": plan.steps, "seconds": training.seconds, "bits_per_byte": judged.bits_per_byte}
    return {
        "folder": place,
        "model": trained.model,
        "measure": trained.measure,
        "vocab_size": plan.vocab_size,
        "parameters": model.num_parameters(),
        "config": asdict(plan.backbone),
        "training": {
            "batch_tokens": plan.tokens_per_step,
            "learning_rate": plan.learning_rate,
            "precision": plan.precision,
            "processes": plan.world_size,
            "flops": plan.flops,
        },
        "context_tokens": plan.backbone.context,
        "bytes_per_token": bytes_per_token,
        "seconds": training.seconds,
        "steps": plan.steps,
        "tokens_seen": tokens,
        "bytes_seen": round(tokens * bytes_per_token),
        "tokens_per_s": tokens / training.seconds,
        "bytes_per_s": tokens * bytes_per_token / training.seconds,
        "curve": training.curve,
        "validation_curve": [*training.validation_curve, last],
        "bits_per_byte": judged.bits_per_byte,
        "validation_bytes": judged.bytes,
    }


def _notes(wish: Wish, plan: Plan, corpus_tokens: int) -> list[str]:
    """What a user would wonder about: a training that is shorter than the wished time."""
    if wish.tokens is None and plan.steps * plan.tokens_per_step > 0.99 * PASSES * corpus_tokens:
        return [f"training stopped after {PASSES} passes over the corpus; more data, not more time, would help"]
    return []

"""Train a model by a plan, with the Hugging Face Trainer; go on after a kill as if nothing happened.

On one device, on several under torchrun (DDP, or FSDP for models that outgrow a device). Nothing is written outside
the given folder and nothing is sent anywhere.
"""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from byteloom.errors import FileError
from byteloom.files import read_json, write_json
from byteloom.train.objectives import Objective, Scale
from byteloom.train.plan import Backbone, Plan, Precision, Wish, make_plan
from byteloom.train.processes import PATIENCE, wait_for_all
from byteloom.train.progress import Progress, silent

MEASURE_SECONDS = 1.5
Judge = Callable[[PreTrainedModel], float]  # on held-out documents, in the unit of the objective's scale


@dataclass(frozen=True)
class Trained:
    """What a training left: the folder of the model, and its curves.

    seconds: of training alone, without the judgements. curve: training loss in the unit of the objective's scale, such
    as bits per byte, with the tokens and bytes seen up to each step. validation_curve: the judge's figures.
    """

    folder: Path
    seconds: float
    curve: list[dict[str, float]]
    validation_curve: list[dict[str, float]]


def train_model(
    plan: Plan,
    objective: Objective,
    folder: Path,
    *,
    judge: Judge,
    progress: Progress = silent,
    label: str = "training",
) -> Trained:
    """Train by `plan` what `objective` asks for; the model goes to `folder`/model, the rest to `folder`.

    A training that `folder` shows as finished is only read; one that was killed goes on from its last whole
    checkpoint and ends, on a CPU, with the same bits as an unbroken one. Every process of a torchrun calls this.
    Raises InvalidInputError when the data are shorter than one window, FileError when the disk is full.
    """
    done = folder / "trained.json"
    if not done.exists():
        _keep_freed_memory()
        with torch_threads(plan.threads), quiet_transformers():
            _train(plan, objective, folder, judge, progress, label)
    facts = read_json(done)
    return Trained(folder=folder / "model", **facts)


def plan_training(objective: Objective, wish: Wish, *, device: str, threads: int, world_size: int = 1) -> Plan:
    """`make_plan` for what `objective` asks for, with the speed that this machine shows on its data."""
    return make_plan(
        wish,
        vocab_size=objective.vocab_size,
        corpus_tokens=objective.tokens,
        device=device,
        threads=threads,
        world_size=world_size,
        passes=objective.passes,
        flops_per_token=objective.flops_per_token,
        measure=partial(tokens_per_second, objective, device=device, threads=threads),
    )


def tokens_per_second(
    objective: Objective, backbone: Backbone, windows: int, precision: Precision, *, device: str, threads: int
) -> float:
    """The training speed of one device, on windows of the data, over MEASURE_SECONDS after a warm-up."""
    _keep_freed_memory()
    with torch_threads(threads):
        model = objective.new_model(backbone, device).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        dataset = objective.dataset(backbone.context, windows, 0)
        batch = objective.collate([dataset[item] for item in range(windows)])
        batch = {name: tensor.to(device) for name, tensor in batch.items()}

        def step() -> None:
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss.item()  # waits for the device

        step()
        step()
        steps, began = 0, time.perf_counter()
        while (seconds := time.perf_counter() - began) < MEASURE_SECONDS or steps == 0:
            step()
            steps += 1
    return steps * windows * backbone.context / seconds


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads inside this context; another number adds floats in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No warnings and progress bars of transformers inside this context."""
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before[0])
        if before[1]:
            logging.enable_progress_bar()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that was written to its end; the Trainer writes its state file last."""
    numbered = {}
    for path in folder.glob("checkpoint-*"):
        if match := re.fullmatch(r"checkpoint-(\d+)", path.name):
            numbered[int(match[1])] = path
    for step in sorted(numbered, reverse=True):
        try:
            state = json.loads((numbered[step] / "trainer_state.json").read_bytes())
        except (OSError, ValueError):
            continue  # killed while it was written
        if state["global_step"] == step:
            return numbered[step]
    return None


def _train(plan: Plan, objective: Objective, folder: Path, judge: Judge, progress: Progress, label: str) -> None:
    checkpoints = folder / "checkpoints"
    windows = plan.steps * plan.windows_per_step
    dataset = objective.dataset(plan.backbone.context, windows, plan.seed)
    hooks, scale = objective.hooks(plan.steps), objective.scale(plan.backbone.context)
    transformers.set_seed(plan.seed)
    trainer = _Trainer(
        model=objective.new_model(plan.backbone, plan.device),
        args=_arguments(plan, checkpoints, objective.warmup(plan.steps)),
        train_dataset=dataset,
        data_collator=objective.collate,
        compute_loss_func=hooks.loss,
        callbacks=[_Diary(plan, scale.unit, judge, progress, label), *hooks.callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    last = last_checkpoint(checkpoints)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    trainer.save_model(str(folder / "model"))
    if trainer.is_world_process_zero():
        (folder / "model" / "training_args.bin").unlink()
        write_json(folder / "trained.json", _curves(plan, scale, trainer.state.log_history))
        shutil.rmtree(checkpoints, ignore_errors=True)
    wait_for_all()


def _arguments(plan: Plan, checkpoints: Path, warmup: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=plan.steps,
        per_device_train_batch_size=plan.micro_batch,
        gradient_accumulation_steps=plan.accumulation,
        train_sampling_strategy="sequential",  # Windows is shuffled already
        learning_rate=plan.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=warmup,
        weight_decay=0.1,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        bf16=plan.precision == "bf16",
        use_cpu=plan.device == "cpu",
        fsdp=plan.fsdp or None,
        seed=plan.seed,
        save_strategy="steps",
        save_steps=plan.save_steps,
        save_total_limit=2,
        remove_unused_columns=False,
        logging_steps=plan.log_steps,
        logging_first_step=True,
        log_level="error",
        log_level_replica="error",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,  # a window is a slice of a mapped file: another process would only cost
        dataloader_pin_memory=plan.device == "cuda",
        ddp_timeout=int(PATIENCE.total_seconds()),
    )


class _Trainer(Trainer):
    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        with _writing(self.args.output_dir):
            super()._save_checkpoint(model, trial)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with _writing(output_dir or self.args.output_dir):
            super().save_model(output_dir, _internal_call)


class _Diary(TrainerCallback):
    """Judges the model from time to time, reports progress, and keeps the clock.

    All goes into the Trainer's log, which is part of every checkpoint: a resumed run goes on with the same diary.
    """

    def __init__(self, plan: Plan, unit: str, judge: Judge, progress: Progress, label: str) -> None:
        self._plan = plan
        self._unit = unit
        self._judge = judge
        self._progress = progress
        self._label = label
        self._began = 0.0  # on the clock of perf_counter, moved on by the time that is not training

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        before = state.log_history[-1]["seconds"] if state.log_history else 0.0
        self._began = time.perf_counter() - before

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step, plan = state.global_step, self._plan
        if step % plan.evaluate_steps == 0 and step < plan.steps:
            paused = time.perf_counter()
            value = self._judge(kwargs["model"])
            self._began += time.perf_counter() - paused
            state.log_history.append({"step": step, f"validation_{self._unit}": value, "seconds": self._seconds()})
        self._progress(self._label, step, plan.steps)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        state.log_history[-1]["seconds"] = self._seconds()

    def _seconds(self) -> float:
        return round(time.perf_counter() - self._began, 3)


def _curves(plan: Plan, scale: Scale, log: list[dict[str, float]]) -> dict[str, Any]:
    """The Trainer's log as the curves of `Trained`."""
    curve = []
    for entry in log:
        if "loss" in entry:
            tokens = entry["step"] * plan.tokens_per_step
            curve.append(
                {
                    "step": entry["step"],
                    "seconds": entry["seconds"],
                    "tokens": tokens,
                    "bytes": round(tokens * scale.bytes_per_token),
                    scale.unit: entry["loss"] * scale.per_nat,
                }
            )
    validation = [
        {"step": entry["step"], "seconds": entry["seconds"], scale.unit: entry[f"validation_{scale.unit}"]}
        for entry in log
        if f"validation_{scale.unit}" in entry
    ]
    return {"seconds": log[-1]["seconds"], "curve": curve, "validation_curve": validation}


@contextmanager
def _writing(folder: str | Path) -> Iterator[None]:
    """Failed writes as FileError; torch and safetensors report a full disk as errors of their own."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise FileError(f"cannot write the model to {folder} ({error}); free some space and run again") from error


def _keep_freed_memory() -> None:
    """Let glibc keep large freed blocks: a step frees and takes the same tens of megabytes of logits again, and
    mapping them anew each time costs up to a third of the training speed on a CPU."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    m_trim_threshold, m_mmap_max = -1, -4
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)

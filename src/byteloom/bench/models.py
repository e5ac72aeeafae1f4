"""Small trained models that several benchmarks share: one of Python code, trained here once, and the one of stories.

Random weights tell how long a method takes and whether it is exact; only trained ones tell what it costs in quality.
"""

# Shape suffixes: B rows, T tokens.

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from byteloom.bench.catalogue import Progress
from byteloom.bench.result import Scale
from byteloom.corpus import Corpus
from byteloom.tokenize import BPE, load_tokenizer, train_bpe
from byteloom.train.plan import Backbone

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class CodeModel:
    """A model of Python code. train, held_out: the sources, each a file as uint32 ids; no file is in both.

    context: tokens of the sequences that the model was trained on.
    """

    model: PreTrainedModel
    tokenizer: BPE
    train: list[npt.NDArray[np.uint32]]
    held_out: list[npt.NDArray[np.uint32]]
    context: int


@dataclass(frozen=True)
class _Recipe:
    """How the code model is made. sources: bytes of files, at most. seen: bytes that the training reads."""

    vocab: int
    backbone: Backbone
    sources: int
    seen: int


# Shape and size as in section 5 of Let the Code LLM Edit Itself (arXiv 2407.03157), made small enough for two cores.
_RECIPES: dict[Scale, _Recipe] = {
    "smoke": _Recipe(400, Backbone(32, 2, 4, 64), 200_000, 60_000),
    "cpu": _Recipe(2048, Backbone(128, 4, 4, 512), 16_000_000, 12_000_000),
}


def trained(name: str, recipe: Mapping[str, Any], train: Callable[[Path], None]) -> Path:
    """The folder that `train(folder)` fills, from the user's cache if it was filled by the same recipe before.

    recipe: all that decides the result, as JSON can hold it. A training that is interrupted leaves nothing behind.
    """
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    folder = _cache() / f"{name}-{digest}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as partial:
            made = Path(partial, name)
            made.mkdir()
            train(made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():  # another process was faster
                    raise
    return folder


def code_model(scale: Scale, report: Progress) -> CodeModel:
    """A Llama of a million parameters that reads Python, trained on this Python's standard library in some minutes.

    A tenth of the files, by the hash of their names, is held out.
    """
    from transformers import AutoModelForCausalLM

    from byteloom.train.trainer import quiet_transformers

    recipe = _RECIPES[scale]
    train, held_out = _python_sources(recipe.sources)
    facts = asdict(recipe) | {"sources": hashlib.sha256(b"".join(train)).hexdigest()}
    folder = trained("code-model", facts, lambda place: _train_code_model(recipe, train, held_out, place, report))
    tokenizer = load_tokenizer(folder / "model")
    assert isinstance(tokenizer, BPE)
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(folder / "model", local_files_only=True).eval()
    return CodeModel(
        model, tokenizer, tokenizer.encode_batch(train), tokenizer.encode_batch(held_out), recipe.backbone.context
    )


def stories(data: Path | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase] | None:
    """The model of 260,000 parameters in `data`/stories260k and its tokenizer; None where it is missing."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from byteloom.train.trainer import quiet_transformers

    folder = None if data is None else data / "stories260k"
    if folder is None or not folder.exists():
        return None
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
        return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def story_prompts(tokenizer: PreTrainedTokenizerBase, count: int, *, seed: int = 0) -> list[list[int]]:
    """Beginnings of stories that resemble each other, as those of one application do."""
    draw = random.Random(seed)
    names = ["Lily", "Tom", "Sue", "Max", "Mia", "Ben", "Anna", "Sam"]
    things = ["ball", "dog", "hat", "toy car", "big box", "red bike"]
    prompts = []
    for _ in range(count):
        name, child = draw.choice(names), draw.choice(["little girl", "little boy"])
        prompts.append(f"Once upon a time, there was a {child} named {name}. {name} had a {draw.choice(things)}.")
    return [tokenizer(prompt)["input_ids"] for prompt in prompts]


def sampled(model: PreTrainedModel, start: Sequence[int], count: int, length: int, *, seed: int = 0) -> torch.Tensor:
    """Texts that the model writes at temperature 1 after `start`, without an end: int64 [count, length]."""
    import torch

    torch.manual_seed(seed)
    start_BT = torch.tensor([list(start)]).repeat(count, 1)
    with torch.no_grad():
        texts_BT: torch.Tensor = model.generate(
            start_BT,
            attention_mask=torch.ones_like(start_BT),
            max_new_tokens=length - len(start),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            eos_token_id=None,
            pad_token_id=0,
        )
    return texts_BT


def _python_sources(size: int) -> tuple[list[bytes], list[bytes]]:
    """Files of the standard library, without its tests: those to learn from, and those that are held out."""
    folder = Path(sysconfig.get_path("stdlib"))
    train: list[bytes] = []
    held_out: list[bytes] = []
    for document in Corpus([folder.as_posix() + "/**/*.py"], archives=False):
        name = Path(document.name).relative_to(folder).as_posix()
        if {"test", "tests", "site-packages", "dist-packages"} & set(name.split("/")):
            continue
        side = held_out if int(hashlib.sha1(name.encode()).hexdigest(), 16) % 10 == 0 else train
        if sum(map(len, side)) < size:
            side.append(bytes(document.data))
    return train, held_out


def _train_code_model(
    recipe: _Recipe, train: list[bytes], held_out: list[bytes], folder: Path, report: Progress
) -> None:
    from byteloom.tasks.small_models import train_small_model

    tokenizer = train_bpe(train, vocab_size=recipe.vocab, max_token_length=16)
    train_small_model(tokenizer, recipe.backbone, train, held_out, folder, bytes_seen=recipe.seen, progress=report)
    for other in folder.iterdir():
        if other.name != "model":
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    tokenizer.save(folder / "model")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "byteloom" / "models"

"""A small model that looks facts up, and texts that ask it for them: what a method does to memory shows here first.

A text is a list of key-value pairs without any redundancy, then questions. The model is trained here once.
"""

# Shape suffixes: B texts, T tokens.

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from byteloom.bench.catalogue import Progress
from byteloom.bench.models import trained
from byteloom.bench.result import Scale

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BEGIN, QUESTION = 0, 2
FIRST_KEY, FIRST_VALUE, VOCABULARY = 3, 259, 512
LEVELS = (4, 8, 16, 32, 64, 100)  # most pairs of a text; the next when the loss is below 0.3


@dataclass(frozen=True)
class _Recipe:
    """Shape and training as in section 8 of the benchmark of parallel contexts: plateaus are long with other ones."""

    steps: int
    batch: int = 32
    queries: int = 16
    hidden: int = 64
    head: int = 32
    layers: int = 2
    theta: float = 100.0
    fewest: int = 1  # pairs


_RECIPES: dict[Scale, _Recipe] = {"smoke": _Recipe(3), "cpu": _Recipe(1_600)}


def recall_texts(
    count: int, pairs: int, queries: int, *, keys: int = FIRST_VALUE - FIRST_KEY, repeat: bool = False, seed: int = 0
) -> torch.Tensor:
    """int64 [count, 1 + 2 pairs + 3 queries]: begin, then key and value of each pair, then `? key value` of each query.

    keys: how many different ones there are; those of a text differ. repeat: whether a key may be asked for twice, so
    that the second answer stands in the text already.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    key_BP = torch.rand(count, keys, generator=generator).argsort(1)[:, :pairs] + FIRST_KEY
    value_BP = torch.randint(FIRST_VALUE, VOCABULARY, (count, pairs), generator=generator)
    if repeat:
        asked_BQ = torch.randint(pairs, (count, queries), generator=generator)
    else:
        asked_BQ = torch.rand(count, pairs, generator=generator).argsort(1)[:, :queries]
    question_BQ = torch.full((count, asked_BQ.shape[1]), QUESTION)
    return torch.cat(
        (
            torch.full((count, 1), BEGIN),
            torch.stack((key_BP, value_BP), dim=2).flatten(1),
            torch.stack((question_BQ, key_BP.gather(1, asked_BQ), value_BP.gather(1, asked_BQ)), dim=2).flatten(1),
        ),
        dim=1,
    )


def recall_model(scale: Scale, report: Progress) -> PreTrainedModel:
    """A Llama of two layers that answers questions about up to 100 pairs; some minutes, once."""
    from transformers import AutoModelForCausalLM

    from byteloom.train.trainer import quiet_transformers

    recipe = _RECIPES[scale]
    folder = trained("recall-model", asdict(recipe), lambda place: _train(recipe, place, report))
    with quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(folder / "model", local_files_only=True).eval()


def _train(recipe: _Recipe, folder: Path, report: Progress) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=recipe.hidden,
            intermediate_size=2 * recipe.hidden,
            num_hidden_layers=recipe.layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=recipe.head,
            rope_parameters={"rope_type": "default", "rope_theta": recipe.theta},
            max_position_embeddings=4096,
            bos_token_id=BEGIN,
            eos_token_id=None,
        )
    )
    matrices = [weight for name, weight in model.named_parameters() if ".layers." in name and weight.dim() == 2]
    others = [weight for name, weight in model.named_parameters() if ".layers." not in name or weight.dim() != 2]
    optimizers = [
        torch.optim.Muon(matrices, lr=5e-3, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=3e-3, weight_decay=0.0),
    ]
    level, running = 0, 6.0
    pick = torch.Generator().manual_seed(1)
    for step in range(recipe.steps):
        most = LEVELS[level]
        pairs = int(torch.randint(recipe.fewest, most + 1, (), generator=pick))
        ids_BT = recall_texts(recipe.batch, pairs, recipe.queries, keys=min(256, 4 * most), repeat=True, seed=step)
        answers = slice(2 * pairs + 3, None, 3)  # the values of the questions
        logits_BTV = model(ids_BT).logits[:, :-1]
        target_BQ = ids_BT[:, answers]
        asked_BQV = logits_BTV[:, answers.start - 1 :: 3]
        loss = torch.nn.functional.cross_entropy(asked_BQV.flatten(0, 1), target_BQ.flatten())
        loss.backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("first_lr", group["lr"]) * min(1, 4 * (1 - step / recipe.steps))
            optimizer.step()
            optimizer.zero_grad()
        running = 0.9 * running + 0.1 * loss.item()
        if running < 0.3 and level + 1 < len(LEVELS):
            level, running = level + 1, 1.0
        report(f"training a model to recall {most} pairs", step, recipe.steps)
    model.save_pretrained(folder / "model")

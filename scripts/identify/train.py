"""Train the network of `byteloom identify` on what collect.py gathered.

    python scripts/identify/train.py CORPUS [-o network.npz] [--steps 9000]

Windows of 256 to 4,096 bytes from anywhere in the pieces of the training part, labels and source packages equally
often; the temperature and the bound below which nothing is named come from the validation part, the figures that are
stored with the network from the test part. Eleven minutes on one core; the same seed and machine give the same file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from byteloom.tasks.identify.labels import GROUP_OF, WITHIN
from byteloom.tasks.identify.network import SHIPPED, WINDOW, NgramNetwork

BITS = (16, 17, 16, 14)  # of the tables
WIDTH = 16
SPANS = (2, 3, 4, 5)
ODD = (1, 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
SMALLEST = 256
HIDDEN = 192
FEATURE_DROPOUT, HIDDEN_DROPOUT = 0.1, 0.2
BATCH = 256
NOT_LEARNED = {"elf", "pe", "mach-o", "zip", "gzip", "png", "woff", "tiff", "ico", "tar", "ar"}
HEAD = 256  # bytes of a file that may tell what the rest does not


class Pieces:
    """The pieces of one part of the corpus, by label and by source package."""

    def __init__(self, corpus: Path, part: str) -> None:
        self._corpus = corpus
        self._files: dict[str, np.ndarray] = {}
        self.by_label: dict[str, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
        for line in (corpus / "manifest.jsonl").read_text().splitlines():
            row = json.loads(line)
            label = WITHIN.get(row["label"], row["label"])
            if row["part"] == part and label not in NOT_LEARNED and row["size"] >= 2 * SMALLEST:
                self.by_label[label][row["source"]].append(row)

    def draw(self, label: str, size: int, draw: np.random.Generator) -> bytes | None:
        """A window of at most `size` bytes from a piece of `label`; None where there is nothing to see."""
        sources = self.by_label[label]
        rows = sources[list(sources)[draw.integers(len(sources))]]
        row = rows[draw.integers(len(rows))]
        data = self._file(row["file"])[row["offset"] : row["offset"] + row["size"]]
        first = HEAD if row["label"] in WITHIN or label == "deflate data" else 0
        last = max(first, len(data) - size)
        start = int(draw.integers(first, last + 1))
        window = data[start : start + size]
        if len(window) < 64 or np.bincount(window).max() > 0.9 * len(window):
            return None
        found = window.tobytes()
        if label == "pdf" and not any(word in found for word in (b"obj", b"stream", b"xref", b" Td", b"/")):
            return None
        return found

    def _file(self, name: str) -> np.ndarray:
        if name not in self._files:
            path = self._corpus / name
            empty = not path.stat().st_size
            self._files[name] = np.zeros(0, np.uint8) if empty else np.memmap(path, np.uint8, "r")
        return self._files[name]


class Network(nn.Module):
    """The network in floating point; `exported` gives the parts of an NgramNetwork."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(1 << bits, WIDTH, mode="mean") for bits in BITS)
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.1)
        self.hidden = nn.Linear(256 + len(BITS) * WIDTH + 1, HIDDEN)
        self.output = nn.Linear(HIDDEN, labels)

    def forward(self, batch: tuple[Tensor, list[tuple[Tensor, Tensor]]]) -> Tensor:
        extra, grams = batch
        pooled = [table(rows, offsets) for table, (rows, offsets) in zip(self.tables, grams, strict=True)]
        x = torch.cat([extra[:, :256], *pooled, extra[:, 256:]], 1)
        x = F.dropout(x, FEATURE_DROPOUT, self.training)
        return self.output(F.dropout(self.hidden(x).relu(), HIDDEN_DROPOUT, self.training))

    @torch.no_grad()
    def exported(self, labels: list[str], temperature: float, facts: dict) -> dict[str, np.ndarray]:
        hidden = self.hidden.weight.T.clone()
        parts = {}
        for number, name in enumerate(("pairs", "triples", "quadruples", "distant pairs")):
            weight = self.tables[number].weight
            scale = _largest(weight)
            parts[name] = (weight / scale * 127).round().clamp(-127, 127).to(torch.int8).numpy()
            hidden[256 + number * WIDTH : 256 + (number + 1) * WIDTH] *= scale / 127
        return parts | {
            "hidden weights": hidden.numpy(),
            "hidden bias": self.hidden.bias.numpy(),
            "output weights": (self.output.weight.T / temperature).numpy(),
            "output bias": (self.output.bias / temperature).numpy(),
            "labels": np.array(labels),
            "facts": np.array(json.dumps(facts)),
        }


def _largest(weight: Tensor) -> float:
    """The bound to which vectors are cut: all but one number in ten thousand lie below."""
    return float(np.quantile(weight.abs().numpy(), 0.9999))


def batch_of(windows: list[bytes]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """(byte shares and length [W, 257], and for each table the rows of all n-grams and where each window begins)."""
    extra = np.zeros((len(windows), 257), np.float32)
    rows: list[list[np.ndarray]] = [[] for _ in BITS]
    for number, window in enumerate(windows):
        data = np.frombuffer(window, np.uint8)
        extra[number, :256] = np.sqrt(np.bincount(data, minlength=256) / len(data))
        extra[number, 256] = math.log2(len(data)) / 16
        for table, found in enumerate(rows_of(data.astype(np.uint32))):
            rows[table].append(found)
    grams = []
    for found in rows:
        offsets = np.cumsum([0, *map(len, found[:-1])])
        grams.append((torch.from_numpy(np.concatenate(found)), torch.from_numpy(offsets)))
    return torch.from_numpy(extra), grams


def rows_of(data: np.ndarray) -> list[np.ndarray]:
    """int64: the row of every n-gram in each table; as native/identify/ngram_pool.hpp has it."""
    pair = data[:-1] | data[1:] << np.uint32(8)
    triple = pair[:-1] | data[2:] << np.uint32(16)
    quadruple = triple[:-1] | data[3:] << np.uint32(24)
    keys = (pair << np.uint32(16), triple, quadruple, data[:-4] | data[4:] << np.uint32(8))
    return [
        ((key * np.uint32(odd)) >> np.uint32(32 - bits)).astype(np.int64)
        for key, odd, bits in zip(keys, ODD, BITS, strict=True)
    ]


def drawn(pieces: Pieces, labels: list[str], count: int, draw: np.random.Generator, size: int | None = None):
    """`count` windows of labels in turn, and the numbers of these."""
    windows, truth = [], []
    while len(windows) < count:
        label = len(windows) % len(labels) if size else int(draw.integers(len(labels)))
        if labels[label] not in pieces.by_label:
            label = int(draw.integers(len(labels)))
            if labels[label] not in pieces.by_label:
                continue
        length = size or round(2 ** draw.uniform(math.log2(SMALLEST), math.log2(WINDOW)))
        if (window := pieces.draw(labels[label], length, draw)) is not None:
            windows.append(window)
            truth.append(label)
    return windows, np.array(truth)


def batches(pieces: Pieces, labels: list[str], steps: int, seed: int) -> Iterator[tuple]:
    for step in range(steps):
        windows, truth = drawn(pieces, labels, BATCH, np.random.default_rng((seed, step)))
        yield batch_of(windows), torch.from_numpy(truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=SHIPPED)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    train, validation, test = (Pieces(options.corpus, part) for part in ("train", "validation", "test"))
    labels = sorted(label for label, sources in train.by_label.items() if sum(map(len, sources.values())) >= 15)
    print(f"{len(labels)} labels; too few pieces of: {sorted(set(train.by_label) - set(labels))}", file=sys.stderr)
    network = Network(len(labels))
    optimizer = torch.optim.AdamW(
        [
            {"params": network.tables.parameters(), "lr": options.rate},
            {"params": [*network.hidden.parameters(), *network.output.parameters()], "lr": options.rate / 5},
        ],
        weight_decay=1e-4,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [options.rate, options.rate / 5], options.steps, pct_start=0.05, anneal_strategy="cos"
    )
    began, mean = time.perf_counter(), 0.0
    for step, (batch, truth) in enumerate(batches(train, labels, options.steps, options.seed)):
        loss = F.cross_entropy(network(batch), truth)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        mean += (loss.item() - mean) / min(step + 1, 100)
        if step % 100 == 99:
            seconds = time.perf_counter() - began
            print(f"step {step + 1:>6}  loss {mean:.3f}  {seconds:6.0f} s", file=sys.stderr, flush=True)
    network.eval()
    draw = np.random.default_rng(options.seed)
    windows, truth = drawn(validation, labels, 6000, draw)
    with torch.no_grad():
        scores = torch.cat([network(batch_of(windows[at : at + 500])) for at in range(0, len(windows), 500)])
    temperature = best_temperature(scores, torch.from_numpy(truth))
    known = NgramNetwork(network.exported(labels, temperature, {}))
    facts = {
        "corpus": hashlib.sha256((options.corpus / "manifest.jsonl").read_bytes()).hexdigest(),
        "steps": options.steps,
        "seed": options.seed,
        "torch": torch.__version__,
        "temperature": round(temperature, 3),
        "test": {},
    }
    for size in (512, 4096, 65_536):
        windows, truth = drawn(test, labels, 40 * len(labels), np.random.default_rng(1), size)
        facts["test"][str(size)] = figures(known, windows, truth, labels)
    known = NgramNetwork(network.exported(labels, temperature, facts))
    known.save(options.output)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes", file=sys.stderr)
    print(json.dumps({size: {k: found[k] for k in ("accuracy", "group")} for size, found in facts["test"].items()}))


def best_temperature(scores: Tensor, truth: Tensor) -> float:
    """What the scores are divided by to make the probabilities honest: the least cross entropy."""
    choices = [2 ** (power / 8) for power in range(-12, 17)]
    return min(choices, key=lambda temperature: F.cross_entropy(scores / temperature, truth).item())


def figures(network: NgramNetwork, windows: list[bytes], truth: np.ndarray, labels: list[str]) -> dict:
    found = network.probabilities(windows)
    told = found.argmax(1)
    groups = np.array([GROUP_OF[label] for label in labels])
    confusion = np.zeros((len(labels), len(labels)), int)
    np.add.at(confusion, (truth, told), 1)
    recall = {}
    for number, label in enumerate(labels):
        row = confusion[number].copy()
        total, right = int(row.sum()), int(row[number])
        row[number] = 0
        recall[label] = [round(right / max(1, total), 3), labels[int(row.argmax())] if row.any() else ""]
    return {
        "accuracy": round(float((told == truth).mean()), 4),
        "group": round(float((groups[told] == groups[truth]).mean()), 4),
        "labels": recall,
    }


if __name__ == "__main__":
    main()

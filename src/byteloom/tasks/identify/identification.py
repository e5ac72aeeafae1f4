"""What a file is, and what lies where in it.

Use it for files without names, with wrong names, damaged or cut, and to see into firmware, disk images and memory
dumps: everything but signatures works from the middle of anything. Cost: a few hundred kilobytes of a file for
`identify`, all of it for `content_map`, at some 100 MB/s a core.
"""

# Shape suffixes: W windows, C labels.

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from byteloom.corpus import recognise
from byteloom.entropy import entropy
from byteloom.errors import InvalidInputError
from byteloom.tasks.identify.labels import GROUP_OF, TEXTUAL
from byteloom.tasks.identify.network import WINDOW, joined, parts_of, shipped_network
from byteloom.tasks.identify.signatures import HEAD, declared, executable, signed

if TYPE_CHECKING:
    from typing_extensions import Buffer

SURE = 0.5  # probability from which a label, or else a group, is named
UNKNOWN = "unknown"
LOOKS = 32  # windows of a long file that `identify` looks at
CHANGE = 0.02  # probability that a window begins something else than the one before it, in a map
FILLED = 0.98  # share of one byte value from which a window is filling
BATCH = 16 << 20  # bytes that a map looks at together
SMALLEST_WINDOW = 256
JSON_LIMIT = 4 << 20  # bytes of a text that is parsed to find out whether it is JSON


class Classifier(Protocol):
    """Whatever tells labels from windows of bytes: the shipped network, or one of `byteloom fit --task classify`."""

    @property
    def labels(self) -> Sequence[str]: ...

    def probabilities(
        self, windows: Sequence[Buffer], at_start: Sequence[bool] | None = None
    ) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True)
class Identification:
    """What something is. label, group: as in `byteloom.tasks.identify.labels`; "unknown" when nothing is likely.

    probability: of the label. alternatives: all labels with a probability of 1 % or more, the likeliest first.
    by: "signature" or "content". details: what the headers of an executable tell, such as its architecture.
    """

    label: str
    group: str
    probability: float
    alternatives: tuple[tuple[str, float], ...]
    by: str
    size: int
    details: str = ""


@dataclass(frozen=True)
class Span:
    """Bytes [offset, offset + size) of a file that are one thing. probability: mean over its windows."""

    offset: int
    size: int
    label: str
    group: str
    probability: float
    entropy: float
    """Mean order-0 entropy of its windows, in bits a byte."""


def identify(data: Buffer, classifier: Classifier | None = None) -> Identification:
    """What the file with the bytes `data` is, a whole one or a fragment.

    A signature at its beginning is believed; otherwise up to LOOKS windows spread over it are classified, as text where
    it is valid UTF-8. A classifier of one's own is asked alone. Where no label has a probability of SURE, a group is
    named that has, or "text" or "unknown".
    """
    view = memoryview(data).cast("B")
    if not len(view):
        return Identification("empty", "empty", 1.0, (("empty", 1.0),), "content", 0)
    if classifier is None:
        if (info := executable(view)) is not None:
            bits = f"{info.bits} bits" if info.bits else None
            details = ", ".join(filter(None, (info.architecture, bits, info.problem)))
            return _signed(info.format.partition(" ")[0], len(view), details)
        if (label := signed(bytes(view[:HEAD]))) is not None:
            return _signed(label, len(view))
        if _filling(view[: 16 * WINDOW]) >= FILLED:
            return Identification("zeros", "program data", 1.0, (("zeros", 1.0),), "content", len(view))
    asked = classifier or shipped_network()
    is_text = classifier is None and recognise(view) == "text"
    if is_text and (label := declared(bytes(view[: 4 * HEAD])) or _json(view)) is not None:
        return _signed(label, len(view))
    starts, sizes = parts_of(len(view), WINDOW)
    if len(starts) > LOOKS:
        chosen = np.unique(np.linspace(0, len(starts) - 1, LOOKS).astype(int))
        starts, sizes = starts[chosen], sizes[chosen]
    windows = [view[start : start + size] for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)]
    seen = [window for window in windows if _filling(window) < FILLED] or windows
    found_C = joined(asked.probabilities(seen))
    if is_text:
        found_C = found_C * np.array([label in TEXTUAL for label in asked.labels], np.float32)
        found_C = found_C / found_C.sum()
    return _named(found_C, asked.labels, len(view), "text" if is_text else UNKNOWN)


def content_map(
    data: Buffer,
    *,
    window: int = WINDOW,
    classifier: Classifier | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Span]:
    """What lies where in `data`: spans side by side, from the first byte to the last.

    Every window is classified by itself; then the likeliest course of all is taken in which a window is something else
    than its neighbour with probability CHANGE (Viterbi, BATCH bytes at a time), so that one doubtful window does not
    break a span. Windows of one repeated byte are "zeros". Memory grows with the number of spans alone.
    Raises InvalidInputError for a window below SMALLEST_WINDOW.
    """
    if window < SMALLEST_WINDOW:
        raise InvalidInputError(f"a window has {SMALLEST_WINDOW} bytes or more, not {window}; fewer tell too little")
    view = memoryview(data).cast("B")
    if not len(view):
        return []
    asked = classifier or shipped_network()
    labels = [*asked.labels, "zeros"]
    starts, sizes = parts_of(len(view), window)
    spans: list[Span] = []
    last: int | None = None
    step = max(1, BATCH // window)
    for at in range(0, len(starts), step):
        some = slice(at, at + step)
        found_WC, entropy_W = _classified(view, starts[some], sizes[some], asked)
        told_W = _likeliest(found_WC, last)
        chance_W = found_WC[np.arange(len(told_W)), told_W]
        edges = [0, *(np.flatnonzero(np.diff(told_W)) + 1).tolist(), len(told_W)]
        for first, end in pairwise(edges):
            label = labels[told_W[first]]
            size = int(sizes[some][first:end].sum())
            mean = float(chance_W[first:end].mean()), float(entropy_W[first:end].mean())
            spans.append(Span(int(starts[at + first]), size, label, GROUP_OF.get(label, label), *mean))
            if len(spans) > 1 and spans[-2].label == label:
                spans[-2:] = [_together(*spans[-2:])]
        last = int(told_W[-1])
        progress("classifying", min(at + step, len(starts)), len(starts))
    return spans


def _signed(label: str, size: int, details: str = "") -> Identification:
    return Identification(label, GROUP_OF.get(label, label), 1.0, ((label, 1.0),), "signature", size, details)


def _named(
    found_C: npt.NDArray[np.float32], labels: Sequence[str], size: int, otherwise: str = UNKNOWN
) -> Identification:
    order = np.argsort(-found_C)
    alternatives = tuple((labels[i], float(found_C[i])) for i in order if found_C[i] >= 0.01)
    label, chance = labels[order[0]], float(found_C[order[0]])
    group = GROUP_OF.get(label, label)
    if chance < SURE:
        groups: dict[str, float] = {}
        for name, share in zip(labels, found_C.tolist(), strict=True):
            groups[GROUP_OF.get(name, name)] = groups.get(GROUP_OF.get(name, name), 0.0) + share
        group = max(groups, key=lambda name: groups[name])
        if groups[group] < SURE:
            group = otherwise
        label = group
        chance = groups.get(group, chance)
    return Identification(label, group, chance, alternatives, "content", size)


def _json(view: memoryview) -> str | None:
    """ "json" when all of a text is one JSON object or array."""
    head = bytes(view[:HEAD]).lstrip()
    if len(view) > JSON_LIMIT or head[:1] not in (b"{", b"["):
        return None
    try:
        json.loads(bytes(view))
    except (ValueError, RecursionError):
        return None
    return "json"


def _filling(window: memoryview) -> float:
    """The share of the most frequent byte value."""
    return float(np.bincount(np.frombuffer(window, np.uint8)).max() / len(window))


def _classified(
    view: memoryview, starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], classifier: Classifier
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(probabilities float32 [W, C + 1], the last of "zeros"; entropies float32 [W])."""
    windows = [view[start : start + size] for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)]
    found_WC = np.zeros((len(windows), len(classifier.labels) + 1), np.float32)
    found_WC[:, :-1] = classifier.probabilities(windows)
    filled_W = np.array([_filling(window) >= FILLED for window in windows])
    found_WC[filled_W] = 0
    found_WC[filled_W, -1] = 1
    return found_WC, np.array([entropy(window) for window in windows], np.float32)


def _likeliest(found_WC: npt.NDArray[np.float32], last: int | None) -> npt.NDArray[np.int64]:
    """int64 [W]: the likeliest course of labels, after a window of the label `last`."""
    labels = found_WC.shape[1]
    change, stay = np.log(CHANGE / max(1, labels - 1)), np.log(1 - CHANGE)
    best_C = np.zeros(labels) if last is None else np.where(np.arange(labels) == last, stay, change)
    came_WC = np.empty(found_WC.shape, np.int32)
    same_C = np.arange(labels)
    for at, score_C in enumerate(np.log(np.maximum(found_WC, 1e-6))):
        if at:
            best = int(best_C.argmax())
            moved = best_C[best] + change > best_C + stay
            came_WC[at] = np.where(moved, best, same_C)
            best_C = np.where(moved, best_C[best] + change, best_C + stay)
        best_C = best_C + score_C
    told_W = np.empty(len(found_WC), np.int64)
    told_W[-1] = best_C.argmax()
    for at in range(len(found_WC) - 1, 0, -1):
        told_W[at - 1] = came_WC[at, told_W[at]]
    return told_W


def _together(one: Span, other: Span) -> Span:
    """Two neighbouring spans of one label as one."""
    size = one.size + other.size
    share = other.size / size
    return replace(
        one,
        size=size,
        probability=one.probability + share * (other.probability - one.probability),
        entropy=one.entropy + share * (other.entropy - one.entropy),
    )

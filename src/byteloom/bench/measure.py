"""Clocks, memory and fresh processes: how the benchmarks measure.

Two things that must not share memory or thread pools are measured in two fresh processes; what is compared is
timed by the same clock in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from byteloom.machine import machine_facts

T = TypeVar("T")


@dataclass(frozen=True)
class Span:
    """What one call took."""

    wall: float  # seconds that passed
    cpu: float  # seconds of processor time of all threads of this process


def timed(call: Callable[[], T]) -> tuple[T, Span]:
    """Call once; give the value and what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = call()
    return value, Span(time.perf_counter() - wall, time.process_time() - cpu)


def best_of(repeats: int, call: Callable[[], Any]) -> Span:
    """The least wall and the least processor time of several calls: those that nothing disturbed."""
    spans = [timed(call)[1] for _ in range(repeats)]
    return Span(min(span.wall for span in spans), min(span.cpu for span in spans))


def bench_machine(*peers: str) -> dict[str, str | int]:
    """The facts of this machine with the versions of the packages that are measured against."""
    facts = machine_facts()
    for peer in peers:
        try:
            facts[peer] = version(peer)
        except PackageNotFoundError:
            facts[peer] = "not installed"
    return facts

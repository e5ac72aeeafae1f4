"""Clocks, memory and fresh processes: how the benchmarks measure.

Two things that must not share memory or thread pools are measured in two fresh processes; what is compared is
timed by the same clock in the same run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
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


def in_fresh_process(function: Callable[..., T], *arguments: Any, environment: Mapping[str, str] | None = None) -> T:
    """Call a module-level function in a new interpreter, so that peak memory and thread pools are its own.

    `environment` is set before the function's module imports anything native. Exceptions come back to the
    caller; a process that is killed for memory raises BrokenProcessPool.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), _set_environment, (dict(environment or {}),)) as pool:
        return pool.submit(function, *arguments).result()


def _set_environment(environment: dict[str, str]) -> None:
    os.environ.update(environment)


def peak_memory() -> int:
    """The most bytes of memory that this process has held resident since it started."""
    if sys.platform == "linux":  # getrusage would report the parent's peak when that is higher
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def bench_machine(*peers: str) -> dict[str, str | int]:
    """The facts of this machine with the versions of the packages that are measured against."""
    facts = machine_facts()
    for peer in peers:
        try:
            facts[peer] = version(peer)
        except PackageNotFoundError:
            facts[peer] = "not installed"
    return facts

"""Fresh processes, and how much memory one has used."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


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

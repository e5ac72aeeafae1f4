"""What a measurement was made on: processor, memory, versions; stored beside every measured number."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def machine_facts(device: str = "cpu") -> dict[str, str | int]:
    """The facts that make a measurement comparable.

    `device` is the name of the device that did the work. Keys: cpu (model name), cores (that this process may
    use), memory_gib, device, platform, python, and the versions of byteloom, numpy, torch and transformers
    ("not installed" for a missing one). Versions come from the packages' metadata: torch is not imported.
    """
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "memory_gib": round(memory_bytes() / 2**30),
        "device": device,
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{package: _version(package) for package in ("byteloom", "numpy", "torch", "transformers")},
    }


def usable_cores() -> int:
    """The number of processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """The main memory of the machine; 8 GiB where the system does not tell (Windows)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 8 << 30


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu_name() -> str:
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "cpu model"):
                return value.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return platform.processor() or platform.machine()

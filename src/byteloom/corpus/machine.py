"""Where this machine keeps its own executables: the corpus that everybody has."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def machine_format() -> str:
    """The format of this machine's executables: "elf", "mach-o" or "pe"."""
    return {"darwin": "mach-o", "win32": "pe"}.get(sys.platform, "elf")


def machine_executables() -> list[Path]:
    """The folders with this machine's own programs and libraries: those that exist, none inside another.

    Linux: bin, sbin and lib folders (multiarch folders lie inside lib), NixOS's profile; macOS: /bin, /usr and
    Homebrew (the system's libraries are not files there); Windows: System32; everywhere Python's own.
    """
    python = [Path(sys.base_prefix, "bin"), Path(sys.base_prefix, "lib")]
    if sys.platform == "win32":
        folders = [Path(os.environ.get("SYSTEMROOT", r"C:\\Windows"), "System32"), Path(sys.base_prefix)]
    elif sys.platform == "darwin":
        names = "/bin /sbin /usr/bin /usr/sbin /usr/lib /usr/libexec /usr/local /opt/homebrew"
        folders = [*map(Path, names.split()), *python]
    else:
        names = "/bin /sbin /lib /lib64 /usr/bin /usr/sbin /usr/lib /usr/lib64 /usr/libexec /usr/local/bin "
        names += "/usr/local/lib /run/current-system/sw/bin /run/current-system/sw/lib"
        folders = [*map(Path, names.split()), *python]
    real = sorted({folder.resolve() for folder in folders if folder.is_dir()})
    return [folder for folder in real if not any(parent in real for parent in folder.parents)]

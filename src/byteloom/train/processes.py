"""The processes of a training: one, or those that torchrun started."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import PartialState

PATIENCE = timedelta(days=1)  # the first process prepares a corpus while the others wait


def process() -> tuple[int, int]:
    """(number of this process, processes in all): (0, 1) without torchrun."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def wait_for_all() -> None:
    """Return when every process has come here."""
    if process()[1] > 1:
        PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE).wait_for_everyone()


def part() -> None:
    """End the work that processes do together; each may go on alone. One that ends while another still waits for a
    message from it would bring that one down."""
    if process()[1] > 1:
        wait_for_all()
        PartialState().destroy_process_group()

"""Commands worth trying on a fitted folder, which work as they are printed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from byteloom.tasks.report.samples import Sample

PROMPT_BYTES = 16  # of a sample, for the model to continue: the magic number and what follows it


def next_steps(folder: Path, facts: Mapping[str, Any], samples: Sequence[Sample]) -> list[tuple[str, str]]:
    """(what it does, command) for a folder with these facts (fit.json) and samples; none without samples."""
    if not samples or not facts["models"]:
        return []
    sample = samples[0]
    whole = Path(sample.name).is_file()  # no member of an archive, and still there
    file = sample.name if whole else str(sample.path)
    inspect = ["byteloom", "tokenizer", "inspect", file, "-t", str(folder)]
    code = max((part for part in sample.sections if part.kind == "code"), key=lambda part: part.size, default=None)
    if code and whole:  # the copy may be cut off before its section table
        inspect += ["--section", code.name]
    compare = ["byteloom", "tokenizer", "compare", str(folder / "samples"), "-t", str(folder)]
    sizes = [size for size in facts["tokenizer"]["family"] if size > facts["tokenizer"]["vocab_size"]]
    if sizes and (folder / "tokenizers" / str(max(sizes))).exists():
        compare += ["-t", str(folder / "tokenizers" / str(max(sizes)))]
    compare += ["--formats", ",".join(dict.fromkeys(sample.format for sample in samples))]
    generate = ["byteloom", "generate", str(folder), "--prompt-hex", sample.data[:PROMPT_BYTES].hex()]
    steps = [
        ("See a file that was held out fall into tokens, in colour.", inspect),
        ("Let the model go on from the first bytes of such a file.", generate),
        ("Compare vocabularies on held-out files, beside zstd and the entropy of single bytes.", compare),
    ]
    return [(what, shlex.join(words)) for what, words in steps]

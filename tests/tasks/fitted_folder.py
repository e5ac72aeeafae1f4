"""A folder as `byteloom fit` leaves it, with a real tokenizer, real samples and made-up models, for report tests."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from byteloom.corpus import Document, Section
from byteloom.evaluate.compression import measure_compression
from byteloom.files import atomic_write, write_json
from byteloom.tokenize import byte_tokenizer, train_bpe

PROLOGUE = bytes.fromhex("f30f1efa554889e54157415641554154534883ec18")
EPILOGUE = bytes.fromhex("4883c4185b415c415d415e415f5dc3662e0f1f840000000000")
CANARY = bytes.fromhex("64488b042528000000488945c831c0")
STRINGS = [b"cannot open %s\x00", b"usage: %s [OPTION]...\x00", b"libc.so.6\x00", b"GLIBC_2.34\x00", b"/etc/passwd\x00"]
WORDS = b"""any bytes into compact token sequences sequence models trained on them and run fast a tokenizer
learns what occurs often and a model learns what follows""".split()
SIZES = (300, 350, 400)


def executable(seed: int) -> tuple[bytes, list[Section]]:
    """Bytes like those of a small x86-64 ELF file, and its section map."""
    random = np.random.default_rng(seed)
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00" + bytes(44)
    code = b"".join(PROLOGUE + CANARY * (n % 2) + b"\xb8" + random.bytes(4) + EPILOGUE for n in range(20 + 3 * seed))
    strings = b"".join(STRINGS[i] for i in random.integers(0, len(STRINGS), 60))
    sections = [
        Section(".text", len(header), len(code), "code"),
        Section(".rodata", len(header) + len(code), len(strings), "read-only data"),
    ]
    return header + code + strings, sections


def curve(floor: float, points: int, seconds: float) -> list[dict[str, float]]:
    return [
        {"step": n, "seconds": seconds * n / points, "bits_per_byte": floor + 5 * math.exp(-8 * n / points)}
        for n in range(1, points + 1)
    ]


def model(folder: str, vocab_size: int, bytes_per_token: float, bits_per_byte: float) -> dict[str, Any]:
    training = [point | {"tokens": 256 * point["step"], "bytes": 600 * point["step"]} for point in curve(2, 300, 60)]
    return {
        "folder": folder,
        "vocab_size": vocab_size,
        "parameters": 1_900_000,
        "config": {"hidden_size": 192},
        "context_tokens": 256,
        "bytes_per_token": bytes_per_token,
        "seconds": 60.0,
        "steps": 300,
        "tokens_seen": 76_800,
        "bytes_seen": round(76_800 * bytes_per_token),
        "tokens_per_s": 1280.0,
        "bytes_per_s": 1280 * bytes_per_token,
        "curve": training,
        "validation_curve": curve(bits_per_byte, 4, 60),
        "bits_per_byte": bits_per_byte,
        "validation_bytes": 5000,
    }


def make_fitted_folder(
    folder: Path,
    *,
    kind: str = "bpe",
    baseline: bool = True,
    text: bool = False,
    name: str = "/usr/bin/tool",
    section: str = ".text",
) -> Path:
    """Write a fitted folder: of executables or of `text`; `name` and `section` name the samples and their code."""
    if text:
        contents: list[tuple[bytes, list[Section]]] = [
            (b" ".join(WORDS[i] for i in np.random.default_rng(n).integers(0, len(WORDS), 900)), []) for n in range(3)
        ]
        format, architecture = "text", None
    else:
        contents = [executable(seed) for seed in range(3)]
        contents = [(data, [Section(section, *_place(parts[0])), parts[1]]) for data, parts in contents]
        format, architecture = "elf", "x86-64"
    documents = [Document(f"{name}-{number}", data) for number, (data, _) in enumerate(contents)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as many tokens as there are
        largest = train_bpe([data for data, _ in contents], vocab_size=10**5, min_frequency=3)
    family = [size for size in SIZES if size <= largest.vocab_size]
    tokenizer = largest.truncate(family[0]) if kind == "bpe" else byte_tokenizer()
    tokenizer.save(folder)
    for size in family if kind == "bpe" else []:
        largest.truncate(size).save(folder / "tokenizers" / str(size))
    index = []
    for number, (document, (data, sections)) in enumerate(zip(documents, contents, strict=True)):
        file = f"{number:02}-tool.bin"
        with atomic_write(folder / "samples" / file) as handle:
            handle.write(data)
        entry = {"file": file, "name": document.name, "format": format, "architecture": architecture}
        index.append(entry | {"sections": [asdict(part) for part in sections]})
    write_json(folder / "samples" / "samples.json", index)
    rows = measure_compression(
        [byte_tokenizer(), *(largest.truncate(size) for size in family if kind == "bpe")], documents
    )
    total = sum(document.size for document in documents)
    models = {"bpe": model(".", tokenizer.vocab_size, 2.5, 2.5)} if kind == "bpe" else {}
    if baseline or kind == "bytes":
        models["bytes"] = model("baseline" if models else ".", 263, 1.0, 3.0)
    facts = {
        "format": 1,
        "byteloom": "0.1.0",
        "seed": 7,
        "paths": ["/usr/bin", name],
        "made": "2026-01-05T09:30:00+00:00",
        "options": {"paths": ["/usr/bin", name], "sample_bytes": 2_000_000, "family": [300, 330]}
        | ({} if baseline else {"baseline": False}),
        "machine": {"cpu": "A processor", "cores": 2, "device": "cpu", "platform": "Linux", "python": "3.11.7"}
        | {"torch": "2.13.0", "transformers": "5.24.0"},
        "corpus": {
            "files": 3,
            "bytes": total,
            "rows": [{"format": format, "architecture": architecture, "files": 3, "bytes": total, "entropy": 5.5}],
            "skipped": [{"name": name, "reason": "permission denied"}],
            "filtered": {"format": 4, "duplicate": 1},
            "duplicates": 1,
            "train": {"files": 2, "bytes": total // 2},
            "validation": {"files": 1, "bytes": total - total // 2, "names": [name]},
        },
        "tokenizer": {
            "kind": kind,
            "vocab_size": tokenizer.vocab_size,
            "merges": len(tokenizer.merges),
            "seconds": 0.5 if kind == "bpe" else None,
            "bytes": total if kind == "bpe" else None,
            "training_mb_per_s": 21.5 if kind == "bpe" else None,
            "encode_mb_per_s": 90.0,
            "family": family if kind == "bpe" else [263],
        },
        "models": models,
        "compression": rows,
        "notes": ["the corpus is small"],
    }
    write_json(folder / "fit.json", facts)
    return folder


def _place(part: Section) -> tuple[int, int, str]:
    return part.offset, part.size, part.kind

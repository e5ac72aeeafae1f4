"""Complete a file while it is edited: save it in any editor, and a local model goes on from its end.

    python examples/editor.py MODEL_FOLDER notes.py

MODEL_FOLDER is a folder of `byteloom fit`, or any causal language model of transformers with rotary positions. The
cache follows the file: each time only what was typed is encoded, and suffix speculation writes what repeats faster.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from byteloom.errors import ByteloomError
from byteloom.generate import EditSession, Speculation, SuffixCache, SyncReport
from byteloom.tasks.continuation import load_model


def saved(path: Path, pause: float = 0.2) -> Iterator[str]:
    """The text of a file, and again each time it is saved."""
    last = None
    while True:
        changed = path.stat().st_mtime_ns
        if changed != last:
            last = changed
            yield path.read_text(encoding="utf-8")
        time.sleep(pause)


def completions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], tokens: int
) -> Iterator[tuple[str, SyncReport]]:
    """For each version of a text what may follow it, and what it took to take over the edits."""
    session = EditSession(model, refresh=16)
    method = Speculation(SuffixCache())
    for text in texts:
        report = session.sync(tokenizer(text)["input_ids"])
        new = session.generate(tokens, do_sample=False, custom_generate=method)
        yield tokenizer.decode(new, skip_special_tokens=True), report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--tokens", type=int, default=24, help="length of a completion")
    given = parser.parse_args()
    try:
        model = load_model(given.model)
        tokenizer = AutoTokenizer.from_pretrained(given.model, local_files_only=True)
        for completion, report in completions(model, tokenizer, saved(given.file), given.tokens):
            spent = 1e3 * sum(report.seconds.values())
            print(f"{report.encoded} tokens encoded, {report.reused} kept, {spent:.0f} ms: {completion!r}", flush=True)
    except (ByteloomError, OSError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()

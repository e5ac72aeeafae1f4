"""byteloom: any bytes into compact token sequences; sequence models trained on them and run fast.

>>> import byteloom
>>> tokenizer = byteloom.train_bpe([b"abababab" * 100], vocab_size=270)
>>> tokenizer.decode(tokenizer.encode(b"abab"))
b'abab'

Names are loaded on first use, so that `import byteloom` is quick and works without torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "BPE": "byteloom.tokenize",
    "train_bpe": "byteloom.tokenize",
    "load_tokenizer": "byteloom.tokenize",
    "ByteTokenizer": "byteloom.tokenize.hf",
    "Corpus": "byteloom.corpus",
    "Document": "byteloom.corpus",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'byteloom' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

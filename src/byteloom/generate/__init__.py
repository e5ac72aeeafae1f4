"""Decoding any Hugging Face causal LM: faster, further, several at once.

>>> cache = SuffixCache()
>>> method = Speculation(cache)
>>> ids = model.generate(**inputs, max_new_tokens=200, custom_generate=method)  # doctest: +SKIP
>>> method.statistics.tokens_per_step  # doctest: +SKIP
4.2
"""

from byteloom.generate.drafts import Draft, Drafter, DraftModel, Hybrid, PromptLookup
from byteloom.generate.speculation import Speculation, Statistics
from byteloom.generate.suffix_cache import SuffixCache

__all__ = [
    "Draft",
    "DraftModel",
    "Drafter",
    "Hybrid",
    "PromptLookup",
    "Speculation",
    "Statistics",
    "SuffixCache",
]

"""Decoding any Hugging Face causal language model: further and faster than it was trained for.

Faster: `Speculation` with a drafter, such as a `SuffixCache`, as the `custom_generate` of `model.generate`.
Further: `LambdaCacheFactory` and `extend`.
Along with a text while it is edited: `EditSession`.
"""

from byteloom.generate.batch import BatchEngine, BatchOutput, Sampling, speculate_batch
from byteloom.generate.drafts import Draft, Drafter, DraftModel, Hybrid, PromptLookup
from byteloom.generate.edit_session import EditSession, SyncReport
from byteloom.generate.engine import Statistics
from byteloom.generate.lambda_attention import LambdaCacheFactory, LambdaLayer, LambdaStream, extend
from byteloom.generate.speculation import Speculation
from byteloom.generate.suffix_cache import SuffixCache
from byteloom.generate.token_diff import Edit, token_edits

__all__ = [
    "BatchEngine",
    "BatchOutput",
    "Draft",
    "DraftModel",
    "Drafter",
    "Edit",
    "EditSession",
    "Hybrid",
    "LambdaCacheFactory",
    "LambdaLayer",
    "LambdaStream",
    "PromptLookup",
    "Sampling",
    "Speculation",
    "Statistics",
    "SuffixCache",
    "SyncReport",
    "extend",
    "speculate_batch",
    "token_edits",
]

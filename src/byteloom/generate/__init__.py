"""Decoding any Hugging Face causal language model: further and faster than it was trained for.

Faster: `Speculation` with a drafter, such as a `SuffixCache`, as the `custom_generate` of `model.generate`.
Further: `LambdaCacheFactory` and `extend`.
Several at once: `superposed_generate` with an `NgramModel`, or `Superposed` as the `custom_generate`.
Along with a text while it is edited: `EditSession`.
Over texts that come back: `ContextStore` and `answer`.
"""

from byteloom.generate.batch import BatchEngine, BatchOutput, speculate_batch
from byteloom.generate.drafts import Draft, Drafter, DraftModel, Hybrid, PromptLookup
from byteloom.generate.edit_session import EditSession, SyncReport
from byteloom.generate.engine import Statistics
from byteloom.generate.lambda_attention import LambdaCacheFactory, LambdaLayer, LambdaStream, extend
from byteloom.generate.ngram import NgramModel
from byteloom.generate.parallel_context import ContextStore, Example, ParallelLayer, Tuning, answer, tune
from byteloom.generate.speculation import Speculation
from byteloom.generate.suffix_cache import SuffixCache
from byteloom.generate.superposed import (
    Superposed,
    SuperposedConfig,
    SuperposedOutput,
    superposed_generate,
    tune_superposed,
)
from byteloom.generate.texts import Sampling
from byteloom.generate.token_diff import Edit, token_edits

__all__ = [
    "BatchEngine",
    "BatchOutput",
    "ContextStore",
    "Draft",
    "DraftModel",
    "Drafter",
    "Edit",
    "EditSession",
    "Example",
    "Hybrid",
    "LambdaCacheFactory",
    "LambdaLayer",
    "LambdaStream",
    "NgramModel",
    "ParallelLayer",
    "PromptLookup",
    "Sampling",
    "Speculation",
    "Statistics",
    "SuffixCache",
    "Superposed",
    "SuperposedConfig",
    "SuperposedOutput",
    "SyncReport",
    "Tuning",
    "answer",
    "extend",
    "speculate_batch",
    "superposed_generate",
    "token_edits",
    "tune",
    "tune_superposed",
]

"""Token ids to logits: transformers models, and the one cache mechanism that all decoding methods share."""

from byteloom.models.attention import attach, attend, attend_lse, generate_from, merge_lse, register
from byteloom.models.kvcache import KVCache, KVLayer, RaggedCache, RaggedLayer
from byteloom.models.rotary import KeyRotation

__all__ = [
    "KVCache",
    "KVLayer",
    "KeyRotation",
    "RaggedCache",
    "RaggedLayer",
    "attach",
    "attend",
    "attend_lse",
    "generate_from",
    "merge_lse",
    "register",
]

"""Token ids to logits: transformers models, and the one cache mechanism that all decoding methods share.

Examples hand a cache over as `cache=...`, its name since transformers 5.24; before, it is `past_key_values=...`.
CACHE_KEYWORD is the name that the installed version knows.
"""

from byteloom.models.attention import (
    CACHE_KEYWORD,
    AttentionCall,
    attach,
    attend,
    attend_lse,
    generate_from,
    merge_lse,
    register,
)
from byteloom.models.kvcache import KVCache, KVLayer
from byteloom.models.ragged_cache import RaggedCache, RaggedLayer
from byteloom.models.rotary import KeyRotation

__all__ = [
    "CACHE_KEYWORD",
    "AttentionCall",
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

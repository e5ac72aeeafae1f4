"""A key-value cache of fewer slots than tokens."""

from byteloom.compress.cache.merging import (
    MergedLayer,
    MergeReport,
    MergingCache,
    merge_to,
    merging_cache,
    soft_match,
)

__all__ = ["MergeReport", "MergedLayer", "MergingCache", "merge_to", "merging_cache", "soft_match"]

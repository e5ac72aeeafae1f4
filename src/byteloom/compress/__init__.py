"""The same model, smaller: its cache of keys and values."""

from byteloom.compress.cache import MergedLayer, MergeReport, MergingCache, merge_to, merging_cache, soft_match

__all__ = ["MergeReport", "MergedLayer", "MergingCache", "merge_to", "merging_cache", "soft_match"]

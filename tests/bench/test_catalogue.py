import re

import pytest

from byteloom.bench import benchmark, benchmarks
from byteloom.errors import InvalidInputError


def test_every_benchmark_has_a_complete_card() -> None:
    found = benchmarks()
    assert {"binary-bpe", "bpe-kernels"} <= set(found)
    for method, module in found.items():
        card = module.CARD
        assert card.method == method
        assert re.fullmatch(r"[a-z0-9-]+", method)
        assert re.fullmatch(r"\d{4}\.\d{4,5}|", card.arxiv)
        assert card.module.startswith(f"byteloom.{card.stage}")
        assert card.title and card.paper and card.headline and card.measures
        assert "smoke" in card.scales
        assert callable(module.run)


def test_an_unknown_method_gets_the_list() -> None:
    with pytest.raises(InvalidInputError, match="binary-bpe, bpe-kernels"):
        benchmark("gzip")

import pytest

from byteloom.bench import Result, batch_speculative
from tests.generate.test_batch import alone, prompts
from tests.generate.test_speculation import Noisy, make


@pytest.fixture(scope="module")
def result() -> Result:
    return batch_speculative.run("smoke")


def test_every_layout_writes_what_each_prompt_gives_alone(result: Result) -> None:
    equal = {row["method"]: row["texts equal to each alone (%)"] for row in result.rows if "method" in row}
    assert {"plain", "ragged", "eqspec", "exspec", "ragged, adaptive", "ragged, adaptive, useless drafts"} <= set(equal)
    assert all(share == 100 for method, share in equal.items() if method != "without realignment")


def test_a_batch_that_is_not_realigned_is_noticed() -> None:
    """The comparison can fail: it does where the rejected tokens of a row stay in its cache."""
    model = make("llama").double()
    rows = prompts([4, 9, 6])
    expected = alone(model, rows)
    truth = [ids + text for ids, text in zip(rows, expected, strict=True)]
    drafter = Noisy(truth, 5, 0.5)
    spoiled = batch_speculative.naive(model, rows, drafter, 3, new=len(expected[0]), draft=5)
    assert spoiled != expected and [text[0] for text in spoiled] == [text[0] for text in expected]


def test_what_a_step_of_the_cache_costs_is_measured(result: Result) -> None:
    assert {row["how"].split(":")[0] for row in result.rows if "how" in row} >= {"ragged", "EQSPEC"}

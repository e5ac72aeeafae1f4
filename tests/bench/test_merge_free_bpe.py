import pytest

from byteloom.bench import merge_free_bpe
from byteloom.bench.result import Result
from byteloom.tokenize.inference import INFERENCES


@pytest.fixture(scope="module")
def result() -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("byteloom.tasks.small_models.usable_cores", lambda: 1)
        return merge_free_bpe.run("smoke")


def test_every_inference_is_judged_on_both_kinds_of_bytes(result: Result) -> None:
    for name in (merge_free_bpe.PYTHON, merge_free_bpe.EXECUTABLES):
        rows = {row["inference"]: row for row in result.rows if row["table"] == f"Inferences on {name}"}
        assert list(rows) == list(INFERENCES)
        assert rows["merge"]["bits per byte over merge order (%)"] == 0
        assert rows["merge"]["boundaries kept (%)"] == 100
        assert min(row["tokens over merge order (%)"] for row in rows.values()) == pytest.approx(
            rows["minimal"]["tokens over merge order (%)"]
        )


def test_random_ids_tell_nothing(result: Result) -> None:
    releases = [row for row in result.rows if str(row["table"]).startswith("What a release")]
    assert len(releases) == 4
    for row in releases:
        if row["ids"] == "random":
            assert abs(row["Kendall's tau of ids"]) < 0.25


def test_smoke_promises_nothing(result: Result) -> None:
    assert all(figure.met is None for figure in result.numbers.values())

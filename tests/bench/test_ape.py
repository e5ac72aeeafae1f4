import pytest

from byteloom.bench import Result, ape
from byteloom.bench.recall import recall_model, recall_texts
from byteloom.generate import Tuning
from byteloom.models import CACHE_KEYWORD, KVCache
from tests.models.test_attention import logits


@pytest.fixture(scope="module")
def result() -> Result:
    return ape.run("smoke")


def test_one_context_is_one_sequence() -> None:
    """The measure can tell: the answers of one context are those of the plain model, others are not."""
    model = recall_model("smoke", lambda what, done, total: None)
    ids = recall_texts(3, 8, 4, repeat=True)
    values = logits(model, ids, **{CACHE_KEYWORD: KVCache.for_model(model)})[:, 18:-1:3]
    right = (values.argmax(-1) == ids[:, 19::3]).float().mean().item()
    nats = -values.log_softmax(-1).gather(2, ids[:, 19::3, None]).mean().item()
    plain = Tuning(1, 1)
    found = ape._answers(model, ids, 1, 8, [plain, Tuning(0.5, 0.7)])
    assert found[plain] == pytest.approx((right, nats), abs=1e-4)
    assert abs(found[Tuning(0.5, 0.7)][1] - nats) > 1e-6
    assert ape._answers(model, ids, 1, 8, [plain], own=True)[plain] == pytest.approx((right, nats), abs=1e-4)


def test_every_way_of_reading_is_compared(result: Result) -> None:
    ways = {str(row["read"]) for row in result.rows if "pairs in each" in row}
    assert {ape.SEQUENTIAL, ape.OWN, ape.SHARED, ape.SHARPER, ape.FULL, ape.CONTROL} <= ways
    assert {row["contexts"] for row in result.rows if "tokens of contexts" in row} == {
        ape.SEQUENTIAL,
        "joined from memory",
        "joined from disk",
    }
    assert any(row.get("read") == "no context" for row in result.rows)
    assert all(plot.table in {row["table"] for row in result.rows} for plot in result.plots)

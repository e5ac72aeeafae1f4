from byteloom.bench import word_pooled
from byteloom.bench.result import Result


def test_smoke_compares_all_models():
    result = word_pooled.run("smoke")
    assert Result.from_json(result.to_json()).to_json() == result.to_json()
    learning = [row for row in result.rows if row["table"] == word_pooled.LEARNING]
    assert {row["model"] for row in learning} == {"word-pooled", "bytes", "bpe", word_pooled.BLT}
    assert all(0 < row["bits per byte"] < 10 for row in learning)
    assert len([row for row in result.rows if row["table"] == word_pooled.WORDS]) == 3

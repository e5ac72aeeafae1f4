from byteloom.bench import byteformer
from byteloom.bench.result import Result


def test_smoke_measures_accuracy_and_costs():
    result = byteformer.run("smoke")
    assert Result.from_json(result.to_json()).to_json() == result.to_json()
    pictures = [row for row in result.rows if row["table"] == byteformer.PICTURES]
    assert len(pictures) == len(byteformer.ENCODINGS) + 2
    assert all(0 <= row["right"] <= 100 for row in pictures)
    assert result.numbers["dense attention over windows, 512 tokens"].value > 0

from byteloom.bench import mrt5
from byteloom.bench.result import Result


def test_smoke_measures_speed_and_quality():
    result = mrt5.run("smoke")
    assert Result.from_json(result.to_json()).to_json() == result.to_json()
    tables = {row["table"] for row in result.rows}
    assert {mrt5.SPEED, mrt5.QUALITY, "Share deleted by kind of byte"} <= tables
    quality = {(row["gate"], row["target"]): row for row in result.rows if row["table"] == mrt5.QUALITY}
    assert len(quality) == 5 and quality["none", 0.0]["deleted"] == 0
    assert 0.4 < quality["random", 0.5]["deleted"] < 0.6
    assert all(0 < row["bits per byte"] < 20 for row in quality.values())

import gzip
import json

import pytest

from byteloom.bench import suffix_decoding
from byteloom.bench.result import Result
from byteloom.generate import PromptLookup, SuffixCache


@pytest.fixture(scope="module")
def result() -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("byteloom.tasks.small_models.usable_cores", lambda: 1)
        return suffix_decoding.run("smoke")


def test_every_part_is_measured(result: Result) -> None:
    tables = {str(row["table"]).split(":")[0] for row in result.rows}
    assert {"Replay", "Greedy decoding"} <= tables
    for row in result.rows:
        if "texts equal to plain (%)" in row:
            assert row["texts equal to plain (%)"] == 100
        if "tokens a step" in row and row["tokens a step"] is not None:
            assert row["tokens a step"] >= 1


def test_smoke_promises_nothing(result: Result) -> None:
    assert result.numbers and all(figure.met is None for figure in result.numbers.values())


def test_a_replay_counts_what_would_be_accepted() -> None:
    answer = list(range(10, 30))
    for drafter, steps in ((PromptLookup(4, 2), 5), (SuffixCache(factor=9, max_tokens=4), 5)):
        # The first token is the model's own, the next drafts have 4 and a token of the model after each.
        figures = suffix_decoding.replay(drafter, [([*answer, 1, 9], answer)])
        assert figures["tokens a step"] == pytest.approx(len(answer) / steps)
        assert 0.9 < figures["acceptance"] <= 1
    nothing = suffix_decoding.replay(PromptLookup(), [([1], [2, 3, 4])])
    assert nothing["tokens a step"] == 1 and nothing["acceptance"] == 0


def test_requests_of_the_data_folder(tmp_path) -> None:
    messages = [
        {"role": "user", "content": "find the bug"},
        {"role": "assistant", "content": "a demonstration", "is_demo": True},
        {"role": "assistant", "content": "ls"},
    ]
    for name, rows in (
        ("agent-traces/traces", [{"id": "a", "messages": messages}]),
        ("repo-edits/edits", [{"message": "m", "path": "p", "old": f"old {i}", "new": f"new {i}"} for i in range(160)]),
    ):
        path = tmp_path / f"{name}.jsonl.gz"
        path.parent.mkdir()
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    found, learn = suffix_decoding._requests(tmp_path, [], suffix_decoding._PLANS["cpu"])
    assert found["turns of agents"] == [("find the bug\na demonstration\n", "ls")]
    assert found["edits of files"][0] == ("m\np\nold 150\n", "new 150")
    assert len(learn) == 151

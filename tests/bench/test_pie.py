from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch

from byteloom.bench import pie
from byteloom.bench.models import code_model
from byteloom.bench.result import Result
from byteloom.generate import Edit, EditSession
from tests.models.families import tiny, tokens


@pytest.fixture(scope="module")
def result() -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("byteloom.tasks.small_models.usable_cores", lambda: 1)
        return pie.run("smoke")


def test_every_part_is_measured(result: Result) -> None:
    tables = {str(row["table"]) for row in result.rows}
    assert {"the cursor right behind the edit", "Time of one edit"} <= {
        part for table in tables for part in (table.split(", ")[-1], table.split(":")[0])
    }
    for row in result.rows:
        if row.get("way") == "recomputation" or str(row["table"]).endswith("right behind the edit"):
            if row["way"] != "the edit ignored":
                assert row["KL to recomputation"] == pytest.approx(0, abs=1e-5)
                assert row["top-1 agreement (%)"] == 100
        elif "way" in row:
            assert row["KL to recomputation"] > -1e-6


def test_smoke_promises_nothing(result: Result) -> None:
    assert result.numbers and all(figure.met is None for figure in result.numbers.values())


def test_what_is_said_does_not_depend_on_how_it_is_asked() -> None:
    model = tiny("Llama")
    old = (20 + tokens(40)[0] % 40).tolist()
    window = pie._Window(old, [Edit(5, 7, (3,)), Edit(20, 20, (4, 5))], [9, 8, 7])
    assert window.new == [*old[:5], 3, *old[7:20], 4, 5, *old[20:]]
    found = pie._quality(model, [window], (40,), "table", lambda *given: None)
    assert found["PIE, refresh 40"]["KL to recomputation"] == pytest.approx(0, abs=1e-6)
    assert found["PIE"]["KL to recomputation"] > 1e-4
    spliced = pie._said_from(model, pie._spliced(model, window, shift=True), window)
    followed = EditSession(model, old)
    followed.apply(window.edits)
    assert (pie._said(followed, window.target) - spliced).abs().max() < 1e-4


def test_windows_of_edited_files(tmp_path) -> None:
    torch.set_num_threads(1)
    code = code_model("smoke", lambda *given: None)
    line = "value = other + {}\n"
    before = "".join(line.format(at) for at in range(40))
    pairs = [{"before": before, "after": before.replace("+ 20\n", "- second\n")}] * 2
    (tmp_path / "code-edits").mkdir()
    (tmp_path / "code-edits/click.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, pairs)).encode()))
    texts, name = pie._texts(tmp_path, code, pie._PLANS["smoke"])
    assert name == "edits of click" and len(texts) == 2
    for distance in (0, 100):
        window = pie._windows(texts, code, distance)[0]
        whole = code.tokenizer.decode(np.array(window.new + window.target, np.uint32)).decode()
        assert whole in pairs[0]["after"] and "- second" in whole
        assert window.edits[0].start == 100 * code.context // 512

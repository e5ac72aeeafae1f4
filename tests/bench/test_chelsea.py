import pytest
import torch

from byteloom.bench import Result, chelsea
from byteloom.models import attach
from tests.models.families import tiny, tokens


@pytest.fixture(scope="module")
def result() -> Result:
    return chelsea.run("smoke")


def test_all_methods_keep_as_many_slots() -> None:
    model = tiny("Llama")
    plan = chelsea._PLANS["smoke"]
    with attach(model), torch.no_grad():
        layers = chelsea._read(model, tokens(49, batch=2), plan)
        assert len(layers) == 3 and layers[0].read.shape == (2, 4, 3, 16) and layers[0].following.shape == (2, 4, 8, 16)
        for shrink in chelsea._methods().values():
            keys, values, _ = shrink(layers[1], 20, plan.sinks, plan.recent)
            assert keys.shape == values.shape == (2, 2, 20, 16)
            whole = layers[1].keys
            assert torch.equal(keys[:, :, :1], whole[:, :, :1]) and torch.equal(keys[:, :, -3:], whole[:, :, -3:])


def test_nothing_lost_is_no_error() -> None:
    """The measure can tell: all slots give none, and the loss is that of the model."""
    model = tiny("Qwen2")
    plan = chelsea._PLANS["smoke"]
    ids = tokens(49, batch=2)
    with attach(model), torch.no_grad():
        layers = chelsea._read(model, ids, plan)
        whole = [(layer.keys, layer.values, None) for layer in layers]
        assert chelsea._error(layers, whole) < 1e-6
        halved = [shrink(layer, 20, 1, 3) for layer in layers for shrink in [chelsea._methods()["evicted: random"]]]
        assert chelsea._error(layers, halved) > 0.01
        loss = chelsea._loss(model, ids, plan, whole)
    with torch.no_grad():
        logits = model(ids).logits[0:, 40:48].flatten(0, 1)
    assert abs(loss - torch.nn.functional.cross_entropy(logits, ids[:, 41:].flatten()).item()) < 1e-4


def test_merging_and_evictions_are_compared(result: Result) -> None:
    methods = {row["method"] for row in result.rows if "method" in row}
    assert {chelsea.OURS, chelsea.UNWEIGHTED, "evicted: SnapKV", "evicted: true future"} <= methods
    assert any("decoding" in name for name in result.numbers)
    assert all(plot.table in {row["table"] for row in result.rows} for plot in result.plots)

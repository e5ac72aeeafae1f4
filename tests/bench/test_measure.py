import os
import time

import numpy as np
import pytest

from byteloom.bench.measure import bench_machine, best_of, timed
from byteloom.processes import in_fresh_process, peak_memory


def hold(megabytes: int) -> int:
    np.ones(megabytes << 20, np.uint8)
    return peak_memory()


def variable() -> str | None:
    return os.environ.get("BYTELOOM_TEST_VARIABLE")


def fail() -> None:
    raise ValueError("from the child")


def test_a_fresh_process_has_its_own_peak() -> None:
    np.ones(300 << 20, np.uint8)  # the parent's peak must not show in the child's
    small, large = in_fresh_process(hold, 1), in_fresh_process(hold, 150)
    assert small < 250 << 20
    assert large - small > 140 << 20


def test_a_fresh_process_has_its_environment_and_passes_errors_on() -> None:
    assert in_fresh_process(variable, environment={"BYTELOOM_TEST_VARIABLE": "2"}) == "2"
    assert variable() is None
    with pytest.raises(ValueError, match="from the child"):
        in_fresh_process(fail)


def test_the_two_clocks() -> None:
    value, span = timed(lambda: time.sleep(0.05) or "done")
    assert value == "done"
    assert span.wall >= 0.05 > span.cpu


def test_the_best_is_the_least() -> None:
    naps = iter([0.2, 0.0, 0.1])
    assert best_of(3, lambda: time.sleep(next(naps))).wall < 0.2


def test_versions_of_peers() -> None:
    facts = bench_machine("pytest", "no-such-package")
    assert facts["pytest"] == pytest.__version__
    assert facts["no-such-package"] == "not installed"

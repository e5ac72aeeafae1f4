"""One file a published method: it reproduces the method's headline and measures it against its peer.

>>> from byteloom.bench import benchmark
>>> result = benchmark("binary-bpe").run("smoke")

A benchmark is a module of this folder with two names: `CARD`, which says what is measured, and
`run(scale, *, data=None, progress=None)`, which gives a `Result`. Scale "smoke" takes seconds and is what the
tests run; "cpu" at most ten minutes on two cores; "gpu" at most twenty minutes on one data-centre GPU.
"""

from byteloom.bench.catalogue import Benchmark, Progress, benchmark, benchmarks
from byteloom.bench.render import render_methods, render_results
from byteloom.bench.result import Card, Figure, Plot, Result, Scale, load_results, save_result

__all__ = [
    "Benchmark",
    "Card",
    "Figure",
    "Plot",
    "Progress",
    "Result",
    "Scale",
    "benchmark",
    "benchmarks",
    "load_results",
    "render_methods",
    "render_results",
    "save_result",
]

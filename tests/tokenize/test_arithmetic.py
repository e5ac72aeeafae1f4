"""The range coder against exact fractions and `constriction`; compressed files, damaged and foreign ones."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.equal_info import reference_bits

from byteloom import _native
from byteloom.errors import InvalidInputError
from byteloom.tokenize.arithmetic import ac_ids, compress, decompress
from byteloom.tokenize.byte_model import AdaptiveModel, ByteModel, CountModel, StaticModel, quantise

SOURCE = Path(__file__).read_bytes()
MODELS: dict[str, ByteModel] = {
    "uniform": StaticModel(),
    "static": StaticModel.fit([SOURCE]),
    "count": CountModel.fit([SOURCE], 3),
    "adaptive": AdaptiveModel(3),
}


class Slow:
    """A native model behind the bare protocol."""

    def __init__(self, model: ByteModel) -> None:
        self.model = model
        self.context = model.context

    def cumulative(self, prefixes: Sequence[bytes]) -> np.ndarray:
        return self.model.cumulative(prefixes)


def tables_of(count: int, sharpness: float) -> np.ndarray:
    weights = np.random.default_rng(count).uniform(0.5, 1, (count, 256)) ** sharpness
    return quantise(weights / weights.sum(1, keepdims=True))


class TestCoder:
    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=60), st.sampled_from(sorted(MODELS)))
    def test_length_is_that_of_exact_fractions(self, data: bytes, name: str) -> None:
        model = MODELS[name]
        tables = model.cumulative([data[:at] for at in range(len(data) + 1)]).tolist()
        exact = reference_bits(data, lambda prefix: tables[len(prefix)])
        cost = sum(14 - np.log2(tables[at][byte + 1] - tables[at][byte]) for at, byte in enumerate(data))
        assert -1e-6 <= len(exact) - cost < 2
        stream, bits = model.encode_bits(data)  # type: ignore[attr-defined]
        assert abs(bits - len(exact)) <= 1  # the rounding of a bound
        assert len(stream) == (bits + 7) // 8

    @pytest.mark.parametrize("sharpness", [0.0, 4.0, 300.0, 1e3])
    def test_length_of_a_long_stream(self, sharpness: float) -> None:
        tables = tables_of(20, sharpness)
        rng = np.random.default_rng(1)
        rows = rng.integers(0, 20, 200_000).astype(np.uint32)
        widths = np.diff(tables.astype(int), axis=1)
        draws = rng.integers(0, 1 << 14, len(rows))
        data = np.array(
            [np.searchsorted(tables[r], d, "right") - 1 for r, d in zip(rows, draws, strict=True)], np.uint8
        )
        encoder = _native.RangeEncoder()
        encoder.encode(data, tables, rows)
        stream, bits = encoder.finish()
        cost = float((14 - np.log2(widths[rows, data])).sum())
        assert cost - 1 <= bits <= 1.001 * cost + 64

        peer = constriction.stream.queue.RangeEncoder()
        for row in range(20):  # the same cost in any order
            chosen = data[rows == row].astype(np.int32)
            peer.encode(chosen, constriction.stream.model.Categorical(widths[row] / (1 << 14), perfect=True))
        assert abs(peer.num_bits() - bits) <= 32 + 1e-4 * bits

        decoder = _native.RangeDecoder(stream)
        assert decoder.decode(tables, rows[:7]) + decoder.decode(tables, rows[7:]) == data.tobytes()
        decoder.finish()

    def test_what_is_no_table_is_refused(self) -> None:
        flat = tables_of(1, 0.0)
        flat[0, 7] = flat[0, 8]
        zero = np.zeros(1, np.uint32)
        for call in (
            lambda: _native.RangeEncoder().encode(b"a", flat, zero),
            lambda: _native.RangeDecoder(b"a").decode(flat, zero),
            lambda: _native.RangeEncoder().encode(b"a", tables_of(1, 0.0), zero + 1),
            lambda: _native.RangeEncoder().encode(b"ab", tables_of(1, 0.0), zero),
        ):
            with pytest.raises(ValueError):
                call()


class TestTokens:
    def test_the_uniform_model_gives_the_bytes_themselves(self) -> None:
        assert bytes(ac_ids(SOURCE, StaticModel()).tolist()) == SOURCE
        wide = ac_ids(SOURCE[:101], StaticModel(), 16)
        assert wide.astype(">u2").tobytes() == SOURCE[:101] + b"\x00"
        assert ac_ids(b"", StaticModel()).tolist() == []

    def test_tokens_are_the_stream(self) -> None:
        model = CountModel.fit([SOURCE], 3)
        stream, _ = model.encode_bits(SOURCE)
        assert bytes(ac_ids(SOURCE, model).tolist()) == stream

    def test_other_widths(self) -> None:
        with pytest.raises(InvalidInputError, match="token_bits must be 8 or 16"):
            ac_ids(b"", StaticModel(), 12)


class TestFiles:
    @settings(max_examples=60, deadline=None)
    @given(st.one_of(st.binary(max_size=200), st.integers(0, len(SOURCE)).map(lambda at: SOURCE[at:])))
    def test_round_trip(self, data: bytes) -> None:
        for model in MODELS.values():
            assert decompress(compress(data, model), model) == data

    def test_executables_and_long_runs(self) -> None:
        data = Path(sys.executable).resolve().read_bytes()[:100_000] + bytes(100_000)
        blob = compress(memoryview(data), AdaptiveModel())
        assert decompress(bytearray(blob), AdaptiveModel()) == data
        assert len(blob) < 60_000

    def test_a_model_of_your_own(self) -> None:
        for model in MODELS.values():
            blob = compress(SOURCE[:500], Slow(model))
            assert blob == compress(SOURCE[:500], model)
            assert decompress(blob, Slow(model)) == SOURCE[:500]

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_damage_is_told_or_harmless(self, data: st.DataObject) -> None:
        model = MODELS[data.draw(st.sampled_from(sorted(MODELS)))]
        text = SOURCE[: data.draw(st.integers(0, 300))]
        blob = bytearray(compress(text, model))
        kind = data.draw(st.sampled_from(["cut", "changed", "longer"]))
        if kind == "cut":
            del blob[data.draw(st.integers(0, len(blob) - 1)) :]
        elif kind == "changed":
            blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
        else:
            blob += data.draw(st.binary(min_size=1, max_size=9))
        try:
            assert decompress(blob, model) == text  # a change behind the last bit that counts
            assert kind == "changed"
        except InvalidInputError:
            pass

    def test_errors_say_what_is_wrong(self) -> None:
        blob = compress(SOURCE, MODELS["count"])
        with pytest.raises(InvalidInputError, match="its header is missing"):
            decompress(SOURCE, MODELS["count"])
        with pytest.raises(InvalidInputError, match="another model"):
            decompress(blob, MODELS["adaptive"])
        for model in (MODELS["count"], Slow(MODELS["count"])):
            with pytest.raises(InvalidInputError, match="cut off or damaged"):
                decompress(blob[:-9], model)
        lying = blob[:12] + (1 << 60).to_bytes(8, "little") + blob[20:]
        with pytest.raises(InvalidInputError, match="cut off or damaged"):
            decompress(lying, MODELS["count"])

"""The equal-info dictionary: search, pruning, matching, files."""

from __future__ import annotations

import json
import pickle
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.equal_info import reference_dictionary
from tests.reference.segment import reference_greedy
from tokenizers import Tokenizer as HFTokenizer

from byteloom.errors import FileError, InvalidInputError
from byteloom.tokenize import SPECIAL_TOKENS, EqualInfoTokenizer, load_tokenizer, train_equal_info
from byteloom.tokenize.byte_model import CountModel, StaticModel
from byteloom.tokenize.equal_info import best_first

SINGLE = [bytes([byte]) for byte in range(256)]


@cache
def sources() -> list[bytes]:
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:60]
    return [file.read_bytes() for file in files]


@pytest.fixture(scope="module")
def trained() -> EqualInfoTokenizer:
    return train_equal_info(sources(), vocab_size=3000)


@pytest.fixture(scope="module")
def bounded() -> EqualInfoTokenizer:
    return train_equal_info(sources(), vocab_size=3000, boundary=ord("\n"))


def strings(tokenizer: EqualInfoTokenizer) -> list[bytes]:
    return [tokenizer.token_bytes(token) for token in range(len(SPECIAL_TOKENS), tokenizer.vocab_size)]


class TestSearch:
    @pytest.mark.parametrize("order", [0, 2])
    def test_is_the_best_first_search(self, order: int) -> None:
        model = CountModel.fit([b"abracadabra" * 5 + b"\n"], order)
        expected = reference_dictionary(lambda prefix: model.cumulative([prefix])[0].tolist(), 330)
        assert set(best_first(model, 330)) == expected

    def test_batches_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = CountModel.fit(sources()[:9], 3)
        found = best_first(model, 1500)
        for asked in (1, 37):
            monkeypatch.setattr("byteloom.tokenize.equal_info._ASKED", asked)
            assert best_first(model, 1500) == found

    def test_likelier_strings_come_first_and_prefixes_are_in(self) -> None:
        found = best_first(CountModel.fit(sources()[:9], 3), 2000)
        assert found[:256] == SINGLE and len(set(found)) == 2000
        place = {text: i for i, text in enumerate(found)}
        assert all(len(text) < 3 or place[text[:-1]] < i for text, i in place.items())

    def test_nothing_but_the_single_bytes(self) -> None:
        assert best_first(StaticModel(), 256) == SINGLE


class TestTraining:
    def test_the_layout(self, trained: EqualInfoTokenizer) -> None:
        found = strings(trained)
        assert trained.vocab_size == 3000
        assert trained.special_tokens == {name: token for token, name in enumerate(SPECIAL_TOKENS)}
        assert found == sorted(found) and set(SINGLE) < set(found)
        assert all(text[:-1] in set(found) for text in found if len(text) > 1)

    def test_pruning_pays(self, trained: EqualInfoTokenizer) -> None:
        training: Any = trained.training
        text = b"".join(sources())
        plain = train_equal_info(sources(), vocab_size=3000, prune=False)
        assert training.bytes == len(text) and training.documents == len(sources())
        parts = sum(trained.count(one) for one in sources())
        assert training.bytes_per_token == pytest.approx(len(text) / parts)
        assert training.unpruned_bytes_per_token == pytest.approx(
            len(text) / sum(plain.count(one) for one in sources())
        )
        assert training.bytes_per_token > 1.05 * training.unpruned_bytes_per_token

    def test_a_large_corpus_is_sampled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("byteloom.tokenize.equal_info._SAMPLE", 50_000)
        tokenizer = train_equal_info(sources(), vocab_size=600)
        assert tokenizer.vocab_size == 600

    def test_the_same_file_on_any_number_of_threads(self, tmp_path: Path, trained: EqualInfoTokenizer) -> None:
        trained.save(tmp_path / "one.json")
        for threads in (1, 3):
            train_equal_info(iter(sources()), vocab_size=3000, threads=threads).save(tmp_path / "other.json")
            assert (tmp_path / "other.json").read_bytes() == (tmp_path / "one.json").read_bytes()

    def test_a_model_and_progress(self) -> None:
        steps = []
        tokenizer = train_equal_info(
            [b"abab" * 9], vocab_size=300, model=StaticModel.fit([b"ab"]), progress=lambda *step: steps.append(step)
        )
        assert b"abba"[:2] in strings(tokenizer)
        assert {what for what, _, _ in steps} == {"searching strings"}

    def test_nothing_goes_on_after_the_boundary(self, bounded: EqualInfoTokenizer) -> None:
        text = b"".join(sources())
        assert any(len(one) > 1 and one.endswith(b"\n") for one in strings(bounded))
        whole = bounded.encode(text).tolist()
        lines = [line + b"\n" for line in text.split(b"\n")[:-1]]
        assert whole == np.concatenate(bounded.encode_batch(lines)).tolist()

    def test_no_string_is_spelled_like_a_special_token(self, tmp_path: Path) -> None:
        tokenizer = train_equal_info([b"<|end|>" * 99], vocab_size=300)
        assert b"<|end|" in strings(tokenizer) and b"<|end|>" not in strings(tokenizer)
        tokenizer.save(tmp_path)
        assert load_tokenizer(tmp_path) == tokenizer


class TestMatching:
    @settings(max_examples=60, deadline=None)
    @given(st.one_of(st.binary(max_size=200), st.integers(0, 3000).map(lambda at: sources()[3][at : at + 300])))
    def test_longest_match_and_round_trip(
        self, trained: EqualInfoTokenizer, bounded: EqualInfoTokenizer, text: bytes
    ) -> None:
        for tokenizer in (trained, bounded):
            ids = tokenizer.encode(text)
            known = {one: token for token, one in enumerate(strings(tokenizer), len(SPECIAL_TOKENS))}
            assert ids.tolist() == reference_greedy(text, known)
            assert tokenizer.decode(ids) == text

    def test_every_source_file_and_every_byte(self, trained: EqualInfoTokenizer) -> None:
        for text in [*sources(), *SINGLE, b""]:
            assert trained.decode(trained.encode(text)) == text

    def test_streams(self, trained: EqualInfoTokenizer) -> None:
        text = b"".join(sources())
        pieces = list(trained.encode_blocks(text[at : at + 70_001] for at in range(0, len(text), 70_001)))
        assert np.array_equal(np.concatenate(pieces), trained.encode(text))


class TestFiles:
    @pytest.mark.parametrize("which", ["trained", "bounded"])
    def test_load_gives_the_same(self, which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        tokenizer: EqualInfoTokenizer = request.getfixturevalue(which)
        tokenizer.save(tmp_path)
        again = load_tokenizer(tmp_path)
        assert again == tokenizer and isinstance(again, EqualInfoTokenizer)
        assert again.boundary == tokenizer.boundary
        assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer
        grown = tokenizer.with_special_tokens(["<|new|>"])
        assert grown.decode([3000], skip_special_tokens=False) == b"<|new|>"
        grown.save(tmp_path / "grown.json")
        assert load_tokenizer(tmp_path / "grown.json") == grown

    def test_plain_tokenizers_gives_the_same_ids(
        self, trained: EqualInfoTokenizer, bounded: EqualInfoTokenizer, tmp_path: Path
    ) -> None:
        text = "naïve: 日本 \r\n\n  " + sources()[5].decode()[:2000]
        for tokenizer in (trained, bounded):
            tokenizer.save(tmp_path)
            peer = HFTokenizer.from_file(str(tmp_path / "tokenizer.json"))
            assert peer.encode(text).ids == tokenizer.encode(text.encode()).tolist()
            assert peer.decode(peer.encode(text).ids) == text
        # Linear with a boundary: seconds without.
        assert len(peer.encode(sources()[5].decode()[:50_000]).ids) > 1000

    def test_auto_tokenizer(self, trained: EqualInfoTokenizer, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        import byteloom.tokenize.hf  # noqa: F401

        trained.save(tmp_path)
        auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
        text = b"import os\n\xff\x00"
        assert auto(text)["input_ids"] == trained.encode(text).tolist()
        assert auto.decode_bytes(auto(text)["input_ids"]) == text

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: d["model"].update(continuing_subword_prefix="##"), "marks what continues a word"),
            (lambda d: d["model"].update(max_input_chars_per_word=100), "gives up on long words"),
            (lambda d: d.update(pre_tokenizer=None), "does not become bytes"),
            (lambda d: d["pre_tokenizer"].update(use_regex=True), "splits words"),
            (lambda d: d["model"]["vocab"].pop("a"), "lacks the byte 0x61"),
            (lambda d: d["model"].update(type="WordLevel"), "model is WordLevel"),
            (lambda d: d["model"]["vocab"].update({"a": 9}), "have the same id 9"),
            (lambda d: d["model"]["vocab"].update({"日": 3000}), "not a character of the byte alphabet"),
            (lambda d: d["model"].pop("vocab"), "no vocabulary"),
        ],
    )
    def test_other_files_are_refused(
        self, trained: EqualInfoTokenizer, tmp_path: Path, change: Any, message: str
    ) -> None:
        trained.save(tmp_path)
        document = json.loads((tmp_path / "tokenizer.json").read_text())
        change(document)
        (tmp_path / "tokenizer.json").write_text(json.dumps(document))
        with pytest.raises(InvalidInputError, match=message):
            EqualInfoTokenizer.load(tmp_path)

    def test_cut_off_and_missing(self, trained: EqualInfoTokenizer, tmp_path: Path) -> None:
        trained.save(tmp_path)
        file = tmp_path / "tokenizer.json"
        file.write_bytes(file.read_bytes()[:-99])
        with pytest.raises(InvalidInputError, match="is it cut off"):
            load_tokenizer(tmp_path)
        with pytest.raises(FileError):
            EqualInfoTokenizer.load(tmp_path / "missing")


class TestBadInput:
    @pytest.mark.parametrize("size", [262, (1 << 20) + 1])
    def test_sizes(self, size: int) -> None:
        with pytest.raises(InvalidInputError, match="vocab_size must be between 263 and 1048576: every single byte"):
            train_equal_info([b"a"], vocab_size=size)

    def test_arguments(self) -> None:
        with pytest.raises(InvalidInputError, match="boundary must be one byte value"):
            train_equal_info([b"a"], vocab_size=300, boundary=256)
        with pytest.raises(InvalidInputError, match="at least one non-empty document"):
            train_equal_info([b""], vocab_size=300)
        with pytest.raises(InvalidInputError, match="is spelled like a string"):
            train_equal_info([b"a"], vocab_size=300, special_tokens=["a"])
        with pytest.raises(InvalidInputError, match="must differ"):
            train_equal_info([b"a"], vocab_size=300, special_tokens=["<a>", "<a>"])

    def test_strings(self) -> None:
        with pytest.raises(InvalidInputError, match="lacks the byte 0x00"):
            EqualInfoTokenizer(SINGLE[1:])
        with pytest.raises(InvalidInputError, match="b'ab' twice"):
            EqualInfoTokenizer([*SINGLE, b"ab", b"ab"])
        with pytest.raises(InvalidInputError, match="goes on after the boundary"):
            EqualInfoTokenizer([*SINGLE, b"a\nb"], boundary=10)
        with pytest.raises(InvalidInputError, match="must not be empty"):
            EqualInfoTokenizer([*SINGLE, b""])

    def test_ids(self, trained: EqualInfoTokenizer) -> None:
        with pytest.raises(InvalidInputError, match="id 3000 at position 1"):
            trained.decode([9, 3000])

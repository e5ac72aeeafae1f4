"""BPE: the trainer and the encoder against their definitions, Hugging Face and tiktoken; the class at its edges."""

from __future__ import annotations

import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.bpe import reference_encode, reference_train
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from byteloom.errors import ByteloomError, InvalidInputError
from byteloom.tokenize import BPE, SPECIAL_TOKENS, byte_tokenizer, load_tokenizer, train_bpe
from byteloom.tokenize.byte_alphabet import to_characters

FIRST = len(SPECIAL_TOKENS)  # public id of byte 0

# Few letters and runs: where counts, ties and overlaps are delicate.
small_alphabet = st.lists(st.sampled_from([b"a", b"b", b"c", b"aaaa", b"ab", b"\x00" * 7]), max_size=60).map(b"".join)
documents = st.lists(st.one_of(small_alphabet, st.binary(max_size=80)), min_size=1, max_size=4)


def machine_code(size: int) -> bytes:
    """Real bytes of an executable: a piece of this Python that has code and strings."""
    data = Path(sys.executable).resolve().read_bytes()
    if len(data) < 2 * size:  # a small launcher; its extension modules are large
        data = b"".join(p.read_bytes() for p in sorted(Path(np.__file__).parent.rglob("*.so"))[:8])
    return data[len(data) // 8 : len(data) // 8 + size]


def internal(tokenizer: BPE) -> list[tuple[int, int]]:
    return [(int(left) - FIRST, int(right) - FIRST) for left, right in tokenizer.merges]


@pytest.fixture(scope="module")
def trained() -> BPE:
    return train_bpe([machine_code(600_000)], vocab_size=4096, min_frequency=2, threads=1)


class TestTraining:
    @settings(max_examples=200, deadline=None)
    @given(documents, st.integers(1, 60), st.integers(1, 4), st.sampled_from([None, 2, 3, 8]), st.integers(1, 3))
    def test_merges_are_those_of_the_definition(
        self, docs: list[bytes], merges: int, least: int, longest: int | None, threads: int
    ) -> None:
        expected = reference_train(docs, merges, least, longest)
        if not any(docs):
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = train_bpe(
                docs, vocab_size=FIRST + 256 + merges, min_frequency=least, max_token_length=longest, threads=threads
            )
        assert internal(got) == expected

    @pytest.mark.parametrize("longest", [None, 6])
    def test_merges_are_those_of_hugging_face(self, longest: int | None) -> None:
        data = machine_code(200_000)
        chunks = [data[i : i + 4096] for i in range(0, len(data), 4096)]
        peer = Tokenizer(models.BPE())
        # Its limit is strict, and pairs of bytes are exempt.
        peer.train_from_iterator(
            [to_characters(chunk) for chunk in chunks],
            trainers.BpeTrainer(
                vocab_size=256 + 600,
                min_frequency=2,
                show_progress=False,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                **({} if longest is None else {"max_token_length": longest + 1}),
            ),
        )
        ours = train_bpe(
            chunks, vocab_size=FIRST + 256 + 600, min_frequency=2, max_token_length=longest, tie_break="hf"
        )
        token_of_text = peer.get_vocab()
        learned = [to_characters(ours.token_bytes(token)) for token in range(FIRST + 256, ours.vocab_size)]
        assert [token_of_text[text] for text in learned] == list(range(256, 256 + 600))

    def test_threads_do_not_change_the_result(self) -> None:
        data = machine_code(400_000)
        chunks = [data[i : i + 10_000] for i in range(0, len(data), 10_000)]
        one, two, three = (train_bpe(chunks, vocab_size=3000, min_frequency=2, threads=t) for t in (1, 2, 3))
        assert one == two == three

    def test_vocabularies_are_nested(self) -> None:
        data = [machine_code(300_000)]
        large = train_bpe(data, vocab_size=2048, min_frequency=2)
        for size in (264, 512, 1024):
            assert large.truncate(size) == train_bpe(data, vocab_size=size, min_frequency=2)

    def test_chunks_are_documents(self) -> None:
        data = machine_code(100_000)
        chunks = [data[i : i + 8192] for i in range(0, len(data), 8192)]
        assert train_bpe([data], vocab_size=600, chunk_size=8192) == train_bpe(chunks, vocab_size=600)

    def test_no_two_tokens_have_the_same_bytes(self, trained: BPE) -> None:
        texts = [trained.token_bytes(token) for token in range(trained.vocab_size)]
        assert len(set(texts)) == len(texts)

    def test_counts_are_windows_and_never_rise(self, trained: BPE) -> None:
        assert trained.training is not None
        counts = trained.training.counts
        assert len(counts) == len(trained.merges)
        # A new pair cannot be more frequent than the token it holds, so the best count only falls.
        assert (np.diff(counts.astype(np.int64)) <= 0).all()

    def test_special_tokens_are_never_learned(self) -> None:
        learned = train_bpe([b"<|end|>" * 500], vocab_size=264, min_frequency=2, special_tokens=["<|end|>"])
        assert b"<|end|>" not in [learned.token_bytes(token) for token in range(1, learned.vocab_size)]

    def test_entropy_keeps_chunks_between_its_bounds(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, 8192, dtype=np.uint8).tobytes()
        text = b"the quick brown fox " * 400
        kept = train_bpe([bytes(8192) + text + noise], vocab_size=280, chunk_size=8192, entropy=(0.5, 7.9))
        assert kept.training is not None
        assert kept.training.bytes < len(text) + 8192
        assert b"\x00\x00" not in [kept.token_bytes(token) for token in range(kept.vocab_size)]

    def test_a_memory_limit_samples_documents_by_the_seed(self) -> None:
        docs = [machine_code(1 << 20)] * 3
        limited = train_bpe(docs, vocab_size=300, memory_limit=20 << 20)
        assert limited.training is not None
        assert limited.training.sampled_from == 3 << 20
        assert 0 < limited.training.bytes <= 2 << 20
        assert limited == train_bpe(docs, vocab_size=300, memory_limit=20 << 20)

    def test_progress_can_stop_training(self) -> None:
        def stop(what: str, done: int, total: int) -> None:
            if what == "training":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train_bpe([machine_code(300_000)], vocab_size=2000, min_frequency=2, progress=stop, threads=2)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"vocab_size": 263}, "too small"),
            ({"min_frequency": 0}, "min_frequency"),
            ({"max_token_length": 1}, "max_token_length"),
            ({"chunk_size": 1}, "chunk_size"),
            ({"tie_break": "random"}, "tie_break"),
            ({"threads": 0}, "threads"),
            ({"memory_limit": 100}, "memory limit"),
            ({"special_tokens": ["a", "a"]}, "differ"),
        ],
    )
    def test_arguments_out_of_range(self, arguments: dict, message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            train_bpe([b"some bytes" * 10], **arguments)

    @pytest.mark.parametrize("docs", [[], [b""], [b"", b""]])
    def test_nothing_to_train_on(self, docs: list[bytes]) -> None:
        with pytest.raises(InvalidInputError, match="non-empty document"):
            train_bpe(docs)

    def test_a_vocabulary_that_the_data_does_not_support(self) -> None:
        with pytest.warns(UserWarning, match="support 26[0-9] tokens, not 1000"):
            small = train_bpe([b"abcabc"], vocab_size=1000, min_frequency=2)
        assert small.vocab_size == FIRST + 256 + len(small.merges)


class TestEncoding:
    @settings(max_examples=200, deadline=None)
    @given(documents, small_alphabet)
    def test_ids_are_those_of_the_definition(self, docs: list[bytes], text: bytes) -> None:
        merges = reference_train(docs, 40, 1)
        tokenizer = BPE(np.array(merges, dtype=np.uint32).reshape(-1, 2) + FIRST)
        assert tokenizer.is_exact_fast
        assert (tokenizer.encode(text).astype(int) - FIRST).tolist() == reference_encode(text, merges)

    def test_ids_are_those_of_hugging_face_and_tiktoken(self, trained: BPE) -> None:
        texts = {token: trained.token_bytes(token) for token in range(FIRST, trained.vocab_size)}
        pairs = [(to_characters(texts[int(left)]), to_characters(texts[int(right)])) for left, right in trained.merges]
        hugging_face = Tokenizer(models.BPE(vocab={to_characters(t): i for i, t in texts.items()}, merges=pairs))
        ranks = tiktoken.Encoding(
            "test", pat_str=r"(?s).+", mergeable_ranks={t: i for i, t in texts.items()}, special_tokens={}
        )
        rng = np.random.default_rng(1)
        # Prefixes of tokens, one after another, make the encoder take back what it believed.
        tokens = [texts[int(token)] for token in rng.integers(FIRST, trained.vocab_size, 8000)]
        adversarial = b"".join(text[: int(rng.integers(1, len(text) + 1))] for text in tokens)
        for text in (machine_code(900_000)[-60_000:], adversarial, bytes(5000), rng.bytes(5000), b"ab" * 4000):
            ids = trained.encode(text).tolist()
            assert ids == hugging_face.encode(to_characters(text)).ids
            assert ids == ranks._encode_single_piece(text)

    # Long enough for several lanes and blocks; runs and periods make the lanes disagree where they meet.
    @pytest.mark.parametrize("period", [1, 2, 3, 31, 33, 4096])
    def test_a_long_text_is_encoded_like_its_pieces_in_a_stream(self, trained: BPE, period: int) -> None:
        unit = np.random.default_rng(period).integers(0, 3, period, dtype=np.uint8).tobytes()
        text = machine_code(50_000) + (unit * (200_000 // period)) + machine_code(70_000)
        whole = trained.encode(text)
        assert trained.decode(whole) == text
        byte_by_byte = BPE(trained.merges).encode_blocks(text[i : i + 100] for i in range(0, len(text), 100))
        assert np.array_equal(np.concatenate(list(byte_by_byte)), whole)
        assert trained.count(text) == len(whole)

    @settings(max_examples=30, deadline=None)
    @given(st.data())
    def test_blocks_of_any_size(self, trained: BPE, data: st.DataObject) -> None:
        text = machine_code(30_000)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
        blocks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert np.array_equal(np.concatenate(list(trained.encode_blocks(blocks))), trained.encode(text))

    def test_tokens_longer_than_a_lane(self) -> None:
        tokenizer = train_bpe([bytes(1 << 18)], vocab_size=FIRST + 256 + 16, min_frequency=1, max_token_length=None)
        assert tokenizer.max_token_bytes == 1 << 16
        text = bytes(300_001)
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert len(ids) == 4 + bin(300_001 - (4 << 16)).count("1")

    def test_wide_vocabularies(self) -> None:
        # More tokens than 16 bits hold: every pair of bytes is a document.
        pairs = [bytes([left, right]) for left in range(256) for right in range(256)]
        wide = train_bpe(pairs, vocab_size=FIRST + 256 + 65_536, min_frequency=1, threads=2)
        assert internal(wide) == [tuple(pair) for pair in pairs]
        text = machine_code(20_000)
        assert wide.decode(wide.encode(text)) == text
        assert (wide.encode(text[:300]).astype(int) - FIRST).tolist() == reference_encode(text[:300], internal(wide))

    def test_a_batch_is_its_documents(self, trained: BPE) -> None:
        data = machine_code(100_000)
        docs = [data[:0], data[:1], data[5:70_000], memoryview(data)[100:], bytearray(data[:999])]
        for threads in (None, 1, 2, 7):
            batch = trained.encode_batch(docs, threads)
            assert all(np.array_equal(ids, trained.encode(doc)) for ids, doc in zip(batch, docs, strict=True))
        assert trained.encode_batch([]) == []

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=500))
    def test_round_trip(self, trained: BPE, data: bytes) -> None:
        assert trained.decode(trained.encode(data)) == data
        assert byte_tokenizer().decode(byte_tokenizer().encode(data)) == data

    def test_every_byte_value(self) -> None:
        data = bytes(range(256))
        ids = byte_tokenizer().encode(data)
        assert ids.dtype == np.uint32
        assert ids.tolist() == list(range(FIRST, FIRST + 256))

    def test_any_buffer_of_bytes(self, trained: BPE) -> None:
        data = machine_code(1000)
        expected = trained.encode(data)
        for same in (bytearray(data), memoryview(data), np.frombuffer(data, dtype=np.uint8)):
            assert np.array_equal(trained.encode(same), expected)

    @pytest.mark.parametrize(
        "data",
        ["text", 5, None, np.zeros(4, np.int64), np.zeros((2, 2), np.uint8), np.zeros(8, np.uint8)[::2], ["a"]],
    )
    def test_anything_else_is_a_type_error(self, trained: BPE, data: object) -> None:
        for call in (trained.encode, trained.count, lambda d: trained.encode_batch([d])):
            with pytest.raises(TypeError, match="bytes"):
                call(data)

    def test_special_tokens_are_added_on_request(self, trained: BPE) -> None:
        ids = trained.encode(b"abc", add_special_tokens=True)
        assert (ids[0], ids[-1]) == (0, 1)
        assert trained.decode(ids) == b"abc"
        assert trained.decode(ids, skip_special_tokens=False) == b"<|start|>abc<|end|>"
        with pytest.raises(InvalidInputError, match="start"):
            BPE(special_tokens=["<x>"]).encode(b"abc", add_special_tokens=True)


class TestDecoding:
    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            ([10, 4096, 3], "id 4096 at position 1"),
            ([10, 11, -1], "id -1 at position 2"),
            ([1.5], "integers"),
            ([[1, 2]], "one-dimensional"),
        ],
    )
    def test_ids_that_are_none(self, trained: BPE, ids: list, message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            trained.decode(ids)

    def test_tokens_of_any_length(self) -> None:
        tokenizer = train_bpe([b"x" * 4096], vocab_size=FIRST + 256 + 10, min_frequency=1, max_token_length=None)
        for token in range(FIRST, tokenizer.vocab_size):
            assert tokenizer.decode([token]) == tokenizer.token_bytes(token)
        assert tokenizer.decode([]) == b""

    def test_blocks(self, trained: BPE) -> None:
        data = machine_code(5000)
        ids = trained.encode(data)
        assert b"".join(trained.decode_blocks([ids[:7], ids[7:7], ids[7:]])) == data


class TestObject:
    def test_files(self, trained: BPE, tmp_path: Path) -> None:
        for path in (tmp_path / "folder", tmp_path / "one.json"):
            trained.save(path)
            assert load_tokenizer(path) == trained
        assert load_tokenizer("bytes") == byte_tokenizer()

    def test_pickle(self, trained: BPE) -> None:
        copy = pickle.loads(pickle.dumps(trained))
        assert copy == trained
        assert np.array_equal(copy.encode(b"hello"), trained.encode(b"hello"))

    @pytest.mark.parametrize("size", [0, 262, 4097])
    def test_truncate_out_of_range(self, trained: BPE, size: int) -> None:
        with pytest.raises(InvalidInputError, match="from 263 to 4096"):
            trained.truncate(size)

    def test_token_bytes(self, trained: BPE) -> None:
        assert trained.token_bytes(2) == b"<|pad|>"
        assert trained.token_bytes(FIRST + 65) == b"A"
        assert trained.token_lengths[:FIRST].sum() == 0
        with pytest.raises(InvalidInputError):
            trained.token_bytes(trained.vocab_size)

    def test_merges_that_name_unknown_tokens(self) -> None:
        with pytest.raises(ByteloomError):
            BPE([(7, 300)])

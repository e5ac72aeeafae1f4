import base64

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom.errors import ByteloomError, InvalidInputError
from byteloom.tokenize import BPE, SPECIAL_TOKENS, TokenizerTables, train_bpe
from byteloom.tokenize.tiktoken_ranks import read_tiktoken_ranks, write_tiktoken_ranks
from byteloom.tokenize.tokenizer_json import read_tokenizer_json, write_tokenizer_json

ALL_BYTES = bytes(range(256))
DATA = b"the cat sat on the mat; \x00\x00\x00\x00\x00\xff\xfe\x7fELF " * 30 + bytes(300) + ALL_BYTES * 2


@pytest.fixture(scope="module")
def trained():
    return train_bpe([DATA], vocab_size=400, min_frequency=2, max_token_length=None)


def rank_file(tokens):
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in tokens.items())


BYTES = {bytes([byte]): byte for byte in range(256)}


def test_what_is_written_is_read(trained, tmp_path):
    write_tiktoken_ranks(tmp_path / "t.tiktoken", trained.tables)
    assert BPE.load(tmp_path / "t.tiktoken") == trained


def test_tiktoken_gives_the_same_ids(trained, tmp_path):
    tiktoken = pytest.importorskip("tiktoken")
    load = pytest.importorskip("tiktoken.load")
    write_tiktoken_ranks(tmp_path / "t.tiktoken", trained.tables)
    theirs = tiktoken.Encoding(
        "byteloom",
        pat_str=r"(?s:.+)",
        mergeable_ranks=load.load_tiktoken_bpe(str(tmp_path / "t.tiktoken")),
        special_tokens={name: i for i, name in enumerate(SPECIAL_TOKENS)},
        explicit_n_vocab=trained.vocab_size,
    )
    for data in (DATA, ALL_BYTES, bytes(77), b"the"):
        assert theirs._encode_single_piece(data) == trained.encode(data).tolist()


def test_file_of_others_without_special_tokens():
    tables = read_tiktoken_ranks(rank_file(BYTES | {b"ab": 256, b"abab": 257, b"bc": 258}))
    assert tables.merges.tolist() == [[97, 98, 256], [256, 256, 257], [98, 99, 258]]
    assert tables.special_tokens == {}
    assert BPE.from_tables(tables).encode(b"ababc").tolist() == [257, 99]


def test_lowest_rank_decides_the_split():
    # abc is ab + c although bc is a token too, because ab has the lower rank
    tables = read_tiktoken_ranks(rank_file(BYTES | {b"ab": 256, b"bc": 257, b"abc": 258}))
    assert tables.merges.tolist() == [[97, 98, 256], [98, 99, 257], [256, 99, 258]]


def test_token_that_cannot_be_made_becomes_an_extra_token():
    tables = read_tiktoken_ranks(rank_file(BYTES | {b"abc": 256, b"ab": 257}))
    assert tables.extra_tokens == {256: b"abc"}
    assert BPE.from_tables(tables).decode([256, 257]) == b"abcab"


def test_free_ids_become_reserved_special_tokens():
    tables = read_tiktoken_ranks(rank_file(BYTES | {b"ab": 258}))
    assert tables.special_tokens == {"<|reserved_256|>": 256, "<|reserved_257|>": 257}


def test_merges_that_a_rank_file_cannot_hold_are_refused(trained, tmp_path):
    shuffled = np.arange(trained.vocab_size)
    shuffled[263:] = shuffled[263:][::-1]  # ids against the merge order, as another tool might number them
    tables = TokenizerTables(
        byte_ids=trained.tables.byte_ids,
        merges=shuffled[trained.tables.merges].astype(np.uint32),
        special_tokens=dict(trained.special_tokens),
        vocab_size=trained.vocab_size,
    )
    with pytest.raises(InvalidInputError, match="do not follow from its tokens"):
        write_tiktoken_ranks(tmp_path / "t.tiktoken", tables)
    assert not list(tmp_path.iterdir())
    write_tokenizer_json(tmp_path / "t.json", tables)
    assert np.array_equal(read_tokenizer_json(tmp_path / "t.json").merges, tables.merges)


def test_very_long_token_is_split_quickly():
    tokens = BYTES | {bytes(2**k): 255 + k for k in range(1, 13)}
    tables = read_tiktoken_ranks(rank_file(tokens))
    assert tables.merges.tolist() == [[0, 0, 256], *([k, k, k + 1] for k in range(256, 267))]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no token for 256 of the 256 bytes"),
        (rank_file(BYTES)[:-9], "no token for 1 of the 256 bytes, such as 0xff"),
        (b"YQ== 0\nYQ== 1\n", "line 2 repeats a token or a rank"),
        (b"YQ== 0\nYg== 0\n", "line 2 repeats a token or a rank"),
        (b"YQ==\n", "line 1 is not base64 and a rank"),
        (b"YQ== 1 2\n", "line 1 is not base64 and a rank"),
        (b"Y 1\n", "line 1 is not base64 and a rank"),
        (b"YQ== x\n", "line 1 is not base64 and a rank"),
        (b"YQ== -1\n", "line 1 has no token or no rank"),
        (b"\x00\xff binary", "line 1 is not base64 and a rank"),
        (rank_file(BYTES | {b"ab": 10**9}), "id 1000000000 is out of range"),
        (rank_file(BYTES | {b"ab": 10**30}), "is out of range"),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, why):
    path = tmp_path / "t.tiktoken"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=why) as raised:
        read_tiktoken_ranks(path)
    assert str(path) in str(raised.value)


@given(cut=st.integers(0, 4000), at=st.integers(0, 4000), junk=st.binary(max_size=4))
@settings(max_examples=150, deadline=None)
def test_mutated_files_load_or_say_why_not(trained, cut, at, junk):
    content = rank_file({trained.token_bytes(i): i for i in range(7, 400)})
    content = content[:at] + junk + content[at + cut % 7 :]
    try:
        tokenizer = BPE.from_tables(read_tiktoken_ranks(content))
    except ByteloomError as error:
        assert "\n" not in str(error)
    else:
        assert tokenizer.decode(tokenizer.encode(DATA)) == DATA

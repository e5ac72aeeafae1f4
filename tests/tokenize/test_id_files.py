import io

import numpy as np
import pytest

from byteloom.errors import FileError, InvalidInputError
from byteloom.tokenize.id_files import BLOCK_IDS, read_id_stream, read_ids, write_ids

BLOCKS = [np.arange(5, dtype=np.uint32), np.zeros(0, np.uint32), np.array([4294967295, 7], np.uint32)]


@pytest.mark.parametrize("form", ["npy", "bin", "txt"])
def test_what_is_written_is_read(tmp_path, form):
    path = tmp_path / f"ids.{form}"
    assert write_ids(path, iter(BLOCKS)) == 7
    assert np.array_equal(np.concatenate(list(read_ids(path))), np.concatenate(BLOCKS))
    if form == "npy":
        assert np.load(path).dtype == np.uint32 and len(np.load(path)) == 7
    if form == "bin":
        assert path.read_bytes() == np.concatenate(BLOCKS).astype("<u4").tobytes()


@pytest.mark.parametrize("form", ["npy", "bin", "txt"])
def test_no_ids(tmp_path, form):
    assert write_ids(tmp_path / f"ids.{form}", []) == 0
    assert sum(len(ids) for ids in read_ids(tmp_path / f"ids.{form}")) == 0


def test_large_files_come_in_blocks(tmp_path):
    path = tmp_path / "ids.npy"
    np.save(path, np.arange(2 * BLOCK_IDS + 1, dtype=np.uint16))  # what another program might write
    assert [len(ids) for ids in read_ids(path)] == [BLOCK_IDS, BLOCK_IDS, 1]


def test_streams():
    raw = np.arange(BLOCK_IDS + 3, dtype="<u4").tobytes()
    assert [len(ids) for ids in read_id_stream(io.BytesIO(raw))] == [BLOCK_IDS, 3]
    with pytest.raises(InvalidInputError, match="ends inside an id"):
        list(read_id_stream(io.BytesIO(raw[:-1])))


@pytest.mark.parametrize(
    ("name", "content", "error", "why"),
    [
        ("ids.bin", b"abc", InvalidInputError, "no whole number of uint32"),
        ("ids.txt", b"1 2 x", InvalidInputError, "no whole number"),
        ("ids.txt", b"99999999999999999999", InvalidInputError, "no whole number"),
        ("ids.npy", b"abc", InvalidInputError, "no numpy file"),
        ("ids.npy", b"", InvalidInputError, "no numpy file"),
        ("ids.dat", b"", InvalidInputError, "cannot tell the form"),
        ("ids.npy", None, FileError, "cannot read"),
        ("ids.bin", None, FileError, "does not exist"),
    ],
)
def test_bad_files(tmp_path, name, content, error, why):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=why):
        list(read_ids(tmp_path / name))


@pytest.mark.parametrize("value", [np.zeros((2, 2), np.int64), np.zeros(3), np.array(["a"], dtype=object)])
def test_numpy_files_of_something_else(tmp_path, value):
    np.save(tmp_path / "ids.npy", value)
    with pytest.raises(InvalidInputError, match=r"holds no ids|no numpy file"):
        list(read_ids(tmp_path / "ids.npy"))


def test_a_broken_off_source_leaves_no_file(tmp_path):
    def blocks():
        yield BLOCKS[0]
        raise InvalidInputError("the source is broken")

    with pytest.raises(InvalidInputError, match="the source is broken"):
        write_ids(tmp_path / "ids.npy", blocks())
    assert not list(tmp_path.iterdir())

import numpy as np
import pytest

from byteloom.errors import FileError
from byteloom.files import read_sealed, write_sealed


def read(path):
    header, data = read_sealed(path, "words 1", "words", "make it again")
    return header, bytes(data)


def test_what_is_written_is_read(tmp_path):
    for parts in ([], [b"", b"abc", np.arange(5, dtype=np.uint32)], [bytes(200_000)]):
        write_sealed(tmp_path / "file", {"format": "words 1", "count": len(parts)}, parts)
        header, data = read(tmp_path / "file")
        assert header == {"format": "words 1", "count": len(parts)}
        assert data == b"".join(bytes(memoryview(part).cast("B")) for part in parts)
        whole = (tmp_path / "file").read_bytes()
        assert (whole.index(b"\n") + 1) % 64 == 0


def test_damage_and_foreign_files_are_named(tmp_path):
    write_sealed(tmp_path / "file", {"format": "words 1"}, [bytes(range(100))])
    whole = (tmp_path / "file").read_bytes()
    for at in range(len(whole) - 104, len(whole)):  # the body and the seal
        (tmp_path / "bad").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(FileError, match="bad is damaged or cut off; make it again"):
            read(tmp_path / "bad")
    for size in range(len(whole)):
        (tmp_path / "bad").write_bytes(whole[:size])
        with pytest.raises(FileError, match="make it again"):
            read(tmp_path / "bad")
    for data in (b"", b"\n", b"{}\n", b"[1]\n", b'{"format": "words 2"}\n' + bytes(10), b"\xff" * 5000):
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(FileError, match="holds no words of this version; make it again"):
            read(tmp_path / "bad")

import contextlib
import io
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byteloom.corpus import Corpus
from byteloom.corpus.archives import ARCHIVE_ERRORS, HEAD_BYTES, archive_kind, members
from byteloom.errors import FileError
from tests.corpus import samples

FILES = {"a/hello.txt": b"hello", "b.elf": samples.elf(), "empty": b"", "long/" + "n" * 120: b"long name"}


def _corpus(folder: Path, data: bytes, **options: object) -> Corpus:
    (folder / "archive").write_bytes(data)
    return Corpus([folder], **options)  # type: ignore[arg-type]


def _names(corpus: Corpus) -> list[str]:
    return [document.name.partition("!")[2] for document in corpus]


@pytest.mark.parametrize("compressor", samples.COMPRESSORS)
def test_tar(tmp_path: Path, compressor: str) -> None:
    data = samples.COMPRESSORS[compressor](samples.tarred(FILES))
    assert archive_kind(data[:HEAD_BYTES]) == {"plain": "tar"}.get(compressor, compressor)
    corpus = _corpus(tmp_path, data, min_size=0)
    found = {document.name: bytes(document.data) for document in corpus}
    assert found == {f"{tmp_path / 'archive'}!{name}": data for name, data in FILES.items()}
    assert corpus.skipped == []


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip(tmp_path: Path, method: int) -> None:
    corpus = _corpus(tmp_path, samples.zipped({"folder/": b"", **FILES}, method), min_size=0)
    assert {document.name.partition("!")[2]: bytes(document.data) for document in corpus} == FILES


def test_ar_with_long_names(tmp_path: Path) -> None:
    files = {"first.o": samples.coff(), "odd.o": b"odd", "a_name_of_more_than_15_characters.o": samples.elf()}
    corpus = _corpus(tmp_path, samples.ar(files))
    assert {document.name.partition("!")[2]: bytes(document.data) for document in corpus} == files


def test_ar_with_bsd_names(tmp_path: Path) -> None:
    name = b"a BSD name.o\0\0\0\0"
    head = b"#1/16".ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"644".ljust(8) + b"%-10d`\n" % (16 + 3)
    corpus = _corpus(tmp_path, b"!<arch>\n" + head + name + b"abc\n")
    assert [(document.name.partition("!")[2], bytes(document.data)) for document in corpus] == [
        ("a BSD name.o", b"abc")
    ]


def test_deb_gives_the_files_of_its_data_tar(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path, samples.deb({"./usr/bin/tool": samples.elf()}), formats=["elf"])
    assert _names(corpus) == ["data.tar.xz!./usr/bin/tool"]


@pytest.mark.parametrize("compressor", ["gzip", "bzip2", "xz", "zstd"])
def test_a_single_compressed_file(tmp_path: Path, compressor: str) -> None:
    (tmp_path / "module.ko.z").write_bytes(samples.COMPRESSORS[compressor](samples.elf()))
    (document,) = Corpus([tmp_path])
    assert document.name.endswith("module.ko.z!module.ko")
    assert document.format == "elf"


def test_zstd_frames_follow_each_other(tmp_path: Path) -> None:
    pack = samples.COMPRESSORS["zstd"]
    (document,) = _corpus(tmp_path, pack(b"one ") + pack(b"") + pack(b"two" * 100_000))
    assert bytes(document.data) == b"one " + b"two" * 100_000


@pytest.mark.parametrize("compressor", ["gzip", "bzip2", "xz", "zstd"])
def test_a_single_compressed_file_that_is_cut_off(tmp_path: Path, compressor: str) -> None:
    data = samples.COMPRESSORS[compressor](b"".join(i.to_bytes(4, "big") for i in range(50_000)))
    corpus = _corpus(tmp_path, data[: len(data) // 2])
    assert list(corpus) == []
    assert "ended before" in corpus.skipped[0].reason or "ends early" in corpus.skipped[0].reason


def test_archives_in_archives_are_opened_one_level_deep(tmp_path: Path) -> None:
    innermost = samples.zipped({"deep.txt": b"deep"})
    inner = samples.zipped({"jar.txt": b"jar", "innermost.zip": innermost})
    corpus = _corpus(tmp_path, samples.tarred({"lib.jar": inner, "lib.a": samples.ar({"x.o": samples.coff()})}))
    assert _names(corpus) == ["lib.jar!jar.txt", "lib.jar!innermost.zip", "lib.a!x.o"]


def test_archives_can_be_taken_as_they_are(tmp_path: Path) -> None:
    (document,) = _corpus(tmp_path, samples.zipped(FILES), archives=False)
    assert document.format == "other" and bytes(document.data) == samples.zipped(FILES)


def test_an_apk_is_a_document_when_asked_for_and_an_archive_otherwise(tmp_path: Path) -> None:
    (document,) = _corpus(tmp_path, samples.apk(), formats=["apk"])
    assert bytes(document.data) == samples.apk()
    assert _names(_corpus(tmp_path, samples.apk(), formats=["dex", "elf"])) == ["classes.dex", "lib/arm64-v8a/libx.so"]


def test_links_and_folders_are_left_out(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in [("folder", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE), ("pipe", tarfile.FIFOTYPE)]:
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("file"), io.BytesIO())
    assert _names(_corpus(tmp_path, buffer.getvalue(), min_size=0)) == ["file"]


@pytest.mark.parametrize("pack", [samples.zipped, lambda files: samples.COMPRESSORS["gzip"](samples.tarred(files))])
def test_a_bomb_is_not_unpacked_whole(tmp_path: Path, pack: object) -> None:
    bomb = pack({"bomb": bytes(30 << 20), "small": b"small"})  # type: ignore[operator]
    corpus = _corpus(tmp_path, bomb, max_size=1000)
    tracemalloc.start()
    names = _names(corpus)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert names == ["small"]
    assert corpus.filtered["max_size"] == 1
    assert peak < 4 << 20


def test_a_compressed_bomb_of_unknown_size_is_not_unpacked_whole(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path, samples.COMPRESSORS["gzip"](bytes(30 << 20)), max_size=1000)
    assert list(corpus) == []
    assert corpus.filtered["max_size"] == 1


@pytest.mark.parametrize("compressor", samples.COMPRESSORS)
def test_a_truncated_tar_gives_what_it_has_and_says_so(tmp_path: Path, compressor: str) -> None:
    noise = {name: b"".join(i.to_bytes(4, "big") for i in range(k, k + 9000)) for k, name in enumerate("abcdefgh")}
    data = samples.COMPRESSORS[compressor](samples.tarred(noise))
    corpus = _corpus(tmp_path, data[: len(data) * 2 // 3])
    assert all(bytes(document.data) == noise[document.name[-1]] for document in corpus)
    assert corpus.skipped
    with pytest.raises(FileError, match="archive"):
        list(_corpus(tmp_path, data[: len(data) * 2 // 3], strict=True))


def test_a_damaged_header_inside_a_tar_is_not_its_end(tmp_path: Path) -> None:
    data = bytearray(samples.tarred({"a": b"a" * 512, "b": b"b", "c": b"c"}))
    data[1024 + 148 : 1024 + 156] = b"garbage!"  # the checksum of the second header
    corpus = _corpus(tmp_path, bytes(data))
    assert _names(corpus) == ["a"]
    assert "damaged tar file" in corpus.skipped[0].reason


def test_a_damaged_member_of_a_zip_does_not_hide_the_others(tmp_path: Path) -> None:
    data = bytearray(samples.zipped({"a": b"aaaa", "b": b"bbbb"}, zipfile.ZIP_STORED))
    data[data.index(b"aaaa")] ^= 1  # its checksum does not match any more
    corpus = _corpus(tmp_path, bytes(data))
    assert _names(corpus) == ["b"]
    assert corpus.skipped[0].name.endswith("!a")


def test_an_encrypted_member_is_named(tmp_path: Path) -> None:
    data = bytearray(samples.zipped({"secret": b"secret"}, zipfile.ZIP_STORED))
    data[data.index(b"PK\x01\x02") + 8] |= 1  # general purpose flag: encrypted
    corpus = _corpus(tmp_path, bytes(data))
    assert list(corpus) == []
    assert corpus.skipped[0].reason == "cannot unpack it: it is encrypted"


_archives = st.sampled_from(
    [
        samples.zipped(FILES),
        samples.ar({"a.o": samples.coff(), "a_name_of_more_than_15_characters.o": b"x"}),
        samples.deb({"tool": samples.elf()}),
        *(compress(samples.tarred(FILES)) for compress in samples.COMPRESSORS.values()),
    ]
)


@given(_archives, st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=4), st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_damage_is_one_of_the_known_errors(data: bytes, patches: list[tuple[float, bytes]], cut: float) -> None:
    damaged = bytearray(data)
    for place, patch in patches:
        position = int(place * (len(damaged) - 1))
        damaged[position : position + len(patch)] = patch
    if cut > 0.5:
        del damaged[int(cut * len(damaged)) :]
    kind = archive_kind(bytes(damaged[:HEAD_BYTES]))
    if kind is None:
        return
    with contextlib.suppress(ARCHIVE_ERRORS):
        for member in members(io.BytesIO(damaged), kind, "archive"):
            with contextlib.suppress(ARCHIVE_ERRORS):
                member.open().read(1 << 20)

import os
import random
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

import byteloom.files
from byteloom.corpus import Corpus, Document
from byteloom.errors import FileError, InvalidInputError
from tests.corpus import samples


def _write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def _names(corpus: Corpus, folder: Path) -> list[str]:
    return [Path(document.name).relative_to(folder).as_posix() for document in corpus]


def _digests(corpus: Corpus) -> list[str]:
    return [document.sha256 for document in corpus]


def _noise(count: int, size: int = 1000) -> dict[str, bytes]:
    random_bytes = random.Random(0).randbytes
    return {f"file{number:03}": random_bytes(size) for number in range(count)}


# --- which files ------------------------------------------------------------------------------------------------


def test_folders_are_walked_in_sorted_order(tmp_path: Path) -> None:
    _write(tmp_path, {"b/2": b"2", "b/1": b"1", "a/x": b"x", "z": b"z", "b/c/0": b"0"})
    assert _names(Corpus([tmp_path]), tmp_path) == ["z", "a/x", "b/1", "b/2", "b/c/0"]


def test_one_path_need_not_be_a_list(tmp_path: Path) -> None:
    _write(tmp_path, {"a": b"a"})
    assert _names(Corpus(tmp_path), tmp_path) == _names(Corpus(str(tmp_path)), tmp_path) == ["a"]


def test_globs(tmp_path: Path) -> None:
    _write(tmp_path, {"a.so": b"a", "b.txt": b"b", "sub/c.so": b"c", "[x].so": b"bracket"})
    assert _names(Corpus([f"{tmp_path}/*.so"]), tmp_path) == ["[x].so", "a.so"]
    assert _names(Corpus([f"{tmp_path}/**/*.so"]), tmp_path) == ["[x].so", "a.so", "sub/c.so"]
    assert _names(Corpus([f"{tmp_path}/[x].so"]), tmp_path) == ["[x].so"]  # a file of that very name comes first


@pytest.mark.parametrize(
    ("paths", "error", "message"),
    [
        (["missing"], FileError, "does not exist; check the path"),
        (["*.missing"], InvalidInputError, "no file matches the pattern"),
        ([], InvalidInputError, "at least one path"),
    ],
)
def test_paths_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str], error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        Corpus(paths)


def test_a_file_that_is_reached_twice_comes_once(tmp_path: Path) -> None:
    _write(tmp_path, {"a/file": b"content"})
    os.link(tmp_path / "a/file", tmp_path / "a/hard")
    paths = [tmp_path, tmp_path / "a", tmp_path / "a/file"]
    assert _names(Corpus(paths), tmp_path) == ["a/file"]
    assert len(list(Corpus(paths, dedup=False))) == 5


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege on Windows")
def test_links_to_files_are_followed_links_to_folders_are_not(tmp_path: Path) -> None:
    inside, outside = _write(tmp_path / "in", {"file": b"1"}), _write(tmp_path / "out", {"other": b"2"})
    (inside / "loop").symlink_to(inside)
    (inside / "link").symlink_to(outside / "other")
    (inside / "dangling").symlink_to(inside / "missing")
    corpus = Corpus([inside], strict=True)
    assert _names(corpus, inside) == ["file", "link"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_special_files_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert list(Corpus([tmp_path], strict=True)) == []
    corpus = Corpus([tmp_path / "pipe"])
    assert list(corpus) == []
    assert corpus.skipped[0].reason == "not a regular file"


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_names_that_are_not_utf8_can_be_printed(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_bytes(b"data")
    (document,) = Corpus([tmp_path])
    assert document.name == f"{tmp_path}/\\xff"
    assert Corpus([tmp_path]).sample(100).size_on_disk() == 4


# --- what cannot be read ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_are_recorded(tmp_path: Path) -> None:
    _write(tmp_path, {"open": b"1", "closed": b"2"})
    (tmp_path / "closed").chmod(0)
    corpus = Corpus([tmp_path])
    assert _names(corpus, tmp_path) == ["open"]
    assert corpus.skipped[0].reason == "permission denied"


def _vanish(path: Path) -> None:
    path.unlink()


def _shrink(path: Path) -> None:
    path.write_bytes(b"1")


@pytest.mark.parametrize(("damage", "reason"), [(_vanish, "no such file"), (_shrink, "it shrank while it was read")])
def test_files_that_change_during_a_pass(tmp_path: Path, damage: Callable[[Path], None], reason: str) -> None:
    _write(tmp_path, {"a": b"aaa", "b": b"bbb", "c": b"ccc"})

    class Changing(Corpus):
        def _unfiltered(self, source):  # type: ignore[no-untyped-def]  # between its stat and its opening
            if source.name.endswith("b") and source.size == 3:
                damage(Path(source.path))
            return super()._unfiltered(source)

    corpus = Changing([tmp_path])
    assert _names(corpus, tmp_path) == ["a", "c"]
    assert [Path(skipped.name).name for skipped in corpus.skipped] == ["b"]
    assert reason in corpus.skipped[0].reason
    _write(tmp_path, {"b": b"bbb"})
    with pytest.raises(FileError, match=reason):
        list(Changing([tmp_path], strict=True))


def test_a_second_pass_starts_afresh(tmp_path: Path) -> None:
    _write(tmp_path, {"a": b"same", "b": b"same", "c.gz": b"\x1f\x8b\x08broken"})
    corpus = Corpus([tmp_path])
    for _ in range(2):
        assert len(list(corpus)) == 1
        assert (corpus.filtered["duplicate"], len(corpus.skipped)) == (1, 1)
        assert corpus.visited_bytes == corpus.size_on_disk() == 8 + 9


# --- filters ----------------------------------------------------------------------------------------------------


def test_formats(tmp_path: Path) -> None:
    _write(tmp_path, {**samples.EXECUTABLES, "text": b"words", "empty": b"", "other": b"\0"})
    for format in (*samples.EXECUTABLES, "text", "empty", "other"):
        corpus = Corpus([tmp_path], formats=[format], min_size=0)
        expected = [format] if format != "mach-o" else ["mach-o", "mach-o fat"]
        assert _names(corpus, tmp_path) == expected
        assert corpus.filtered["format"] == len(samples.EXECUTABLES) + 3 - len(expected)


def test_sizes(tmp_path: Path) -> None:
    _write(tmp_path, {"0": b"", "1": b"1", "2": b"22", "3": b"333"})
    assert _names(Corpus([tmp_path]), tmp_path) == ["1", "2", "3"]
    corpus = Corpus([tmp_path], min_size=2, max_size=2)
    assert _names(corpus, tmp_path) == ["2"]
    assert corpus.filtered == {"min_size": 2, "max_size": 1}


def test_entropy(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {"zeros": bytes(1000), "text": b"some ordinary words" * 50, "packed": random.Random(0).randbytes(9000)},
    )
    corpus = Corpus([tmp_path], entropy=(0.5, 7.2))
    assert _names(corpus, tmp_path) == ["text"]
    assert corpus.filtered == {"entropy": 2}


def test_duplicates_are_found_across_files_and_archives(tmp_path: Path) -> None:
    _write(tmp_path, {"a": b"same", "b": b"same", "c.zip": samples.zipped({"m": b"same"})})
    corpus = Corpus([tmp_path])
    assert _names(corpus, tmp_path) == ["a"]
    assert corpus.filtered == {"duplicate": 2}
    assert len(list(Corpus([tmp_path], dedup=False))) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"formats": ["elff"]},
        {"formats": []},
        {"min_size": 10, "max_size": 9},
        {"entropy": (3.0, 2.0)},
    ],
)
def test_unusable_options(tmp_path: Path, options: dict) -> None:
    with pytest.raises(InvalidInputError):
        Corpus([tmp_path], **options)


def test_nothing_found_says_what_was_met_instead(tmp_path: Path) -> None:
    _write(tmp_path, {"a": b"text", "b.gz": b"\x1f\x8b\x08broken"})
    corpus = Corpus([tmp_path], formats=["elf"])
    assert list(corpus) == []
    message = str(corpus.nothing_found())
    assert "1 kept out by format" in message and "1 unreadable, the first because: damaged gzip file" in message


# --- split and sample -------------------------------------------------------------------------------------------


def test_the_two_sides_of_a_split_share_nothing_and_miss_nothing(tmp_path: Path) -> None:
    corpus = Corpus([_write(tmp_path, _noise(300, 50))])
    train, validation = corpus.split(0.2)
    assert sorted(_digests(train) + _digests(validation)) == sorted(_digests(corpus))
    assert 30 < len(_digests(validation)) < 90


def test_a_side_does_not_depend_on_other_files_or_names(tmp_path: Path) -> None:
    files = _noise(60, 50)
    one = Corpus([_write(tmp_path / "one", files)])
    renamed = {f"other/{name}": data for name, data in list(files.items())[::2]}
    two = Corpus([_write(tmp_path / "two", renamed)])
    for side in (0, 1):
        assert set(_digests(two.split()[side])) <= set(_digests(one.split()[side]))


@pytest.mark.parametrize("validation", [0.0, 1.0, -0.1])
def test_a_split_has_two_sides(tmp_path: Path, validation: float) -> None:
    with pytest.raises(InvalidInputError, match="between 0 and 1"):
        Corpus([tmp_path]).split(validation)


def test_a_sample_is_deterministic_and_depends_on_the_seed(tmp_path: Path) -> None:
    files = _noise(200)
    one = Corpus([_write(tmp_path / "one", files)])
    moved = Corpus([_write(tmp_path / "moved", files)])
    digests = _digests(one.sample(20_000))
    assert len(digests) == 20
    assert digests == _digests(one.sample(20_000)) == _digests(moved.sample(20_000))
    assert digests != _digests(one.sample(20_000, seed=1))


def test_a_sample_keeps_the_filters_and_can_be_split(tmp_path: Path) -> None:
    _write(tmp_path, {**_noise(100), **{f"text{number}": b"%04d" % number * 250 for number in range(100)}})
    sample = Corpus([tmp_path], formats=["text"]).sample(50_000)
    assert {document.format for document in sample} == {"text"}
    train, validation = sample.split(0.3)
    assert sorted(_digests(train) + _digests(validation)) == sorted(_digests(sample))
    side = Corpus([tmp_path]).split(0.3)[1]
    assert set(_digests(side.sample(10_000))) <= set(_digests(side))


def test_a_sample_passes_over_what_does_not_fit(tmp_path: Path) -> None:
    _write(tmp_path, {"huge": random.Random(1).randbytes(100_000), **_noise(20)})
    sizes = [document.size for seed in range(5) for document in Corpus([tmp_path]).sample(5_000, seed)]
    assert sizes == [1000] * 25
    with pytest.raises(InvalidInputError, match="of at most 10 bytes"):
        Corpus([tmp_path]).sample(10)


def test_a_sample_of_all_is_all(tmp_path: Path) -> None:
    corpus = Corpus([_write(tmp_path, _noise(20))])
    assert _digests(corpus.sample(1 << 30)) == _digests(corpus)


@pytest.mark.parametrize("pack", [samples.tarred, samples.zipped])
def test_a_sample_of_one_large_archive_is_spread_over_it(tmp_path: Path, pack: Callable[[dict], bytes]) -> None:
    _write(tmp_path, {"archive": pack(_noise(400))})
    sample = list(Corpus([tmp_path]).sample(50_000))
    positions = [int(document.name[-3:]) for document in sample]
    assert 25_000 < sum(document.size for document in sample) <= 50_000
    assert min(positions) < 80 and max(positions) > 320


# --- documents --------------------------------------------------------------------------------------------------


def test_document(tmp_path: Path) -> None:
    _write(tmp_path, {"program": samples.elf()})
    (document,) = Corpus([tmp_path])
    assert isinstance(document.data, memoryview) and document.data.readonly
    assert document.size == len(samples.elf())
    assert document.format == document.info.format == "elf"
    assert document.info.architecture == "x86-64"
    assert 0 < document.entropy < 8
    assert repr(document) == f"Document({str(tmp_path / 'program')!r}, {document.size} bytes, elf)"


def test_sha256_is_that_of_the_bytes() -> None:
    assert Document("abc", b"abc").sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_large_files_are_mapped_and_one_document_is_in_memory_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byteloom.files, "MAP_THRESHOLD", 1 << 20)
    _write(tmp_path, {f"large{number}": bytes([number]) * (8 << 20) for number in range(4)})
    _write(tmp_path, {f"small{number}": bytes([number]) * (1 << 19) for number in range(40)})
    tracemalloc.start()
    total = sum(document.size + len(document.sha256) for document in Corpus([tmp_path]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 4 * (8 << 20) + 40 * (1 << 19) + 44 * 64
    assert peak < 3 << 20


def test_a_mapped_executable_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byteloom.files, "MAP_THRESHOLD", 100)
    _write(tmp_path, {"program": samples.elf()})
    (document,) = Corpus([tmp_path])
    assert document.info.sections[0].name == ".text"

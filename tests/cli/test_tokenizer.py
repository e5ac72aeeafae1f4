import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from byteloom.cli.main import app
from byteloom.cli.tokenizer.encode import _Inference
from byteloom.errors import FileError, InvalidInputError
from byteloom.tokenize import BPE, Segmenter, byte_tokenizer
from byteloom.tokenize.inference import INFERENCES

TEXT = b"the cat sat on the mat; " * 200
BINARY = bytes(range(256)) * 3 + b"\x00" * 500
SMALL = ["--vocab-size", "280", "--min-frequency", "2"]


def run(*arguments, **options):
    return CliRunner().invoke(app, ["tokenizer", *map(str, arguments)], catch_exceptions=False, **options)


def call(*arguments, **options):
    result = run(*arguments, **options)
    assert result.exit_code == 0, result.output
    return result.stdout


def report(*arguments):
    return json.loads(call(*arguments, "--json"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "text").write_bytes(TEXT)
    (folder / "binary").write_bytes(BINARY)
    return folder


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "t"
    call("train", files, "-o", folder, *SMALL, "--family", "270,275")
    return folder


# train


def test_train_writes_a_nested_family(trained):
    large = BPE.load(trained)
    assert large.vocab_size == 280
    for size in (270, 275):
        assert BPE.load(trained / str(size)) == large.truncate(size)


def test_train_reports(files, tmp_path):
    result = report("train", files, "-o", tmp_path / "t", *SMALL)
    assert (result["vocab_size"], result["bytes"], result["documents"]) == (280, len(TEXT) + len(BINARY), 2)
    assert result["written"] == {str(tmp_path / "t"): 280}
    text = call("train", files, "-o", tmp_path / "t", *SMALL, "--formats", "text")
    assert "279 tokens of " in text and "learned from 4.8 kB" in text and f"  {tmp_path / 't'}" in text


def test_train_options_reach_the_trainer(files, tmp_path):
    output = tmp_path / "t"
    call("train", files, "-o", output, *SMALL, "--max-token-length", 2, "--chunk-size", 64, "--entropy", 1, 7)
    assert BPE.load(output).max_token_bytes == 2
    assert b"\x00\x00" not in [BPE.load(output).token_bytes(i) for i in range(263, 280)]


def test_train_says_when_the_files_do_not_support_the_size(files, tmp_path):
    result = run("train", files / "binary", "-o", tmp_path / "t", "--vocab-size", 5000, "--family", "4096")
    assert result.exit_code == 0 and "note: the documents support" in " ".join(result.stderr.split())
    assert not (tmp_path / "t" / "4096").exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--vocab-size", "263"], "vocab_size 263 is too small"),
        (["--family", "4k"], "numbers with commas"),
        (["--family", "270,99999"], "must not exceed"),
        (["--family", "12"], "cannot cut a vocabulary"),
        (["--boundary", "10"], "--boundary has no meaning for --method bpe"),
        (["--method", "equal-info", "--chunk-size", "64"], "--chunk-size has no meaning for --method equal-info"),
        (["--method", "equal-info", "--boundary", "newline"], "--boundary is one byte"),
        (["--method", "subword", "--family", "300"], "--family has no meaning for --method subword"),
        (["--formats", "exe"], "unknown format: exe"),
        (["--formats", "elf"], "no document that fits the filters"),
        (["--chunk-size", "1"], "chunk_size must be at least 2"),
    ],
)
def test_train_refuses(files, tmp_path, options, why):
    with pytest.raises(InvalidInputError, match=why):
        run("train", files, "-o", tmp_path / "t", *options)
    assert not (tmp_path / "t").exists()


# encode and decode


@pytest.mark.parametrize("form", ["npy", "bin", "txt"])
def test_encode_and_decode_files(files, trained, tmp_path, form):
    ids = tmp_path / f"ids.{form}"
    result = report("encode", files / "binary", "-t", trained, "-o", ids)
    expected = BPE.load(trained).encode(BINARY)
    assert result == {"bytes": len(BINARY), "tokens": len(expected), "output": str(ids)}
    if form == "npy":
        assert np.array_equal(np.load(ids), expected)
    assert f"{len(BINARY):,} bytes" in call("decode", ids, "-t", trained, "-o", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == BINARY


def test_encode_and_decode_streams(trained):
    encoded = run("encode", "-", "-t", trained, "-o", "-", input=BINARY).stdout_bytes
    assert np.array_equal(np.frombuffer(encoded, "<u4"), BPE.load(trained).encode(BINARY))
    assert run("decode", "-", "-t", trained, input=encoded).stdout_bytes == BINARY


def test_encode_prints_ids(files, trained):
    lines = call("encode", files / "text", "-t", "bytes").split()
    assert list(map(int, lines)) == byte_tokenizer().encode(TEXT).tolist()


def test_encode_a_file_of_many_blocks(tmp_path, trained):
    data = np.random.default_rng(0).integers(97, 101, 3_000_000).astype(np.uint8).tobytes()
    (tmp_path / "large").write_bytes(data)
    call("encode", tmp_path / "large", "-t", trained, "-o", tmp_path / "ids.npy")
    assert np.array_equal(np.load(tmp_path / "ids.npy"), BPE.load(trained).encode(data))


def test_empty_file(tmp_path, trained):
    (tmp_path / "empty").touch()
    call("encode", tmp_path / "empty", "-t", trained, "-o", tmp_path / "ids.npy")
    call("decode", tmp_path / "ids.npy", "-t", trained, "-o", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b""


def test_every_inference(files, trained, tmp_path):
    assert [choice.value for choice in _Inference] == list(INFERENCES)
    for inference in INFERENCES:
        counted = report("encode", files / "text", "-t", trained, "-o", tmp_path / "ids.npy", "--inference", inference)
        expected = Segmenter(BPE.load(trained), inference=inference).encode(TEXT)
        assert np.array_equal(np.load(tmp_path / "ids.npy"), expected)
        assert counted["tokens"] == len(expected)
        call("decode", tmp_path / "ids.npy", "-t", trained, "-o", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == TEXT
    assert run("encode", files / "text", "-t", trained, "--inference", "fast").exit_code == 2


@pytest.mark.parametrize("inference", ["greedy", "minimal", "longest_first"])
def test_an_inference_takes_a_stream(trained, inference):
    data = (TEXT + BINARY) * 300  # more than one block
    written = run("encode", "-", "-t", trained, "-o", "-", "--inference", inference, input=data)
    ids = np.frombuffer(written.stdout_bytes, "<u4")
    assert np.array_equal(ids, Segmenter(BPE.load(trained), inference=inference).encode(data))


def test_encode_and_decode_refuse(files, trained, tmp_path):
    with pytest.raises(FileError, match="does not exist"):
        run("encode", tmp_path / "nothing", "-t", trained)
    with pytest.raises(FileError, match="it is a folder"):
        run("encode", files, "-t", trained, "-o", tmp_path / "ids.npy")
    with pytest.raises(InvalidInputError, match="cannot tell the form"):
        run("encode", files / "text", "-t", trained, "-o", tmp_path / "ids.dat")
    with pytest.raises(FileError, match=r"tokenizer\.json: it does not exist"):
        run("encode", files / "text", "-t", files)
    (tmp_path / "ids.txt").write_text("5 280")
    with pytest.raises(InvalidInputError, match="id 280 at position 1"):
        run("decode", tmp_path / "ids.txt", "-t", trained)
    with pytest.raises(InvalidInputError, match="name a file with -o"):
        run("decode", tmp_path / "ids.txt", "-t", trained, "--json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.txt"]


# inspect, info, compare


def test_inspect_draws_tokens(files, trained):
    text = call("inspect", files / "text", "-t", trained, "--length", "0x30")
    assert f"{BPE.load(trained).count(TEXT):,} tokens" in text
    assert "00000000 │" in text and "the cat sat on t" in text and "00000040" not in text


def test_inspect_numbers(files, trained):
    result = report("inspect", files / "binary", "-t", trained, "--offset", "0x100", "--length", 16)
    assert (result["bytes"], result["tokens"]) == (len(BINARY), BPE.load(trained).count(BINARY))
    assert result["spans"][0]["start"] <= 0x100 < result["spans"][0]["end"]
    assert result["sections"] == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs an ELF executable")
def test_inspect_sections_of_an_executable(trained):
    result = report("inspect", sys.executable, "-t", "bytes", "--section", ".dynsym", "--length", 1)
    dynsym = next(row for row in result["sections"] if row["section"] == ".dynsym")
    assert result["spans"][0]["start"] == dynsym["offset"]
    assert all(row["tokens"] == row["bytes"] for row in result["sections"])
    assert ".dynsym" in call("inspect", sys.executable, "-t", trained, "--section", ".dynsym")
    with pytest.raises(InvalidInputError, match=r"has no section nope; its sections: \."):
        run("inspect", sys.executable, "-t", "bytes", "--section", "nope")


def test_inspect_refuses(files, trained, tmp_path):
    with pytest.raises(InvalidInputError, match="lies behind the end"):
        run("inspect", files / "text", "-t", trained, "--offset", len(TEXT))
    with pytest.raises(InvalidInputError, match="has no section"):
        run("inspect", files / "text", "-t", trained, "--section", ".text")
    assert run("inspect", files / "text", "-t", trained, "--length", "many").exit_code == 2
    (tmp_path / "empty").touch()
    assert "0 tokens" in call("inspect", tmp_path / "empty", "-t", trained)


def test_info(files, trained):
    assert "of 3 bytes" in call("info", trained)
    assert report("info", trained)["used_share"] is None
    result = report("info", trained, files)
    assert (result["kind"], result["vocab_size"]) == ("bpe", 280)
    assert 0.9 < result["used_share"] <= 1.0  # all bytes occur, and most merges
    assert set(result["tokens"]) == {"text", "other"}
    assert all(bytes.fromhex(token["hex"]) in TEXT for token in result["tokens"]["text"])
    assert "What the tokenizer learned from text" in call("info", trained, files)


def test_compare(files, trained):
    groups = report("compare", files, "-t", trained, "-t", trained / "270")["groups"]
    everything = groups[0]
    assert (everything["group"], everything["bytes"]) == ("all", len(TEXT) + len(BINARY))
    large, small = (everything["tokenizers"][str(path)] for path in (trained, trained / "270"))
    assert large["tokens"] == sum(BPE.load(trained).count(data) for data in (TEXT, BINARY))
    assert large["bytes_per_token"] > small["bytes_per_token"] > 1
    assert set(everything["zstd_ratio"]) == {"3", "19"}
    text = call("compare", files, "-t", trained, "-t", trained / "270", "--sample", 0)
    assert "zstd -19" in text and "by format" in text and "raw bytes" in text
    assert "10 are only in the first and 0 only in the second. 270 ids mean the same." in " ".join(text.split())


def test_compare_refuses(files, trained):
    with pytest.raises(InvalidInputError, match="named twice"):
        run("compare", files, "-t", trained, "-t", trained)
    with pytest.raises(InvalidInputError, match="no document"):
        run("compare", files, "-t", trained, "--formats", "elf")


# export


def test_export_to_every_form(trained, tmp_path):
    tokenizer = BPE.load(trained)
    for to, name in (("hf", "hf"), ("latin1", "l.json"), ("tiktoken", "t.tiktoken")):
        assert "280 tokens" in call("export", trained, "--to", to, "-o", tmp_path / name)
        assert BPE.load(tmp_path / name) == tokenizer
    result = report("export", trained, "--vocab-size", 270, "-o", tmp_path / "small")
    assert result == {"vocab_size": 270, "to": "hf", "output": str(tmp_path / "small")}
    assert BPE.load(tmp_path / "small") == tokenizer.truncate(270)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--to", "tiktoken", "-o", "folder"], "do not fit"),
        (["--to", "hf", "-o", "t.tiktoken"], "do not fit"),
        (["--vocab-size", "99999", "-o", "folder"], "cannot cut a vocabulary of 280"),
    ],
)
def test_export_refuses(trained, tmp_path, monkeypatch, options, why):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match=why):
        run("export", trained, *options)
    assert not list(tmp_path.iterdir())


def test_every_verb_has_help_with_an_example():
    for verb in ("train", "encode", "decode", "inspect", "info", "compare", "export"):
        assert f"Example: byteloom tokenizer {verb}" in " ".join(call(verb, "--help").split())


# other kinds of tokenizers


@pytest.mark.parametrize("method", ["equal-info", "subword"])
def test_every_method_trains_encodes_and_decodes(files, tmp_path, method):
    folder = tmp_path / method
    result = report("train", files / "text", "-o", folder, "--method", method, "--vocab-size", 300)
    assert (result["kind"], result["written"]) == (method, {str(folder): result["vocab_size"]})
    call("encode", files / "binary", "-t", folder, "-o", tmp_path / "ids.npy")
    call("decode", tmp_path / "ids.npy", "-t", folder, "-o", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (files / "binary").read_bytes()
    assert f"({method})" in call("info", folder)
    with pytest.raises(InvalidInputError, match=f"is of the kind {method}"):
        run("encode", files / "binary", "-t", folder, "--inference", "greedy")
    with pytest.raises(InvalidInputError, match=f"is of the kind {method}"):
        run("export", folder, "--to", "latin1", "-o", tmp_path / "other")


def test_sequences_of_a_fasta_file_are_encoded_without_their_headers(tmp_path):
    (tmp_path / "virus.fa").write_bytes(b">one first\nACGTAC\nGTACGT\n>two\nacgtnnacgu\n" * 50)
    result = report("train", tmp_path / "virus.fa", "-o", tmp_path / "dna", "--method", "dna", "--vocab-size", 14)
    assert (result["kind"], result["vocab_size"]) == ("dna", 14)
    result = report("encode", tmp_path / "virus.fa", "-t", tmp_path / "dna", "-o", tmp_path / "ids.npy")
    assert result["bytes"] == 50 * (12 + 10)
    call("decode", tmp_path / "ids.npy", "-t", tmp_path / "dna", "-o", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"ACGTACGTACGTACGTNNACGT" * 50


def test_compare_with_models_and_a_plot(tmp_path):
    for i in range(40):
        (tmp_path / f"{i}.txt").write_bytes(b"".join(b"%d sheep sat on mat %d. " % (i, j * i % 97) for j in range(60)))
    folder = tmp_path / "tokenizer"
    call("train", tmp_path, "-o", folder, "--vocab-size", 270, "--min-frequency", 2)
    plot = tmp_path / "models.svg"
    call_options = ("compare", tmp_path, "-t", folder, "--formats", "text", "--model-budget", 0.2, "--plot", plot)
    result = report(*call_options)
    assert list(result["models"]) == ["raw bytes", str(folder)]
    assert all(0 < model["bits_per_byte"] < 12 for model in result["models"].values())
    raw, bpe = result["models"].values()
    assert abs(raw["operations"] / bpe["operations"] - 1) < 0.5  # whole steps of very short trainings
    group = result["groups"][0]["tokenizers"][str(folder)]
    assert group["encode_mb_per_s"] > 0 and group["changed_documents"] == 0
    assert plot.read_bytes().startswith(b"<?xml")
    with pytest.raises(InvalidInputError, match="give both"):
        run("compare", tmp_path, "-t", folder, "--plot", plot)
    with pytest.raises(InvalidInputError, match=r"\.svg, \.pdf or \.png"):
        run("compare", tmp_path, "-t", folder, "--model-budget", 3600, "--plot", tmp_path / "plot.txt")
    with pytest.raises(InvalidInputError, match="above 0"):
        run("compare", tmp_path, "-t", folder, "--model-budget", 0)

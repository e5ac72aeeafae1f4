"""`byteloom lexicon`: what the verbs write and print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from byteloom.bench.agglutinative import invented_texts
from byteloom.cli.main import app
from byteloom.errors import FileError, InvalidInputError
from byteloom.tasks.speech_lexicon import NGram, read_lexicon

runner = CliRunner()


def run(*arguments: str, standard_input: str | bytes | None = None) -> Result:
    result = runner.invoke(app, ["lexicon", *arguments], input=standard_input)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences, words, and a dictionary."""
    place = tmp_path_factory.mktemp("lexicon")
    texts = invented_texts(300, 600)
    (place / "sentences.txt").write_text("\n".join(texts.sentences) + "\n", "utf-8")
    (place / "words.txt").write_text("\n".join(texts.words) + "\n", "utf-8")
    result = run("train", str(place / "sentences.txt"), "-o", str(place / "d.json"), "--size", "150", "--json")
    facts = json.loads(result.stdout)
    assert facts["units"] == 150
    assert 1 < facts["pieces_per_word"] < 6
    return place


def test_training_says_what_comes_next(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "d.json"
    result = run("train", str(folder / "words.txt"), "-o", str(output), "--size", "100", "--method", "bpe")
    assert "100 units from" in result.stdout
    assert "byteloom lexicon segment" in result.stdout
    assert output.exists()


@pytest.mark.parametrize("style", ["suffix", "prefix", "both"])
def test_segmented_sentences_join_again(folder: Path, style: str) -> None:
    text = "".join((folder / "sentences.txt").read_text("utf-8").splitlines(keepends=True)[:5])
    pieces = run("segment", str(folder / "d.json"), "--style", style, standard_input=text).stdout
    assert len(pieces.split()) > len(text.split())
    assert "+" in pieces
    assert run("segment", str(folder / "d.json"), "--style", style, "--join", standard_input=pieces).stdout == text


def test_words_on_the_command_line(folder: Path) -> None:
    word = (folder / "words.txt").read_text("utf-8").split()[0]
    (pieces,) = json.loads(run("segment", str(folder / "d.json"), word, "--json").stdout)
    assert pieces.replace("+ +", "") == word
    found = json.loads(run("segment", str(folder / "d.json"), word, "--nbest", "3", "--json").stdout)[word]
    assert len(found) == 3
    assert [path["logp"] for path in found] == sorted((path["logp"] for path in found), reverse=True)
    assert all("".join(path["pieces"]) == word for path in found)
    assert len(run("segment", str(folder / "d.json"), word, "--nbest", "2").stdout.splitlines()) == 2


def test_bad_input_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="--nbest is for words"):
        run("segment", str(folder / "d.json"), "--nbest", "2")
    with pytest.raises(InvalidInputError, match="UTF-8"):
        run("segment", str(folder / "d.json"), standard_input=b"\xff\n")
    with pytest.raises(FileError):
        run("segment", str(folder / "words.txt"), "a")
    (tmp_path / "latin.txt").write_bytes("é è\n".encode("latin-1"))
    with pytest.raises(InvalidInputError, match=r"latin\.txt is not UTF-8"):
        run("evaluate", str(tmp_path / "latin.txt"))


def test_an_export_has_a_lexicon_and_a_language_model_that_fit(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "lang"
    result = run("export", str(folder / "d.json"), "-o", str(output), "--text", str(folder / "sentences.txt"), "--json")
    facts = json.loads(result.stdout)
    assert facts["files"] == ["lexicon.txt", "lm.arpa"]
    lexicon = read_lexicon(output / "lexicon.txt")
    assert len(lexicon) == facts["entries"] == 4 * 150
    lm = NGram.load(output / "lm.arpa")
    assert lm.order == 3
    assert set(lm.units) == {unit for unit, _ in lexicon}
    alone = run("export", str(folder / "d.json"), "-o", str(output), "--style", "suffix", "--pronunciation", "rules")
    assert "300 entries" in alone.stdout


def test_evaluation_compares_words_and_subwords(folder: Path) -> None:
    arguments = [
        "evaluate", str(folder / "sentences.txt"), "--words", str(folder / "words.txt"), "--size", "150",
        "--tests", "10",
    ]  # fmt: skip
    facts = json.loads(run(*arguments, "--json").stdout)
    assert facts["test"] == 10
    assert list(facts["systems"]) == ["words", "code points", "extended BPE 150"]
    rates = {name: system["wer"]["rate"] for name, system in facts["systems"].items()}
    assert rates["extended BPE 150"] < rates["words"]
    shown = run(*arguments[:2], "-d", str(folder / "d.json"), "--tests", "5").stdout
    assert "Unseen wrong" in shown and "d.json" in shown and "5 test sentences" in shown

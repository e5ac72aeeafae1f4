import json
import math
import re

import numpy as np
import pytest
from tests.models.families import save_byte_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from byteloom.cli.main import app
from byteloom.corpus import Corpus
from byteloom.errors import FileError, InvalidInputError
from byteloom.generate import NgramModel, SuperposedConfig
from byteloom.tasks.completion import build_ngrams, complete_bytes
from byteloom.tokenize import byte_tokenizer, train_bpe
from byteloom.train.plan import Backbone

WINDOW = 64
TEXT = b"the cat sat on the mat, the dog sat on the cat, the end of the tale.\n"


def call(*arguments, **options):
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False, **options)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained byte model: what it writes is noise, but n-grams know words."""
    return save_byte_model(tmp_path_factory.mktemp("model"), WINDOW)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for at in range(4):
        (folder / f"{at}.txt").write_bytes(TEXT * (at + 1))
    return folder


@pytest.fixture(scope="module")
def ngrams(folder, texts):
    path = texts.parent / "tale.ngr"
    call("ngrams", "build", texts, "--tokenizer", folder, "-o", path)
    return path


def test_ngrams_of_a_corpus(folder, texts, tmp_path):
    out = tmp_path / "grams.ngr"
    facts = json.loads(
        call("ngrams", "build", texts, "-t", folder, "-o", out, "--max-order", "3", "--min-count", "2", "--json").stdout
    )
    model = NgramModel.load(out)
    assert facts["bytes"] == model.nbytes and {int(n): s for n, s in facts["sizes"].items()} == model.sizes
    assert (model.vocab_size, model.max_order) == (263, 3)
    tokenizer = byte_tokenizer()
    ids = [tokenizer.encode(TEXT * (at + 1), add_special_tokens=True) for at in range(4)]
    same = NgramModel.from_documents(ids, vocab_size=263, max_order=3, min_count=2)
    end = ids[0][-1]
    history = ids[0][-3:-1].tolist()
    assert model.prob(history, [end]) == same.prob(history, [end]) > 0  # how documents end is known
    named = build_ngrams(Corpus(texts), "bytes", max_order=3, min_count=2)
    assert named.sizes == model.sizes and named.tokenizer == model.tokenizer
    shown = call("ngrams", "build", texts, "-t", folder, "-o", out).output
    assert "Distinct n-grams" in shown and "written to" in shown


def test_completions_are_scored_and_best_first(folder, ngrams):
    result = complete_bytes(folder, b"the cat sat on t", ngrams=ngrams, max_new_tokens=6)
    assert result.used_tokens == 17 and result.forwards == 7
    assert len({completion.data for completion in result.completions}) == 3
    assert all(completion.tokens == 6 and len(completion.data) == 6 for completion in result.completions)
    means = [completion.token_probability for completion in result.completions]
    assert means == sorted(means, reverse=True)
    best = result.completions[0]
    assert best.probability == pytest.approx(math.exp(best.log_prob))
    plain = complete_bytes(folder, b"the cat sat on t", max_new_tokens=6)
    assert plain.completions != result.completions


def test_the_verb_shows_and_tells(folder, ngrams, tmp_path):
    (tmp_path / "file").write_bytes(TEXT[:20] + b"\n\tthe d")
    options = ["--model", folder, "--ngrams", ngrams, "--drafts", "2", "--max-new-tokens", "5"]
    facts = json.loads(call("complete", tmp_path / "file", *options, "--json").stdout)
    assert len(facts["completions"]) == 2 and facts["forwards"] == 6
    for completion in facts["completions"]:
        assert bytes.fromhex(completion["hex"]).decode("utf-8", "replace") == completion["text"]
        assert completion["probability"] == pytest.approx(completion["token_probability"] ** 5)
    piped = json.loads(call("complete", "-", *options, "--json", input=(tmp_path / "file").read_bytes()).stdout)
    assert piped["completions"] == facts["completions"]
    for width in ("80", "120"):
        shown = call("complete", tmp_path / "file", *options, env={"COLUMNS": width})
        lines = shown.stdout.splitlines()
        assert len(lines) == 3 and all(len(line) <= int(width) for line in lines)
        assert re.match(r"1 +[\d.e%-]+ ", lines[1]) and "⇥the d" in lines[1]
        assert "2 completions in 6 passes of the model" in " ".join(shown.output.split())


def test_a_long_file_keeps_its_end(folder, ngrams):
    long = complete_bytes(folder, b"x" * 5000 + TEXT, ngrams=ngrams, max_new_tokens=4)
    assert long.used_tokens == WINDOW - 4
    assert [c.data for c in long.completions] == [
        c.data for c in complete_bytes(folder, b"y" * 99 + TEXT, ngrams=ngrams, max_new_tokens=4).completions
    ]


def test_an_end_is_told(folder, tmp_path):
    model = LlamaForCausalLM.from_pretrained(folder)
    model.generation_config.eos_token_id = list(range(263))
    model.save_pretrained(tmp_path)
    byte_tokenizer().save(tmp_path)
    result = complete_bytes(tmp_path, b"ab", max_new_tokens=4)
    assert [(c.data, c.tokens, c.ended) for c in result.completions] == [(b"", 1, True)] * 3
    (tmp_path / "file").write_bytes(b"ab")
    assert "∎" in call("complete", tmp_path / "file", "-m", tmp_path).stdout


def test_a_model_with_a_text_tokenizer(tmp_path):
    vocabulary = {"<unk>": 0, "<eos>": 1, "hello": 2, "world": 3, "again": 4, "and": 5}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<eos>").save_pretrained(tmp_path)
    LlamaForCausalLM(Backbone(32, 1, 2, WINDOW).config(6)).save_pretrained(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("hello world and hello again")
    call("ngrams", "build", tmp_path / "texts", "-t", tmp_path, "-o", tmp_path / "words.ngr")
    model = NgramModel.load(tmp_path / "words.ngr")
    assert np.isclose(model.prob([2], [3, 4]), model.weights[0] / 2).all() and model.prob([4], [1]) > 0
    result = complete_bytes(tmp_path, "hé ".encode() * 3000 + b"hello", ngrams=tmp_path / "words.ngr", max_new_tokens=2)
    assert result.used_tokens == WINDOW - 2
    assert all(c.data.decode().startswith(" ") for c in result.completions if c.data)  # as it goes on behind the text


def test_what_a_user_can_get_wrong(folder, ngrams, texts, tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    with pytest.raises(FileError, match="holds no model"):
        call("complete", tmp_path / "file", "-m", tmp_path)
    with pytest.raises(FileError, match="cannot read"):
        call("complete", tmp_path / "none", "-m", folder)
    with pytest.raises(InvalidInputError, match="num_drafts is at least 1"):
        call("complete", tmp_path / "file", "-m", folder, "-k", "0")
    with pytest.raises(InvalidInputError, match="max_new_tokens is 1 to 63"):
        call("complete", tmp_path / "file", "-m", folder, "--max-new-tokens", "64")
    with pytest.raises(FileError, match="holds no n-grams"):
        complete_bytes(folder, b"abc", ngrams=tmp_path / "file")
    train_bpe([TEXT * 9], vocab_size=270).save(tmp_path / "other")
    build_ngrams(Corpus(texts), tmp_path / "other").save(tmp_path / "other.ngr")
    with pytest.raises(InvalidInputError, match="build n-grams with the tokenizer of the model"):
        complete_bytes(folder, b"abc", ngrams=tmp_path / "other.ngr", config=SuperposedConfig())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError):
        call("ngrams", "build", tmp_path / "empty", "-t", folder, "-o", tmp_path / "x.ngr")
    with pytest.raises(InvalidInputError, match="max_order is 2 to 6"):
        call("ngrams", "build", texts, "-t", folder, "-o", tmp_path / "x.ngr", "--max-order", "9")
    assert not (tmp_path / "x.ngr").exists()

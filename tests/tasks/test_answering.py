import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from byteloom.cli.main import app
from byteloom.errors import InvalidInputError
from byteloom.generate import ContextStore, Tuning
from byteloom.tasks import answering
from byteloom.tasks.answering import answer_question
from byteloom.tasks.continuation import load_model_tokenizer
from byteloom.tokenize import train_bpe

DOG = b"".join(b"the dog ran %d\xff\x00" % at for at in range(12))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    train_bpe([b"the cat sat on the mat and the dog ran"], vocab_size=280, min_frequency=2).save(folder)
    tokenizer = load_model_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=None,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "cat.txt").write_text("the cat sat on the mat")
    (folder / "dog.bin").write_bytes(DOG)
    (folder / "empty").write_bytes(b"")
    return folder


def test_the_second_question_reads_nothing(model: Path, texts: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = answer_question(model, texts, "the cat", max_new_tokens=8, store=store, best=0)
    assert first.found == first.read == len(first.pieces) > 2 and len(first.ids) == 8
    assert sum(len(piece.ids) for piece in first.pieces if piece.name.endswith("dog.bin")) > 32
    assert all(len(piece.ids) <= 32 for piece in first.pieces)
    data = b"".join(piece.data for piece in first.pieces if piece.name.endswith("dog.bin"))
    assert data == DOG
    again = answer_question(model, texts, "the cat", max_new_tokens=8, store=store, best=0)
    assert again.read == 0 and again.data == first.data
    other = answer_question(model, texts, "the cat", max_new_tokens=8, store=store, best=1)
    assert [Path(piece.name).name for piece in other.pieces] == ["cat.txt"] and other.read == 0


def test_examples_choose_the_tuning(model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = tmp_path / "examples.jsonl"
    examples.write_text('{"question": "the cat", "answer": " sat"}\n\n{"question": "the dog", "answer": " ran"}\n')
    seen = []

    def tune(model: object, store: ContextStore, given: list[object]) -> Tuning:
        seen.extend(given)
        return Tuning(0.5, 0.7)

    monkeypatch.setattr(answering, "tune", tune)
    found = answer_question(model, texts, "the cat", max_new_tokens=2, store=tmp_path, examples=examples)
    assert found.tuning == Tuning(0.5, 0.7) and len(seen) == 2
    examples.write_text('{"question": "the cat"}')
    with pytest.raises(InvalidInputError, match=r"line 1 of .* is no example"):
        answer_question(model, texts, "the cat", store=tmp_path, examples=examples)


def test_the_command_line(model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    line = ["answer", str(model), "--contexts", str(texts), "--question", "the dog", "--max-new-tokens", "5"]
    result = CliRunner().invoke(app, [*line, "--json", "--best", "2", "--temperature", "1.5"])
    facts = json.loads(result.stdout)
    assert facts["new_tokens"] == 5 and len(facts["pieces"]) == 2 and facts["pieces_read"] == 2
    assert len(list((tmp_path / "byteloom" / "contexts").iterdir())) == 3
    result = CliRunner().invoke(app, [*line, "--best", "2"])
    assert result.exit_code == 0 and "0 of them read now" in result.stderr.replace("\n", " ")


def test_bad_input_is_told(model: Path, texts: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="at least 0"):
        answer_question(model, texts, "the cat", best=-1)
    (tmp_path / "none").mkdir()
    with pytest.raises(InvalidInputError, match="can be read"):
        answer_question(model, tmp_path / "none", "the cat", store=tmp_path)
    with pytest.raises(InvalidInputError, match="split the contexts"):
        answer_question(model, texts, "the cat", store=tmp_path, max_new_tokens=60)

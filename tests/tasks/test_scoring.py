import json
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from byteloom.cli.main import app
from byteloom.errors import FileError, InvalidInputError, UnsupportedPositionError
from byteloom.tasks.scoring import PIECE, draw_score, score_file
from byteloom.tokenize import byte_tokenizer
from byteloom.train.plan import Backbone
from tests.models.families import save_byte_model

WINDOW = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained byte model."""
    return save_byte_model(tmp_path_factory.mktemp("model"), WINDOW)


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    """An untrained model of letters and their UTF-8 bytes."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("text")
    vocabulary = {"<s>": 0, "\n": 1, **{chr(code): code - 95 for code in range(97, 123)}, " ": 40}
    vocabulary |= {f"<0x{byte:02X}>": 50 + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<s>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)
    LlamaForCausalLM(Backbone(32, 1, 2, WINDOW).config(320)).save_pretrained(folder)
    return folder


def test_a_short_file_costs_what_the_plain_model_says(folder, tmp_path):
    data = bytes(range(20))
    (tmp_path / "file").write_bytes(data)
    told = []
    score = score_file(folder, tmp_path / "file", on_tokens=lambda *arrays: told.append(arrays))
    tokenizer, model = byte_tokenizer(), LlamaForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[0, *tokenizer.encode(data).tolist()]])
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    starts, lengths, bits = (np.concatenate(arrays) for arrays in zip(*told, strict=True))
    assert starts.tolist() == list(range(20)) and lengths.tolist() == [1] * 20
    assert np.allclose(bits, losses.numpy() / math.log(2), atol=1e-5)
    assert score.bytes == score.tokens == 20 and score.bits == pytest.approx(float(losses.sum()) / math.log(2))
    assert score.window == WINDOW and len(score.parts) == 1 and score.parts[0].stop == 20
    assert score.bits_per_byte == score.parts[0].bits_per_byte == score.bits / 20


def test_parts_of_a_long_file_are_told_apart(folder, tmp_path):
    data = bytes(1000) + b"abcdefgh" * 64 + bytes(1000)
    (tmp_path / "file").write_bytes(data)
    score = score_file(folder, tmp_path / "file")
    assert [part.start for part in score.parts] == list(range(0, len(data), 256)) and score.parts[-1].stop == len(data)
    assert sum(part.tokens for part in score.parts) == score.tokens == len(data)
    assert sum(part.bits for part in score.parts) == pytest.approx(score.bits)
    surprising = score.most_surprising(2)
    assert surprising[0].bits_per_byte >= surprising[1].bits_per_byte >= score.bits_per_byte
    for name in ("a.svg", "a.png"):
        draw_score(score, tmp_path / name, "file")
        assert (tmp_path / name).stat().st_size > 1000


def test_an_empty_file(folder, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    score = score_file(folder, tmp_path / "file")
    assert (score.bytes, score.tokens, score.bits_per_byte, score.parts) == (0, 0, 0.0, [])
    draw_score(score, tmp_path / "a.svg", "nothing")


def test_text_is_counted_in_bytes(text_folder, tmp_path):
    text = ("abc déf\n" * 30 + "é€😀" * 10 + "\n") * (PIECE // 250)
    (tmp_path / "file").write_bytes(text.encode())
    told = []
    score = score_file(text_folder, tmp_path / "file", on_tokens=lambda *arrays: told.append(arrays))
    starts, lengths, _ = (np.concatenate(arrays) for arrays in zip(*told, strict=True))
    assert score.bytes == len(text.encode()) == starts[-1] + lengths[-1] == lengths.sum()
    assert (lengths >= 0).all() and score.tokens == len(starts) > PIECE
    (tmp_path / "file").write_bytes(b"abc\xff")
    with pytest.raises(InvalidInputError, match="is not UTF-8"):
        score_file(text_folder, tmp_path / "file")
    (tmp_path / "file").write_bytes("abcé".encode()[:-1])
    with pytest.raises(InvalidInputError, match="ends inside of a character"):
        score_file(text_folder, tmp_path / "file")


def test_the_verb(folder, tmp_path):
    (tmp_path / "file").write_bytes(bytes(600) + b"xyz" * 200)
    call = ["score", str(tmp_path / "file"), "-m", str(folder)]
    result = CliRunner().invoke(app, [*call, "--plot", str(tmp_path / "a.svg"), "-o", str(tmp_path / "tokens")])
    assert result.exit_code == 0 and "bits per byte" in result.stdout and "most surprising" in result.stdout
    lines = [line.split("\t") for line in (tmp_path / "tokens").read_text().splitlines()]
    assert len(lines) == 1200 and lines[-1][:2] == ["1199", "1"]
    assert (tmp_path / "a.svg").exists()
    facts = json.loads(CliRunner().invoke(app, [*call, "--json", "--window", "16"]).stdout)
    assert facts["bytes"] == 1200 and facts["window"] == 16 and len(facts["parts"]) == 5
    assert facts["bits"] == pytest.approx(sum(part["bits"] for part in facts["parts"]))


def test_bad_input(folder, tmp_path):
    with pytest.raises(FileError, match="does not exist"):
        score_file(folder, tmp_path / "nothing")
    (tmp_path / "file").write_bytes(b"abc")
    with pytest.raises(FileError, match=r"holds no model|cannot load"):
        score_file(tmp_path, tmp_path / "file")
    with pytest.raises(InvalidInputError, match="a window has 2 tokens"):
        score_file(folder, tmp_path / "file", window=1)
    GPT2LMHeadModel(GPT2Config(vocab_size=263, n_embd=16, n_layer=1, n_head=2, n_positions=64)).save_pretrained(
        tmp_path
    )
    byte_tokenizer().save(tmp_path)
    with pytest.raises(UnsupportedPositionError):
        score_file(tmp_path, tmp_path / "file")

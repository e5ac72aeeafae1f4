import json
import sys

import pytest
import torch
from tests.models.families import save_byte_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from byteloom.cli import generate as module
from byteloom.cli.main import app
from byteloom.errors import FileError, InvalidInputError
from byteloom.tasks.continuation import continue_bytes
from byteloom.tokenize import byte_tokenizer
from byteloom.train.plan import Backbone

WINDOW = 32


def call(*arguments, **options):
    result = CliRunner().invoke(app, ["generate", *map(str, arguments)], catch_exceptions=False, **options)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained byte model: what it writes is noise, and all that matters here."""
    return save_byte_model(tmp_path_factory.mktemp("model"), WINDOW)


def test_new_bytes_go_out_as_they_are_and_into_a_file(folder, tmp_path):
    options = [folder, "--prompt", "abc", "--max-new-tokens", "20", "--seed", "1"]
    data = call(*options).stdout_bytes
    assert 0 < len(data) <= 20
    assert max(data) >= 0x80  # raw, not text
    call(*options, "--output", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == data
    assert bytes.fromhex(json.loads(call(*options, "--json").stdout)["hex"]) == data
    assert call(*options[:-1], "2").stdout_bytes != data


def test_prompts_from_a_file_standard_input_and_hex_are_one(folder, tmp_path):
    (tmp_path / "prompt").write_bytes(b"\x7fELF\x00\xff")
    results = [
        call(folder, "--prompt-file", tmp_path / "prompt", "--json"),
        call(folder, "--prompt-file", "-", "--json", input=b"\x7fELF\x00\xff"),
        call(folder, "--prompt-hex", "7f454c46 00ff", "--json"),
    ]
    facts = [json.loads(result.stdout) for result in results]
    assert {fact["hex"] for fact in facts} == {facts[0]["hex"]}
    assert facts[0]["prompt_bytes"] == 6 and facts[0]["prompt_tokens"] == 7  # <|start|> and six bytes


def test_a_long_prompt_keeps_its_end_and_a_long_text_slides(folder):
    result = call(folder, "--prompt", "x" * 1000, "--max-new-tokens", "100", "--json")
    facts = json.loads(result.stdout)
    assert (facts["prompt_tokens"], facts["used_tokens"]) == (1001, WINDOW // 2)
    assert facts["ended"] or facts["new_tokens"] == 100
    assert "1,001 tokens; its last 16 fit into the model's window" in " ".join(result.stderr.split())


def test_greedy_is_the_most_probable_byte(folder):
    model = LlamaForCausalLM.from_pretrained(folder)
    data = continue_bytes(folder, b"ab", max_new_tokens=8, temperature=0).data
    ids = [0, *byte_tokenizer().encode(b"ab").tolist()]
    for byte in data:
        with torch.no_grad():
            logits_V = model(input_ids=torch.tensor([ids])).logits[0, -1]
        logits_V[[0, 2, 3, 4, 5, 6]] = -torch.inf  # special tokens but <|end|> are not written
        ids.append(int(logits_V.argmax()))
        assert byte_tokenizer().decode(ids[-1:]) == bytes([byte])


def test_a_document_that_ends_is_told(folder, tmp_path):
    model = LlamaForCausalLM.from_pretrained(folder)
    torch.nn.init.zeros_(model.model.embed_tokens.weight)  # all tokens equally probable: greedy takes the first allowed
    model.save_pretrained(tmp_path)
    byte_tokenizer().save(tmp_path)
    facts = json.loads(call(tmp_path, "--temperature", "0", "--json").stdout)
    assert facts["ended"] and facts["new_tokens"] == 0 and facts["hex"] == ""


def test_a_terminal_gets_a_hex_dump(folder, capsys):
    module._show(continue_bytes(folder, b"", max_new_tokens=20))
    shown = capsys.readouterr()
    assert shown.out.startswith("00000000 ")
    assert "tokens a second" in shown.err


def test_a_model_with_a_text_tokenizer(tmp_path, capsys):
    vocabulary = {"<unk>": 0, "<eos>": 1, "hello": 2, "world": 3, "again": 4}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<eos>").save_pretrained(tmp_path)
    LlamaForCausalLM(Backbone(32, 1, 2, WINDOW).config(5)).save_pretrained(tmp_path)
    data = call(tmp_path, "--prompt", "hello world", "--max-new-tokens", "10").stdout_bytes
    assert set(data.decode().split()) <= {"hello", "world", "again"}
    with pytest.raises(InvalidInputError, match="takes text and the prompt is not UTF-8"):
        call(tmp_path, "--prompt-hex", "ff")
    with pytest.raises(InvalidInputError, match="makes no token of an empty prompt"):
        call(tmp_path)
    module._show(continue_bytes(tmp_path, b"hello", max_new_tokens=3))
    assert "tokens a second" in capsys.readouterr().err


def test_what_a_user_can_get_wrong(folder, tmp_path):
    with pytest.raises(FileError, match="holds no model"):
        call(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileError, match="cannot load the model"):
        call(tmp_path)
    with pytest.raises(InvalidInputError, match="one prompt only"):
        call(folder, "--prompt", "a", "--prompt-hex", "00")
    with pytest.raises(InvalidInputError, match="pairs of hexadecimal digits"):
        call(folder, "--prompt-hex", "0")
    with pytest.raises(FileError, match="cannot read"):
        call(folder, "--prompt-file", tmp_path / "nothing")
    for option in (["--max-new-tokens", "0"], ["--temperature", "-1"], ["--top-p", "0"], ["--top-k", "-1"]):
        with pytest.raises(InvalidInputError, match="max_new_tokens must be at least 1"):
            call(folder, *option)


def test_drafts_change_no_byte(folder, tmp_path):
    options = [folder, "--prompt", "aaaaaaaaaaaa", "--max-new-tokens", "60", "--temperature", "0"]
    plain = json.loads(call(*options, "--json").stdout)
    assert "speculation" not in plain
    answers = tmp_path / "answers"
    for draft in (["suffix"], ["lookup"], [folder], ["suffix", "--cache", answers], ["suffix", "--cache", answers]):
        facts = json.loads(call(*options, "--draft", *draft, "--json").stdout)
        assert facts["hex"] == plain["hex"]
        assert facts["speculation"]["tokens"] >= facts["new_tokens"]
    assert answers.exists() and sum(facts["speculation"]["drafted"].values()) > 0
    shown = call(*options, "--draft", "suffix", "--stats").stderr
    assert "tokens a step" in shown and "from text:" in shown
    assert "give --draft too" in call(*options, "--stats").stderr
    with pytest.raises(InvalidInputError, match='draft="suffix"'):
        call(*options, "--cache", answers)
    with pytest.raises(FileError, match="holds no model"):
        call(*options, "--draft", tmp_path)


def test_help_needs_no_torch():
    code = "import sys; from byteloom.cli.main import app; sys.exit('torch' in sys.modules)"
    import subprocess

    subprocess.run([sys.executable, "-c", code], check=True)


def test_many_prompts_give_a_line_each(folder, tmp_path):
    lines = ['"abc"', '{"prompt": "x"}', "", '{"hex": "7f45ff"}']
    (tmp_path / "prompts").write_text("\n".join(lines))
    options = [folder, "--prompts", tmp_path / "prompts", "--max-new-tokens", "9", "--batch-size", "2", "--seed", "1"]
    texts = [json.loads(line) for line in call(*options).stdout.splitlines()]
    assert sorted(text["prompt"] for text in texts) == [0, 1, 2]
    assert all(text["new_tokens"] == 9 and ("text" in text) != ("hex" in text) for text in texts if not text["ended"])
    for layout in ("eqspec", "exspec"):
        call(*options, "--layout", layout, "--output", tmp_path / layout)
    ordered = [json.loads(line) for line in (tmp_path / "eqspec").read_text().splitlines()]
    assert ordered == sorted(texts, key=lambda text: text["prompt"])
    assert (tmp_path / "exspec").read_bytes() == (tmp_path / "eqspec").read_bytes()
    facts = json.loads(call(*options, "--draft", "lookup", "--json").stdout)
    assert facts["texts"] == ordered and facts["speculation"]["tokens"] == sum(text["new_tokens"] for text in ordered)
    greedy = json.loads(call(*options, "--temperature", "0", "--draft", "suffix", "--json").stdout)["texts"]
    alone = call(folder, "--prompt", "abc", "--max-new-tokens", "9", "--temperature", "0", "--json")
    data = bytes.fromhex(json.loads(alone.stdout)["hex"])
    assert data == (bytes.fromhex(greedy[0]["hex"]) if "hex" in greedy[0] else greedy[0]["text"].encode())


def test_prompts_that_cannot_be_read_are_named(folder, tmp_path):
    for line in ("abc", "[1]", '{"hex": "7"}', '{"text": "a"}', "3"):
        (tmp_path / "prompts").write_text('"a"\n' + line)
        with pytest.raises(InvalidInputError, match=r"line 2 of .* is no prompt"):
            call(folder, "--prompts", tmp_path / "prompts")
    with pytest.raises(InvalidInputError, match="give one prompt, or many"):
        call(folder, "--prompts", tmp_path / "prompts", "--prompt", "a")
    (tmp_path / "prompts").write_text("")
    assert call(folder, "--prompts", tmp_path / "prompts").stdout == ""


def test_a_text_without_limit_and_a_smaller_cache(folder):
    prompt = ["--prompt", "abc" * 20, "--max-new-tokens", "70", "--seed", "1", "--json"]  # a window has 32 tokens
    plain, *others = (
        json.loads(call(folder, *prompt, *options).stdout)
        for options in ([], ["--unlimited"], ["--unlimited", "--draft", "suffix"], ["--kv-ratio", "1"])
    )
    assert plain["used_tokens"] < plain["prompt_tokens"] == others[0]["used_tokens"]
    assert others[0]["hex"] == others[1]["hex"] != plain["hex"]
    assert others[2]["hex"] == plain["hex"]  # nothing is merged
    for options in (["--unlimited", "--kv-ratio", "0.5"], ["--kv-ratio", "0"]):
        with pytest.raises(InvalidInputError, match=r"give one of the two|above 0 and at most 1"):
            call(folder, *prompt, *options)
    with pytest.raises(InvalidInputError, match="are for one prompt"):
        call(folder, "--prompts", "x", "--unlimited")

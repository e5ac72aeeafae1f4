import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from byteloom.errors import InvalidInputError
from byteloom.tokenize import BPE, SPECIAL_TOKENS, byte_tokenizer, train_bpe

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from tokenizers import Tokenizer  # noqa: E402
from transformers import (  # noqa: E402
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from byteloom.tokenize.hf import ByteTokenizer  # noqa: E402

torch.set_num_threads(1)

ALL_BYTES = bytes(range(256))
TEXT = "déjà vu, Größe, 東京; the cat sat on the mat, the cat sat. "
TEXTS = [TEXT, "", "the cat", "<|start|>a<|end|>", "a" * 40]


@pytest.fixture(scope="module")
def bpe():
    return train_bpe([TEXT.encode() * 5, b"\x7fELF\x00\x00\xff\xfe" * 9 + ALL_BYTES], vocab_size=310, min_frequency=2)


@pytest.fixture(scope="module")
def folder(bpe, tmp_path_factory):
    path = tmp_path_factory.mktemp("hf")
    bpe.save(path)
    return path


@pytest.fixture(scope="module")
def ours(folder):
    return ByteTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def fast(folder):
    return PreTrainedTokenizerFast.from_pretrained(folder)


# Loading


def test_auto_tokenizer_gives_a_byte_tokenizer(folder, bpe, tmp_path):
    loaded = AutoTokenizer.from_pretrained(folder)
    assert type(loaded) is ByteTokenizer and loaded.tokenizer == bpe
    bpe.save(tmp_path)
    for config in (LlamaConfig(), transformers.GPT2Config(), transformers.Qwen3Config()):
        config.save_pretrained(tmp_path)
        assert type(AutoTokenizer.from_pretrained(tmp_path)) is ByteTokenizer


def test_without_byteloom_the_folder_gives_a_fast_tokenizer(folder, ours):
    code = (
        "import sys, json; from transformers import AutoTokenizer; "
        f"t = AutoTokenizer.from_pretrained({str(folder)!r}); assert 'byteloom' not in sys.modules; "
        f"print(json.dumps([t.is_fast, t({TEXT!r})['input_ids'], t.eos_token_id, len(t)]))"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert json.loads(output) == [True, ours(TEXT)["input_ids"], 1, len(ours)]


def test_every_byte_and_random_binaries_survive(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    random = np.random.default_rng(0)
    documents = [ALL_BYTES, *(bytes([b]) for b in range(256))]
    documents += [random.bytes(int(size)) for size in random.integers(0, 2000, 1000)]
    for document, ids in zip(documents, tokenizer(documents)["input_ids"], strict=True):
        assert tokenizer.decode_bytes(ids) == document


def test_save_and_load(ours, tmp_path):
    files = ours.save_pretrained(tmp_path)
    assert {Path(file).name for file in files} == {"tokenizer.json", "tokenizer_config.json"}
    for source in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = ByteTokenizer.from_pretrained(source)
        assert loaded.tokenizer == ours.tokenizer and loaded.special_tokens_map == ours.special_tokens_map
    assert ours.save_vocabulary(tmp_path, "x") == (str(tmp_path / "x-tokenizer.json"),)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer))])
def test_copies(ours, clone):
    other = clone(ours)
    assert other(TEXTS)["input_ids"] == ours(TEXTS)["input_ids"]
    assert other.pad_token_id == ours.pad_token_id == 2


def test_folder_without_a_tokenizer(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByteTokenizer"}')
    with pytest.raises(InvalidInputError, match=r"has no tokenizer\.json"):
        ByteTokenizer.from_pretrained(tmp_path)


def test_foreign_tokenizer_is_refused_in_a_sentence(tmp_path, folder):
    foreign = json.loads((folder / "tokenizer.json").read_text())
    foreign["pre_tokenizer"] = {"type": "Whitespace"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(foreign))
    with pytest.raises(InvalidInputError, match="changes or splits its input with Whitespace"):
        ByteTokenizer.from_pretrained(tmp_path)


def test_damaged_tokenizer_is_refused_in_a_sentence(tmp_path, folder):
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes()[:2000])
    (tmp_path / "tokenizer_config.json").write_bytes((folder / "tokenizer_config.json").read_bytes())
    with pytest.raises(InvalidInputError, match=r"not valid JSON .* is it cut off"):
        AutoTokenizer.from_pretrained(tmp_path)


# Ids


texts_with_specials = st.lists(
    st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", "the cat", "東", "é", "<|en", "d|>"]) | st.text(max_size=5)
).map("".join)


@given(text=texts_with_specials, split=st.booleans())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ids_of_text_are_those_of_plain_tokenizers(folder, ours, text, split):
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.encode_special_tokens = split
    expected = plain.encode(text).ids
    assert ours(text, split_special_tokens=split)["input_ids"] == expected
    assert ours.encode(text, split_special_tokens=split) == expected
    assert ours.decode(expected) == plain.decode(expected, skip_special_tokens=False)
    assert ours.decode(expected, skip_special_tokens=True) == plain.decode(expected)


def test_bytes_are_never_searched_for_special_tokens(ours, bpe):
    assert ours("<|end|>")["input_ids"] == [1]
    data = b"<|end|>"
    for given_as in (data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8)):
        assert ours(given_as)["input_ids"] == bpe.encode(data).tolist()
    assert ours.decode_bytes(ours(data)["input_ids"]) == data


def test_special_tokens_are_added_only_on_request(ours):
    plain = ours(b"cat")["input_ids"]
    wrapped = ours(b"cat", add_special_tokens=True, return_special_tokens_mask=True)
    assert wrapped["input_ids"] == [0, *plain, 1]
    assert wrapped["special_tokens_mask"] == [1, *[0] * len(plain), 1]
    assert ours.get_special_tokens_mask(plain) == wrapped["special_tokens_mask"]
    assert ours.num_special_tokens_to_add() == 2
    assert ours.tokenize("cat<|sep|>", add_special_tokens=True)[-2:] == ["<|sep|>", "<|end|>"]


@pytest.mark.parametrize("padding", [False, True, "max_length"])
@pytest.mark.parametrize("truncation", [False, True])
@pytest.mark.parametrize("sides", [("right", "right"), ("left", "left")])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pad_to_multiple_of": 8, "return_length": True},
        {"return_attention_mask": False},
        {"return_token_type_ids": True},
    ],
)
def test_batches_are_those_of_a_fast_tokenizer(folder, padding, truncation, sides, options):
    arguments = {"padding": padding, "truncation": truncation, "max_length": 16, "verbose": False} | options
    padding_side, truncation_side = sides
    ours, fast = (
        cls.from_pretrained(folder, truncation_side=truncation_side, padding_side=padding_side)
        for cls in (ByteTokenizer, PreTrainedTokenizerFast)
    )
    expected = dict(fast(TEXTS, **arguments))
    assert expected.keys() - {"length"} == dict(ours(TEXTS, **arguments)).keys() - {"length"}
    for key, value in ours(TEXTS, **arguments).items():
        if key != "length":  # a fast tokenizer counts padding as length, a slow one does not
            assert value == expected[key], key
    one = ours(TEXT, **arguments)
    assert one["input_ids"] == fast(TEXT, **arguments)["input_ids"]


def test_tensors(ours):
    batch = ours([b"\x00\xff", b"the cat sat on"], padding=True, return_tensors="pt")
    assert batch["input_ids"].dtype == torch.int64 and batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["attention_mask"].sum(1).tolist() == [
        len(ours(t)["input_ids"]) for t in (b"\x00\xff", "the cat sat on")
    ]
    assert ours(b"abc", return_tensors="np")["input_ids"].shape == (1, 3)
    assert [ours.decode_bytes(row) for row in batch["input_ids"]] == [b"\x00\xff", b"the cat sat on"]
    assert ours.batch_decode(batch["input_ids"], skip_special_tokens=True) == ["\x00\ufffd", "the cat sat on"]


def test_empty_inputs(ours):
    assert ours(b"") == {"input_ids": [], "attention_mask": []}
    assert ours([]) == {"input_ids": [], "attention_mask": []}
    assert ours("", padding="max_length", max_length=3)["input_ids"] == [2, 2, 2]
    assert ours.decode([]) == "" and ours.decode_bytes([]) == b""


def test_truncating_a_long_document_needs_only_its_start(ours, bpe):
    data = np.random.default_rng(1).integers(0, 4, 300_000).astype(np.uint8).tobytes() + b"\x00" * 100_000
    everything = bpe.encode(data).tolist()
    for limit in (0, 1, 1000, 70_000, len(everything), 10**6):
        assert ours(data, truncation=True, max_length=limit)["input_ids"] == everything[:limit]
    assert ours(data, truncation=True, max_length=9, add_special_tokens=True)["input_ids"] == [0, *everything[:7], 1]


def test_labels_from_text_target(ours):
    batch = ours(text=b"\x00", text_target="cat")
    assert batch["labels"] == ours("cat")["input_ids"]


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda t: t(5), "got int"),
        (lambda t: t([[1, 2]]), "got list"),
        (lambda t: t(b"a", b"b"), "no pairs"),
        (lambda t: t("\ud800"), "half a surrogate pair"),
        (lambda t: t(b"a", stride=2), "does not support stride"),
        (lambda t: t(b"a", return_offsets_mapping=True), "does not support return_offsets_mapping"),
        (lambda t: t(b"a", add_special_tokens=True, truncation=True, max_length=1), "leaves no room"),
        (lambda t: t.decode([400]), "id 400 at position 0"),
        (lambda t: t.decode([5, -100]), "id -100 at position 1"),
        (lambda t: t.convert_ids_to_tokens([400]), "id 400"),
        (lambda t: t.convert_tokens_to_string(["東"]), "not the name of a token"),
        (lambda t: t.add_tokens(["word"]), "come from training alone"),
        (lambda t: t.add_tokens(["a"], special_tokens=True), "an ordinary one already"),
        (lambda t: ByteTokenizer(tokenizer=t.tokenizer, pad_token="<pad>"), "no special token <pad>"),
        (lambda t: ByteTokenizer(tokenizer=BPE(special_tokens=()))(b"a", add_special_tokens=True), "no start and end"),
    ],
)
def test_wrong_use_is_said_in_a_sentence(ours, call, why):
    with pytest.raises(InvalidInputError, match=why):
        call(ours)


# The vocabulary


def test_vocabulary_is_that_of_the_fast_tokenizer(ours, fast):
    assert ours.get_vocab() == fast.get_vocab()
    assert (ours.vocab_size, len(ours)) == (fast.vocab_size, len(fast))
    assert ours.special_tokens_map == fast.special_tokens_map
    assert ours.all_special_ids == fast.all_special_ids
    ids = list(range(len(ours)))
    assert ours.convert_ids_to_tokens(ids) == fast.convert_ids_to_tokens(ids)
    assert ours.convert_ids_to_tokens(ids, skip_special_tokens=True) == ours.convert_ids_to_tokens(ids)[7:]
    assert ours.convert_tokens_to_ids(ours.convert_ids_to_tokens(ids)) == ids
    assert ours.convert_tokens_to_ids("no such token") == ours.unk_token_id == 3
    assert ours.convert_tokens_to_string(["<|end|>", "Ġcat"]) == "<|end|> cat"
    assert ours.get_added_vocab() == fast.get_added_vocab()


def test_added_special_tokens_go_behind_the_vocabulary_and_are_saved(bpe, tmp_path):
    tokenizer = ByteTokenizer(tokenizer=bpe)
    assert tokenizer.add_special_tokens({"extra_special_tokens": ["<|code|>", "<|data|>"]}) == 2
    assert tokenizer.add_tokens(["<|code|>"], special_tokens=True) == 0
    assert tokenizer.add_special_tokens({"pad_token": "<|code|>"}) == 0
    assert tokenizer.pad_token_id == 310 and len(tokenizer) == 312
    tokenizer.save_pretrained(tmp_path)
    for loaded in (
        tokenizer,
        AutoTokenizer.from_pretrained(tmp_path),
        PreTrainedTokenizerFast.from_pretrained(tmp_path),
    ):
        assert loaded("a<|data|>b")["input_ids"] == [7 + ord("a"), 311, 7 + ord("b")]
        assert loaded.decode([311, 104], skip_special_tokens=True) == "a"
        assert loaded.pad_token_id == 310


def test_other_special_tokens_are_extra_ones():
    tokenizer = ByteTokenizer(tokenizer=BPE(special_tokens=("<|start|>", "<|end|>", "<|page|>")))
    assert tokenizer.extra_special_tokens == ["<|page|>"]
    assert tokenizer.all_special_ids == [0, 1, 2]
    assert tokenizer.pad_token is None


# The rest of transformers


def test_data_collators(ours):
    examples = [ours(text) for text in (b"the cat", b"\x00\x01\x02")]
    padded = DataCollatorWithPadding(ours)(examples)
    assert padded["input_ids"].shape == padded["attention_mask"].shape
    causal = DataCollatorForLanguageModeling(ours, mlm=False)(examples)
    assert (causal["labels"] == -100).sum() == (padded["input_ids"] == ours.pad_token_id).sum()
    masked = DataCollatorForLanguageModeling(ours, mlm_probability=0.9)([ours(TEXT), ours(TEXT * 2)])
    assert (masked["input_ids"] == ours.mask_token_id).any()


def test_generation_from_bytes_and_from_text(ours, tmp_path):
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(ours), pad_token_id=2, bos_token_id=0, eos_token_id=1, **size))
    prompt = ours([b"\x7fELF", b"\x7fELF\x02\x01"], padding=True, padding_side="left", return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert ours.decode_bytes(ids[1]).startswith(b"\x7fELF\x02\x01")
    text = transformers.pipeline("text-generation", model=model, tokenizer=ours)
    assert text("the cat", max_new_tokens=3, do_sample=False)[0]["generated_text"].startswith("the cat")


def test_raw_bytes_as_a_tokenizer():
    assert ByteTokenizer(tokenizer=byte_tokenizer())(ALL_BYTES)["input_ids"] == list(range(7, 263))

import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from byteloom.errors import ByteloomError, FileError, InvalidInputError
from byteloom.tokenize import BPE, SPECIAL_TOKENS, TokenizerTables, byte_tokenizer, train_bpe
from byteloom.tokenize.byte_alphabet import to_bytes, to_characters
from byteloom.tokenize.tokenizer_json import read_tokenizer_json, write_tokenizer_json

ALL_BYTES = bytes(range(256))
TEXT = "déjà vu, Größe, 東京, naïve façade; the cat sat on the mat, the cat sat. "


@pytest.fixture(scope="module")
def trained():
    binary = b"\x7fELF\x00\x00\xff\xfe" * 9 + ALL_BYTES * 2
    return train_bpe([TEXT.encode() * 5, binary], vocab_size=330, min_frequency=2)


@pytest.fixture(scope="module")
def document(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "tokenizer.json"
    trained.save(path)
    return json.loads(path.read_text())


def write(folder, value):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


# The byte alphabet


def test_byte_alphabet_is_that_of_tokenizers():
    assert set(to_characters(ALL_BYTES)) == set(pre_tokenizers.ByteLevel.alphabet())
    assert to_bytes(to_characters(ALL_BYTES)) == ALL_BYTES
    with pytest.raises(ValueError, match="'東' is not a character"):
        to_bytes("a東")


# Writing, and reading it back


@pytest.mark.parametrize("alphabet", ["gpt2", "latin-1"])
def test_what_is_written_is_read(trained, tmp_path, alphabet):
    path = tmp_path / "t.json"
    write_tokenizer_json(path, trained.tables, alphabet=alphabet)
    assert BPE.from_tables(read_tokenizer_json(path)) == trained


def test_folder_holds_the_tokenizer_and_its_config(trained, tmp_path):
    trained.save(tmp_path / "new" / "folder")
    assert BPE.load(tmp_path / "new" / "folder") == trained
    config = json.loads((tmp_path / "new" / "folder" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "ByteTokenizer"
    assert (config["bos_token"], config["eos_token"], config["pad_token"]) == SPECIAL_TOKENS[:3]
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_tokenizer_without_merges(tmp_path):
    byte_tokenizer().save(tmp_path)
    assert BPE.load(tmp_path) == byte_tokenizer()


@given(text=st.text() | st.text(alphabet="the cat<|start>déjà") | st.just(TEXT))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_plain_tokenizers_gives_the_same_ids_for_text(trained, document, text):
    theirs = Tokenizer.from_str(json.dumps(document))
    if not any(name in text for name in SPECIAL_TOKENS):
        assert theirs.encode(text).ids == trained.encode(text.encode()).tolist()
        assert theirs.decode(theirs.encode(text).ids) == text


def test_plain_tokenizers_sees_the_layout(trained, document):
    theirs = Tokenizer.from_str(json.dumps(document))
    assert theirs.get_vocab_size() == trained.vocab_size
    assert [theirs.token_to_id(name) for name in SPECIAL_TOKENS] == list(range(7))
    assert theirs.encode("a<|end|>b").ids == [7 + ord("a"), 1, 7 + ord("b")]


def test_latin1_file_encodes_any_bytes_with_plain_tokenizers(trained, tmp_path):
    path = tmp_path / "latin1.json"
    write_tokenizer_json(path, trained.tables, alphabet="latin-1")
    data = ALL_BYTES * 2 + b"\x7fELF\x00\x00\xff\xfe"
    assert Tokenizer.from_file(str(path)).encode(data.decode("latin-1")).ids == trained.encode(data).tolist()


def test_special_token_that_is_spelled_like_a_byte_is_refused(tmp_path):
    tokenizer = BPE(special_tokens=("<|start|>", "é"))  # in the byte alphabet é is the byte 0xe9
    with pytest.raises(InvalidInputError, match=r"tokens 1 and 235 would both be spelled 'é'"):
        tokenizer.save(tmp_path / "t.json")
    assert not list(tmp_path.iterdir())


# Files of others


def latin1_file(names, merges, moved=()):
    """An official-style file: specials, bytes, `names`, then `merges` of Latin-1 strings; no decoder."""
    characters = [chr(byte) for byte in range(256)]
    for at, byte in enumerate(moved):
        characters[byte] = chr(0xE000 + at)
    keys = [*SPECIAL_TOKENS, *characters, *names, *(left + right for left, right in merges)]
    added = [
        {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": True}
        for i, name in enumerate(SPECIAL_TOKENS)
    ]
    model = {"type": "BPE", "vocab": {key: i for i, key in enumerate(keys)}, "merges": merges}
    return {"version": "1.0", "added_tokens": added, "pre_tokenizer": None, "decoder": None, "model": model}


def test_official_latin1_file(tmp_path):
    merges = [["\xab", "\xbb"], ["\x00", "\xff"], ["\x00\xff", "\xab\xbb"], [" ", " "]]
    tokenizer = BPE.load(write(tmp_path, latin1_file([], merges)))
    assert [tokenizer.token_bytes(i) for i in range(263, 267)] == [
        b"\xab\xbb",
        b"\x00\xff",
        b"\x00\xff\xab\xbb",
        b"  ",
    ]
    assert tokenizer.encode(b"\x00\xff\xab\xbb\xab").tolist() == [265, 7 + 0xAB]
    assert tokenizer.decode(tokenizer.encode(ALL_BYTES)) == ALL_BYTES
    assert tokenizer.special_tokens == {name: i for i, name in enumerate(SPECIAL_TOKENS)}


@pytest.mark.parametrize("glyphs", [[], ["⧈", "«", "»", "①"]])
def test_official_escaped_file(tmp_path, glyphs):
    merges = [["\ue000", "\ue001"], ["\x00", "\xff"], ["\ue000\ue001", "\x00"]]
    tokenizer = BPE.load(write(tmp_path, latin1_file(glyphs, merges, moved=(0xAB, 0xBB))))
    first = 263 + len(glyphs)
    assert [tokenizer.token_bytes(first + i) for i in range(3)] == [b"\xab\xbb", b"\x00\xff", b"\xab\xbb\x00"]
    assert tokenizer.encode(b"\xab\xbb\x00\xff").tolist() == [first, first + 1]
    assert tokenizer.decode(tokenizer.encode(ALL_BYTES)) == ALL_BYTES
    assert list(tokenizer.special_tokens) == [*SPECIAL_TOKENS, *glyphs]


def test_file_that_tokenizers_trained(tmp_path):
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs.decoder = decoders.ByteLevel()
    theirs.train_from_iterator(
        [TEXT * 4],
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = BPE.load(tmp_path)
    assert ours.is_exact_fast and ours.special_tokens == {}
    assert ours.encode(TEXT.encode()).tolist() == theirs.encode(TEXT).ids


def test_old_style_merges(document, trained, tmp_path):
    old = copy.deepcopy(document)
    old["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    assert BPE.load(write(tmp_path, old)) == trained


def test_merges_in_any_order_and_tokens_that_no_merge_makes(document, tmp_path):
    odd = copy.deepcopy(document)
    size = len(odd["model"]["vocab"])
    odd["model"]["vocab"] |= {"qxz": size, "xz": size + 1, "qxzj": size + 2, "zj": size + 3, "": size + 4}
    # zj comes before its parts would; qxz can never be made, as nothing makes its part xz; qxzj neither
    odd["model"]["merges"] += [["q", "xz"], ["qx", "zj"], ["z", "j"]]
    odd["model"]["vocab"]["qx"] = size + 5
    tables = read_tokenizer_json(write(tmp_path, odd))
    assert tables.extra_tokens == {
        size: b"qxz",
        size + 1: b"xz",
        size + 2: b"qxzj",
        size + 4: b"",
        size + 5: b"qx",
    }
    assert tables.merges[-1].tolist() == [7 + ord("z"), 7 + ord("j"), size + 3]
    assert tables.vocab_size == size + 6
    assert BPE.from_tables(tables).decode([size, size + 4, size + 5]) == b"qxzqx"


def test_merges_with_inverted_ranks(tmp_path):
    merges = np.array([[265, 266, 263], [7, 8, 265], [9, 10, 266]], np.uint32)
    tables = TokenizerTables(
        byte_ids=np.arange(7, 263, dtype=np.uint32),
        merges=merges,
        special_tokens={name: i for i, name in enumerate(SPECIAL_TOKENS)},
        vocab_size=267,
        extra_tokens={264: b"spare"},
    )
    assert tables.token_bytes()[263] == b"\x00\x01\x02\x03"
    write_tokenizer_json(tmp_path / "t.json", tables)
    back = read_tokenizer_json(tmp_path / "t.json")
    assert np.array_equal(back.merges, merges)
    assert back.extra_tokens == tables.extra_tokens


@st.composite
def any_merges(draw):
    """Pairs of tokens that exist by then, in any order: several may make one token, wholes may precede parts."""
    tokens, merges = list("abc"), []
    for _ in range(draw(st.integers(1, 12))):
        merge = [draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))]
        if merge not in merges:
            merges.append(merge)
            tokens.append("".join(merge))
    return draw(st.permutations(merges)) if draw(st.booleans()) else merges


@pytest.mark.filterwarnings("ignore:the merge list is not one")
@given(merges=any_merges(), texts=st.lists(st.text(alphabet="abc", max_size=40), max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_merge_list_gives_the_ids_of_tokenizers(tmp_path_factory, merges, texts):
    path = tmp_path_factory.mktemp("merges") / "tokenizer.json"
    byte_tokenizer().save(path)
    value = json.loads(path.read_text())
    for merge in merges:
        value["model"]["vocab"].setdefault("".join(merge), len(value["model"]["vocab"]))
    value["model"]["merges"] = merges
    path.write_text(json.dumps(value))
    ours, theirs = BPE.load(path), Tokenizer.from_file(str(path))
    for text in texts:
        assert ours.encode(text.encode()).tolist() == theirs.encode(text).ids


def test_free_ids_become_reserved_special_tokens(document, tmp_path):
    gap = copy.deepcopy(document)
    gap["model"]["vocab"]["qx"] = len(document["model"]["vocab"]) + 2
    tables = read_tokenizer_json(write(tmp_path, gap))
    assert tables.special_tokens["<|reserved_331|>"] == 331
    assert tables.vocab_size == 333


# What is refused


def broken(change):
    def apply(document):
        value = copy.deepcopy(document)
        change(value)
        return value

    return apply


def put(*keys, value):
    def change(document):
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return broken(change)


@pytest.mark.parametrize("change", [put("model", value=None), lambda document: [document]])
def test_a_file_without_a_model_is_refused(document, tmp_path, change):
    with pytest.raises(InvalidInputError, match="has no model"):
        read_tokenizer_json(write(tmp_path, change(document)))


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (put("normalizer", value={"type": "NFC"}), "changes or splits its input with NFC"),
        (put("pre_tokenizer", value={"type": "Whitespace"}), "changes or splits its input with Whitespace"),
        (put("pre_tokenizer", "use_regex", value=True), "use_regex"),
        (put("pre_tokenizer", "add_prefix_space", value=True), "add_prefix_space"),
        (
            put("pre_tokenizer", value={"type": "Sequence", "pretokenizers": [BYTE_LEVEL, BYTE_LEVEL]}),
            "applies ByteLevel twice",
        ),
        (put("decoder", value={"type": "WordPiece", "prefix": "##", "cleanup": True}), "decoder is WordPiece"),
        (put("model", "dropout", value=0.1), "dropout"),
        (put("model", "ignore_merges", value=True), "ignore_merges"),
        (put("model", "continuing_subword_prefix", value="##"), "continuing_subword_prefix"),
        (put("model", value={"type": "Unigram", "vocab": [["a", 0.0]]}), "its model is Unigram"),
    ],
)
def test_other_kinds_of_tokenizer_are_refused(document, tmp_path, change, why):
    path = write(tmp_path, change(document))
    with pytest.raises(InvalidInputError, match="not a byte-level BPE without pre-tokenization: .*" + why):
        read_tokenizer_json(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (broken(lambda d: d["model"]["vocab"].pop("A")), "no token for 1 of the 256 bytes, such as 0x41"),
        (put("model", "vocab", value={f"<0x{b:02X}>": b for b in range(256)}), "refuses it|byte_fallback"),
        (broken(lambda d: d["model"]["merges"].append(["a", "zz"])), "`zz` out of vocabulary"),
        (broken(lambda d: d["model"]["merges"].append(["a", "z"])), "`az` out of vocabulary"),
        (broken(lambda d: d["model"]["merges"].append(d["model"]["merges"][0])), "merges .* twice"),
        (put("model", "vocab", "A", value=8), "have the same id 8"),
        (put("model", "vocab", "A", value=-1), "-1"),
        (put("model", "vocab", "A", value=4294967295), "id 4294967295 is out of range"),
        (put("model", "vocab", "A", value="8"), "refuses it"),
        (put("model", "merges", value=[["a"]]), "refuses it"),
        (put("added_tokens", 0, "id", value=300), "says that its id is 300, which is 0"),
    ],
)
def test_damaged_content_is_refused(document, tmp_path, change, why):
    path = write(tmp_path, change(document))
    with pytest.raises(InvalidInputError, match=why) as raised:
        read_tokenizer_json(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_byte_fallback_vocabulary_is_refused(tmp_path):
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    path = write(tmp_path, {"model": {"type": "BPE", "byte_fallback": True, "vocab": vocabulary, "merges": []}})
    with pytest.raises(InvalidInputError, match="byte_fallback"):
        read_tokenizer_json(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"model": {"type": "BPE", "vocab": {"a', "cut off"),
        (b"{}", "no model"),
        (b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "no token for 256 of the 256 bytes"),
    ],
)
def test_content_that_is_no_tokenizer(tmp_path, content, why):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=why):
        read_tokenizer_json(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileError, match="does not exist"):
        read_tokenizer_json(tmp_path / "nowhere")
    with pytest.raises(FileError, match="does not exist"):
        read_tokenizer_json(tmp_path)  # a folder without a tokenizer


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 2**33)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["BPE", "ByteLevel", "Sequence", "NFC", "<|end|>", "a", "Ā"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def mutated(draw, document):
    """`document` with a few of its parts, at any depth, replaced, removed or doubled."""
    value = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        place = value
        while True:
            if isinstance(place, dict) and place:
                key = draw(st.sampled_from(list(place)))
            elif isinstance(place, list) and place:
                key = draw(st.integers(0, len(place) - 1))
            else:
                break
            if isinstance(place[key], dict | list) and draw(st.integers(0, 4)):
                place = place[key]
                continue
            action = draw(st.sampled_from(["replace", "remove", "double"]))
            if action == "replace":
                place[key] = draw(json_values)
            elif action == "remove":
                del place[key]
            elif isinstance(place, list):
                place.insert(key, place[key])
            else:
                place[draw(st.text(max_size=3))] = place[key]
            break
    return value


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_mutated_files_load_or_say_why_not(document, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / "tokenizer.json"
    text = json.dumps(data.draw(mutated(document)))
    cut = data.draw(st.integers(0, 20))
    path.write_text(text if cut else text[: data.draw(st.integers(0, len(text)))], encoding="utf-8")
    try:
        tokenizer = BPE.load(path)
    except ByteloomError as error:
        assert "\n" not in str(error)
    else:
        assert tokenizer.decode(tokenizer.encode(ALL_BYTES + TEXT.encode())) == ALL_BYTES + TEXT.encode()

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.bpe import reference_bytes, reference_encode, reference_train
from tokenizers import Tokenizer
from transformers import AutoTokenizer

import byteloom.tokenize.dna as dna_module
import byteloom.tokenize.hf  # noqa: F401 - registers ByteTokenizer
from byteloom.errors import InvalidInputError
from byteloom.tokenize import BPE, SPECIAL_TOKENS, DNATokenizer, load_tokenizer, train_dna

SPECIAL = ["[PAD]", "[UNK]", "[SEP]", "[BOS]", "[EOS]", "[MASK]"]
PROTEIN = b"MKLVFFAEDVGSNKGAIIGLMVGGVVIATPQLE" * 3


def _reads(n: int, seed: int = 0, letters: str = "ACGT") -> list[bytes]:
    """Reads of a genome with repeats, so that merges are learned."""
    r = random.Random(seed)
    words = ["".join(r.choices(letters, k=9)) for _ in range(40)]
    genome = "".join(r.choice(words) for _ in range(4000)).encode()
    return [genome[at : at + 150] for at in (r.randrange(len(genome) - 150) for _ in range(n))]


def _foreign_document(merges: int = 60) -> dict:
    """A tokenizer.json as METAGENE-1's is: `_` and five letters, merges, nothing listed as an added token."""
    vocabulary = {name: i for i, name in enumerate([*SPECIAL, "_", *"ACGTN"])}
    rules = []
    learned = reference_train([b"_" + read for read in _reads(40)], merges, 2)
    for left, right in ((reference_bytes(part, learned).decode() for part in pair) for pair in learned):
        vocabulary[left + right] = len(vocabulary)
        rules.append(f"{left} {right}")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[BOS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[EOS]", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                name: {"id": name, "ids": [SPECIAL.index(name)], "tokens": [name]} for name in ("[BOS]", "[EOS]")
            },
        },
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "[UNK]",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": rules,
        },
    }


@pytest.fixture(scope="module")
def foreign() -> dict:
    return _foreign_document()


@pytest.fixture(scope="module")
def trained() -> DNATokenizer:
    return train_dna(_reads(300), vocab_size=80)


def _written(document: dict, path: Path) -> Path:
    path.write_text(json.dumps(document))
    return path


def _loaded(document: dict, tmp_path: Path) -> DNATokenizer:
    tokenizer = load_tokenizer(_written(document, tmp_path / "foreign.json"))
    assert type(tokenizer) is DNATokenizer
    return tokenizer


# The foreign file


def test_a_file_like_metagene_is_read_id_for_id(foreign: dict, tmp_path: Path) -> None:
    mine = _loaded(foreign, tmp_path)
    theirs = Tokenizer.from_str(json.dumps(foreign))
    assert mine.vocab_size == theirs.get_vocab_size()
    assert mine.special_tokens == {name: i for i, name in enumerate(SPECIAL)}
    r = random.Random(1)
    texts = [*_reads(200), *_reads(20, 3, "ACGTN")]
    texts += [bytes(r.choices(b"ACGTN", [9, 9, 9, 9, 1], k=r.choice([1, 2, 20, 900]))) for _ in range(200)]
    texts += [b"_" + text for text in texts[:50]]
    for text, ids in zip(texts, mine.encode_batch(texts), strict=True):
        assert ids.tolist() == theirs.encode(text.decode(), add_special_tokens=False).ids
        assert mine.encode(text, add_special_tokens=True).tolist() == theirs.encode(text.decode()).ids
        assert mine.decode(ids) == text


@pytest.mark.parametrize("kind", ["foreign", "trained"])
def test_plain_tokenizers_give_equal_ids_for_what_save_wrote(
    kind: str, foreign: dict, trained: DNATokenizer, tmp_path: Path
) -> None:
    mine = _loaded(foreign, tmp_path) if kind == "foreign" else trained
    mine.save(tmp_path / "folder")
    theirs = Tokenizer.from_file(str(tmp_path / "folder" / "tokenizer.json"))
    for text in ["", "A", "N", "acgtuURYk-N.", *(read.decode() for read in _reads(50))]:
        assert mine.encode(text.encode()).tolist() == theirs.encode(text).ids
    with pytest.warns(UserWarning, match="became N"):
        for text in ["_AC", "é ü\nACGT", " a C", "\x00\x7f ÿ"]:
            assert mine.encode(text.encode()).tolist() == theirs.encode(text).ids
    read = _reads(1)[0].decode()
    assert theirs.decode(theirs.encode(read).ids) == read
    again = load_tokenizer(tmp_path / "folder")
    assert type(again) is DNATokenizer
    assert again == mine
    through = AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert through(read)["input_ids"] == mine.encode(read.encode()).tolist()
    assert through(read.encode(), add_special_tokens=True)["input_ids"] == [
        through.bos_token_id,
        *mine.encode(read.encode()).tolist(),
        through.eos_token_id,
    ]
    assert through.pad_token in ("[PAD]", "<|pad|>")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d: d["model"].update(dropout=0.1), "has dropout"),
        (lambda d: d.update(normalizer={"type": "Lowercase"}), "changes its input with Lowercase"),
        (lambda d: d.update(pre_tokenizer={"type": "ByteLevel"}), "splits its input with ByteLevel"),
        (lambda d: d["model"]["vocab"].pop("N"), "no token for N"),
        (lambda d: d["model"]["vocab"].update(N=7), "same id"),
        (lambda d: d["model"]["merges"].append("A Q"), "refuses it"),
    ],
)
def test_files_that_cannot_be_read_exactly_are_refused(foreign: dict, tmp_path: Path, change, why: str) -> None:
    document = json.loads(json.dumps(foreign))
    change(document)
    with pytest.raises(InvalidInputError, match=why):
        load_tokenizer(_written(document, tmp_path / "a.json"))


def test_another_kind_is_refused(tmp_path: Path) -> None:
    BPE().save(tmp_path / "bytes.json")
    with pytest.raises(InvalidInputError, match="letters are not A, C, G, T and N"):
        DNATokenizer.load(tmp_path / "bytes.json")


# Letters


MERGES = [(7, 8), (12, 9), (9, 10), (13, 13)]


@settings(max_examples=60)
@given(st.text("ACGTNacgtnuURYKMSWBDHVrykm-.").map(str.encode), st.integers(1, 9))
def test_every_way_of_encoding_folds_alike(text: bytes, block: int) -> None:
    dna = DNATokenizer(MERGES)
    public = {letter: 7 + i for i, letter in enumerate(b"ACGTN")} | {256 + k: 12 + k for k in range(len(MERGES))}
    of_public = {token: letter for letter, token in public.items()}
    internal = [(of_public[left], of_public[right]) for left, right in MERGES]
    folded = bytes(b"ACGTT"[b"ACGTU".find(c)] if c in b"ACGTU" else b"N"[0] for c in text.upper())
    ids = dna.encode(text)
    assert dna.decode(ids) == folded
    assert np.array_equal(ids, dna.encode(folded))
    assert ids.tolist() == [public[token] for token in reference_encode(folded, internal)]
    assert np.array_equal(np.concatenate([*dna.encode_blocks(text[i : i + block] for i in range(0, len(text), block)),
                                          np.zeros(0, np.uint32)]), ids)  # fmt: skip
    assert dna.count(text) == len(ids)
    assert np.array_equal(dna.encode_batch([b"", text, text])[2], ids)
    assert np.array_equal(dna.encode_batch([memoryview(text)])[0], ids)


@settings(max_examples=60)
@given(st.lists(st.text("ACGTNacg-").map(str.encode), max_size=12), st.integers(1, 30))
def test_a_batch_is_its_documents_one_by_one(documents: list[bytes], block: int) -> None:
    dna = DNATokenizer([(7, 8), (12, 9), (9, 10)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dna_module, "_BLOCK", block)
        batch = dna.encode_batch(documents)
    assert [ids.tolist() for ids in batch] == [dna.encode(document).tolist() for document in documents]
    assert all(ids.dtype == np.uint32 for ids in batch)


def test_foreign_letters_are_counted_once_or_refused(trained: DNATokenizer) -> None:
    with pytest.warns(
        UserWarning, match=r"^2 letters outside the nucleotide codes became N: '\\n' at offset 4 and"
    ) as w:
        assert trained.decode(trained.encode(b"ACGT\nACGT*")) == b"ACGTNACGTN"
    assert len(w) == 1
    with pytest.warns(UserWarning, match="^1 letter outside .*: 'E' at offset 1 of document 1$"):
        assert [trained.decode(ids) for ids in trained.encode_batch([b"ACG", b"AEG", b""])] == [b"ACG", b"ANG", b""]
    with pytest.warns(UserWarning, match=r"'\\n' at offset 3 of document 0$"):
        assert len(trained.encode_batch([b"ACG\nACG", b"A"])) == 2
    with pytest.warns(UserWarning, match="^2 letters .*: 'E' at offset 5"):
        list(trained.encode_blocks([b"ACGT", b"AEG", b"", b"E"]))
    with pytest.warns(UserWarning, match="1 letter"):
        assert trained.count(b"E") == 1
    strict = pickle.loads(pickle.dumps(trained))
    strict.strict = True
    strict = pickle.loads(pickle.dumps(strict))
    for call in (
        lambda: strict.encode(b"ACE"),
        lambda: strict.encode_batch([b"ACE"]),
        lambda: strict.count(b"ACE"),
        lambda: list(strict.encode_blocks([b"A", b"CE", b"A"])),
    ):
        with pytest.raises(InvalidInputError, match=r"'E' at offset 2.* is no nucleotide code"):
            call()


def test_what_is_not_bytes_is_refused(trained: DNATokenizer) -> None:
    for data in ("ACGT", np.zeros(3, np.int32)):
        with pytest.raises(TypeError):
            trained.encode(data)
        with pytest.raises(TypeError):
            trained.encode_batch([data])


# Its own


def test_training(trained: DNATokenizer) -> None:
    assert list(trained.special_tokens) == list(SPECIAL_TOKENS)
    assert [trained.token_bytes(i) for i in range(7, 12)] == [b"A", b"C", b"G", b"T", b"N"]
    assert trained.vocab_size == 80
    assert trained.training is not None
    assert trained.training.bytes == 300 * 150
    assert all(set(trained.token_bytes(i)) <= set(b"ACGT") for i in range(12, 80))
    assert trained == train_dna([read.lower() for read in _reads(300)], vocab_size=80)
    assert trained == pickle.loads(pickle.dumps(trained))
    assert trained != DNATokenizer()
    small = trained.truncate(40)
    assert type(small) is DNATokenizer
    assert small == train_dna(_reads(300), vocab_size=40)
    more = trained.with_special_tokens(["<|gene|>"])
    assert (more.special_tokens["<|gene|>"], more.vocab_size) == (80, 81)


def test_merges_cross_neither_n_nor_documents() -> None:
    dna = train_dna([b"ACNACNAC" * 50, b"GT" * 3], vocab_size=13)
    assert [dna.token_bytes(i) for i in range(12, dna.vocab_size)] == [b"AC"]


def test_training_says_when_data_is_small() -> None:
    with pytest.warns(UserWarning, match="the documents support 13 tokens, not 50"):
        assert train_dna([b"AC" * 3], vocab_size=50, min_frequency=3).vocab_size == 13


@pytest.mark.parametrize(
    ("documents", "options", "why"),
    [
        ([PROTEIN], {}, "document 0 looks like protein"),
        ([b"ACGT" * 9, b"\x7fELF\0\0\0\0"], {}, "document 1 looks like something else"),
        ([], {}, "at least one non-empty document"),
        ([b"NNN", b""], {}, "at least one non-empty document"),
        ([b"ACGT"], {"vocab_size": 12}, "vocab_size 12 is too small.* from 13"),
        ([b"ACGT"], {"min_frequency": 0}, "min_frequency must be at least 1"),
    ],
)
def test_training_refuses(documents: list[bytes], options: dict, why: str) -> None:
    with pytest.raises(InvalidInputError, match=why):
        train_dna(documents, **options)


def test_training_reads_single_foreign_letters_as_n() -> None:
    with pytest.warns(UserWarning, match="became N: 2$"):
        assert train_dna([b"ACGTACGTACGTACGTACGT*"] * 2, vocab_size=13, min_frequency=2).vocab_size == 13


@pytest.mark.parametrize(
    ("merges", "names", "why"),
    [
        ([(7, 12)], SPECIAL_TOKENS, "may only join"),
        ([(0, 7)], SPECIAL_TOKENS, "may only join"),
        ([], ("a", "a"), "differ"),
    ],
)
def test_construction_refuses(merges: list[tuple[int, int]], names: tuple[str, ...], why: str) -> None:
    with pytest.raises(InvalidInputError, match=why):
        DNATokenizer(merges, names)

"""Read and write the `tokenizer.json` of Hugging Face: what all kinds share, and byte-level BPE.

Of BPE, three spellings of bytes are read: the GPT-2 byte alphabet (what byteloom and bbpe >= 0.6.2 write), Latin-1
(older bbpe, the released `binary-tokenizer-001` family), and Latin-1 with 0xAB and 0xBB moved to the
private-use area because special tokens of the same vocabulary are guillemets. Anything that `tokenizers`
would split, normalise or change before merging is refused, because its ids would not be those of the file.

The schema itself is checked by `tokenizers`. Source: Binary BPE, arXiv 2511.17573, and its code.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from byteloom.errors import InvalidInputError
from byteloom.files import StrPath, atomic_write, open_bytes, write_json
from byteloom.tokenize.byte_alphabet import BYTE_CHARACTERS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_TOKENS = ("<|start|>", "<|end|>", "<|pad|>", "<|unk|>", "<|cls|>", "<|sep|>", "<|mask|>")
ROLES = dict(
    zip(
        ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token"),
        SPECIAL_TOKENS,
        strict=True,
    )
)  # what transformers calls each special token

_BRACKETED = ("[BOS]", "[EOS]", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # what other vocabularies call them

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"

_LATIN1 = "".join(map(chr, range(256)))
_PRIVATE_USE = range(0xE000, 0xF900)
_MAX_ID = 1 << 24  # far above every vocabulary in use; keeps a lying file from asking for gigabytes


@dataclass(frozen=True)
class TokenizerTables:
    """A byte-level BPE tokenizer as it lies in a file. All ids are public ids."""

    byte_ids: np.ndarray  # uint32 [256]: the id of each byte value; bytes of equal ids are one letter
    merges: np.ndarray  # uint32 [n, 3]: left, right, result; in merge order; parts are bytes or results
    special_tokens: dict[str, int]
    vocab_size: int  # every id below it is a byte, a result, a special token or an extra token
    extra_tokens: dict[int, bytes] = field(default_factory=dict)  # what ids that no merge makes decode to

    def token_bytes(self) -> dict[int, bytes]:
        """The bytes of every id but those of special tokens."""
        known = {int(token): bytes([byte]) for byte, token in enumerate(self.byte_ids)} | self.extra_tokens
        parts = {result: (left, right) for left, right, result in self.merges.tolist()}
        for result in parts:
            stack = [result]
            while stack:  # foreign merges may come before those that make their parts
                token = stack[-1]
                missing = [] if token in known else [part for part in parts[token] if part not in known]
                if missing:
                    stack += missing
                    continue
                if token not in known:
                    left, right = parts[token]
                    known[token] = known[left] + known[right]
                stack.pop()
        return known


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer.json of any kind, of which no more is known than that it is JSON and has a model."""

    path: Path
    text: str
    document: dict[str, Any]

    @classmethod
    def read(cls, path: StrPath) -> TokenizerFile:
        """Read `path`, a tokenizer.json or a folder that holds one.

        Raises FileError when it cannot be read, InvalidInputError when it is damaged.
        """
        file = Path(path)
        if file.is_dir():
            file = file / TOKENIZER_FILE
        data = bytes(open_bytes(file))
        try:
            text = data.decode("utf-8")
            document = json.loads(text)
        except UnicodeDecodeError:
            fail(file, "it is not UTF-8 text")
        except ValueError as error:
            fail(file, f"it is not valid JSON ({error}); is it cut off?")
        except RecursionError:
            fail(file, "its JSON is nested too deeply")
        if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
            fail(file, "it has no model; is it a tokenizer.json?")
        return cls(file, text, document)

    @property
    def model_type(self) -> str:
        """The type of the model, such as BPE or Unigram."""
        return str(self.document["model"].get("type", "BPE"))

    def added_tokens(self) -> dict[str, int]:
        """The ids of the added tokens. Loading with `tokenizers` checks the schema, and every merge.

        Raises InvalidInputError when `tokenizers` refuses the file, or gives an added token another id. It panics on
        some models that it would never write: refuse other kinds of tokenizers first.
        """
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_str(self.text)
        except Exception as error:  # `tokenizers` raises nothing narrower
            fail(self.path, f"the library `tokenizers` refuses it ({error})")
        added = {token.content: identity for identity, token in tokenizer.get_added_tokens_decoder().items()}
        for token in self.document.get("added_tokens") or []:
            name, identity = token["content"], token["id"]
            if added.get(name, identity) != identity:
                fail(self.path, f"the added token {name!r} says that its id is {identity}, which is {added[name]}")
        return added


def read_tokenizer_json(path: StrPath) -> TokenizerTables:
    """The byte-level BPE without pre-tokenization in `path`, a tokenizer.json or a folder that holds one.

    Raises FileError when it cannot be read, InvalidInputError when it is damaged or of another kind.
    """
    return bpe_tables(TokenizerFile.read(path))


def bpe_tables(source: TokenizerFile) -> TokenizerTables:
    """The byte-level BPE in `source`.

    Raises InvalidInputError when it is not a byte-level BPE without pre-tokenization. A token that no merge can make
    becomes an extra token; a merge that can never apply is left out; an id that no token has becomes a reserved
    special token.
    """
    if refusal := _refusal(source):
        fail(source.path, f"it is not a byte-level BPE without pre-tokenization: {refusal}")
    return _tables(source.path, source.document, source.added_tokens())


def write_tokenizer_json(
    path: StrPath, tables: TokenizerTables, *, alphabet: Literal["gpt2", "latin-1"] = "gpt2"
) -> None:
    """Write `tables` for `tokenizers` and transformers, atomically.

    `path` is the file when it ends in .json, else a folder that gets tokenizer_config.json too.
    With "gpt2" plain `tokenizers` encodes the UTF-8 bytes of a str. With "latin-1" it encodes
    `data.decode("latin-1")`, that is any bytes, but text only when it is mapped the same way.
    Raises InvalidInputError when two tokens would get the same spelling.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    characters = BYTE_CHARACTERS if alphabet == "gpt2" else _LATIN1
    spelling = {token: data.decode("latin-1").translate(characters) for token, data in tables.token_bytes().items()}
    spelling |= {token: name for name, token in tables.special_tokens.items()}
    vocabulary = {spelling[token]: token for token in sorted(spelling)}
    if len(vocabulary) < len(spelling):
        token, text = next((token, text) for token, text in spelling.items() if vocabulary[text] != token)
        raise InvalidInputError(
            f"cannot write {path}: tokens {token} and {vocabulary[text]} would both be spelled {text!r}; "
            "rename the special token or choose the other alphabet"
        )
    merges = [(spelling[left], spelling[right]) for left, right, _ in tables.merges.tolist()]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    if alphabet == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
    write_tokenizer(path, tokenizer, tables.special_tokens)


def write_tokenizer(path: StrPath, tokenizer: Tokenizer, special_tokens: Mapping[str, int]) -> None:
    """Write a tokenizer of the library `tokenizers`, atomically, with `special_tokens` added; their ids are in it.

    `path` is the file when it ends in .json, else a folder that gets tokenizer_config.json too.
    """
    from tokenizers import AddedToken

    names = sorted(special_tokens, key=special_tokens.__getitem__)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    file = Path(path)
    if file.suffix != ".json":
        write_json(file / CONFIG_FILE, tokenizer_config(special_tokens))
        file = file / TOKENIZER_FILE
    with atomic_write(file, "w") as out:
        out.write(tokenizer.to_str(pretty=True))


def tokenizer_config(special_tokens: Iterable[str]) -> dict[str, Any]:
    """The content of tokenizer_config.json: the class for AutoTokenizer, the role of each special token."""
    return {
        "tokenizer_class": "ByteTokenizer",
        "clean_up_tokenization_spaces": False,
        **roles(special_tokens),
    }


def roles(special_tokens: Iterable[str]) -> dict[str, str]:
    """The special token of each role of transformers, of those that `special_tokens` has."""
    names = set(special_tokens)
    pairs = zip(ROLES, zip(SPECIAL_TOKENS, _BRACKETED, strict=True), strict=True)
    found = {role: next((name for name in pair if name in names), None) for role, pair in pairs}
    return {role: name for role, name in found.items() if name is not None}


def fill_gaps(source: StrPath, used: set[int]) -> dict[str, int]:
    """Reserved special tokens for the ids below the largest of `used` that no token has.

    Raises InvalidInputError, naming `source`, when the largest is out of proportion.
    """
    highest = max(used)
    if highest >= min(_MAX_ID, 2 * len(used) + 256):
        fail(source, f"id {highest} is out of range for a vocabulary of {len(used)} tokens")
    return {f"<|reserved_{token}|>": token for token in range(highest) if token not in used}


def fail(source: StrPath, why: str) -> NoReturn:
    """Raise the InvalidInputError of a tokenizer file."""
    raise InvalidInputError(f"cannot load the tokenizer {source}: {why}")


def _refusal(source: TokenizerFile) -> str | None:
    """Why a tokenizer.json is of another kind, or None. What is only malformed is left to `tokenizers`."""
    document, model = source.document, source.document["model"]
    if source.model_type != "BPE":
        return f"its model is {source.model_type}"
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(option):
            return f"its model has {option}"
    pre_tokenizer = steps(document.get("pre_tokenizer"))
    before = steps(document.get("normalizer")) + pre_tokenizer
    for step in before:
        if step.get("type") != "ByteLevel":
            return f"it changes or splits its input with {step.get('type')}"
    if any(step.get("use_regex", True) for step in pre_tokenizer):
        return "its ByteLevel splits words (use_regex)"
    if any(step.get("add_prefix_space") for step in pre_tokenizer):
        return "its ByteLevel adds a space (add_prefix_space)"
    if len(before) > 1:
        return "it applies ByteLevel twice"
    for step in steps(document.get("decoder")):
        if step.get("type") not in ("ByteLevel", "Fuse"):
            return f"its decoder is {step.get('type')}"
    return None


def steps(component: Any) -> list[dict[str, Any]]:
    """The parts of a normaliser, pre-tokenizer or decoder, with sequences opened."""
    if not isinstance(component, dict):
        return []
    if component.get("type") != "Sequence":
        return [component]
    lists = [component.get(key) for key in ("normalizers", "pretokenizers", "decoders")]
    return [step for parts in lists if isinstance(parts, list) for part in parts for step in steps(part)]


def _tables(source: StrPath, document: dict[str, Any], added: dict[str, int]) -> TokenizerTables:
    ids: dict[str, int] = document["model"]["vocab"] | added
    names = {identity: name for name, identity in ids.items()}
    if len(names) < len(ids):
        name, identity = next((name, token) for name, token in ids.items() if names[token] != name)
        fail(source, f"{name!r} and {names[identity]!r} have the same id {identity}")

    alphabet = _alphabet(document, ids, added)
    if missing := [byte for character, byte in alphabet.items() if character not in ids]:
        hint = "; it has <0x00> and the like instead (byte_fallback)" if "<0x00>" in ids else ""
        first = f"such as 0x{min(missing):02x}"
        fail(source, f"it has no token for {len(missing)} of the 256 bytes, {first}{hint}")
    byte_ids = np.zeros(256, np.uint32)
    for character, byte in alphabet.items():
        byte_ids[byte] = ids[character]

    merges = possible_merges(source, document["model"]["merges"], ids, byte_ids)
    made = {*byte_ids.tolist(), *merges[:, 2].tolist()}
    # An added token that is also a byte or made by a merge is an ordinary token: its bytes must decode.
    special_tokens = {name: token for name, token in added.items() if token not in made}
    extra_tokens: dict[int, bytes] = {}
    for name, token in ids.items():
        if token in made or name in special_tokens:
            continue
        if all(character in alphabet for character in name):
            extra_tokens[token] = bytes(alphabet[character] for character in name)
        else:  # a special token that the file does not list as one, as bbpe's glyphs
            special_tokens[name] = token
    special_tokens |= fill_gaps(source, set(names))
    return TokenizerTables(byte_ids, merges, special_tokens, max(names) + 1, extra_tokens)


def _alphabet(document: dict[str, Any], ids: dict[str, int], added: dict[str, int]) -> dict[str, int]:
    """The byte that each of 256 characters spells."""
    components = [document.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")]
    if any(step.get("type") == "ByteLevel" for component in components for step in steps(component)):
        return {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}
    alphabet = {character: byte for byte, character in enumerate(_LATIN1)}
    if any(len(name) == 1 and ord(name) in _PRIVATE_USE for name in ids):
        # bbpe moves the bytes whose Latin-1 characters are special tokens: its own two, then the user's.
        own = ["\xab", "\xbb"]
        users = [name for name in sorted(added, key=added.__getitem__) if name in alphabet.keys() - {*own}]
        for moved, character in zip(_PRIVATE_USE, own + users, strict=False):
            if chr(moved) in ids:
                alphabet[chr(moved)] = alphabet.pop(character)
    return alphabet


def possible_merges(source: StrPath, merges: list[Any], ids: dict[str, int], byte_ids: np.ndarray) -> np.ndarray:
    """uint32 [n, 3]: left, right, result ids of the merges whose parts can come about, in merge order."""
    pairs = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]
    if pairs and (most := Counter(pairs).most_common(1)[0])[1] > 1:
        fail(source, f"it merges {most[0][0]!r} and {most[0][1]!r} twice")
    triples = [(ids[left], ids[right], ids[left + right]) for left, right in pairs]
    possible = set(byte_ids.tolist())
    kept = []
    for rank in sorted(range(len(pairs)), key=lambda rank: len("".join(pairs[rank]))):  # parts before wholes
        left, right, result = triples[rank]
        if left in possible and right in possible:
            possible.add(result)
            kept.append(rank)
    return np.array([triples[rank] for rank in sorted(kept)], np.uint32).reshape(-1, 3)

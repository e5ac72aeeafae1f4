"""`ByteTokenizer`: a byteloom tokenizer where transformers expects one, and for raw bytes as well as for str.

Use it with Trainer, data collators, pipelines and `generate`. Importing this module makes
`AutoTokenizer.from_pretrained` give a ByteTokenizer for folders that byteloom wrote; without it the same folder
gives a fast tokenizer of transformers, with equal ids for text but no way to take a raw byte of 0x80 or more.

>>> from byteloom.tokenize import byte_tokenizer
>>> tokenizer = ByteTokenizer(tokenizer=byte_tokenizer())
>>> tokenizer(b"\\x7fELF")["input_ids"]
[134, 76, 83, 77]
>>> tokenizer.decode_bytes([134, 76, 83, 77])
b'\\x7fELF'
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from byteloom.errors import InvalidInputError, MissingExtraError
from byteloom.files import StrPath
from byteloom.tokenize.byte_alphabet import to_bytes, to_characters
from byteloom.tokenize.loading import load_tokenizer
from byteloom.tokenize.tokenizer import Ids, Tokenizer
from byteloom.tokenize.tokenizer_json import ROLES, TOKENIZER_FILE, roles

try:
    from transformers import AddedToken, AutoTokenizer, BatchEncoding, PretrainedConfig
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase, TruncationStrategy
    from transformers.utils import PaddingStrategy, to_py_obj
except ImportError as error:
    raise MissingExtraError("transformers", "models") from error

if TYPE_CHECKING:
    from typing_extensions import Buffer

_BLOCK = 1 << 16  # bytes encoded at a time when only the first tokens are wanted


class ByteTokenizer(PreTrainedTokenizerBase):
    """A transformers tokenizer over bytes; `tokenizer` is the byteloom tokenizer inside.

    Calling it takes bytes, or anything with the buffer protocol, a str, or a list of those, and gives a
    BatchEncoding with `input_ids` and `attention_mask`; padding, truncation, `return_tensors` and the rest work
    as in transformers. What differs from text tokenizers:

    - Bytes are never searched for special tokens. In a str, `<|end|>` is the special token, as everywhere in
      transformers, unless `split_special_tokens=True`.
    - `add_special_tokens` is off unless asked for, so that ids equal those of plain `tokenizers` and a prompt
      does not end in `<|end|>`. Turned on, it wraps each input in `<|start|>` ... `<|end|>`.
    - `decode` gives a str, in which bytes that are not UTF-8 are U+FFFD; `decode_bytes` gives the exact bytes.
    - A token's name, as in `convert_ids_to_tokens`, is its bytes in the GPT-2 byte alphabet.
    - Pairs, pre-split words, offsets and overflowing windows are not supported, and say so.
    """

    vocab_files_names = {"tokenizer_file": TOKENIZER_FILE}  # noqa: RUF012 - so transformers declares it
    is_fast = False

    def __init__(
        self, tokenizer_file: StrPath | None = None, *, tokenizer: Tokenizer | None = None, **kwargs: Any
    ) -> None:
        """Wrap `tokenizer`, or the tokenizer in `tokenizer_file`; other arguments are those of transformers.

        Raises InvalidInputError when the file is no byteloom tokenizer (see `read_tokenizer_json`) or a special
        token is named that the vocabulary does not have.
        """
        if tokenizer is None:
            if tokenizer_file is None:
                raise InvalidInputError(
                    f"{kwargs.get('name_or_path') or 'the folder'} has no {TOKENIZER_FILE}; give one that "
                    "`byteloom tokenizer train` or `save_pretrained` wrote"
                )
            tokenizer = load_tokenizer(tokenizer_file)
        self.tokenizer = tokenizer
        for known_from_the_file in ("added_tokens_decoder", "is_local", "local_files_only"):
            kwargs.pop(known_from_the_file, None)
        for role, name in roles(tokenizer.special_tokens).items():
            kwargs.setdefault(role, name)
        named = {str(kwargs.get(role)) for role in ROLES}
        kwargs.setdefault("extra_special_tokens", [name for name in tokenizer.special_tokens if name not in named])
        super().__init__(**kwargs)
        if unknown := [name for name in self.all_special_tokens if name not in tokenizer.special_tokens]:
            raise InvalidInputError(
                f"the vocabulary has no special token {', '.join(unknown)}; load the tokenizer without naming it, "
                "then call add_special_tokens"
            )

    @classmethod
    def _from_pretrained(cls, resolved_vocab_files: dict[str, Any], *args: Any, **kwargs: Any) -> ByteTokenizer:
        # Read first, because transformers reads the file too and has no sentence for a damaged one.
        if file := resolved_vocab_files.get("tokenizer_file"):
            kwargs["tokenizer"] = load_tokenizer(file)
        return super()._from_pretrained(resolved_vocab_files, *args, **kwargs)

    # The vocabulary

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included, as `len` gives."""
        return self.tokenizer.vocab_size

    def __len__(self) -> int:
        return self.tokenizer.vocab_size

    def get_vocab(self) -> dict[str, int]:
        """Token name to id."""
        return dict(self._ids)

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Id to special token."""
        return {
            token: AddedToken(name, special=True, normalized=False)
            for name, token in sorted(self.tokenizer.special_tokens.items(), key=lambda item: item[1])
        }

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Special token to id."""
        return dict(self.tokenizer.special_tokens)

    def get_added_vocab(self) -> dict[str, int]:
        """Special token to id."""
        return dict(self.tokenizer.special_tokens)

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> str | list[str]:
        """The name of one id, or of each of a sequence."""
        ids = to_py_obj(ids)
        if isinstance(ids, int):
            return self._name(ids)
        skipped = set(self.tokenizer.special_tokens.values()) if skip_special_tokens else ()
        return [self._name(token) for token in ids if token not in skipped]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """What tokens of these names stand for; bytes that are not UTF-8 become U+FFFD."""
        special = self.tokenizer.special_tokens
        try:
            data = b"".join(name.encode() if name in special else to_bytes(name) for name in tokens)
        except ValueError as error:
            raise InvalidInputError(f"not the name of a token: {error}") from error
        return data.decode("utf-8", errors="replace")

    def _convert_token_to_id_with_added_voc(self, token: str) -> int | None:
        return self._ids.get(token, self.unk_token_id if token != self.unk_token else None)

    def _name(self, token: int) -> str:
        data = self.tokenizer.token_bytes(token)
        return data.decode() if self.tokenizer.token_lengths[token] == 0 else to_characters(data)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {self._name(token): token for token in range(self.tokenizer.vocab_size)}

    def _add_tokens(self, new_tokens: Sequence[str | AddedToken], special_tokens: bool = False) -> int:
        """Add special tokens behind the last id; `model.resize_token_embeddings(len(tokenizer))` goes with it."""
        new: list[str] = []
        for token in new_tokens:
            name = str(token)
            if name in self.tokenizer.special_tokens or name in new:
                continue
            if not special_tokens and not getattr(token, "special", False):
                raise InvalidInputError(
                    f"cannot add {name!r} as an ordinary token: those come from training alone; pass "
                    "special_tokens=True"
                )
            if not name or name in self._ids:
                raise InvalidInputError(f"cannot add {name!r} as a special token: it is an ordinary one already")
            new.append(name)
        if new:
            self.tokenizer = self.tokenizer.with_special_tokens(new)
            self.__dict__.pop("_ids", None)
            self.__dict__.pop("_special_pattern", None)
            self._extra_special_tokens += [name for name in new if name not in self.all_special_tokens]
        return len(new)

    # Encoding

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        add_special_tokens: bool = False,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Encode bytes or str, one or a list; the arguments of transformers, `add_special_tokens` off."""
        return super().__call__(
            text, text_pair, text_target, text_pair_target, add_special_tokens=add_special_tokens, **kwargs
        )

    def encode(self, text: Any, text_pair: Any = None, add_special_tokens: bool = False, **kwargs: Any) -> Any:
        """The ids alone."""
        return super().encode(text, text_pair, add_special_tokens=add_special_tokens, **kwargs)

    def tokenize(self, text: Any, pair: Any = None, add_special_tokens: bool = False, **kwargs: Any) -> list[str]:
        """The names of the tokens."""
        ids = self.encode(text, pair, add_special_tokens=add_special_tokens, **kwargs)
        return [self._name(token) for token in ids]

    def _encode_plus(
        self,
        text: Any,
        text_pair: Any = None,
        add_special_tokens: bool = False,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        truncation_strategy: TruncationStrategy = TruncationStrategy.DO_NOT_TRUNCATE,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        split_special_tokens: bool | None = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        if text_pair is not None or truncation_strategy == TruncationStrategy.ONLY_SECOND:
            raise InvalidInputError("ByteTokenizer takes no pairs; join the two, for example with <|sep|>")
        for option in ("is_split_into_words", "return_overflowing_tokens", "return_offsets_mapping", "stride"):
            if kwargs.get(option):
                raise InvalidInputError(f"ByteTokenizer does not support {option}; leave it out")

        limit = None
        if truncation_strategy != TruncationStrategy.DO_NOT_TRUNCATE and max_length is not None:
            limit = max_length - (self.num_special_tokens_to_add() if add_special_tokens else 0)
            if limit < 0:
                raise InvalidInputError(f"max_length {max_length} leaves no room for the special tokens")
        batched = isinstance(text, list | tuple)
        split = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        rows = self._rows(text if batched else [text], split, limit)
        if add_special_tokens:
            rows = [self.build_inputs_with_special_tokens(row) for row in rows]
        for row in rows:
            self._eventual_warn_about_too_long_sequence(row, max_length, verbose)

        columns: dict[str, Any] = {"input_ids": rows}
        if return_token_type_ids:
            columns["token_type_ids"] = [[0] * len(row) for row in rows]
        if return_special_tokens_mask:
            columns["special_tokens_mask"] = [self.get_special_tokens_mask(row, None, True) for row in rows]
        if return_length:
            columns["length"] = [len(row) for row in rows]
        if return_attention_mask or (return_attention_mask is None and "attention_mask" in self.model_input_names):
            columns["attention_mask"] = [[1] * len(row) for row in rows]
        batch = self.pad(
            columns,
            padding=padding_strategy,
            max_length=max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
            verbose=verbose,
        )
        if batched or return_tensors is not None:
            return BatchEncoding(batch)
        return BatchEncoding({key: value[0] for key, value in batch.items()})

    def _rows(self, texts: Sequence[Any], split_special_tokens: bool, limit: int | None) -> list[list[int]]:
        """The ids of each text; at most `limit` of them, from the side that truncation keeps."""
        parts = [self._parts(text, split_special_tokens) for text in texts]
        blobs = [part for row in parts for part in row if not isinstance(part, int)]
        if limit is not None and self.truncation_side == "right":
            encoded = iter([self._first_ids(blob, limit) for blob in blobs])
        else:
            encoded = iter(self.tokenizer.encode_batch(blobs))
        rows = []
        for row in parts:
            ids = [i for part in row for i in ([part] if isinstance(part, int) else next(encoded).tolist())]
            if limit is not None and len(ids) > limit:
                ids = ids[:limit] if self.truncation_side == "right" else ids[len(ids) - limit :]
            rows.append(ids)
        return rows

    def _parts(self, text: Any, split_special_tokens: bool) -> list[Buffer | int]:
        """A text as blobs to encode and ids of special tokens."""
        if not isinstance(text, str):
            try:
                return [memoryview(text)]
            except TypeError:
                raise InvalidInputError(
                    f"ByteTokenizer takes bytes, str or a list of those; got {type(text).__name__}"
                ) from None
        special = self.tokenizer.special_tokens
        pieces = [text] if split_special_tokens or not special else self._special_pattern.split(text)
        try:
            # The pattern is one group, so every second piece is a special token.
            return [special[piece] if i % 2 else piece.encode() for i, piece in enumerate(pieces)]
        except UnicodeEncodeError:
            raise InvalidInputError("a str with half a surrogate pair is no text; give bytes instead") from None

    def _first_ids(self, blob: Buffer, limit: int) -> Ids:
        """At least the first `limit` ids of a blob, without encoding much more than that."""
        view = memoryview(blob)
        if view.nbytes <= _BLOCK:
            return self.tokenizer.encode(view)
        blocks = (view[start : start + _BLOCK] for start in range(0, view.nbytes, _BLOCK))
        pieces: list[Ids] = [np.zeros(0, np.uint32)]
        for ids in self.tokenizer.encode_blocks(blocks):
            pieces.append(ids)
            limit -= len(ids)
            if limit <= 0:
                break
        return np.concatenate(pieces)

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.tokenizer.special_tokens, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many tokens `add_special_tokens=True` adds to one input."""
        return len(self.build_inputs_with_special_tokens([]))

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """`<|start|>` ids `<|end|>`."""
        if token_ids_1 is not None:
            raise InvalidInputError("ByteTokenizer takes no pairs; join the two, for example with <|sep|>")
        if self.bos_token_id is None or self.eos_token_id is None:
            raise InvalidInputError("this tokenizer has no start and end tokens; leave add_special_tokens out")
        return [self.bos_token_id, *token_ids_0, self.eos_token_id]

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for each special token, 0 for others; of the wrapped ids unless they are wrapped already."""
        if not already_has_special_tokens:
            token_ids_0 = self.build_inputs_with_special_tokens(token_ids_0, token_ids_1)
        special = set(self.tokenizer.special_tokens.values())
        return [int(token in special) for token in to_py_obj(token_ids_0)]

    # Decoding

    def decode_bytes(self, token_ids: Any, skip_special_tokens: bool = True) -> bytes:
        """The exact bytes of one sequence of ids: a list, array or tensor."""
        return self.tokenizer.decode(
            np.atleast_1d(np.asarray(to_py_obj(token_ids))), skip_special_tokens=skip_special_tokens
        )

    def _decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        return self.decode_bytes(token_ids, skip_special_tokens).decode("utf-8", errors="replace")

    # Files

    def save_vocabulary(self, save_directory: StrPath, filename_prefix: str | None = None) -> tuple[str]:
        """Write tokenizer.json into a folder; gives its path."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = Path(save_directory, prefix + TOKENIZER_FILE)
        self.tokenizer.save(path)
        return (str(path),)

    def _save_pretrained(
        self,
        save_directory: StrPath,
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        return (*file_names, *self.save_vocabulary(save_directory, filename_prefix))


class _ByteTokenizerConfig(PretrainedConfig):
    """Only there because AutoTokenizer registers a tokenizer class under a configuration class."""

    model_type = "byteloom-tokenizer"


AutoTokenizer.register(_ByteTokenizerConfig, tokenizer_class=ByteTokenizer, exist_ok=True)

"""Read and write tiktoken rank files: a line a token, its bytes in base64 and its rank, which is its id.

Such a file holds no merges. tiktoken joins neighbouring parts whenever their bytes together are a token,
lowest rank first, so the merge that makes a token is found by encoding the token's bytes with the ranks below
its own: two parts remain. Cost: 1-2 s for 100,000 tokens.
"""

from __future__ import annotations

import base64
from itertools import pairwise
from pathlib import Path

import numpy as np

from byteloom.errors import InvalidInputError
from byteloom.files import StrPath, atomic_write, open_bytes
from byteloom.tokenize.tokenizer_json import SPECIAL_TOKENS, TokenizerTables, fill_gaps

_NO_RANK = 1 << 64


def read_tiktoken_ranks(source: StrPath | bytes) -> TokenizerTables:
    """The tokenizer in a rank file, given as its path or its content.

    A rank file names no special tokens: when exactly ids 0 to 6 are free they are byteloom's seven, other
    free ids become reserved special tokens. It holds no pre-tokenization either: the tables encode without
    one, so a tokenizer that tiktoken uses with a splitting pattern gives other ids than tiktoken on text.
    A token of which more than two parts remain becomes an extra token. Raises FileError, InvalidInputError.
    """
    name, content = ("given", source) if isinstance(source, bytes) else (source, bytes(open_bytes(source)))
    ranks = _parse(name, content)
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise InvalidInputError(
            f"cannot load the rank file {name}: it has no token for {len(missing)} of the 256 bytes, "
            f"such as 0x{missing[0]:02x}"
        )
    free = fill_gaps(name, set(ranks.values()))
    if list(free.values()) == list(range(len(SPECIAL_TOKENS))):
        free = {token: identity for identity, token in enumerate(SPECIAL_TOKENS)}
    merges: list[tuple[int, int, int]] = []
    extra_tokens: dict[int, bytes] = {}
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = _parts(token, ranks, rank)
        if len(parts) == 2:
            merges.append((ranks[parts[0]], ranks[parts[1]], rank))
        else:
            extra_tokens[rank] = token
    return TokenizerTables(
        byte_ids=np.array([ranks[bytes([byte])] for byte in range(256)], np.uint32),
        merges=np.array(merges, np.uint32).reshape(-1, 3),
        special_tokens=free,
        vocab_size=max(ranks.values()) + 1,
        extra_tokens=extra_tokens,
    )


def write_tiktoken_ranks(path: StrPath, tables: TokenizerTables) -> None:
    """Write a rank file in which ranks are the ids of `tables`, atomically; special tokens are left out.

    Raises InvalidInputError when the merges would not follow from the file, which can only be so for a
    tokenizer that byteloom did not train.
    """
    tokens = sorted(tables.token_bytes().items())
    content = b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in tokens)
    distinct = len({token for _, token in tokens}) == len(tokens)
    if not distinct or not np.array_equal(read_tiktoken_ranks(content).merges, tables.merges):
        raise InvalidInputError(
            f"cannot write {Path(path)}: a rank file holds tokens only, and the merges of this tokenizer do "
            "not follow from its tokens; export it as tokenizer.json"
        )
    with atomic_write(path) as file:
        file.write(content)


def _parse(name: StrPath, content: bytes) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    used: set[int] = set()
    for number, line in enumerate(content.splitlines(), 1):
        if not line:
            continue
        try:
            encoded, digits = line.split()
            token, rank = base64.b64decode(encoded, validate=True), int(digits)
            problem = "" if token and digits.isdigit() else "has no token or no rank"
        except ValueError:
            problem = "is not base64 and a rank"
        if not problem and (token in ranks or rank in used):
            problem = "repeats a token or a rank"
        if problem:
            raise InvalidInputError(f"cannot load the rank file {name}: line {number} {problem}")
        ranks[token] = rank
        used.add(rank)
    return ranks


def _parts(token: bytes, ranks: dict[bytes, int], below: int) -> list[bytes]:
    """What tiktoken makes of `token` when only the ranks below `below` are there."""
    cuts = list(range(len(token) + 1))

    def joined(i: int) -> int:
        return ranks.get(token[cuts[i] : cuts[i + 2]], _NO_RANK)

    rank_at = [joined(i) for i in range(len(token) - 1)]  # of part i together with part i + 1
    while rank_at and (lowest := min(rank_at)) < below:
        i = rank_at.index(lowest)
        del cuts[i + 1], rank_at[i]
        if i < len(rank_at):
            rank_at[i] = joined(i)
        if i > 0:
            rank_at[i - 1] = joined(i - 1)
    return [token[start:end] for start, end in pairwise(cuts)]

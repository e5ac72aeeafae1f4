"""What a model itself thinks of several continuations of one text: exact log-probabilities of drafts.

Use it to rank or filter drafts that something cheaper made. Cost: one pass; over the drafts alone, with the beginnings
that they share read once, where the cache of the text can be used; else over the text too, once for every draft.
"""

# Shape suffixes: B texts, K drafts of each, R = B * K, L tokens of a text, T tokens with keys, Q new tokens,
# V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers.cache_utils import Cache

from byteloom.generate.rows import padded, tree_inputs
from byteloom.models.attention import CACHE_KEYWORD

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Drafts = Sequence[Sequence[Sequence[int]]]  # token ids: of B texts, K drafts of any lengths of at least 1


@torch.no_grad()
def plain_log_probs(
    model: PreTrainedModel, ids_BL: torch.Tensor, mask_BL: torch.Tensor | None, drafts: Drafts
) -> torch.Tensor:
    """Log-probabilities of the drafts behind the texts, [B, K]; mask_BL: 0 where a text is padded on the left."""
    copies = len(drafts[0])
    draft_RQ = padded([draft for row in drafts for draft in row]).to(ids_BL.device)
    lengths_R = torch.tensor([len(draft) for row in drafts for draft in row], device=ids_BL.device)
    is_draft_RQ = torch.arange(draft_RQ.shape[1], device=ids_BL.device) < lengths_R[:, None]
    past_BL = torch.ones_like(ids_BL) if mask_BL is None else mask_BL.long()
    mask_RL = torch.cat([past_BL.repeat_interleave(copies, 0), is_draft_RQ.long()], dim=1)
    logits_RQV = model(
        input_ids=torch.cat([ids_BL.repeat_interleave(copies, 0), draft_RQ], dim=1),
        attention_mask=mask_RL,
        position_ids=(mask_RL.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=draft_RQ.shape[1] + 1,
    ).logits[:, :-1]
    log_probs_RQ = torch.stack([_log_probs(*row) for row in zip(logits_RQV, draft_RQ, strict=True)])
    return log_probs_RQ.where(is_draft_RQ, 0.0).sum(1).reshape(-1, copies)


@torch.no_grad()
def tree_log_probs(
    model: PreTrainedModel, cache: Cache, past_BL: torch.Tensor, first_BV: torch.Tensor, drafts: Drafts
) -> torch.Tensor:
    """The same where the cache holds the texts, and behind them the drafts afterwards, as many columns as were read.

    past_BL: bool, on the CPU, False where a text is padded. first_BV: logits behind the texts.
    """
    trees = [_Tree(row) for row in drafts]
    logits = [first_BV[:, None]]
    if any(tree.tokens for tree in trees):
        inputs = tree_inputs(model, [tree.parents for tree in trees], past_BL)
        ids_BQ = padded([tree.tokens for tree in trees]).to(model.device)
        logits.append(model(input_ids=ids_BQ, use_cache=True, **inputs, **{CACHE_KEYWORD: cache}).logits)
    rows = []
    for tree, row, *parts in zip(trees, drafts, *logits, strict=True):
        logits_QV = torch.cat(parts)  # behind the text, and behind each token of the tree
        rows.append(
            torch.stack(
                [
                    _log_probs(logits_QV[torch.tensor(path) + 1], torch.tensor(draft, device=logits_QV.device)).sum()
                    for path, draft in zip(tree.paths, row, strict=True)
                ]
            )
        )
    return torch.stack(rows)


def path_log_probs(logits_BQV: torch.Tensor, drafts_B: Sequence[Sequence[int]]) -> torch.Tensor:
    """Log-probabilities [B] of one draft of each text; logits: behind the text and behind each token of the draft."""
    return torch.stack(
        [
            _log_probs(logits_QV[: len(draft)], torch.tensor(draft, device=logits_QV.device)).sum()
            for logits_QV, draft in zip(logits_BQV, drafts_B, strict=True)
        ]
    )


class _Tree:
    """The drafts of a text, without their last tokens, as one tree.

    tokens, parents: of its nodes; -1 is the text. paths: for each token of each draft the node before it.
    """

    def __init__(self, drafts: Sequence[Sequence[int]]) -> None:
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.paths: list[list[int]] = []
        nodes: dict[tuple[int, int], int] = {}
        for draft in drafts:
            path = [-1]
            for token in draft[:-1]:
                node = nodes.setdefault((path[-1], token), len(self.tokens))
                if node == len(self.tokens):
                    self.tokens.append(token)
                    self.parents.append(path[-1])
                path.append(node)
            self.paths.append(path)


def _log_probs(logits_QV: torch.Tensor, tokens_Q: torch.Tensor) -> torch.Tensor:
    """Of each token, [Q], in float32 at least."""
    wide_QV = logits_QV.to(torch.promote_types(logits_QV.dtype, torch.float32))
    return wide_QV.gather(1, tokens_Q[:, None])[:, 0] - wide_QV.logsumexp(1)

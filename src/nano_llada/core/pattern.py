"""Attention masks. One rule serves training, cached decoding, FlexAttention and the tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

Blocked = Literal["block_causal", "two_stream", "two_stream_causal"]
Kind = Literal["causal", "full", "reach"] | Blocked


@dataclass(frozen=True)
class AttentionPattern:
    """Which keys a query attends to within its own document: the only difference between the models of this library.

    * `causal`: itself and the keys before it. The autoregressive model.
    * `full`: all keys. LLaDA 1.0.
    * `block_causal`: the keys of its own block and of earlier blocks. How a block-diffusion model decodes.
    * `two_stream`: trains a block-diffusion model on all blocks in one pass (BD3-LM; LLaDA 2.0, eq. 3). The first
      half of the keys is the noisy text, the second half the clean text. A noisy token attends to its own noisy block
      and to the clean blocks before it; a clean token attends to clean blocks up to its own, and to no noisy token.
    * `two_stream_causal`: the same with a clean text that is read left to right, a clean token attending to itself and
      the clean tokens before it: trains an autoregressive and a block-diffusion model at once (tri-mode).
    * `reach`: the first keys of its row, as many as `key_reach` says of it, and the keys of its own group. What passes
      over rows of several kinds, and over drafts, need in decoding.

    Attributes:
        kind: the rule.
        key_docs: (B, K) document of each key, -1 for padding; None: one document, no padding.
        key_blocks: (B|1, K) block of each key, counted within its document; only for the block patterns.
        key_reach: (B, K), only for `reach`: how many keys a key sees as a query.
        key_groups: (B, K), only for `reach`: groups from 1; 0: none.
        query_slots: (B, Q) which key each query is; None: the queries are the last keys.
    """

    kind: Kind
    key_docs: Tensor | None = None
    key_blocks: Tensor | None = None
    query_slots: Tensor | None = None
    key_reach: Tensor | None = None
    key_groups: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.key_blocks is not None) == (self.kind in ("causal", "full", "reach")):
            raise ValueError(f"pattern {self.kind} {'needs' if self.key_blocks is None else 'has no'} blocks")

    @classmethod
    def packed(cls, kind: Literal["causal", "full"], doc_ids: Tensor) -> AttentionPattern:
        """For rows of packed documents, `doc_ids` (B, L). No mask, which costs time, if a row is one document."""
        return cls(kind, None if _single(doc_ids) else doc_ids)

    @classmethod
    def blocks(cls, kind: Blocked, doc_ids: Tensor, positions: Tensor, block_size: int) -> AttentionPattern:
        """For rows (B, L) of packed documents, in blocks counted from each document's start.

        With two streams the tokens must be the noisy and the clean row side by side, (B, 2L).
        """
        numbers = positions // block_size
        return cls.numbered(kind, doc_ids, numbers[:1] if _single(doc_ids) else numbers)  # then all rows are alike

    @classmethod
    def numbered(cls, kind: Blocked, doc_ids: Tensor, numbers: Tensor) -> AttentionPattern:
        """The same with the number of each position's block within its document, (B|1, L)."""
        if kind != "block_causal":
            numbers, doc_ids = numbers.repeat(1, 2), doc_ids.repeat(1, 2)
        return cls(kind, None if _single(doc_ids) else doc_ids, numbers)

    def allowed(self, row: Tensor, query: Tensor, key: Tensor, keys: int) -> Tensor:
        """Whether a query attends to a key, bool, in the shape to which `row`, `query` and `key` broadcast.

        Args:
            row: rows of the batch, such as (B, 1, 1).
            query: indices of queries among the keys of their row, such as (B|1, Q, 1).
            key: indices of keys, such as (1, 1, K).
            keys: number of keys in a row.
        """
        if self.kind == "causal":
            allowed = query >= key
        elif self.key_reach is not None and self.key_groups is not None:
            group = self.key_groups[row, query]
            allowed = (key < self.key_reach[row, query]) | ((group > 0) & (group == self.key_groups[row, key]))
        elif self.key_blocks is None:
            allowed = key >= 0
        else:
            mine, other = self.key_blocks[row, query], self.key_blocks[row, key]
            if self.kind == "block_causal":
                allowed = mine >= other
            else:
                from_noisy, to_noisy = query < keys // 2, key < keys // 2
                among_clean = query >= key if self.kind == "two_stream_causal" else mine >= other
                to_clean = ~to_noisy & torch.where(from_noisy, mine > other, among_clean)
                allowed = (from_noisy & to_noisy & (mine == other)) | to_clean
        if self.key_docs is not None:
            other_doc = self.key_docs[row, key]
            # a padded query must still see itself, or its softmax has nothing to sum
            allowed = (allowed & (self.key_docs[row, query] == other_doc) & (other_doc >= 0)) | (query == key)
        return allowed

    def is_causal(self, queries: int, keys: int) -> bool:
        """Whether attention needs no explicit mask but the standard causal one."""
        return self.kind == "causal" and self.key_docs is None and queries == keys

    def dense(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """Boolean mask (B|1, 1, Q, K), True where attention is allowed; None if everything is allowed."""
        if self.kind == "full" and self.key_docs is None:
            return None
        rows = torch.arange(self._rows, device=device)[:, None, None]
        if self.query_slots is None:
            query = torch.arange(keys - queries, keys, device=device)[None, :, None]
        else:
            query = self.query_slots[:, :, None]
        return self.allowed(rows, query, torch.arange(keys, device=device)[None, None, :], keys)[:, None]

    def flex(self, queries: int, keys: int, device: torch.device) -> BlockMask | None:
        """The same as `dense` for FlexAttention, which skips what is masked; None if everything is allowed."""
        if self.kind == "full" and self.key_docs is None:
            return None
        shared, first = self._rows == 1, keys - queries

        def rule(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            row = torch.zeros_like(row) if shared else row
            slot = query + first if self.query_slots is None else self.query_slots[row, query]
            return self.allowed(row, slot, key, keys)

        return create_block_mask(rule, None if shared else self._rows, None, queries, keys, device=str(device))

    def stretches(self, queries: int, keys: int) -> list[int] | None:
        """Lengths of the documents of all rows laid end to end, in tokens, padding counting as documents, too.

        None if attention is not `causal` or `full` within each document: a single document, blocks, a cache, or a
        document that is not contiguous.
        """
        docs = self.key_docs
        if docs is None or self.key_blocks is not None or self.query_slots is not None or queries != keys:
            return None
        begins = docs.new_ones(docs.shape, dtype=torch.bool)
        begins[:, 1:] = docs[:, 1:] != docs[:, :-1]
        places = begins.flatten().nonzero()[:, 0]
        rows = torch.arange(len(docs), device=docs.device)[:, None] * (int(docs.max()) + 2)
        if len((rows + docs).unique()) != len(places):
            return None
        ends = torch.cat([places[1:], places.new_tensor([docs.numel()])])
        lengths: list[int] = (ends - places).tolist()
        return lengths

    @property
    def _rows(self) -> int:
        given = [t for t in (self.key_docs, self.key_blocks, self.key_reach, self.query_slots) if t is not None]
        return max((len(tensor) for tensor in given), default=1)


def _single(doc_ids: Tensor) -> bool:
    return bool((doc_ids == 0).all())

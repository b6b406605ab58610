"""Who may attend to whom. One description serves training, cached decoding and the tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["causal", "full"]


@dataclass(frozen=True)
class AttentionPattern:
    """`causal` is the autoregressive model, `full` the masked-diffusion one: their only difference.

    Attributes:
        kind: which keys a query may see within its own document.
        key_docs: (B, K) document of each key, -1 for padding; None: one document, no padding.
    """

    kind: Kind
    key_docs: Tensor | None = None

    @classmethod
    def packed(cls, kind: Kind, doc_ids: Tensor) -> AttentionPattern:
        """For rows of packed documents; the mask is left out where a row is one document, as it costs time."""
        single = bool((doc_ids == 0).all())
        return cls(kind, None if single else doc_ids)

    def is_causal(self, queries: int, keys: int) -> bool:
        """Whether attention needs no explicit mask but the standard causal one."""
        return self.kind == "causal" and self.key_docs is None and queries == keys

    def dense(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """Boolean mask (B|1, 1, Q, K), True where attention is allowed; None if everything is."""
        if self.kind == "full" and self.key_docs is None:
            return None
        q = torch.arange(keys - queries, keys, device=device)[:, None]
        k = torch.arange(keys, device=device)[None, :]
        allowed = (q >= k)[None] if self.kind == "causal" else torch.ones(1, 1, 1, dtype=torch.bool, device=device)
        if self.key_docs is not None:
            query_docs = self.key_docs[:, keys - queries :]  # queries are the last keys
            same = (query_docs[:, :, None] == self.key_docs[:, None, :]) & (self.key_docs >= 0)[:, None, :]
            # a padded query must still see itself, or its softmax has nothing to sum
            allowed = (allowed & same) | (q == k)[None]
        return allowed[:, None]

"""Who may attend to whom, against a brute-force reading of the rule."""

from __future__ import annotations

import pytest
import torch

from nano_llada.core.pattern import AttentionPattern

DOCS = torch.tensor([[0, 0, 1, 1, -1, -1], [-1, -1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]])
CPU = torch.device("cpu")


def brute_force(kind: str, docs: torch.Tensor, queries: int) -> torch.Tensor:
    rows, keys = docs.shape
    allowed = torch.zeros(rows, 1, queries, keys, dtype=torch.bool)
    for row in range(rows):
        for i in range(queries):
            place = keys - queries + i
            for key in range(keys):
                same = docs[row, place] == docs[row, key] and docs[row, key] >= 0
                allowed[row, 0, i, key] = (same and (kind == "full" or key <= place)) or key == place
    return allowed


@pytest.mark.parametrize("kind", ["causal", "full"])
@pytest.mark.parametrize("queries", [6, 2, 1])
def test_dense_equals_brute_force(kind, queries):
    dense = AttentionPattern(kind, DOCS).dense(queries, 6, CPU)
    assert dense is not None
    assert torch.equal(dense, brute_force(kind, DOCS, queries))


def test_causal_without_documents_is_a_triangle():
    dense = AttentionPattern("causal").dense(3, 5, CPU)
    assert dense is not None
    assert dense.tolist() == [[[[True] * 3 + [False] * 2, [True] * 4 + [False], [True] * 5]]]


def test_full_without_documents_needs_no_mask():
    assert AttentionPattern("full").dense(4, 4, CPU) is None


def test_every_query_sees_at_least_itself():
    for kind in ("causal", "full"):
        dense = AttentionPattern(kind, DOCS).dense(6, 6, CPU)
        assert dense is not None
        assert dense.diagonal(dim1=-2, dim2=-1).all()
        assert not dense[:, 0].any(-1).logical_not().any()


def test_padding_is_seen_by_none_but_itself():
    dense = AttentionPattern("full", DOCS).dense(6, 6, CPU)
    assert dense is not None
    for row, place in (DOCS < 0).nonzero().tolist():
        assert dense[row, 0, :, place].nonzero().flatten().tolist() == [place]


def test_packed_drops_the_mask_only_where_every_row_is_one_whole_document():
    assert AttentionPattern.packed("full", torch.zeros(2, 4, dtype=torch.int64)).key_docs is None
    assert AttentionPattern.packed("full", DOCS[2:]).key_docs is None
    for row in (0, 1):
        assert AttentionPattern.packed("causal", DOCS[row : row + 1]).key_docs is not None


@pytest.mark.parametrize(
    ("pattern", "queries", "keys", "expected"),
    [
        (AttentionPattern("causal"), 4, 4, True),
        (AttentionPattern("causal"), 1, 4, False),
        (AttentionPattern("causal", DOCS), 6, 6, False),
        (AttentionPattern("full"), 4, 4, False),
    ],
)
def test_standard_causal_mask_only_for_whole_unpacked_causal_rows(pattern, queries, keys, expected):
    assert pattern.is_causal(queries, keys) is expected

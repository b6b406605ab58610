"""What an importer gives: a model with a row of its embedding for every token, a tokenizer, a card, and remarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from nano_llada.checkpoint.files import unusable
from nano_llada.config.card import ModelCard
from nano_llada.config.model import ModelConfig
from nano_llada.core.errors import UserError
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.interop.layout import start_rows
from nano_llada.model.transformer import Transformer


@dataclass(frozen=True)
class ImportedModel:
    """A model in float32 and evaluation mode, its tokenizer and card, and what had to be assumed or changed."""

    model: Transformer
    tokenizer: Tokenizer
    card: ModelCard
    remarks: tuple[str, ...]


def assemble(
    weights: dict[str, Tensor], config: ModelConfig, tokenizer: Tokenizer, new: Sequence[int], where: str
) -> Transformer:
    """The model of our tensors, in float32 and evaluation mode.

    Embeddings of the tokens `new`, and their rows of an untied head, start at the mean of the rows before them. Rows
    that only pad a vocabulary, which no token has, are left out.

    Raises:
        UserError: for weights that are not finite, or not floating-point numbers.
    """
    for problem in unusable(weights):
        raise UserError(f"{where}: {problem}")
    size = tokenizer.vocab.size
    for name in {"embed.weight", "head.weight"} & set(weights):
        weights[name] = start_rows(weights[name], new)[:size]
    model = Transformer(replace(config, vocab_size=size))
    if config.tie_embeddings:
        weights["head.weight"] = weights["embed.weight"]
    model.load_state_dict(weights)
    return model.eval()

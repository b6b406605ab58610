"""Decoding computes with weights laid out for it: the same texts as the reference, always of the current weights."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch

from nano_llada.config.adapter import Adapter
from nano_llada.config.decoding import Autoregressive, Block, Diffusion, Speculative
from nano_llada.config.model import LongRope, YarnScaling
from nano_llada.core.pattern import AttentionPattern
from nano_llada.decode.engine import BatchSampler, Engine
from nano_llada.decode.forward import rectangles
from nano_llada.decode.lean import Lean, lean_passes
from nano_llada.decode.types import Request, collect
from nano_llada.model.lora import adapted, add_adapters

ALL = {"max_new_tokens": 12, "min_new_tokens": 12}
DRAWN = {"temperature": 0.8, "top_p": 0.95, "seed": 3}
KINDS = {
    "ar": Autoregressive(**ALL),
    "ar-drawn": Autoregressive(**ALL, **DRAWN, repetition_penalty=1.3),
    "speculative": Speculative(**ALL, drafts=3),
    "speculative-drawn": Speculative(**ALL, **DRAWN, predicts="self"),
    "canvas": Diffusion(**ALL, steps=5),
    "canvas-random": Diffusion(**ALL, strategy="random", steps=6, **DRAWN),
    "canvas-blocks": Diffusion(**ALL, block_length=5, cache="dual", threshold=0.6),
    "guided": Diffusion(**ALL, guidance=0.7),
    "block": Block(**ALL, block_size=4, threshold=0.6),
    "block-uncached": Block(**ALL, block_size=4, threshold=0.6, cached=False),
    "causal-blocks": Block(**ALL, block_size=5, threshold=0.5, causal=True, predicts="next"),
    "editing": Block(**ALL, block_size=4, threshold=0.4, edit_threshold=0.3, edit_blocks=1),
}
SHAPES = {
    "plain": {},
    "grouped": {"num_kv_heads": 2, "qk_norm": False},
    "qwen": {"num_kv_heads": 1, "qkv_bias": True, "tie_embeddings": True},
    "yarn": {"head_size": 16, "yarn": YarnScaling(factor=4.0, original_length=16)},
    "long": {"long_rope": LongRope(8.0, 16)},
    "adapted": {},
}
REQUESTS = [Request((6, 7, 8)), Request((9, 20, 11, 12, 13, 9, 23), seed=1), Request((14,) * 9, seed=2)]


def written(model, vocab, decoding, backend=lean_passes):
    done = collect(BatchSampler(model, vocab, decoding, backend=backend).stream(REQUESTS), 3, vocab.ends)
    return [(one.tokens, one.finish, one.forwards) for one in done]


def train(model) -> None:
    """A step of training."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.3, fused=True)
    model(torch.tensor([[6, 7, 8, 9]]), AttentionPattern("causal"))[..., 7].sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.fixture(scope="module", params=SHAPES)
def shaped(request, make_model):
    model = make_model(seed=3, peak=14.0, **SHAPES[request.param])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(generator=torch.Generator().manual_seed(1))
    if request.param == "adapted":
        add_adapters(model, Adapter(2, 4.0), torch.Generator().manual_seed(2))
        train(model)
        assert len(dict(adapted(model))) == 8
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_writes_the_texts_of_the_reference(shaped, vocab, kind):
    found, expected = (written(shaped, vocab, KINDS[kind], backend) for backend in (lean_passes, rectangles))
    assert found == expected
    assert len({tuple(tokens) for tokens, _, _ in found}) > 1


def test_it_is_what_decodes_unless_something_else_is_asked_for(peaky, vocab):
    assert isinstance(Engine(peaky, vocab, KINDS["ar"]).backend, Lean)
    assert lean_passes.prepared(peaky).exact


@pytest.mark.parametrize("way", ["step", "load", "assign", "data"])
def test_weights_are_laid_out_once_and_again_after_a_change(make_model, vocab, way):
    model, other = make_model(seed=1, peak=14.0), make_model(seed=2, peak=14.0)
    first = lean_passes.prepared(model)
    before = written(model, vocab, KINDS["block"])
    assert lean_passes.prepared(model) is first
    if way == "step":
        train(model)
    elif way == "data":
        model.embed.weight.data = other.embed.weight.data.clone()
    else:
        model.load_state_dict(other.state_dict(), assign=way == "assign")
    assert lean_passes.prepared(model) is not first
    after = written(model, vocab, KINDS["block"])
    assert after != before
    assert after == written(model, vocab, KINDS["block"], rectangles)


def test_what_was_laid_out_is_freed_when_it_is_forgotten_and_not_copied(make_model):
    model = make_model()
    made = weakref.ref(lean_passes.prepared(model))
    other = copy.deepcopy(model)
    assert lean_passes.prepared(other) is not made()
    model.forget()
    gc.collect()
    assert made() is None


def test_a_model_made_in_inference_mode_is_decoded_too(make_model, vocab):
    with torch.inference_mode():
        model = make_model(peak=14.0)
    assert written(model, vocab, KINDS["ar"]) == written(model, vocab, KINDS["ar"], rectangles)

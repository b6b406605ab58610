"""examples/one_file.py computes what the library computes, and is what it claims to be: short, and alone."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from built import act
from nano_llada.config.model import ModelConfig
from nano_llada.config.objectives import Denoising, Masking
from nano_llada.core.batch import StepContext, TokenBatch, Vocabulary
from nano_llada.core.pattern import AttentionPattern
from nano_llada.model.transformer import Transformer

ROOT = Path(__file__).parents[1]
FILE, DOCS = ROOT / "examples" / "one_file.py", ROOT / "docs"
TOKENS, LENGTH, WIDTH, LAYERS, HEADS = 20, 24, 48, 2, 4  # a head of 12, a SwiGLU of 128
MASK = TOKENS - 1


@pytest.fixture(scope="module")
def one() -> ModuleType:
    spec = importlib.util.spec_from_file_location("one_file", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ours(one) -> nn.Module:
    torch.manual_seed(3)
    model = one.Transformer(TOKENS, WIDTH, LAYERS, HEADS)
    with torch.no_grad():  # gains that differ from 1, or the test could not tell the norms apart
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(0.5 + torch.rand(len(parameter), generator=torch.Generator().manual_seed(len(name))))
    return model


@pytest.fixture
def library(ours) -> Transformer:
    model = Transformer(ModelConfig(vocab_size=TOKENS, hidden_size=WIDTH, num_layers=LAYERS, num_heads=HEADS))
    model.load_state_dict(ours.state_dict(), strict=True)
    return model


@pytest.fixture
def batch() -> TokenBatch:
    tokens = torch.randint(0, MASK, (6, LENGTH), generator=torch.Generator().manual_seed(5))
    positions = torch.arange(LENGTH).expand(6, -1)
    return TokenBatch(
        tokens, torch.ones_like(tokens, dtype=torch.bool), torch.zeros_like(tokens), positions, torch.arange(6)
    )


@pytest.fixture
def context() -> StepContext:
    vocab = Vocabulary(size=TOKENS, mask=MASK, eos=0, turn_start=1, turn_end=2)
    return StepContext(vocab, seed=1, step=4, total_steps=10, global_rows=6)


class Recorder(nn.Module):
    """Logits that depend on the position alone, or prefer MASK; records every canvas it is given."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits, self.seen = logits, []

    def forward(self, tokens: Tensor) -> Tensor:
        self.seen.append(tokens.clone())
        return self.logits.expand(len(tokens), -1, -1).clone()


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- the same as the library


def test_same_logits(ours, library, batch):
    noisy = batch.tokens.masked_fill(batch.tokens % 3 == 0, MASK)
    torch.testing.assert_close(ours(noisy), library(noisy, AttentionPattern("full")), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask_count", ["exact", "bernoulli"])
def test_same_loss_and_gradients(one, ours, library, batch, context, mask_count):
    masking = Masking(mask_count=mask_count)
    noise = act(masking).corrupt(batch, context)  # a function of (seed, step, row): the objective draws the same
    assert 0 < int(noise.masked.sum()) < noise.masked.numel()
    theirs = act(Denoising(corruption=masking)).loss(library, batch, context)
    theirs_mean = theirs.total / theirs.count
    weights = noise.weights.amax(1, keepdim=True)  # one a row; the library's are 0 at visible tokens
    mine = one.diffusion_loss(ours, batch.tokens, noise.masked, weights, MASK)
    torch.testing.assert_close(mine.detach(), theirs_mean.detach(), rtol=0, atol=1e-5)
    theirs_mean.backward()
    mine.backward()
    expected = dict(library.named_parameters())
    assert sum(float(p.grad.abs().sum()) > 0 for p in ours.parameters()) == len(expected)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-5, msg=name)


# ---- forward process


def test_exact_count_masks_one_to_all_tokens_and_weighs_each_row_alike(one):
    tokens = torch.zeros(48, LENGTH, dtype=torch.int64)
    masked, weights = one.corrupt(tokens, "exact", rng())
    counts = masked.sum(1, keepdim=True)
    torch.testing.assert_close(counts * weights, torch.full((48, 1), float(LENGTH)))  # so E[weight * masked / L] = 1
    # times are stratified: 48 rows draw each of the 24 counts twice
    assert sorted(counts.flatten().tolist()) == sorted(list(range(1, LENGTH + 1)) * 2)
    assert bool((masked.float().mean(0) > 0.3).all())  # any position may be masked


def test_bernoulli_masks_a_share_t_and_weighs_it_one_over_t(one):
    tokens = torch.zeros(4000, LENGTH, dtype=torch.int64)
    masked, weights = one.corrupt(tokens, "bernoulli", rng())
    t = 1 / weights[:, 0]
    assert abs(float((masked.float().mean(1) - t).mean())) < 0.005
    late, early = masked[t > 0.9].float().mean(), masked[t < 0.1].float().mean()
    assert abs(float(late) - 0.95) < 0.02
    assert abs(float(early) - 0.05) < 0.02
    assert abs(float((weights * masked).mean()) - 1) < 0.1


# ---- reverse process


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_one_token_a_pass_runs_as_many_passes_as_there_are_masks(one, temperature):
    logits = torch.randn(1, 10, TOKENS, generator=rng(1)) - 50
    logits[..., MASK] = 100.0  # a model that wants nothing but MASK
    canvas = torch.full((2, 10), MASK)
    canvas[:, :3] = torch.tensor([5, 6, 7])
    canvas[:, 8] = 4  # known text need not be at the beginning
    model = Recorder(logits)
    given = canvas.clone()
    states = list(one.denoise(model, canvas, MASK, 6, temperature, rng()))
    assert len(model.seen) == len(states) == 6
    for number, state in enumerate(states, start=1):
        assert (state == MASK).sum(1).tolist() == [6 - number] * 2
        assert bool((state[given != MASK] == given[given != MASK]).all())
    for before, after in itertools.pairwise(states):  # what is committed stays
        assert bool((after[before != MASK] == before[before != MASK]).all())


def test_the_most_confident_tokens_come_first_and_passes_share_the_work(one):
    sure = torch.tensor([0.0, 5.0, 1.0, 4.0, 2.0, 3.0, 6.0])
    logits = torch.zeros(1, 7, TOKENS)
    logits[0, torch.arange(7), torch.arange(7)] = sure
    states = list(one.denoise(Recorder(logits), torch.full((1, 7), MASK), MASK, 3, 0.0, rng()))
    written = [set((state[0] != MASK).nonzero()[:, 0].tolist()) for state in states]
    assert written == [{6, 1, 3}, {6, 1, 3, 5, 4}, set(range(7))]  # 3, 2 and 2 tokens
    assert states[-1][0].tolist() == list(range(7))


def test_tokens_are_drawn_from_the_models_distribution_without_mask(one):
    logits = torch.tensor([0.0, 1.0, 2.0, 9.0])  # the last is MASK
    canvas = torch.full((20_000, 1), 3)
    (drawn,) = one.denoise(Recorder(logits[None, None]), canvas, 3, 1, 1.0, rng())
    shares = torch.bincount(drawn[:, 0], minlength=4) / len(canvas)
    torch.testing.assert_close(shares[:3], logits[:3].softmax(0), rtol=0, atol=0.015)
    assert shares[3] == 0


def test_rows_with_different_numbers_of_masks_are_filled_together(one):
    canvas = torch.full((2, 8), MASK)
    canvas[1, :6] = 3
    *_, final = one.denoise(Recorder(torch.randn(1, 8, TOKENS, generator=rng(2))), canvas, MASK, 4, 0.0, rng())
    assert MASK not in final
    assert final[1, :6].tolist() == [3] * 6


def test_more_passes_than_masks_cost_nothing(one):
    model = Recorder(torch.randn(1, 5, TOKENS, generator=rng(2)))
    assert len(list(one.denoise(model, torch.full((1, 5), MASK), MASK, 50, 0.0, rng()))) == 5


# ---- the whole


def test_a_short_run_lowers_the_loss_and_shows_its_work(one, capsys):
    assert one.main(["--steps", "42", "--length", "30"]) == 0
    out = capsys.readouterr().out
    losses = [float(line.split()[3]) for line in out.splitlines() if line.startswith("step")]
    assert len(losses) == 6
    assert losses[-1] < 0.9 * losses[0]
    final = out.splitlines()[-1]
    assert repr(one.VERSE[:6])[1:-1] in final  # the prompt: a fifth of the row
    assert "_" not in final


@pytest.mark.parametrize("mask_count", ["exact", "bernoulli"])
def test_a_text_of_ones_own(one, tmp_path, capsys, mask_count):
    text = tmp_path / "text.txt"
    text.write_text("猫在河边。狗在山上。" * 9, encoding="utf-8")
    options = ["--text", str(text), "--prompt", "狗在", "--steps", "2", "--length", "12", "--mask-count", mask_count]
    assert one.main(options) == 0
    assert "狗在" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--length", "9000"], "prompt < --length"),
        (["--length", "4", "--prompt", "first"], "prompt < --length"),
        (["--steps", "0"], "--steps of at least 1"),
        (["--prompt", "猫"], "does not contain"),
        (["--text", "missing.txt"], "cannot read --text missing.txt"),
    ],
)
def test_impossible_options_are_refused_with_the_reason(one, capsys, options, reason):
    with pytest.raises(SystemExit) as stopped:
        one.main(options)
    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err


def test_it_is_short_imports_nothing_of_ours_and_does_nothing_when_imported():
    source = FILE.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 200
    tree = ast.parse(source)
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(str(node.module).split(".")[0])
    assert names <= {"torch"} | set(sys.stdlib_module_names)
    assert source.count("parser.add_argument(") <= 6
    docstring, *statements, last = tree.body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(docstring.value, ast.Constant)
    assert all(
        isinstance(s, ast.Import | ast.ImportFrom | ast.ClassDef | ast.FunctionDef | ast.Assign) for s in statements
    )
    assert all(isinstance(s.value, ast.Constant) for s in statements if isinstance(s, ast.Assign))
    assert isinstance(last, ast.If)
    assert ast.unparse(last.test) == "__name__ == '__main__'"


# ---- the pages that explain it

PAGES = ("concepts.md", "concepts_cn.md")


@pytest.mark.parametrize("name", PAGES)
def test_a_concepts_page_names_only_files_that_exist(name):
    text = (DOCS / name).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    modules = re.findall(r"`((?:config|core|diffusion|objectives|decode)/\w+\.py)`", text)
    assert len(targets) > 10
    assert len(modules) >= 20
    missing = [target for target in targets if not (DOCS / target).exists()]
    missing += [module for module in modules if not (DOCS.parent / "src" / "nano_llada" / module).exists()]
    assert missing == []


def test_both_languages_have_the_same_equations_links_pictures_and_headings():
    english, chinese = ((DOCS / name).read_text(encoding="utf-8") for name in PAGES)
    for pattern in (r"\]\(([^)]+)\)", r"`([^`]+)`", r"^(#+) ", r"^ {4}.*\((\d)\)$", r"^(\| ?)", r"\d+\.\d+"):
        found = [sorted(re.findall(pattern, text, re.MULTILINE)) for text in (english, chinese)]
        swapped = [entry.replace("concepts_cn.md", "concepts.md") for entry in found[0]]
        assert swapped == found[1], pattern


def test_the_file_numbers_its_equations_as_the_pages_do():
    numbers = {int(number) for number in re.findall(r"^    \((\d)\) ", FILE.read_text(encoding="utf-8"), re.MULTILINE)}
    equations = re.findall(r"^ {4}.*\((\d)\)$", (DOCS / "concepts.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert numbers == {1, 2, 3, 4, 5}
    assert [int(number) for number in equations] == [1, 2, 3, 4, 5, 6, 7]

"""Checkpoints: what is loaded is what was saved, anything else is refused, and a write that fails harms nothing."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nano_llada.checkpoint.files import (
    find_checkpoint,
    load_checkpoint,
    load_weights,
    model_weights,
    save_model,
    write_checkpoint,
)
from nano_llada.checkpoint.manager import RunCheckpoints
from nano_llada.config.card import ModelCard
from nano_llada.config.model import ModelConfig
from nano_llada.core.errors import UserError
from nano_llada.core.pattern import AttentionPattern
from nano_llada.data.tokenizer import Tokenizer, train_characters
from nano_llada.model.transformer import Transformer

UNTOUCHED = "earlier checkpoints are untouched"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_characters(["Tom has a red ball. 汤姆有一个红色的球。"])


def small_model(tokenizer: Tokenizer, *, tied: bool = False, seed: int = 0, **shape) -> Transformer:
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "max_length": 64} | shape
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab.size, tie_embeddings=tied, **sizes))
    model.initialise(torch.Generator().manual_seed(seed))
    return model.eval()


def save(folder: Path, model: Transformer, tokenizer: Tokenizer) -> Path:
    folder.mkdir(parents=True)
    save_model(folder, model_weights(model), model.config, tokenizer, ModelCard("diffusion", "sft", step=7))
    return folder


@pytest.fixture
def saved(tmp_path, tokenizer) -> Path:
    return save(tmp_path / "model", small_model(tokenizer), tokenizer)


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_a_loaded_model_gives_the_same_logits_bit_for_bit(tmp_path, tokenizer, tied):
    model = small_model(tokenizer, tied=tied)
    loaded = load_checkpoint(save(tmp_path / "model", model, tokenizer))
    tokens = torch.randint(tokenizer.vocab.size, (2, 20), generator=torch.Generator().manual_seed(1))
    for kind in ("causal", "full"):
        assert torch.equal(loaded.model(tokens, AttentionPattern(kind)), model(tokens, AttentionPattern(kind)))
    assert (loaded.card, loaded.model.training) == (ModelCard("diffusion", "sft", step=7), False)
    assert loaded.tokenizer.hash == tokenizer.hash
    assert loaded.model.config == model.config


def test_a_tied_head_stands_once_in_the_file_and_stays_tied(tmp_path, tokenizer):
    folder = save(tmp_path / "model", small_model(tokenizer, tied=True), tokenizer)
    assert "head.weight" not in load_file(folder / "model.safetensors")
    model = load_checkpoint(folder).model
    assert model.head.weight is model.embed.weight


def test_a_checkpoint_works_after_it_was_moved(saved, tmp_path):
    before = model_weights(load_checkpoint(saved).model)
    moved = shutil.move(saved, tmp_path / "elsewhere")
    after = model_weights(load_checkpoint(Path(moved)).model)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_a_tied_model_does_not_take_an_untied_file(tmp_path, tokenizer):
    folder = save(tmp_path / "model", small_model(tokenizer), tokenizer)
    with pytest.raises(UserError, match=r"model\.safetensors has head\.weight, which the model does not"):
        load_weights(small_model(tokenizer, tied=True), folder / "model.safetensors")


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("norm.weight"), "model.safetensors lacks norm.weight"),
        (
            lambda w: [w.pop(n) for n in [*w] if n.endswith("_norm.weight")],
            "lacks blocks.0.attention.k_norm.weight and",
        ),
        (lambda w: w.update(extra=torch.zeros(2)), "model.safetensors has extra, which the model does not"),
        (lambda w: w.update({"norm.weight": torch.ones(31)}), "norm.weight is (31,), the model's is (32,)"),
    ],
)
def test_weights_are_read_strictly(saved, change, message):
    change_weights(saved, change)
    with pytest.raises(UserError) as caught:
        load_checkpoint(saved)
    assert message in str(caught.value)


def test_a_failed_load_leaves_the_model_as_it_was(saved, tokenizer):
    model = small_model(tokenizer, seed=5)
    before = {name: weight.clone() for name, weight in model_weights(model).items()}
    change_weights(saved, lambda w: w.update({"norm.weight": torch.ones(31)}))
    with pytest.raises(UserError):
        load_weights(model, saved / "model.safetensors")
    assert all(torch.equal(weight, before[name]) for name, weight in model_weights(model).items())


def spoil(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_weights_file_is_refused(saved, keep):
    path = saved / "model.safetensors"
    spoil(path, path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors is corrupt or not a safetensors file"):
        load_checkpoint(saved)


def test_a_pickle_under_the_name_of_a_weights_file_is_refused_and_not_run(saved, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    spoil(saved / "model.safetensors", pickle.dumps(Evil()))
    with pytest.raises(UserError, match="is corrupt or not a safetensors file"):
        load_checkpoint(saved)
    torch.save({"model": Evil()}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt is a pickle file, and unpickling can run anything"):
        load_checkpoint(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "model.json cannot be read"),
        (b"\xff\xfe", "model.json cannot be read"),
        (b"[]", "model.json"),
        (b'{"format": 99}', "has format 99; this version reads 1"),
        (b'{"format": 1}', "model.json"),
    ],
)
def test_a_broken_model_json_is_named(saved, data, message):
    spoil(saved / "model.json", data)
    with pytest.raises(UserError) as caught:
        load_checkpoint(saved)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "not a multiple of num_heads 3"),
        ({"hiden_size": 32}, "did you mean 'hidden_size'?"),
        ({"hidden_size": "wide"}, "expected int, got 'wide'"),
    ],
)
def test_a_shape_that_cannot_be_is_named(saved, changes, message):
    shape = json.loads((saved / "model.json").read_text())
    shape["model"] |= changes
    (saved / "model.json").write_text(json.dumps(shape))
    with pytest.raises(UserError) as caught:
        load_checkpoint(saved)
    assert message in str(caught.value)


def test_the_wrong_tokenizer_is_noticed_by_its_hash(saved, tokenizer):
    right = tokenizer.hash
    other = train_characters(["something else"])
    other.save(saved)
    with pytest.raises(UserError, match=rf"hash {other.hash}.* not the one the model was trained with.*{right}"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "model.safetensors is missing"),
        ("model.json", "no checkpoint in .*: neither model.json nor a step-N folder"),
        ("tokenizer.json", "tokenizer.json is missing"),
    ],
)
def test_a_missing_file_is_named(saved, name, message):
    (saved / name).unlink()
    with pytest.raises(UserError, match=message):
        load_checkpoint(saved)


def test_a_path_means_itself_its_file_or_the_best_or_last_of_a_run(tmp_path, tokenizer):
    run = tmp_path / "run"
    folders = [
        save(run / f"step-{step:06d}", small_model(tokenizer, seed=step), tokenizer) for step in (9, 10, 1000000)
    ]
    assert find_checkpoint(folders[0]) == folders[0]
    assert find_checkpoint(folders[0] / "model.safetensors") == folders[0]
    assert find_checkpoint(run) == find_checkpoint(run, "last") == folders[2]  # by number, not by name
    (run / "best.json").write_text('{"checkpoint": "step-000010"}')
    assert find_checkpoint(run) == folders[1]
    assert find_checkpoint(run, "last") == folders[2]
    (run / "best.json").write_text('{"checkpoint": "step-000011"}')
    assert find_checkpoint(run) == folders[2]
    with pytest.raises(UserError, match="there is no such file or folder"):
        find_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("best", ["", "{}", "[1]"])
def test_a_broken_best_json_is_named(tmp_path, tokenizer, best):
    save(tmp_path / "run" / "step-000001", small_model(tokenizer), tokenizer)
    (tmp_path / "run" / "best.json").write_text(best)
    with pytest.raises(UserError, match=r"best\.json"):
        find_checkpoint(tmp_path / "run")


def test_a_folder_that_only_looks_like_a_checkpoint_is_passed_over(tmp_path, tokenizer):
    folder = save(tmp_path / "run" / "step-000001", small_model(tokenizer), tokenizer)
    (tmp_path / "run" / "step-notes").mkdir()
    assert find_checkpoint(tmp_path / "run") == folder


def manager(run: Path, tokenizer: Tokenizer, **keep):
    """A run's checkpoints, and a way to save one whose only weight says which step it is of."""
    checkpoints = RunCheckpoints(run, **({"keep_last": 2, "keep_best": 1} | keep))
    model = small_model(tokenizer)

    def store(step: int, loss: float | None = None) -> None:
        with torch.no_grad():
            model.norm.weight.fill_(float(step))
        fill = lambda folder: save_model(folder, model_weights(model), model.config, tokenizer, ModelCard("ar"))  # noqa: E731
        checkpoints.save(step, fill, ({"moment": torch.tensor([step])}, {"step": step}), loss)

    return checkpoints, store


def steps(run: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in run.glob("step-*"))


def test_the_newest_and_the_best_are_kept_and_the_rest_dropped(tmp_path, tokenizer):
    checkpoints, store = manager(tmp_path, tokenizer, keep_last=2, keep_best=1)
    for step, loss in enumerate([3.0, 1.0, 2.0, None, 2.5], 1):
        store(step, loss)
    assert steps(tmp_path) == [2, 4, 5]
    assert json.loads((tmp_path / "best.json").read_text()) == {"checkpoint": "step-000002", "validation_loss": 1.0}
    assert checkpoints.losses == {"step-000002": 1.0, "step-000005": 2.5}
    assert load_checkpoint(tmp_path).folder.name == "step-000002"
    store(6, 0.5)
    assert steps(tmp_path) == [5, 6]
    assert load_checkpoint(tmp_path).folder.name == "step-000006"


@pytest.mark.parametrize(("keep_last", "keep_best", "left"), [(1, 0, [5]), (1, 2, [1, 3, 5]), (3, 0, [3, 4, 5])])
def test_keep_last_and_keep_best(tmp_path, tokenizer, keep_last, keep_best, left):
    _, store = manager(tmp_path, tokenizer, keep_last=keep_last, keep_best=keep_best)
    for step, loss in enumerate([1.0, 4.0, 2.0, 5.0, 6.0], 1):
        store(step, loss)
    assert steps(tmp_path) == left
    if not keep_best:
        assert not (tmp_path / "best.json").exists()


def test_resume_gives_back_weights_state_and_losses(tmp_path, tokenizer):
    _, store = manager(tmp_path, tokenizer)
    for step, loss in ((3, 1.5), (6, 2.5)):
        store(step, loss)
    leftover = tmp_path / ".step-000009.writing"
    leftover.mkdir()
    again = RunCheckpoints(tmp_path, 2, 1)
    model = small_model(tokenizer, seed=9)
    saved = again.resume(model)
    tensors, plain = saved.tensors, saved.plain
    assert plain == {"step": 6}
    assert torch.equal(tensors["moment"], torch.tensor([6]))
    assert torch.equal(model.norm.weight, torch.full((32,), 6.0))
    assert again.losses == {"step-000003": 1.5, "step-000006": 2.5}
    assert not leftover.exists()


def test_a_model_without_training_state_cannot_be_resumed(tmp_path, tokenizer):
    save(tmp_path / "step-000001", small_model(tokenizer), tokenizer)
    with pytest.raises(UserError, match="holds a model but no training state; start a new run with --init-from"):
        RunCheckpoints(tmp_path, 1, 0).resume(small_model(tokenizer))


@pytest.mark.parametrize(
    ("name", "data"), [("training.safetensors", b""), ("training.json", b"{"), ("training.json", b"[]")]
)
def test_a_broken_training_state_is_named(tmp_path, tokenizer, name, data):
    checkpoints, store = manager(tmp_path, tokenizer)
    store(1)
    spoil(tmp_path / "step-000001" / name, data)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        checkpoints.resume(small_model(tokenizer))


class Crash(BaseException):
    """Not an error that anything would catch, like being killed."""


@pytest.mark.parametrize("error", [Crash(), RuntimeError("bug")])
def test_a_fill_that_fails_half_way_leaves_the_old_checkpoint_and_no_new_folder(tmp_path, error):
    def fill(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise error

    old = tmp_path / "step-000001"
    write_checkpoint(old, lambda folder: (folder / "file").write_text("old"))
    for name in ("step-000001", "step-000002"):
        with pytest.raises(type(error)):
            write_checkpoint(tmp_path / name, fill)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-000001"]
    assert [path.name for path in old.iterdir()] == ["file"]
    assert (old / "file").read_text() == "old"


def test_a_full_disk_is_told_and_harms_no_earlier_checkpoint(tmp_path, tokenizer, monkeypatch):
    checkpoints, store = manager(tmp_path, tokenizer)
    store(1, 2.0)
    before = {path.name: path.read_bytes() for path in (tmp_path / "step-000001").iterdir()}

    def full(*args) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("nano_llada.checkpoint.manager.save_file", full)
    with pytest.raises(UserError, match=f"step-000002: No space left on device; {UNTOUCHED}"):
        store(2, 1.0)
    assert checkpoints.losses == {"step-000001": 2.0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.json", "step-000001"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "step-000001").iterdir()} == before


def test_a_real_full_disk(tmp_path, tokenizer):
    def fill(folder: Path) -> None:
        (folder / "weights").symlink_to("/dev/full")
        (folder / "weights").write_bytes(b"x")

    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(UserError, match=UNTOUCHED):
        write_checkpoint(tmp_path / "step-000001", fill)
    assert list(tmp_path.iterdir()) == []


def test_every_file_reaches_the_disk_before_the_folder_gets_its_name(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr("os.fsync", lambda number: events.append("flush"))
    replace = __import__("os").replace
    monkeypatch.setattr("os.replace", lambda a, b: (events.append("name"), replace(a, b)))
    write_checkpoint(tmp_path / "new", lambda folder: [(folder / name).write_text("x") for name in "ab"])
    assert events[:4] == ["flush", "flush", "flush", "name"]  # two files, then their names

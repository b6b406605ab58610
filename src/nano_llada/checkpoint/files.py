"""Checkpoints: a folder with weights, shape and tokenizer that needs nothing else to be used. Never a pickle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from nano_llada.checkpoint.checksums import (
    DamagedCheckpoint,
    check_checksums,
    check_readable,
    file_hash,
    read_json,
    write_checksums,
)
from nano_llada.config.adapter import Adapter
from nano_llada.config.card import ModelCard
from nano_llada.config.model import FREE_FIELDS, ModelConfig
from nano_llada.config.record import from_plain, to_plain
from nano_llada.core.errors import UserError
from nano_llada.core.files import reason_of, write_folder
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.model.lora import adapter_weights, add_adapters, plain_weights
from nano_llada.model.quantised import broken_scales, dequantise_state, is_quantised, quantised_shapes
from nano_llada.model.transformer import Transformer

FORMAT = 2
ADAPTER = "adapter.safetensors"  # in place of WEIGHTS: the low-rank change of another checkpoint
MASK_ROW = "embed.mask"  # in ADAPTER: the embedding of the mask, which a base that was autoregressive lacks
WEIGHTS, SHAPE, TRAINING, PROGRESS = "model.safetensors", "model.json", "training.safetensors", "training.json"
BEST = "best.json"  # in a run folder: names its best checkpoint
BUNDLED = Path(__file__).parents[1] / "assets" / "models"  # a folder for each model that comes with the package


@dataclass(frozen=True)
class Checkpoint:
    """A model that can be used, and what it is."""

    model: Transformer
    tokenizer: Tokenizer
    card: ModelCard
    folder: Path


def save_model(
    folder: Path,
    weights: Mapping[str, Tensor],
    config: ModelConfig,
    tokenizer: Tokenizer,
    card: ModelCard,
) -> None:
    """Write the files of a model into an existing folder; `weights` may be in eight bits (see `quantise_state`)."""
    _write_tensors(folder / WEIGHTS, weights)
    _write_description(folder, config, tokenizer, card, {})


def save_adapter(folder: Path, model: Transformer, tokenizer: Tokenizer, card: ModelCard, adapter: Adapter) -> None:
    """Write the adapters of a model, without what they change, into an existing folder inside a run folder."""
    weights = adapter_weights(model)
    if card.denoising:
        weights[MASK_ROW] = model.embed.weight[tokenizer.vocab.mask].detach()
    _write_tensors(folder / ADAPTER, weights)
    _write_description(folder, model.config, tokenizer, card, {"adapter": to_plain(adapter)})


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def _write_description(
    folder: Path, config: ModelConfig, tokenizer: Tokenizer, card: ModelCard, more: Mapping[str, Any]
) -> None:
    shape = {
        "format": FORMAT,
        "card": to_plain(card),
        "model": to_plain(config),
        "tokenizer_hash": tokenizer.hash,
        **more,
    }
    (folder / SHAPE).write_text(json.dumps(shape, indent=2) + "\n", encoding="utf-8")
    tokenizer.save(folder)


def model_weights(model: Transformer) -> dict[str, Tensor]:
    """The weights by name, adapters merged; a tied head is the embedding and stands once."""
    weights = plain_weights(model)
    if model.config.tie_embeddings:
        del weights["head.weight"]
    return weights


def write_checkpoint(folder: Path, fill: Callable[[Path], None]) -> None:
    """`core.files.write_folder` for a checkpoint, with the checksums of its files.

    Raises:
        UserError: if the disk is full or the place cannot be written.
    """

    def fill_and_sum(hidden: Path) -> None:
        fill(hidden)
        if (hidden / SHAPE).is_file():  # one of ours, not an export for another program
            write_checksums(hidden)

    try:
        write_folder(folder, fill_and_sum)
    except (OSError, SafetensorError) as error:
        why = reason_of(error)
        raise UserError(f"cannot write the checkpoint {folder}: {why}; earlier checkpoints are untouched") from error


def find_checkpoint(path: Path, prefer: Literal["best", "last"] = "best") -> Path:
    """The checkpoint folder that a path means: itself, the best (or last) one of a run folder, or a bundled model's.

    Raises:
        UserError: if there is none, it cannot be read, or the path is a pickle file.
    """
    try:
        return _find_checkpoint(path, prefer)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason_of(error).lower()}") from error


def _find_checkpoint(path: Path, prefer: Literal["best", "last"]) -> Path:
    if path.is_file():
        if path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl"):
            raise UserError(
                f"{path} is a pickle file, and unpickling can run anything; give a checkpoint folder with {WEIGHTS} "
                f"(nano-llada import {path} --out FOLDER reads its tensors safely)"
            )
        path = path.parent
    found = bundled_models()
    if str(path) in found and not ((path / SHAPE).is_file() or step_folders(path)):
        return found[str(path)]  # also beside a folder of that name that holds something else
    if not path.exists():
        names = f"; models in this package: {', '.join(found)}" if found else ""
        raise UserError(f"no checkpoint at {path}: there is no such file or folder (from {Path.cwd()}){names}")
    next(path.iterdir(), None)  # a folder that may not be read is not an empty one
    if (path / SHAPE).is_file():
        return path
    steps = step_folders(path)
    if not steps:
        raise UserError(f"no checkpoint in {path}: neither {SHAPE} nor a step-N folder")
    if prefer == "best" and (path / BEST).is_file():
        name = read_json(path / BEST, "checkpoint")["checkpoint"]
        if not isinstance(name, str) or not _is_step(name):
            raise UserError(f"{path / BEST} is broken: {str(name)[:80]!r} is no checkpoint's name; delete it")
        if (path / name).is_dir():
            return path / name
    return steps[-1]


def bundled_models() -> dict[str, Path]:
    """Names and folders of the models that come with this package."""
    return {folder.parent.name: folder.parent for folder in sorted(BUNDLED.glob(f"*/{SHAPE}"))}


@dataclass(frozen=True)
class Description:
    """What model.json says."""

    card: ModelCard
    config: ModelConfig
    tokenizer_hash: str
    adapter: Adapter | None = None


def read_description(folder: Path) -> Description:
    """The contents of model.json, of this version or of 0.1.0. Raises UserError if it is broken."""
    path = folder / SHAPE
    found = read_json(path, "format")
    if found["format"] not in (1, FORMAT):
        raise UserError(f"{path} has format {repr(found['format'])[:80]}; this version reads 1 and {FORMAT}")
    first = found["format"] == 1
    plain = read_json(path, "model", "tokenizer_hash", *(("track", "info") if first else ("card",)))
    try:
        config = from_plain(ModelConfig, plain["model"], where=f"{path}: model")
        if first:
            card = ModelCard.from_format_1(plain["track"], plain["info"])
        else:
            card = from_plain(ModelCard, plain["card"], where=f"{path}: card")
        stated = found.get("adapter")
        adapter = None if stated is None else from_plain(Adapter, stated, where=f"{path}: adapter")
    except (ValueError, TypeError, ArithmeticError, AttributeError, LookupError, RecursionError) as error:
        raise UserError(f"{path}: {error}") from error
    return Description(card, config, plain["tokenizer_hash"], adapter)


def step_folders(run: Path) -> list[Path]:
    """The checkpoints of a run by step; none if there is no such folder. Raises UserError if it may not be read."""
    try:
        found = [path for path in run.iterdir() if _is_step(path.name) and path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:  # never take a run that cannot be listed for one that has nothing
        raise UserError(f"{run} cannot be read: {reason_of(error).lower()}") from error
    return sorted(found, key=step_of)


def _is_step(name: str) -> bool:
    number = name.removeprefix("step-")
    return name.startswith("step-") and number.isascii() and number.isdigit() and len(number) < 20


def step_of(folder: Path) -> int:
    """The step of a step-N folder."""
    return int(folder.name.removeprefix("step-"))


def load_checkpoint(
    path: Path, device: torch.device | str = "cpu", prefer: Literal["best", "last"] = "best"
) -> Checkpoint:
    """A model ready for use, in evaluation mode; adapters are merged into the model that they change.

    Raises:
        UserError: for missing, unreadable or damaged files, shapes that do not fit, weights that are not finite, a
            tokenizer that is not the model's, or an adapter whose base model is missing or has changed.
    """
    checkpoint = load_unmerged(path, prefer)
    model = checkpoint.model
    if not model.embed.weight.requires_grad:  # frozen: it has adapters
        weights = plain_weights(model)
        model = Transformer(model.config)
        model.load_state_dict(weights)
    return replace(checkpoint, model=model.to(device).eval())


def load_unmerged(path: Path, prefer: Literal["best", "last"] = "best") -> Checkpoint:
    """As `load_checkpoint` does, with the adapters of a model beside its frozen matrices. Raises UserError."""
    folder = find_checkpoint(path, prefer)
    described = read_description(folder)
    check_readable(folder / "tokenizer.json")
    tokenizer = Tokenizer.load(folder)
    if tokenizer.hash != described.tokenizer_hash:
        raise UserError(
            f"the tokenizer in {folder} (hash {tokenizer.hash}) is not the one the model was trained with "
            f"({described.tokenizer_hash}); put the original tokenizer.json back"
        )
    if described.adapter is None:
        check_shapes(described.config, folder / WEIGHTS)
    try:
        check_checksums(folder)
    except DamagedCheckpoint as error:
        others = [other.name for other in step_folders(folder.parent) if other != folder]
        if not others or folder == path:
            raise
        raise DamagedCheckpoint(f"{error}; other checkpoints in {path}: {', '.join(others)}") from error
    model = Transformer(described.config)
    if described.adapter is None:
        load_weights(model, folder / WEIGHTS)
    else:
        _load_base(model, folder, described.adapter)
        add_adapters(model, described.adapter)
        load_adapter(model, folder, tokenizer.vocab.mask)
    return Checkpoint(model.eval(), tokenizer, described.card, folder)


def weights_file(folder: Path) -> Path:
    """The file of a checkpoint folder that holds what was trained: all weights, or adapters."""
    return folder / (ADAPTER if (folder / ADAPTER).is_file() else WEIGHTS)


def mask_id(folder: Path) -> int:
    """The id of the mask token of a checkpoint."""
    return Tokenizer.load(folder).vocab.mask


def _load_base(model: Transformer, folder: Path, adapter: Adapter) -> None:
    """The weights of the checkpoint that an adapter changes. Raises UserError if it is gone, or another one."""
    place = folder / adapter.base
    if not place.is_dir():
        raise UserError(f"{folder} holds adapters of {place}, which is missing: put that checkpoint back where it was")
    if file_hash(weights_file(place)) != adapter.base_hash:
        raise UserError(f"{folder} holds adapters of {place}, whose weights have changed since: put the old ones back")
    if place.resolve() == folder.resolve():
        raise UserError(f"{folder / SHAPE} names itself as the model that it changes")
    base = load_checkpoint(place).model
    if vars(base.config) | {n: None for n in FREE_FIELDS} != vars(model.config) | {n: None for n in FREE_FIELDS}:
        raise UserError(f"{folder} holds adapters of {place}, which has another shape")
    model.load_state_dict(base.state_dict())


def load_adapter(model: Transformer, folder: Path, mask: int) -> None:
    """Strict: the adapters of a model that has some, in its shapes, all finite.

    Raises:
        UserError: naming the first that differs; the model is then unchanged.
    """
    path = folder / ADAPTER
    weights = read_tensors(path)
    row = weights.pop(MASK_ROW, None)
    wanted = {name: tuple(tensor.shape) for name, tensor in adapter_weights(model).items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if differing := sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name)):
        name = differing[0]
        raise DamagedCheckpoint(f"{path}: {name} is {found.get(name, 'missing')}, the model's is {wanted.get(name)}")
    if row is not None and row.shape != model.embed.weight[0].shape:
        raise DamagedCheckpoint(f"{path}: {MASK_ROW} is {tuple(row.shape)}, not an embedding of the model")
    for problem in unusable(weights | ({} if row is None else {MASK_ROW: row})):
        raise UserError(f"{path}: {problem}; a model with such weights can only produce nonsense")
    model.load_state_dict(weights, strict=False)  # compared above: what it lacks is frozen
    if row is not None:
        with torch.no_grad():
            model.embed.weight[mask] = row


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        DamagedCheckpoint: if it is missing, truncated or something else.
        UserError: if the system does not let it be read.
    """
    check_readable(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{path} is corrupt or not a safetensors file: {error}") from error


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file, from its header: no tensor is read. Raises as `read_tensors` does."""
    check_readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{path} is corrupt or not a safetensors file: {error}") from error


def check_shapes(config: ModelConfig, path: Path) -> None:
    """Compare a weights file's header with the shape of a model, before memory is allocated for either.

    Raises:
        UserError: naming the first weight that differs, is missing or is too many.
    """
    found = read_shapes(path)
    if config.num_layers > len(found):  # every layer has several weights
        raise UserError(f"{path} holds {len(found)} weights, too few for the {config.num_layers} layers of {SHAPE}")
    try:
        with torch.device("meta"):
            wanted = {name: tuple(tensor.shape) for name, tensor in model_weights(Transformer(config)).items()}
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:  # sizes beyond what a tensor can have
        reason = str(error).split("\n")[0][:200]
        raise UserError(f"{path.parent / SHAPE}: no model can have this shape: {reason}") from error
    if is_quantised(found):
        wanted = quantised_shapes(wanted)
    if missing := sorted(set(wanted) - set(found)):
        raise UserError(f"{path} lacks {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""))
    if extra := sorted(set(found) - set(wanted)):
        raise UserError(f"{path} has {extra[0]}, which the model does not")
    for name, shape in found.items():
        if shape != wanted[name]:
            raise UserError(f"{path}: {name} is {shape}, the model's is {wanted[name]}")


def load_weights(model: Transformer, path: Path) -> None:
    """Strict: every weight, no other, in the model's shapes, all finite; weights in eight bits become float32.

    Raises:
        UserError: naming the first weight that differs; the model is then unchanged.
    """
    check_shapes(model.config, path)
    weights = read_weights(path)
    for problem in unusable(weights):
        raise UserError(f"{path}: {problem}; a model with such weights can only produce nonsense")
    model.load_state_dict(weights, strict=not model.config.tie_embeddings)


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a file of weights, by name; those in eight bits as float32.

    Raises:
        UserError: as `read_tensors`, and for weights in eight bits that are of a wrong type or have no proper scales.
    """
    tensors = read_tensors(path)
    if not is_quantised(tensors):
        return tensors
    for problem in broken_scales(tensors):
        raise UserError(f"{path}: {problem}")
    return dequantise_state(tensors)


def unusable(weights: Mapping[str, Tensor]) -> Iterator[str]:
    """For each tensor that holds nan or infinity, or no real numbers: which, and how many."""
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            yield f"{name} holds {str(tensor.dtype).removeprefix('torch.')}, not floating-point numbers"
            continue
        finite = torch.isfinite(tensor if tensor.element_size() > 1 else tensor.float())
        if not bool(finite.all()):
            bad = int((~finite).sum())
            yield f"{bad:,} of {prod(tensor.shape):,} numbers of {name} are not finite (nan or infinity)"

"""Models from and for the `transformers` library: folders of the families of `layout` read, our models written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from nano_llada.checkpoint.files import WEIGHTS, Checkpoint, model_weights, read_tensors
from nano_llada.config.card import ANSWERING, Decode, ModelCard, Predicts
from nano_llada.config.model import ModelConfig
from nano_llada.config.record import read_config
from nano_llada.core.batch import Vocabulary
from nano_llada.core.errors import UserError
from nano_llada.core.files import write_json, write_text
from nano_llada.data.tokenizer import EOS, MASK
from nano_llada.interop.foreign_tokenizer import adopt_file
from nano_llada.interop.imported import ImportedModel, assemble
from nano_llada.interop.layout import Family, Names, check_tensors, fuse, split
from nano_llada.interop.shapes import family_of, read_shape, written_shape

Plain = Mapping[str, Any]

SHARDS = f"{WEIGHTS}.index.json"
OWN = "nano_llada"  # model_type of our own class
MODELING = f"modeling_{OWN}.py"
MODELING_SOURCE = Path(__file__).resolve().parent.parent / "assets" / "transformers" / MODELING
# of the card, written into and read from our own config.json: numbers, and words with what they can be
TRAINED = ("block_size", "answer_length", "drafts")
WORDS: Mapping[str, tuple[str, ...]] = {
    "track": ("diffusion", "both"),
    "predicts": get_args(Predicts),
    "decode": get_args(Decode),
}


def import_model(folder: Path, stage: str | None = None) -> ImportedModel:
    """A model and its tokenizer from a local `transformers` folder.

    A tokenizer without a mask token, or without the marks of our chat format, gets them: see `adopt` and `assemble`.

    Raises:
        UserError: for missing or broken files, pickles, and anything that this backbone does not compute.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"no config.json in {folder}; give a local folder with a model of transformers")
    plain = read_config(path)
    family = family_of(plain, str(path))
    config = read_shape(plain, family, str(path))
    adopted = adopt_file(folder / "tokenizer.json", _roles(plain))
    if adopted.size > config.vocab_size:
        raise UserError(
            f"{folder}: tokenizer.json has ids up to {adopted.size - 1}, but config.json a vocab_size of "
            f"{config.vocab_size}; they are not of the same model"
        )
    weights = fuse(_checked(_read_weights(folder), config, family.names, folder), config, family.names)
    model = assemble(weights, config, adopted.tokenizer, adopted.new, str(folder))
    card = card_of(plain, family, folder.name, str(path), stage)
    return ImportedModel(model, adopted.tokenizer, card, adopted.remarks)


def card_of(plain: Plain, family: Family, name: str, where: str, stage: str | None) -> ModelCard:
    """The card of an imported model: what its files say of how it was trained.

    Raises:
        UserError: for a word of our own config.json that is not one of those that there are.
    """
    trained: dict[str, Any] = {"track": family.track}
    if family.track != "ar":
        trained |= {key: plain[key] for key in TRAINED if type(plain.get(key)) is int and plain[key] > 0}
    if family.block_size is not None:
        trained.setdefault("block_size", family.block_size)
    for key, words in WORDS.items() if plain.get("model_type") == OWN else ():
        value = plain.get(key)
        if value is not None and value not in words:
            raise UserError(f"{where}: {key} is {ascii(value)[:80]}; it can be {', '.join(words)}")
        if value is not None:
            trained[key] = value
    stated = str(plain.get("stage"))
    known = stated if stated in ("pretrain", *ANSWERING) else "pretrain"
    return ModelCard(**trained, stage=stage or known, run=name, step=0)


def _roles(plain: Plain) -> dict[str, int]:
    """Ids of the end and mask tokens, where a config states them."""
    found = {}
    for mark, name in ((EOS, "eos_token_id"), (MASK, "mask_token_id")):
        value = plain.get(name)
        value = value[0] if isinstance(value, list) and value else value
        if type(value) is int:
            found[mark] = value
    return found


def check_exportable(checkpoint: Checkpoint) -> None:
    """Raises UserError for a shape that no class of `transformers` computes."""
    config, plain = checkpoint.model.config, not checkpoint.card.denoising
    if plain and not config.qk_norm and config.hidden_size % config.num_heads:
        raise UserError(
            f"{checkpoint.folder}: LlamaForCausalLM needs a hidden_size ({config.hidden_size}) that is a multiple of "
            f"num_heads ({config.num_heads}), whatever the head_size; only models with qk_norm may differ"
        )
    if plain and config.qk_norm and config.qkv_bias:
        raise UserError(f"{checkpoint.folder}: no AR class of transformers has both qk_norm and biases of queries only")


def fill_folder(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a model into an existing folder for `transformers`: weights, shape, tokenizer, code if it needs any.

    An AR model is a Qwen3, or without QK-norm a Llama, with biases a Qwen2. A diffusion or tri-mode model brings its
    own class, for which `from_pretrained` needs trust_remote_code=True. Dropout is left out: it is not part of the
    shape there. Early releases of transformers 4 take YaRN's factor to be max_length / original_length, and compute
    something else where it is not.

    Raises:
        UserError: for a shape that `transformers` refuses.
    """
    check_exportable(checkpoint)
    vocab, weights = checkpoint.tokenizer.vocab, model_weights(checkpoint.model)
    own_code = checkpoint.card.denoising
    config = _written_diffusion(checkpoint) if own_code else _written_ar(checkpoint)
    write_json(folder / "config.json", config)
    if not own_code:
        write_json(folder / "generation_config.json", _ids(vocab))
    else:
        write_text(folder / MODELING, MODELING_SOURCE.read_text(encoding="utf-8"))
    # transformers insists on the format
    save_file(split(weights, checkpoint.model.config), folder / WEIGHTS, metadata={"format": "pt"})
    checkpoint.tokenizer.save(folder)


def _ids(vocab: Vocabulary) -> dict[str, Any]:
    return {"bos_token_id": vocab.turn_start, "eos_token_id": list(vocab.ends), "pad_token_id": vocab.eos}


def _written_ar(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.model.config
    kind = "Qwen3" if config.qk_norm else "Qwen2" if config.qkv_bias else "Llama"
    architecture = {"architectures": [f"{kind}ForCausalLM"], "model_type": kind.lower()}
    return {**architecture, **written_shape(config), **_ids(checkpoint.tokenizer.vocab)}


def _written_diffusion(checkpoint: Checkpoint) -> dict[str, Any]:
    config, card, vocab = checkpoint.model.config, checkpoint.card, checkpoint.tokenizer.vocab
    place, shape = MODELING.removesuffix(".py"), written_shape(config)
    classes = dict.fromkeys(("AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM"), f"{place}.NanoLLaDAModel")
    return {
        "architectures": ["NanoLLaDAModel"],
        "model_type": OWN,
        "auto_map": {"AutoConfig": f"{place}.NanoLLaDAConfig", **classes},
        **{name: value for name, value in shape.items() if name not in ("rope_theta", "rope_scaling")},
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta, **(shape["rope_scaling"] or {})},
        "qk_norm": config.qk_norm,
        "qkv_bias": config.qkv_bias,
        **{name: getattr(card, name) for name in (*TRAINED, *WORDS)},
        "stage": card.stage,
        "mask_token_id": vocab.mask,
        "unwritable_token_ids": list(vocab.unwritable),
        **_ids(vocab),
    }


def _read_weights(folder: Path) -> dict[str, Tensor]:
    files = [WEIGHTS]
    if not (folder / WEIGHTS).is_file():
        if not (folder / SHARDS).is_file():
            if pickles := sorted(path.name for end in ("bin", "pt", "pth") for path in folder.glob(f"*.{end}")):
                raise UserError(
                    f"{folder / pickles[0]} is a pickle file, and unpickling can run anything; save the model with "
                    f"transformers as {WEIGHTS} and import that"
                )
            raise UserError(f"no weights in {folder}: neither {WEIGHTS} nor {SHARDS}")
        places = read_config(folder / SHARDS).get("weight_map")
        if not isinstance(places, dict) or any(str(Path(str(file)).name) != file for file in places.values()):
            raise UserError(f"{folder / SHARDS}: weight_map must name a file of the same folder for each tensor")
        files = sorted(set(places.values()))
    tensors = {name: tensor for file in files for name, tensor in read_tensors(folder / file).items()}
    # old Llama files carry the angles, which follow from the shape
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}


def _checked(theirs: dict[str, Tensor], config: ModelConfig, names: Names, folder: Path) -> dict[str, Tensor]:
    head, embedding = f"{names.outer['head']}.weight", f"{names.outer['embed']}.weight"
    twice = config.tie_embeddings and head in theirs and embedding in theirs  # as some files are
    if twice and not torch.equal(theirs.pop(head), theirs[embedding]):
        raise UserError(f"{folder}: tie_word_embeddings is true, but {head} is not the embedding")
    check_tensors({name: tuple(tensor.shape) for name, tensor in theirs.items()}, config, names, str(folder))
    return theirs

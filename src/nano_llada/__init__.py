"""Small diffusion language models: train, evaluate and use them from Python.

    import nano_llada

    model = nano_llada.load("runs/demo/diffusion-sft")
    print(model.generate("Who are you?"))

Nothing is loaded when this package is imported; each name below is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nano_llada.api import TrainedRun as TrainedRun
    from nano_llada.api import evaluate as evaluate
    from nano_llada.api import load as load
    from nano_llada.api import train as train
    from nano_llada.config.card import ModelCard as ModelCard
    from nano_llada.config.data import DataConfig as DataConfig
    from nano_llada.config.decoding import Constraint as Constraint
    from nano_llada.config.decoding import DecodingOptions as DecodingOptions
    from nano_llada.config.model import ModelConfig as ModelConfig
    from nano_llada.config.objectives import BlockSizeSchedule as BlockSizeSchedule
    from nano_llada.config.objectives import BoundScore as BoundScore
    from nano_llada.config.objectives import Denoising as Denoising
    from nano_llada.config.objectives import ExactScore as ExactScore
    from nano_llada.config.objectives import Masking as Masking
    from nano_llada.config.objectives import NextToken as NextToken
    from nano_llada.config.objectives import ObjectiveConfig as ObjectiveConfig
    from nano_llada.config.objectives import Policy as Policy
    from nano_llada.config.objectives import Preference as Preference
    from nano_llada.config.objectives import Rollouts as Rollouts
    from nano_llada.config.objectives import TokenEditing as TokenEditing
    from nano_llada.config.objectives import TriMode as TriMode
    from nano_llada.config.run import RunConfig as RunConfig
    from nano_llada.config.run import default_run as default_run
    from nano_llada.config.train import TrainConfig as TrainConfig
    from nano_llada.core.errors import UserError as UserError
    from nano_llada.core.pattern import AttentionPattern as AttentionPattern
    from nano_llada.diffusion.noise import Noise as Noise
    from nano_llada.language_model import LanguageModel as LanguageModel

__version__ = "0.2.0"

_PLACES = {  # public name -> module
    "evaluate": "api",
    "load": "api",
    "train": "api",
    "TrainedRun": "api",
    "ModelCard": "config.card",
    "DataConfig": "config.data",
    "Constraint": "config.decoding",
    "DecodingOptions": "config.decoding",
    "ModelConfig": "config.model",
    "BlockSizeSchedule": "config.objectives",
    "BoundScore": "config.objectives",
    "Denoising": "config.objectives",
    "ExactScore": "config.objectives",
    "Masking": "config.objectives",
    "NextToken": "config.objectives",
    "ObjectiveConfig": "config.objectives",
    "Policy": "config.objectives",
    "Preference": "config.objectives",
    "Rollouts": "config.objectives",
    "TokenEditing": "config.objectives",
    "TriMode": "config.objectives",
    "RunConfig": "config.run",
    "default_run": "config.run",
    "TrainConfig": "config.train",
    "UserError": "core.errors",
    "AttentionPattern": "core.pattern",
    "Noise": "diffusion.noise",
    "LanguageModel": "language_model",
}

__all__ = ["__version__", *sorted(_PLACES)]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'nano_llada' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nano_llada.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])

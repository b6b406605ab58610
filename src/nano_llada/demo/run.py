"""The main job on the small world: AR, diffusion from it, both fine-tuned, and compared. Resumable at every stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nano_llada.checkpoint.files import load_checkpoint
from nano_llada.config.data import DataConfig
from nano_llada.config.decoding import Autoregressive, Diffusion
from nano_llada.config.model import ModelConfig
from nano_llada.config.objectives import Denoising, NextToken, ObjectiveConfig
from nano_llada.config.run import RunConfig
from nano_llada.config.train import TrainConfig
from nano_llada.core.device import choose_machine
from nano_llada.demo.options import DemoConfig
from nano_llada.evaluation.record import Record
from nano_llada.evaluation.side_by_side import side_by_side
from nano_llada.evaluation.suite import Subject
from nano_llada.evaluation.suites.generation import world_questions
from nano_llada.session.run import complete
from nano_llada.world import Example, examples
from nano_llada.world.files import write_world


def stages(config: DemoConfig) -> list[RunConfig]:
    """The four runs, in order."""
    ar, ar_sft, diffusion = (config.folder / name for name in ("ar", "ar-sft", "diffusion"))
    text = ("汤姆有", "Tom has")
    asked = tuple(e.prompt for skill in config.skills[:2] for e in examples(skill, "validation", 1, config.seed))
    answer_loss = Denoising(normalise_by="document")
    return [
        _stage(config, "ar", NextToken(), config.ar_steps, 4e-3, None, text),
        _stage(config, "ar-sft", NextToken(), config.ar_sft_steps, 3e-3, ar, asked),
        _stage(config, "diffusion", Denoising(random_length=0.01), config.diffusion_steps, 4e-3, ar_sft, text),
        _stage(config, "diffusion-sft", answer_loss, config.diffusion_sft_steps, 3e-3, diffusion, asked),
    ]


def _stage(
    config: DemoConfig,
    name: str,
    objective: ObjectiveConfig,
    steps: int,
    learning_rate: float,
    init_from: Path | None,
    sample_prompts: tuple[str, ...],
) -> RunConfig:
    chat = name.endswith("-sft")
    kind = "chat" if chat else "pretrain"
    world = config.folder / "world"
    return RunConfig(
        name=name,
        runs=config.folder,
        init_from=init_from,
        sample_prompts=sample_prompts,
        objective=objective,
        model=ModelConfig() if init_from else config.model,
        data=DataConfig(
            data=((world / f"{kind}-train.jsonl").as_posix(),),
            validation=((world / f"{kind}-validation.jsonl").as_posix(),),
            format="chat" if chat else "text",
            sequence_length=128,
            turns="each" if name == "diffusion-sft" else "all",
            eos_fill=config.answer_length if name == "diffusion-sft" else 0,
            cache=config.cache,
        ),
        train=TrainConfig(
            steps=steps,
            batch_size=16,
            learning_rate=learning_rate,
            optimizer="muon",
            eval_every=200,
            eval_rows=64,
            save_every=200,
            keep_last=1,
            keep_best=0,
            seed=config.seed,
            threads=config.threads,
            device=config.device,
        ),
    )


def run_demo(config: DemoConfig, report: Path) -> list[Record] | None:
    """Train what is not trained yet, then compare; None if it was interrupted (run it again to continue).

    Args:
        report: a folder for the records.

    Raises:
        UserError: as `run.execute` does.
    """
    world = config.folder / "world"
    if not (world / "words.txt").is_file():
        write_world(
            world,
            documents_count=config.documents,
            chats_count=config.chats,
            skills=config.skills,
            seed=config.seed,
        )
    if not complete(stages(config)):
        return None
    return compare_models(config, report)


def held_out_questions(skills: Sequence[str], items: int, seed: int = 0) -> list[Example]:
    """`items` questions of each skill in each language, about combinations no training text contains."""
    return [example for skill in skills for example in examples(skill, "test", items, seed)]


def compare_models(config: DemoConfig, report: Path) -> list[Record]:
    """The AR model, and the diffusion model written one token a pass and several a pass."""
    device = choose_machine(config.device).device
    ar, diffusion = (load_checkpoint(config.folder / name, device) for name in ("ar-sft", "diffusion-sft"))
    answer = config.answer_length
    subjects = [
        Subject("AR", ar, Autoregressive(max_new_tokens=2 * answer), "default"),
        Subject("diffusion", diffusion, Diffusion(max_new_tokens=answer), "default"),
        Subject("diffusion", diffusion, Diffusion(max_new_tokens=answer, threshold=0.9), "threshold=0.9"),
    ]
    return side_by_side(subjects, world_questions(config.skills, config.items), report)

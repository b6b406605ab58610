"""What each idea of LLaDA 2.0 is worth on the small world, one change at a time, at equal training tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.grid import Cell, run_grid
from experiments.llada2_report import write_report
from experiments.options import Llada2Ablation
from nano_llada.checkpoint.files import Checkpoint, find_checkpoint, load_checkpoint
from nano_llada.config.data import DataConfig
from nano_llada.config.decoding import Autoregressive, Block, Decoding, Diffusion
from nano_llada.config.model import ModelConfig
from nano_llada.config.objectives import BlockSizeSchedule, Denoising, Masking, NextToken, ObjectiveConfig
from nano_llada.config.run import RunConfig
from nano_llada.config.train import TrainConfig
from nano_llada.data.read import BadRows
from nano_llada.data.texts import read_texts
from nano_llada.evaluation.likelihood import text_likelihood
from nano_llada.evaluation.measure import measured, protocol_of
from nano_llada.evaluation.record import Record, read_records, write_records
from nano_llada.evaluation.suite import Subject
from nano_llada.evaluation.suites.generation import Generation, world_questions
from nano_llada.session.run import complete
from nano_llada.training.log import read_metrics
from nano_llada.world.files import write_world

NAME = "llada2-ablation"
SKILLS = ("reading", "copy", "reversal", "translation", "format", "ordering")
ROW, ANSWER, BLOCK, THRESHOLD = 128, 16, 32, 0.95
WSD = BlockSizeSchedule(BLOCK, block_warmup=(1, 4, 32, 64), block_decay=(64, 32))


@dataclass(frozen=True)
class Variant:
    """One way through diffusion pretraining and fine-tuning; both start where the others do."""

    name: str
    pretrain: BlockSizeSchedule = WSD
    block: int | None = BLOCK  # of fine-tuning and writing; None: the whole text
    masking: Masking = field(default_factory=Masking)  # of fine-tuning
    confidence: float = 0.0  # of fine-tuning
    document_mask: bool = True
    seeds: int = 2
    use: str = "last"  # checkpoint of fine-tuning that is measured: last, best or merged


VARIANTS = (
    Variant("wsd", seeds=3),
    Variant("direct", BlockSizeSchedule(), seeds=3),
    Variant("no-document-mask", document_mask=False),
    Variant("complementary", masking=Masking(complementary=True), seeds=3),
    Variant("band-0.05-0.95", masking=Masking(mask_rate_min=0.05, mask_rate_max=0.95)),
    Variant("band-0.3-0.8", masking=Masking(mask_rate_min=0.3, mask_rate_max=0.8)),
    Variant("best", use="best"),
    Variant("merged", use="merged"),
    Variant("cap-0.1", confidence=0.1),
    Variant("cap-0.5", confidence=0.5),
    Variant("cap-2", confidence=2.0),
    Variant("mdlm", BlockSizeSchedule(), None, seeds=3),
    *(Variant(f"bdlm-{size}", BlockSizeSchedule(size), size, seeds=3) for size in (4, 8, 16, 32)),
)
_BLOCKED = ("mdlm", "bdlm-4", "bdlm-32")


def run(options: Llada2Ablation) -> bool:
    """Make or go on with the experiment; True when it is complete for the seeds that were asked for."""
    cells = [
        Cell(variant.name, seed, lambda variant=variant, seed=seed: _measure(options, variant, seed))  # type: ignore[misc]
        for seed in options.seeds
        for variant in VARIANTS
        if seed < variant.seeds
    ]
    command = (
        f"nano-llada experiment {NAME} --ar-steps {options.ar_steps} --ar-sft-steps {options.ar_sft_steps} "
        f"--pretrain-steps {options.pretrain_steps} --sft-steps {options.sft_steps} --items {options.items}"
    )
    folder = options.docs / NAME
    results = run_grid(NAME, cells, folder, command)
    if results is None:
        return False
    records = [
        record
        for variant in VARIANTS
        for seed in options.seeds
        if seed < variant.seeds
        for record in _answers(options, variant, seed)
    ]
    write_report(results, folder, {name: _curve(options, name) for name in ("wsd", "direct", *_BLOCKED)}, records)
    return True


def _curve(options: Llada2Ablation, name: str) -> Sequence[Mapping[str, float]]:
    """The metrics of a variant's pretraining run with the first seed."""
    (variant,) = (variant for variant in VARIANTS if variant.name == name)
    return read_metrics(stages(options, variant, options.seeds[0])[2].folder)


def stages(options: Llada2Ablation, variant: Variant, seed: int) -> list[RunConfig]:
    """The runs that a variant consists of; equal ones of several variants share a folder and are made once."""
    masks = "" if variant.document_mask else "-joined"
    schedule = variant.pretrain
    shape = f"{schedule.block_size or 'row'}{'-wsd' if schedule.block_warmup else ''}"
    masking = variant.masking
    pretrain = Denoising(blocks=schedule, random_length=0.01)
    finetune = Denoising(masking, BlockSizeSchedule(variant.block), normalise_by="document")
    finetune = replace(finetune, confidence_weight=variant.confidence)
    name = f"pretrain-{shape}{masks}"
    told = f"{masking.mask_rate_min:g}-{masking.mask_rate_max:g}{'-pairs' if masking.complementary else ''}"
    sft = f"sft-{shape}{masks}-{variant.block or 'row'}-{told}-{variant.confidence:g}"
    return [
        _stage(options, seed, "ar", NextToken(), options.ar_steps, None),
        _stage(options, seed, "ar-sft", NextToken(), options.ar_sft_steps, "ar"),
        _stage(options, seed, name, pretrain, options.pretrain_steps, "ar-sft", variant.document_mask),
        _stage(options, seed, sft, finetune, options.sft_steps, name, variant.document_mask),
    ]


def _stage(
    options: Llada2Ablation,
    seed: int,
    name: str,
    objective: ObjectiveConfig,
    steps: int,
    start: str | None,
    document_mask: bool = True,
) -> RunConfig:
    folder, chat = options.runs / f"seed-{seed}", "sft" in name
    diffusion = isinstance(objective, Denoising)
    kind = "chat" if chat else "pretrain"
    # a complementary pair is two rows, so half as many are drawn: equal tokens go through the model
    pairs = isinstance(objective, Denoising) and objective.corruption.complementary
    return RunConfig(
        name=name,
        runs=folder,
        init_from=folder / start if start else None,
        objective=objective,
        model=ModelConfig(hidden_size=128, num_layers=4, num_heads=4, tie_embeddings=True, max_length=256),
        data=DataConfig(
            data=((options.runs / "world" / f"{kind}-train.jsonl").as_posix(),),
            validation=((options.runs / "world" / f"{kind}-validation.jsonl").as_posix(),),
            format="chat" if chat else "text",
            sequence_length=ROW,
            turns="each" if chat and diffusion else "all",
            eos_fill=ANSWER if chat and diffusion else 0,
            document_mask=document_mask,
        ),
        train=TrainConfig(
            steps=steps,
            batch_size=8 if pairs else 16,
            learning_rate=3e-3,
            optimizer="muon",
            eval_every=max(1, steps // 6),
            eval_rows=64,
            save_every=200,
            keep_last=1,
            keep_best=3 if chat and diffusion else 0,
            merge_best=3 if chat and diffusion else 0,
            seed=seed,
            threads=options.threads,
        ),
    )


def _measure(options: Llada2Ablation, variant: Variant, seed: int) -> Mapping[str, Any] | None:
    world = options.runs / "world"
    if not (world / "words.txt").is_file():
        write_world(world, documents_count=30_000, chats_count=60_000, skills=SKILLS, seed=0)
    plan = stages(options, variant, seed)
    if not complete(plan):
        return None
    return _likelihood(load_checkpoint(plan[2].folder), world) | summed(_answers(options, variant, seed))


def _answers(options: Llada2Ablation, variant: Variant, seed: int) -> list[Record]:
    """Every answer of a variant's model, kept beside the runs so that variants can be compared question by question."""
    path = options.runs / f"seed-{seed}" / "answers" / f"{variant.name}-{options.items}.jsonl"
    if not path.is_file():
        tuned = stages(options, variant, seed)[-1].folder
        write_records(path, asked(load_checkpoint(_chosen(tuned, variant.use)), options.items, variant.name, seed))
    return list(read_records(path))


def _chosen(folder: Path, use: str) -> Path:
    return folder / "merged" if use == "merged" else find_checkpoint(folder, "last" if use == "last" else "best")


def _likelihood(checkpoint: Checkpoint, world: Path) -> dict[str, Any]:
    """Bits per byte of held-out documents, half of them Chinese, half English."""
    texts = list(read_texts([str(world / "pretrain-validation.jsonl")], "text", BadRows("stop")))[:400]
    found = text_likelihood(checkpoint, texts, window=ROW, draws=16)
    return {"bits_per_byte": found.bits_per_byte, "bits_per_byte_error": found.standard_error}


def answers(checkpoint: Checkpoint, options: Llada2Ablation) -> dict[str, Any]:
    """Exact match and tokens per forward on held-out questions, written with a threshold."""
    return summed(asked(checkpoint, options.items, "", 0))


def asked(checkpoint: Checkpoint, items: int, name: str, run: int) -> list[Record]:
    """Each held-out question answered."""
    size = checkpoint.card.block_size
    decoding: Decoding = Diffusion(max_new_tokens=ANSWER, threshold=THRESHOLD)
    if checkpoint.card.autoregressive:
        decoding = Autoregressive(max_new_tokens=ANSWER)
    elif size:
        decoding = Block(max_new_tokens=ANSWER, threshold=THRESHOLD, block_size=size)
    suite = Generation(world_questions(SKILLS, items), batch_size=64)
    return list(measured(suite, Subject(name, checkpoint, decoding, "", run), protocol_of(suite)))


def summed(records: Sequence[Record]) -> dict[str, Any]:
    """The figures of one model's answers."""

    def share(some: Sequence[Record]) -> float:
        return sum(record.values["right"] for record in some) / len(some)

    metrics: dict[str, Any] = {"exact_match": share(records), "questions": len(records)}
    metrics["tpf"] = sum(r.values["tokens"] for r in records) / sum(r.values["forwards"] for r in records)
    for skill in SKILLS:
        metrics[f"exact_match_{skill}"] = share([record for record in records if record.task == skill])
    for language in ("zh", "en"):
        metrics[f"exact_match_{language}"] = share([record for record in records if record.language == language])
    return metrics

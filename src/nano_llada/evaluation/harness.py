"""Checkpoints in EleutherAI's lm-evaluation-harness, for tasks described by local files.

    python -m nano_llada.evaluation.harness --model_args pretrained=RUN --tasks mytask --include_path FOLDER

The harness is an extra (`pip install "nano-llada[harness]"`) and is imported only when it is used. From Python:
`register()`, then `lm_eval.simple_evaluate(model="nano-llada", model_args="pretrained=RUN", ...)`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from nano_llada.core.errors import UserError
from nano_llada.evaluation.harness_model import HarnessModel

NAME = "nano-llada"


@cache
def _model_class() -> type[Any]:
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise UserError(f'the harness is missing ({error}): pip install "nano-llada[harness]"') from error

    class NanoLladaLM(HarnessModel, LM):  # type: ignore[misc,unused-ignore]
        __doc__ = HarnessModel.__doc__

    return NanoLladaLM


def __getattr__(name: str) -> type[Any]:
    """`NanoLladaLM`, made when it is first asked for. Raises UserError if the harness is not installed."""
    if name == "NanoLladaLM":
        return _model_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register() -> None:
    """Make the harness know models named "nano-llada". Raises UserError if it is not installed."""
    model = _model_class()
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME)(model)


def main(arguments: Sequence[str]) -> int:
    """Run the command; gives the exit status: 0, or 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    try:
        results = _run(options)
        print(_tables(results))
        if options.output is not None:
            _write(options.output, results)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    """Options are named as the harness's own command names them."""
    parser = argparse.ArgumentParser(
        prog="python -m nano_llada.evaluation.harness",
        description="Run tasks of lm-evaluation-harness, described by local YAML files, on a checkpoint.",
    )
    parser.add_argument(
        "--model_args",
        required=True,
        help="pretrained=RUN_FOLDER, then any of draws, seed, batch_size, device, max_length, max_gen_toks, and "
        "options of decoding such as steps, threshold, block_size: a=1,b=2 without commas in a value",
    )
    parser.add_argument("--tasks", required=True, help="names of tasks or groups, with commas between them")
    parser.add_argument("--include_path", required=True, type=Path, help="folder with the tasks' YAML files")
    parser.add_argument("--output", type=Path, help="write results here, as JSON")
    parser.add_argument("--limit", type=int, help="first documents of each task only")
    parser.add_argument("--num_fewshot", type=int, help="solved examples in front of each question")
    parser.add_argument("--gen_kwargs", help="generation_kwargs that come before those of the tasks: a=1,b=2")
    parser.add_argument("--apply_chat_template", action="store_true", help="ask in turns, for a fine-tuned model")
    parser.add_argument("--log_samples", action="store_true", help="every document and answer, too, in the results")
    return parser


def _run(options: argparse.Namespace) -> dict[str, Any]:
    register()
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    if "pretrained=" not in options.model_args:
        raise UserError(f"--model_args names no model: pretrained=RUN_FOLDER, got {options.model_args!r}")
    if not options.include_path.is_dir():
        raise UserError(f"no folder {options.include_path}: --include_path is where the tasks' YAML files are")
    # the harness's own thousands of tasks take long to index, and their data is not here
    manager = TaskManager(include_path=str(options.include_path), include_defaults=False)
    tasks = [name for name in options.tasks.split(",") if name]
    known = [*manager.all_tasks, *manager.all_groups, *manager.all_tags]
    if unknown := sorted(set(tasks) - set(known)):
        there = ", ".join(sorted(set(known))) or "none"
        raise UserError(f"no task {', '.join(unknown)} in {options.include_path}; there is: {there}")
    try:
        results = simple_evaluate(
            model=NAME,
            model_args=options.model_args,
            tasks=tasks,
            task_manager=manager,
            limit=options.limit,
            num_fewshot=options.num_fewshot,
            gen_kwargs=options.gen_kwargs,
            apply_chat_template=options.apply_chat_template,
            log_samples=options.log_samples,
        )
    except FileNotFoundError as error:
        raise UserError(f"{error} (data_files are looked for from the folder this is run in)") from error
    return dict(results)


def _tables(results: dict[str, Any]) -> str:
    from lm_eval.utils import make_table

    columns = [name for name in ("results", "groups") if results.get(name)]
    return "\n".join(make_table(results, name) for name in columns)


def _write(path: Path, results: dict[str, Any]) -> None:
    from lm_eval.utils import handle_non_serializable

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(results, ensure_ascii=False, indent=2, default=handle_non_serializable)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

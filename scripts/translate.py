"""Turns the options of an old script into `nano-llada` commands, shows them, and runs them."""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from nano_llada.cli.main import main as nano_llada
from nano_llada.config.run import default_run
from nano_llada.core.errors import UserError

if TYPE_CHECKING:
    from nano_llada.checkpoint.files import Description

OLD_ENDINGS = ("_state_dict", "_best")
OLD_FILES = (".pt", ".pth")
OLD_NAMES = {"diffusion_tokenizer": "diffusion_no_v1", "diffusion": "diffusion_no_v1"}
"""What scripts.train.diffusion called a run without --run-name, and what it is called here."""
CANVAS = "no effect here: the canvas is as long as --max-new-tokens, after the whole prompt"
FOREIGN_TOKENIZER = "no effect here: a checkpoint carries its own tokenizer"
ROPE_SCALING = (
    "no effect here: RoPE scaling belongs to the checkpoint, so that every use of it agrees; it is off unless the "
    "model's config sets yarn"
)
FROM_START = "no effect here: the shape comes from the checkpoint"
SHAPES = {  # options of nano-llada about the shape, which a checkpoint decides -> the name in its config
    "--hidden-size": "hidden_size",
    "--num-layers": "num_layers",
    "--num-heads": "num_heads",
    "--intermediate-size": "mlp_width",
    "--norm-eps": "norm_eps",
    "--rope-theta": "rope_theta",
}


@dataclass(frozen=True)
class Option:
    """An option of an old script and what becomes of it: other options, a remark, a refusal, or several of them."""

    name: str
    becomes: str = ""
    """The nano-llada options that get the value; none: the script decides, or the option has no effect."""
    note: str = ""
    """What to print when the option is used."""
    flag: bool = False
    checkpoint: bool = False
    """The value is a path that may mean a run folder (see `run_folder`) or an old file of weights, to be imported."""
    required: bool = False
    default: Any = None
    type: Callable[[str], Any] = str
    needs: tuple[str, ...] = ()
    """What it has no effect without, each as it is written; `--a or --b 3` asks for one of the two."""
    choices: tuple[str, ...] | None = None
    only: Any = None
    """The one value that this version can take; others are refused because of `reason`."""
    reason: str = ""
    """Why, and what to use instead."""
    there: Any = None
    """The old script's default, printed where ours differs and the option is not given."""
    here: str = ""
    """Our default in words; otherwise it is looked up in the defaults of the run."""
    track: str = ""
    """Of a checkpoint: what an old file is, if it does not say."""
    stage: str = ""
    """Of a checkpoint: the last stage of its training, if an old file does not say."""
    many: bool = False
    """It can be given several times; the value is the list."""


MASK_TOKEN = Option(
    "--mask-token", only="<|mask|>", note="no effect here: the mask token is always <|mask|>",
    reason="the mask token is called <|mask|> here: rename it in tokenizer.json, or leave the option out",
)  # fmt: skip
ACTIVATION = Option(
    "--hidden-act", only="silu", choices=("relu", "gelu", "silu"), note="no effect here: always SiLU",
    reason="the feed-forward layer is SwiGLU here, which is what silu means; leave the option out",
)  # fmt: skip
PRECISION = Option(
    "--dtype", note="half the width on CUDA only, as in the old script", choices=("float32", "float16", "bfloat16"),
    there="bfloat16", here="auto: bf16 on CUDA, fp32 elsewhere, which is the same",
)  # fmt: skip
DEVICE = Option("--device", "--device")
NO_WORKERS = Option("--num-workers", note="no effect here: text is tokenised once and read from a memory map")
NO_EXTRA_TOKENS = Option(
    "--target-vocab-size", note="no effect here: the vocabulary is the tokenizer's, without extra tokens to fill it up"
)
NO_EPSILON = Option("--iid-mask-eps", note="no effect here: the number of masks is drawn, and nothing is divided by t")
RESUME = Option("--resume", "--resume", flag=True, note="resumes the run that was interrupted")
SAVE_DIR = Option("--save-dir", default="weights")
RUN_OPTIONS = (
    Option("--data", "--data", required=True),
    Option("--tokenizer-dir", "--tokenizer", there=".", here="the bundled tokenizer"),
    Option("--batch-size", "--batch-size", there=16),
    Option("--inference-rope-scaling", note=ROPE_SCALING, flag=True),
)
SHAPE_OPTIONS = (
    Option("--hidden-size", "--hidden-size", type=int, there=512),
    Option("--num-hidden-layers", "--num-layers", type=int, there=8),
    Option("--num-attention-heads", "--num-heads", type=int, there=8),
)
MORE_SHAPE_OPTIONS = (
    Option("--intermediate-size", "--intermediate-size", type=int),
    Option("--dropout", "--dropout", type=float, there=0.0),
    ACTIVATION,
    Option("--rms-norm-eps", "--norm-eps", type=float, there=1e-5),
    Option("--rope-theta", "--rope-theta", type=float, there=1e6),
    Option("--max-position-embeddings", "--max-length", type=int, there=32768),
)
LOOP_OPTIONS = (
    SAVE_DIR,
    RESUME,
    NO_WORKERS,
    Option("--grad-clip", "--clip-norm", there=1.0),
    Option("--log-interval", "--log-every", there=20),
    Option("--save-interval", "--save-every", there=500),
    PRECISION,
    Option("--seed", "--seed", there=42),
)
TUNING_OPTIONS = (
    *LOOP_OPTIONS,
    DEVICE,
    Option("--weight-decay", "--weight-decay", there=0.1),
    Option("--warmup-steps", "--warmup-steps", there=50),
    Option("--accumulation-steps", type=int),
)
DECAY_OPTIONS = (
    Option("--final-decay-ratio", "--decay-share", there=0.1),
    Option("--final-lr-ratio", "--min-lr-ratio", there=0.1),
    MASK_TOKEN,
    NO_EPSILON,
)
STREAMING_OPTIONS = (
    Option("--streaming", flag=True, note="no effect here: data is always tokenised to a memory map"),
    Option("--steps-per-epoch", type=int, needs=("--streaming",)),
)
RESUME_OPTIMIZER = Option("--resume-optimizer-state", flag=True)

NO_CAP = "no effect here: nothing caps what a pass writes, the confidence threshold alone decides"
PARALLEL, THRESHOLD = "--llada2-enable-parallel-decoding", "--gen-confidence-threshold"
GREEDY = "no effect here: decoding is greedy; `nano-llada generate --temperature T --top-k K` draws tokens"
NO_PENALTY = Option(
    "--gen-repeat-penalty", type=float, only=0.0, note="no effect here: there is no penalty to switch off",
    reason="it subtracts from logits for every repeat; `nano-llada generate --repetition-penalty 1.1` divides them",
)  # fmt: skip
NO_WINDOW = Option("--gen-repeat-window", note="no effect here: --repetition-penalty looks at the whole text")
BUDGET_OPTIONS = (
    Option("--gen-cap-start-ratio", note=NO_CAP),
    Option("--gen-cap-end-ratio", note=NO_CAP),
    Option("--gen-max-decode-per-step", note=NO_CAP),
)
WRITING_OPTIONS = (
    Option("--gen-steps", type=int, there=64, here="one a token"),
    Option("--gen-cfg-scale", type=float, there=1.5, here="0: no guidance"),
    Option(THRESHOLD, there=0.9, here="none: a number of passes"),
    Option("--gen-temp", type=float, there=0.8, here="0: greedy"),
    Option("--gen-top-k", type=int),
    NO_PENALTY,
    NO_WINDOW,
    *BUDGET_OPTIONS,
)
HEADS = Option("--num-heads", note="for an old file of weights that does not state its attention heads")


class Translation:
    """One call of an old script on its way to `nano-llada` commands.

    Raises:
        SystemExit: 2 for options that are unknown, missing, refused or broken; 0 after --help.
    """

    def __init__(self, module: str, about: str, options: Sequence[Option], argv: Sequence[str] | None) -> None:
        self._parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about, allow_abbrev=False)
        for option in options:
            self._declare(option)
        given = vars(self._parser.parse_args(argv))
        self._given = {option.name: given[option.name.removeprefix("--").replace("-", "_")] for option in options}
        self._options = {option.name: option for option in options}
        self._words: list[str] = []
        self._notes: list[str] = []
        self._instead: dict[str, Any] = {}
        self._later: list[Callable[[list[str]], list[str]]] = []
        self._imported: dict[str, str] = {}
        self.start = ""
        """The option that names the checkpoint from which a training run starts."""
        self.writes = ""
        """What the command writes, in place of what."""
        self.differences: tuple[str, ...] = ()
        """What is done in another way here than in the old script, and is not an option's default."""
        for option in options:
            self._refuse(option)

    def _declare(self, option: Option) -> None:
        meaning = option.note or f"becomes {option.becomes}" * bool(option.becomes)
        if option.flag:
            self._parser.add_argument(option.name, action="store_true", help=meaning)
            return
        self._parser.add_argument(
            option.name,
            help=meaning,
            metavar=None if option.choices else "VALUE",
            required=option.required,
            type=option.type,
            choices=option.choices,
            **({"action": "append"} if option.many else {}),
        )

    def _refuse(self, option: Option) -> None:
        given = self._given[option.name]
        if option.only is not None and given is not None and given != option.only:
            self.fail(f"{option.name} {given}: {option.reason}")

    def knows(self, name: str) -> bool:
        """Whether the script has an option."""
        return name in self._options

    def given(self, name: str) -> bool:
        """Whether the user gave an option, of those that the script has."""
        return not _absent(self._given.get(name))

    def value(self, name: str) -> Any:
        """What was given for an option, or its default; None (a flag: False) without either."""
        given = self._given[name]
        return self._options[name].default if given is None else given

    def number(self, name: str, usual: float = 0) -> float:
        """An option's value as a number. Raises SystemExit if it is none."""
        value = self.value(name)
        try:
            return usual if _absent(value) else float(value)
        except ValueError:
            self.fail(f"argument {name}: invalid number: {value!r}")

    def whole(self, name: str, usual: int = 0) -> int:
        """An option's value as a whole number. Raises SystemExit if it is none."""
        value = self.number(name, usual)
        if not float(value).is_integer():
            self.fail(f"argument {name}: invalid int value: {self.value(name)!r}")
        return int(value)

    def chosen(self, name: str) -> Any:
        """What is used for an option: what took its place, or its value."""
        return self._instead.get(name, self.value(name))

    def has(self, need: str) -> bool:
        """Whether an option, or one of several, is as it is written: `--a`, `--b 3`, `--a or --b 3`."""
        for words in need.split(" or "):
            name, _, wanted = words.partition(" ")
            value = self.value(name)
            if value == wanted if wanted else value:
                return True
        return False

    def lacks(self, name: str) -> str:
        """The first of the options that this one has no effect without and that is not there; or nothing."""
        return next((need for need in self._options[name].needs if not self.has(need)), "")

    def checkpoint(self, name: str) -> str:
        """The checkpoint that an option's value means, with a remark where it is not where the value says."""
        path: str = self._instead.get(name, self.value(name))
        if Path(path).suffix in OLD_FILES and Path(path).is_file():
            return self._import(self._options[name], path)
        found = run_folder(path)
        if found != path and name not in self._instead:
            self.note(f"{name} {path}: this is the run folder {found} here; its best checkpoint is used")
        return found

    def _import(self, option: Option, path: str) -> str:
        """Turn an old file of weights into a checkpoint beside it, named by its content; once."""
        if path in self._imported:
            return self._imported[path]
        place = self.value("--tokenizer-dir") if "--tokenizer-dir" in self._options else None
        words = ["--tokenizer", place or "."]
        words += ["--track", option.track] * bool(option.track) + ["--stage", option.stage] * bool(option.stage)
        heads = next((name for name in ("--num-attention-heads", "--num-heads") if self.given(name)), None)
        words += ["--num-heads", str(self._given[heads])] if heads else []
        words += ["--rope-scaling", "True"] if self.given("--inference-rope-scaling") else []
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256")
        content.update(shlex.join(words).encode())
        folder = str(Path(path).with_suffix(f".imported-{content.hexdigest()[:12]}"))
        self.note(f"{option.name} {path}: an old file of weights; its tensors are in the checkpoint {folder}")
        if not Path(folder).is_dir():
            self.first("import", path, "--out", folder, *words)
        self._imported[path] = folder
        return folder

    def described(self, name: str) -> Description | None:
        """What the checkpoint says that an option names; None if there is none to look at."""
        from nano_llada.checkpoint.files import find_checkpoint, read_description

        try:
            return read_description(find_checkpoint(Path(self.checkpoint_once(name))))
        except UserError:
            return None  # the command will say what is wrong

    def checkpoint_once(self, name: str) -> str:
        """`checkpoint` without a second remark."""
        notes = list(self._notes)
        found = self.checkpoint(name)
        if found not in self._imported.values():
            self._notes = notes
        return found

    def add(self, *words: str) -> None:
        """More of the command."""
        self._words += words

    def has_word(self, word: str) -> bool:
        """Whether an option is in the command already."""
        return word in self._words

    def note(self, text: str) -> None:
        """A line for the user, shown under the command; each once."""
        if text not in self._notes:
            self._notes.append(text)

    def instead(self, name: str, value: Any) -> None:
        """Use another value for an option than the one that was given; None: leave it out."""
        self._instead[name] = value

    def fail(self, text: str) -> NoReturn:
        """Stop with the usage and a message."""
        self._parser.error(text)

    def first(self, *words: str) -> None:
        """Run a command that has to be done before. Raises SystemExit if it fails."""
        print(f"runs: nano-llada {shlex.join(words)}", file=sys.stderr, flush=True)
        if status := nano_llada(list(words)):
            raise SystemExit(status)

    def then(self, make: Callable[[list[str]], list[str]]) -> None:
        """Run another command afterwards, made from the words of the main one."""
        self._later.append(make)

    def run(self) -> int:
        """Print the command and the remarks on standard error, run it, and give its exit status."""
        for option in self._options.values():
            self._translate(option)
        print(f"runs: nano-llada {shlex.join(self._words)}", file=sys.stderr)
        for text in self._notes:
            print(f"note: {text}", file=sys.stderr)
        if self.writes:
            print(f"writes: {self.writes}", file=sys.stderr)
        if different := [*self._defaults(), *self.differences]:
            print(f"defaults: not given, and another value here: {'; '.join(different)}", file=sys.stderr)
        sys.stderr.flush()
        status: int = nano_llada(self._words)
        for make in self._later:
            if not status:
                words = make(self._words)
                print(f"runs: nano-llada {shlex.join(words)}", file=sys.stderr, flush=True)
                status = nano_llada(words)
        return status

    def _translate(self, option: Option) -> None:
        value = self._instead.get(option.name, self.value(option.name))
        if _absent(value):
            return
        words = [] if option.flag else [str(word) for word in (value if isinstance(value, tuple | list) else (value,))]
        written = f"{option.name} {','.join(words)}".strip()
        if lacking := self.lacks(option.name):
            if self.given(option.name):
                self.note(f"{written}: no effect without {lacking}, as in the old script")
            return
        if option.name == "--tokenizer-dir" and option.becomes and not (Path(value) / "tokenizer.json").is_file():
            self.note(f"{written}: no tokenizer.json there, so the bundled one (or the checkpoint's) is used")
            return
        if option.becomes in SHAPES and self.start:
            self._agree(option, value)
            return
        for name in option.becomes.split():
            self.add(name, *([self.checkpoint(option.name)] if option.checkpoint else words))
        if option.note and self.given(option.name):
            self.note(f"{written}: {option.note}")

    def _agree(self, option: Option, value: Any) -> None:
        """A shape that a checkpoint decides: what is given must be what it has."""
        found = self.described(self.start)
        has = None if found is None else getattr(found.config, SHAPES[option.becomes])
        if has is not None and has != value:
            self.fail(
                f"{option.name} is {value}, but the model of {self.start} {self.value(self.start)} has {has}; leave "
                "the option out, or start from scratch"
            )
        self.note(f"{option.name} {value}: {FROM_START}" + ", which has the same" * (has is not None))

    def _defaults(self) -> Iterator[str]:
        """The old script's defaults that differ from ours, of the options that were not given."""
        for option in self._options.values():
            passed = option.name in self._instead or not _absent(self.value(option.name))
            inherited = self.start and option.becomes in (*SHAPES, "--dropout", "--max-length", "--tokenizer")
            if option.there is None or passed or inherited:
                continue
            if self.lacks(option.name) or (option.name == THRESHOLD and self._given.get(PARALLEL)):
                continue
            here = option.here or _default_here(self._words, option.becomes)
            if here is not None and here != option.there:
                yield f"{option.name} {option.there} (here {here})"


def _absent(value: object) -> bool:
    """Whether an option has no value; 0 is one."""
    return value is None or value is False


def _default_here(words: Sequence[str], becomes: str) -> Any:
    """Our default of an option of a training command; None if it has none."""
    name = becomes.split()[0].removeprefix("--").replace("-", "_")
    parts: list[Any] = [default_run(words[0], words[1])]
    for part in parts:  # nested records, from the outermost on
        for field in fields(part):
            value = getattr(part, field.name)
            if field.name == name:
                return value
            if is_dataclass(value):
                parts.append(value)
    return None


def run_folder(path: str) -> str:
    """The path itself if it exists; else the run folder that took the place of an old `weights/NAME[_best].pt`.

    If neither exists it is the path again, about which the command will complain.
    """
    place = Path(path)
    if place.exists():
        return path
    name = place.name.removesuffix(".pt")
    stems = [name, *(name.removesuffix(ending) for ending in OLD_ENDINGS)]
    for candidate in (*stems, *(OLD_NAMES[stem] for stem in stems if stem in OLD_NAMES)):
        if (place.parent / candidate).is_dir():
            return str(place.parent / candidate)
    return path


def train_into(translation: Translation, stage: str, track: str, *, start: str = "", resumes: bool = False) -> None:
    """Begin a training command: where it writes, what it starts from, and whether it resumes.

    Args:
        start: the option that names the checkpoint to start from.
        resumes: whether the old script resumes when it starts from the file that it writes.
    """
    runs, name = translation.chosen("--save-dir"), translation.chosen("--run-name")
    folder = Path(runs) / name
    translation.add(stage, track, "--runs", runs)
    files = ", ".join(f"{folder}{end}" for end in (".pt", "_best.pt", "_state_dict.pt"))
    translation.writes = f"the run folder {folder}, which takes the place of {files}"
    precision = {"float32": "fp32", "bfloat16": "auto", None: None}
    if translation.knows("--dtype"):
        told = translation.value("--dtype")
        if told not in precision:
            translation.fail("--dtype float16: there is no loss scaling here; use bfloat16 (on CUDA) or float32")
        if told:
            translation.add("--precision", str(precision[told]))
    if start and translation.given(start):
        translation.start = start
        _resume_own(translation, folder, start, resumes)
    _longer(translation)


def _resume_own(translation: Translation, folder: Path, start: str, resumes: bool) -> None:
    """Old scripts resume by starting from the file that they write; here the run itself is resumed."""
    asked = translation.given("--resume-optimizer-state")
    own = Path(run_folder(translation.value(start))) == folder and (folder / "config.json").is_file()
    if asked and not own:
        translation.fail(
            "--resume-optimizer-state: the state of an optimizer belongs to its run and is not carried to another; "
            f"leave it out to start from the weights of {translation.value(start)}, or resume that run: its "
            "--run-name and --resume"
        )
    if not own or not (asked or resumes or translation.given("--resume")):
        return
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    before = saved.get("init_from")
    translation.instead(start, before)
    translation.note(f"{start} {translation.value(start)}: this is the run itself, which is resumed where it stopped")
    if asked:
        translation.note("--resume-optimizer-state: the run is resumed with its optimizer, as is everything else")
    if before is None:
        translation.start = ""
    if not translation.given("--resume"):
        translation.add("--resume")


def _longer(translation: Translation) -> None:
    """The old models took rows of any length: make the context as long as the rows are."""
    lengths = [name for name in ("--max-seq-len", "--seq-len") if translation.knows(name)]
    if translation.given("--max-position-embeddings") or not lengths or not translation.value(lengths[0]):
        return
    rows, context = translation.whole(lengths[0]), 512
    if translation.start:
        found = translation.described(translation.start)
        context = rows if found is None else found.config.max_length
    if rows > context:
        translation.add("--max-length", str(rows))
        translation.note(f"{lengths[0]} {rows}: the model's context of {context} tokens is made as long")


def accumulate(translation: Translation, rows: int = 1) -> None:
    """`--batch-size` counts what is computed at once, `--accumulation-steps` how many of those make a step."""
    steps = translation.value("--accumulation-steps")
    if steps is None:
        return
    size = translation.whole("--batch-size", 16)
    if steps < 1 or size < 1:
        translation.fail("--accumulation-steps and --batch-size must be at least 1")
    translation.instead("--batch-size", size * steps * rows)
    translation.add("--micro-batch-size", str(size * rows))
    translation.note(
        f"--accumulation-steps {steps}: a step of {size * steps} is computed {size} at a time, and the last step "
        "of an epoch is not shorter"
    )


def steps_of_epochs(translation: Translation, epochs: int) -> None:
    """`--steps-per-epoch`, which the old scripts read with --streaming, counts batches of each epoch."""
    batches = translation.value("--steps-per-epoch")
    if batches is None or translation.lacks("--steps-per-epoch"):
        return
    epochs = translation.whole("--epochs", epochs)
    steps = epochs * -(-batches // (translation.value("--accumulation-steps") or 1))
    translation.add("--steps", str(steps))
    translation.instead("--epochs", None)
    translation.note(f"--steps-per-epoch {batches}: {epochs} epochs of it are {steps} optimizer steps")
    if translation.given("--epochs"):
        translation.note(f"--epochs {epochs}: counted into the steps")


def decode(translation: Translation, block: int | None) -> list[str]:
    """Options of `nano-llada generate` for a diffusion model that writes blocks of this size, or whole rows."""
    threshold = translation.value(THRESHOLD)
    if threshold is None and translation.knows(PARALLEL) and translation.value(PARALLEL):
        threshold = "0.9"
    if block:
        blocks = f"this model writes blocks of {block} tokens, one after the other"
        words = pass_on(translation, "--gen-steps", "--steps", f"{blocks}, each in as many passes as it needs")
        words += pass_on(translation, "--gen-cfg-scale", "--guidance", f"{blocks}, and has no guidance")
    else:
        needed = "with a confidence threshold the passes are as many as needed" if threshold else ""
        words = pass_on(translation, "--gen-steps", "--steps", needed)
        words += pass_on(translation, "--gen-cfg-scale", "--guidance")
    if threshold:
        words += ["--threshold", threshold]
    return words + draw(translation, "--gen-temp", "--gen-top-k", usual=8)


def draw(translation: Translation, temperature: str, top_k: str, usual: int) -> list[str]:
    """`--temperature` and `--top-k`, which has no effect where nothing is drawn; `usual` is its old default."""
    words = pass_on(translation, temperature, "--temperature")
    drawn = translation.number(temperature) > 0
    if translation.given(top_k) and not drawn:
        translation.note(f"{top_k} {translation.value(top_k)}: {GREEDY}")
        return words
    if drawn and not translation.given(top_k):
        translation.differences += (f"{top_k} {usual} (here off: drawn from all tokens)",)
    return words + pass_on(translation, top_k, "--top-k")


def pass_on(translation: Translation, name: str, becomes: str, unless: str = "") -> list[str]:
    """The value of an option for another one, or, for the reason `unless`, a remark that it has no effect."""
    if not translation.given(name):
        return []
    value = translation.value(name)
    if unless:
        translation.note(f"{name} {value}: no effect here: {unless}")
        return []
    return [becomes, str(value)]


def measure(translation: Translation, checkpoint: str, window: str | None = None) -> None:
    """The old scripts' loss on a file: `nano-llada eval` afterwards."""
    data = translation.value("--eval-data")
    if not data:
        return
    size = translation.whole("--eval-batch-size", 16)
    limit = size * translation.whole("--eval-max-batches", 50)
    words = ["eval", "--checkpoints", checkpoint, "--suites", "likelihood", "--text", data]
    words += ["--batch-size", str(size), "--limit", str(limit)]
    words += ["--text-field", translation.value("--jsonl-field")] if translation.given("--jsonl-field") else []
    words += ["--device", translation.value("--device")] if translation.given("--device") else []
    words += ["--window", window] if window else []
    translation.note(f"--eval-data {data}: measured afterwards, in nats and bits per byte, with a report")
    translation.then(lambda _: words)


MEASURING_OPTIONS = (
    Option("--eval-data"),
    Option("--jsonl-field", needs=("--eval-data",)),
    Option("--eval-batch-size", type=int, needs=("--eval-data",)),
    Option("--eval-max-batches", type=int, needs=("--eval-data",)),
)

"""Input that is odd rather than wrong, and options that would change nothing: found by using the program."""

from __future__ import annotations

import io
import json
import os
import time

import numpy as np
import pytest

from forked import needs_fork, piped
from nano_llada.cli.chat_command import fitting
from nano_llada.config.record import read_config
from nano_llada.core.errors import UserError
from nano_llada.data.read import BadRows, resolve
from nano_llada.data.rows import Message
from nano_llada.data.store import Encoding, open_store
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.evaluation.statistics import wilson
from nano_llada.language_model import LanguageModel
from nano_llada.training.plots import plot_losses
from tiny import Place, family, make_place, run_cli, tiny_arguments, write_rows

LONG = "Tom has a red ball. " * 60  # more than the tiny models' context


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Place:
    return family(tmp_path_factory.getbasetemp())


def refused(capsys, *words: object) -> str:
    capsys.readouterr()
    assert run_cli(words) == 2
    out, told = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in told
    return " ".join(told.replace("│", " ").split())  # a config's errors come in a frame


# texts


@needs_fork
def test_lines_of_standard_input_that_are_no_text_are_named(done):
    words = ("generate", done.runs / "ar", "--max-new-tokens", 2)
    bad = piped(*words, data="汤姆\n".encode() + "汤姆有".encode("gbk") + b"\n")
    assert (bad.returncode, bad.stderr.decode()) == (2, "error: line 2 of standard input is not valid utf-8\n")
    plain, marked = (piped(*words, data=mark + "汤姆\n".encode()) for mark in (b"", "\ufeff".encode()))
    assert plain.returncode == 0
    assert plain.stdout == marked.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "ar", "--prompt", "\udcff"),
        ("infill", "diffusion", "--text", "a ___ \udcff"),
        ("compare", "ar", "--prompts", "\udcff"),
    ],
)
def test_an_argument_that_is_no_text(done, tmp_path, capsys, words):
    command, name, *rest = words
    out = ("--out", tmp_path) if command == "compare" else ()
    assert "not valid UTF-8" in refused(capsys, command, done.runs / name, *rest, *out)


@needs_fork
def test_a_chat_goes_on_after_a_message_that_it_cannot_take(done):
    lines = b"What has Tom?\n" + LONG.encode() + b"\n\xff\xfe\nWhat has Amy?\n"
    told = piped("chat", done.runs / "ar-sft", "--max-new-tokens", 3, data=lines)
    assert told.returncode == 2  # not every message was answered
    assert told.stdout.count(b"\n") == 2
    first, second = told.stderr.decode().splitlines()
    assert first.startswith("error: the prompt has ")
    assert second == "error: line 3 of standard input is not valid utf-8"


@pytest.mark.parametrize("room", [250, 256, 5000])
def test_a_long_answer_does_not_cost_the_whole_conversation(done, room):
    writer = LanguageModel.load(done.runs / "ar-sft")
    turns = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    assert fitting(writer, turns, 0, room) == turns


def test_which_of_several_prompts_is_too_long(done, capsys):
    told = refused(capsys, "generate", done.runs / "ar", "--prompt", "Tom", LONG)
    assert told.startswith("error: prompt 2 has ")


def test_a_stop_text_that_every_text_holds(done, capsys):
    assert "a stop text is empty" in refused(capsys, "generate", done.runs / "ar", "--prompt", "Tom", "--stop", "")


def test_json_lines_stay_json_when_steps_are_shown(done, capsys):
    words = ("generate", done.runs / "diffusion", "--prompt", "Tom", "--max-new-tokens", 4, "--json-lines")
    assert run_cli([*words, "--show-steps"]) == 0
    shown = capsys.readouterr()
    assert [json.loads(line)["prompt"] for line in shown.out.splitlines()] == ["Tom"]
    assert [line.split()[0] for line in shown.err.splitlines()[:2]] == ["1", "2"]


def test_a_sample_prompt_is_refused_before_training_not_in_the_midst_of_it(tmp_path, capsys):
    place = make_place(tmp_path)
    words = tiny_arguments(place, name="x", steps=3, sample_every=2, sample_prompts=("Tom", LONG))
    assert "sample prompt 2 has " in refused(capsys, *words)
    assert not (place.runs / "x" / "metrics.jsonl").exists()


# what is kept on disk


def damage_tail(folder):
    file = folder / "tokens.bin"
    file.write_bytes(file.read_bytes()[:-8])


def damage_index(folder):
    file = folder / "starts.npy"
    file.write_bytes(file.read_bytes()[:40])


def damage_meta(folder):
    (folder / "meta.json").write_text("{", encoding="utf-8")


def damage_meta_type(folder):
    (folder / "meta.json").write_text("null", encoding="utf-8")


def damage_side(folder):
    np.save(folder / "text_bytes.npy", np.ones(1, dtype=np.int64))


def damage_missing(folder):
    (folder / "scored.bin").unlink()


@pytest.mark.parametrize(
    "damage", [damage_tail, damage_index, damage_meta, damage_meta_type, damage_side, damage_missing]
)
def test_a_damaged_cache_is_built_again(tmp_path, damage):
    place = make_place(tmp_path)
    tokenizer, sources = Tokenizer.load(place.tokenizer), resolve([str(place.text)])

    def stored():
        return open_store(sources, tokenizer, Encoding("text"), cache=place.cache, bad_rows=BadRows("stop"))

    before = stored()
    whole, flags = before.slice(0, int(before.starts[-1]))
    damage(before.folder)
    again = stored()
    assert again.folder == before.folder
    tokens, scored = again.slice(0, int(again.starts[-1]))
    assert np.array_equal(tokens, whole)
    assert np.array_equal(scored, flags)


def test_a_cache_that_cannot_be_read_just_now_is_kept(tmp_path, monkeypatch):
    place = make_place(tmp_path)
    tokenizer, sources = Tokenizer.load(place.tokenizer), resolve([str(place.text)])

    def stored():
        return open_store(sources, tokenizer, Encoding("text"), cache=place.cache, bad_rows=BadRows("stop"))

    folder = stored().folder
    before = (folder / "meta.json").stat().st_mtime_ns

    def busy(*_, **__):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("numpy.memmap", busy)
        with pytest.raises(UserError, match=r"cannot read the data cache .*: Too many open files"):
            stored()
    assert (folder / "meta.json").stat().st_mtime_ns == before
    stored()


def test_what_killed_builds_left_in_the_cache_goes_after_a_day(tmp_path):
    place = make_place(tmp_path)
    old, new = (place.cache / f".building-{name}" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "tokens.bin").write_bytes(b"1234")
    yesterday = time.time() - 25 * 3600
    for path in (old / "tokens.bin", old):
        os.utime(path, (yesterday, yesterday))
    tokenizer = Tokenizer.load(place.tokenizer)
    sources = resolve([str(place.text)])
    open_store(sources, tokenizer, Encoding("text"), cache=place.cache, bad_rows=BadRows("stop"))
    assert (old.exists(), new.exists()) == (False, True)


def test_a_world_is_not_written_over_another(tmp_path, capsys):
    words = ("data", "world", "--out", tmp_path / "world", "--documents", 20, "--chats", 20)
    assert run_cli(words) == 0
    before = (tmp_path / "world" / "pretrain-train.jsonl").read_bytes()
    assert "already; give another --out" in refused(capsys, *words[:5], 0, "--chats", 5)
    assert (tmp_path / "world" / "pretrain-train.jsonl").read_bytes() == before


def test_a_tokenizer_is_not_written_over_another(tmp_path, capsys):
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": "Tom has a ball."}] * 3)
    words = ("tokenizer", "train", "--data", texts, "--kind", "characters", "--out", tmp_path / "t")
    assert run_cli(words) == 0
    assert "holds a tokenizer already" in refused(capsys, *words)


def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_is_named(tmp_path, capsys):
    place = make_place(tmp_path)
    words = tiny_arguments(place, name="x", steps=4, save_every=2, keep_last=2)
    assert run_cli(words) == 0
    run = place.runs / "x"
    (run / "step-000004" / "training.safetensors").write_bytes(b"1")
    capsys.readouterr()
    assert run_cli([*words, "--resume"]) == 0
    told = capsys.readouterr().out
    assert f"{run / 'step-000004' / 'training.safetensors'} does not match its checksum" in told
    assert "resuming from step-000002: the damaged one is now step-000004.damaged" in told


def test_a_config_file_may_begin_with_a_mark(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\ufeff{"name": "汤姆"}', encoding="utf-8")
    assert read_config(path) == {"name": "汤姆"}


# options that would change nothing, or could not be meant

MISTAKES = {
    "no name": ({"name": ""}, "name '' cannot be the name of a folder in "),
    "a name that leaves the folder": ({"name": "../x"}, "name '../x' cannot be the name of a folder in "),
    "less than one thread": ({"threads": -1}, "threads must be at least 1, got -1"),
    "no thread": ({"threads": 0}, "threads must be at least 1, got 0"),
    "no rows to measure": ({"eval_rows": 0}, "eval_rows must be at least 1, got 0"),
    "saving never and less": ({"save_every": -1}, "save_every must be at least 0, got -1"),
    "turns of texts": ({"turns": "each"}, "turns 'each' applies to conversations; it has no effect with format 'text'"),
    "conversations in pretraining": ({"format": "chat"}, "these options describe a run of `sft ar`, not `pretrain ar`"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_options_of_a_run(tmp_path, capsys, mistake):
    options, told = MISTAKES[mistake]
    assert told in refused(capsys, *tiny_arguments(make_place(tmp_path), **{"name": "x"} | options))


def test_an_option_spelt_with_an_underscore_is_the_same_option(tmp_path, capsys):
    words = tiny_arguments(make_place(tmp_path), name="x")
    assert "--vocab-size: the vocabulary's size comes from the tokenizer" in refused(
        capsys, *words, "--vocab_size", 300
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("infill", "diffusion", "--text", "a ___", "--min-new-tokens", 2), "min_new_tokens has no effect here"),
        (
            ("generate", "ar", "--prompt", "a", "--min-new-tokens", 9, "--max-new-tokens", 4),
            "min_new_tokens must be from 0 to max_new_tokens 4, got 9",
        ),
        (
            ("eval", "ar", "--suites", "generation", "--skills", "copy", "--window", 7),
            "--window is for likelihood, calibration, measured is generation",
        ),
        (
            ("eval", "ar", "--skills", "copy", "--judge", "runs/base"),
            "--judge is for quality, measured is generation: leave it out, or name one that reads it in --suites",
        ),
    ],
)
def test_options_of_models(done, capsys, words, told):
    command, name, *rest = words
    assert told in refused(capsys, command, done.runs / name, *rest)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--kind", "characters", "--vocab-size", 50), "vocab_size has no effect with kind 'characters'"),
        (("--kind", "characters", "--chinese-words", "w.txt"), "chinese_words has no effect with kind 'characters'"),
        (("--text-field", "other", "--on-bad-row", "skip"), "no text in "),
        ((), "no text in "),
    ],
)
def test_options_of_a_tokenizer(tmp_path, capsys, options, told):
    rows = [{"text": "Tom"}] * 3 if options else []
    data = write_rows(tmp_path / "texts.jsonl", rows)
    assert told in refused(capsys, "tokenizer", "train", "--data", data, "--out", tmp_path / "t", *options)
    assert not (tmp_path / "t").exists()


# what is shown


@pytest.mark.usefixtures("drawn")
def test_a_run_with_a_chinese_name_is_drawn_without_complaint(tmp_path, recwarn):
    plot_losses([{"step": 1, "loss": 2.0}], tmp_path / "loss.png", "中文")
    assert (tmp_path / "loss.png").stat().st_size > 1000
    assert [str(warning.message) for warning in recwarn] == []


def test_a_share_and_its_interval_stay_between_none_and_all():
    for count in range(1, 60):
        assert f"{wilson(0.0, count)[0]:.1%}" == "0.0%"  # never -0.0%
        assert wilson(1.0, count)[1] <= 1.0


def test_lines_are_read_from_what_stands_in_for_standard_input(done, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeffTom\n\nAmy"))
    assert run_cli(["generate", done.runs / "ar", "--max-new-tokens", 1]) == 0
    assert [line.split(" -> ")[0] for line in capsys.readouterr().out.splitlines()] == ["Tom", "Amy"]

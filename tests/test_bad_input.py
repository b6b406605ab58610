"""Mistakes that people make at the terminal: each ends with status 2, says what and where, and shows no traceback."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence

import pytest
import torch

from scene import Scene, cut, drop, other_tokenizer
from tiny import family, run_cli, texts, write_rows


def pickled(scene: Scene) -> list[str]:
    torch.save({"a": 1}, scene.here / "model.pt")
    return scene.generate(scene.here / "model.pt")


WRONG_CHOICE = '{"question": "1+1?", "choices": ["1", "2"], "answer": 2}\n'
Case = Callable[[Scene], Sequence[object]]
DATA: dict[str, tuple[Case, str]] = {
    "broken JSON": (lambda s: s.rows('{"text": "To'), "bad.jsonl:3: broken JSON: Unterminated string"),
    "a row of another type": (lambda s: s.rows("[1, 2]"), "bad.jsonl:3: the row is a list, expected an object"),
    "a missing field": (lambda s: s.rows('{"words": "Tom"}'), "bad.jsonl:3: no field text; the fields are: words"),
    "a field of another type": (lambda s: s.rows('{"text": 7}'), "bad.jsonl:3: text is a number, expected text"),
    "empty text": (lambda s: s.rows('{"text": "  "}'), "bad.jsonl:3: text is empty"),
    "the mask token": (
        lambda s: s.rows('{"text": "a <|mask|> b"}'),
        "bad.jsonl:3: the text contains the literal mask token <|mask|>",
    ),
    "bytes that are no UTF-8": (
        lambda s: s.rows(b'{"text": "\xff"}'),
        "bad.jsonl:3: byte 11 (0xff) is not valid UTF-8",
    ),
    "a chat row without an answer": (
        lambda s: s.rows('{"messages": [{"role": "user", "content": "Hi"}]}', "sft"),
        "bad.jsonl:3: messages has no assistant turn",
    ),
    "a chat row of an unknown role": (
        lambda s: s.rows('{"messages": [{"role": "boss", "content": "Hi"}]}', "sft"),
        "messages[0].role is 'boss', expected one of system, developer, user",
    ),
    "text where chat is expected": (
        lambda s: s.run(stage="sft", init_from=s.done.runs / "ar", data=(s.done.text,)),
        "text.jsonl:1: no conversations, no messages, no prompt with a response; the fields are: text",
    ),
    "chat where text is expected": (
        lambda s: s.run(data=(s.done.chat,)),
        "chat.jsonl:1: no field text; the fields are: messages",
    ),
    "a missing file": (lambda s: s.run(data=("nowhere.jsonl",)), "nowhere.jsonl: no data found"),
    "a pattern without a match": (lambda s: s.run(data=(f"{s.here}/*.jsonl",)), "*.jsonl: no data found"),
    "an ending that is not supported": (
        lambda s: s.run(data=(s.file("data.csv", "a,b"),)),
        "data.csv: cannot read this kind of file; supported endings are",
    ),
    "a damaged gzip file": (
        lambda s: s.run(data=(s.file("data.jsonl.gz", gzip.compress(b'{"text": "a"}' * 99)[:20]),)),
        "data.jsonl.gz: could not be read, check that it is there and whole",
    ),
    "an empty file": (lambda s: s.run(data=(s.file("data.jsonl", ""),)), "no documents in"),
    "no data": (lambda s: s.run(data=()), "no training data: give files with --data"),
    "too little data": (
        lambda s: s.run(data=(s.file("data.jsonl", '{"text": "Tom"}\n'),), validation_share=0.0),
        "1 documents do not fill one row of 64 tokens; give more data or a smaller sequence_length",
    ),
    "too little validation data": (
        lambda s: s.run(validation=(s.file("data.jsonl", '{"text": "Tom"}\n'),)),
        "1 documents do not fill one row of 64 tokens",
    ),
    "eval of a broken row": (
        lambda s: ["eval", "--checkpoints", s.done.runs / "ar", "--text", s.file("data.jsonl", "{")],
        "data.jsonl:1: broken JSON",
    ),
}
FOLDERS: dict[str, tuple[Case, str]] = {
    "runs is a file": (lambda s: s.run(runs=s.file("file", "")), "cannot write the run folder"),
    "the cache is a file": (lambda s: s.run(cache=s.file("file", "")), "choose another with --cache"),
    "the report is a file": (
        lambda s: ["compare", "--checkpoints", s.done.runs / "ar", "--prompts", "Tom", "--out", s.file("file", "")],
        "cannot write the report to",
    ),
    "the figures cannot be written": (
        lambda s: ["eval", "--checkpoints", s.done.runs / "ar", "--text", s.done.text, "--out", s.file("file", "")],
        "cannot write the evaluation to",
    ),
    "the world cannot be written": (lambda s: ["data", "world", "--out", s.file("file", "")], "cannot write"),
    "the tokenizer cannot be written": (
        lambda s: ["tokenizer", "train", "--data", s.done.text, "--out", s.file("file", ""), "--kind", "characters"],
        "cannot write",
    ),
    "import over a folder": (lambda s: imported(s), "exists"),
    "export over a folder": (lambda s: ["export", "--checkpoint", s.done.runs / "ar", "--out", s.here], "exists"),
    "a run that exists": (
        lambda s: [*s.run(runs=s.done.runs, name="ar")],
        "exists; continue it with `nano-llada resume",
    ),
    "nothing to resume": (lambda s: [*s.run(), "--resume"], "nothing to resume"),
    "another config on resume": (
        lambda s: [*s.run(runs=s.done.runs, name="ar", learning_rate=0.5), "--resume"],
        "train.learning_rate was 0.001, is 0.5",
    ),
    "a broken config on resume": (lambda s: broken_config(s), "config.json"),
}


def imported(scene: Scene) -> list[object]:
    """An import into a folder that holds something, which must survive."""
    assert run_cli(["export", "--checkpoint", scene.done.runs / "ar", "--out", scene.here / "theirs"]) == 0
    (scene.here / "precious").mkdir()
    scene.file("precious/thesis.txt", "years of work")
    return ["import", "--source", scene.here / "theirs", "--out", scene.here / "precious"]


def broken_config(scene: Scene) -> list[str]:
    (scene.here / "runs" / "x").mkdir(parents=True)
    scene.file("runs/x/config.json", "{")
    return [*scene.run(), "--resume"]


CHECKPOINTS: dict[str, tuple[Case, str]] = {
    "no such checkpoint": (lambda s: s.generate(s.here / "none"), "there is no such file or folder"),
    "a folder without files": (lambda s: s.generate(s.here), "neither model.json nor a step-N folder"),
    "a corrupt checkpoint": (
        lambda s: s.generate(s.model(spoil=lambda f: (f / "model.safetensors").write_bytes(b"\0" * 64))),
        "model.safetensors is corrupt or not a safetensors file",
    ),
    "a truncated checkpoint": (
        lambda s: s.generate(s.model(spoil=lambda f: cut(f / "model.safetensors"))),
        "model.safetensors is corrupt or not a safetensors file",
    ),
    "a pickle": (pickled, "model.pt is a pickle file, and unpickling can run anything"),
    "a missing weight": (
        lambda s: s.generate(s.model(spoil=lambda f: drop(f / "model.safetensors", "norm.weight"))),
        "model.safetensors lacks norm.weight",
    ),
    "another model's tokenizer": (
        lambda s: s.generate(s.model(spoil=other_tokenizer)),
        "is not the one the model was trained with",
    ),
    "a checkpoint without its tokenizer": (
        lambda s: s.generate(s.model(spoil=lambda f: (f / "tokenizer.json").unlink())),
        "tokenizer.json is missing",
    ),
    "a broken tokenizer": (
        lambda s: s.generate(s.model(spoil=lambda f: (f / "tokenizer.json").write_text("{}"))),
        "tokenizer.json is not a tokenizer",
    ),
    "another tokenizer for --init-from": (
        lambda s: s.run("diffusion", init_from=s.done.runs / "ar", tokenizer=other_tokenizer(s.here)),
        "leave --tokenizer out to use the checkpoint's",
    ),
    "a tokenizer folder without tokenizer.json": (lambda s: s.run(tokenizer=s.here), "no tokenizer.json in"),
    "a vocabulary that is too small": (
        lambda s: ["tokenizer", "train", "--data", s.done.text, "--out", s.here, "--vocab-size", 100],
        "vocabulary too small: 100; 256 bytes and 16 special tokens need 272",
    ),
    "a shape that is not the checkpoint's": (
        lambda s: s.run("diffusion", init_from=s.done.runs / "ar", hidden_size=64),
        "with --init-from the shape comes from the checkpoint",
    ),
    "sft without a start": (
        lambda s: s.run(stage="sft"),
        "sft starts from a pretrained model: give it with --init-from",
    ),
    "export of adapters that are not there": (
        lambda s: ["export", s.done.runs / "diffusion", "--out", s.here / "out", "--to", "peft"],
        "holds all weights and no adapters",
    ),
}
VALUES: dict[str, tuple[Case, str]] = {
    "heads that do not divide the width": (
        lambda s: s.run(num_heads=5),
        "hidden_size 32 is not a multiple of num_heads 5",
    ),
    "key heads that do not divide the heads": (
        lambda s: s.run(num_kv_heads=3),
        "num_heads 4 is not a multiple of num_kv_heads 3",
    ),
    "rows longer than the context": (
        lambda s: s.run(max_length=32),
        "sequence_length 64 is longer than the model's max_length 32",
    ),
    "a negative learning rate": (lambda s: s.run(learning_rate=-1.0), "learning_rate must be positive, got -1.0"),
    "an unknown device": (lambda s: s.run(device="abacus"), "device 'abacus' cannot be used here"),
    "an unknown track": (lambda s: ["pretrain", "sideways"], "needs one of ar, diffusion, tri, not 'sideways'"),
    "a misspelt track": (lambda s: ["sft", "difusion"], "not 'difusion'; did you mean 'diffusion'?"),
    "an option of another stage": (
        lambda s: [*s.run(), "--block-warmup", "4"],
        "--block-warmup is an option of `nano-llada pretrain diffusion`, not of `nano-llada pretrain ar`",
    ),
    "a value that is missing": (lambda s: [*s.run(), "--name"], "--name needs a value"),
    "an option in place of a value": (lambda s: [*s.run(), "--name", "--steps"], "write --name=VALUE for a value that"),
    "a word too many": (lambda s: ["export", s.done.runs / "ar", "extra", "--out", s.here / "x"], "unexpected 'extra'"),
    "nothing to export": (lambda s: ["export"], "RUN, --out is missing"),
    "a flag with a value": (lambda s: [*s.run(), "--packing=maybe"], "--packing maybe: expected true or false"),
    "an option in the wrong table": (
        lambda s: s.config('{"learning_rate": 1}'),
        "learning_rate: unknown option; did you mean 'train.learning_rate'?",
    ),
    "an option in another wrong table": (
        lambda s: s.config('{"train": {"hiden_size": 1}}'),
        "train.hiden_size: unknown option; did you mean 'model.hidden_size'?",
    ),
    "no track": (lambda s: ["sft"], "nano-llada sft needs one of ar, diffusion"),
    "an unknown command": (lambda s: ["expotr"], "unknown command 'expotr'; did you mean 'export'?"),
    "an unknown option": (
        lambda s: [*s.run(), "--learning-rat", "1"],
        "unknown option --learning-rat; did you mean --learning-rate?",
    ),
    "a value of another type": (lambda s: s.run(steps="many"), "--steps many: expected a whole number"),
    "an unknown skill": (
        lambda s: ["eval", "--checkpoints", s.done.runs / "ar", "--skills", "juggling"],
        "The small world has no skill 'juggling'. Use one of: ",
    ),
    "an unknown skill of the demo": (
        lambda s: ["demo", "--folder", s.here / "demo", "--skills", "juggling", "--cache", s.here / "cache"],
        "The small world has no skill 'juggling'",
    ),
    "an unknown option in a config file": (
        lambda s: s.config('{"train": {"lerning_rate": 1}}'),
        "train.lerning_rate: unknown option; did you mean 'learning_rate'?",
    ),
    "a wrong value in a config file": (
        lambda s: s.config('{"train": {"optimizer": "sgd"}}'),
        "train.optimizer: 'sgd' is not one of adamw, muon",
    ),
    "an impossible value in a config file": (
        lambda s: s.config('{"train": {"learning_rate": -1}}'),
        "learning_rate must be positive, got -1",
    ),
    "a config file that is missing": (
        lambda s: [*s.run(), "--config", "no.json"],
        "cannot read the config file no.json",
    ),
    "a config file that is broken": (lambda s: s.config('{"train": '), "run.json: not valid JSON"),
    "a config file of broken TOML": (lambda s: s.config("train = ", "run.toml"), "run.toml: not valid TOML"),
    "a config file that is no UTF-8": (
        lambda s: [*s.run(), "--config", str(s.file("run.json", b"\xff{}"))],
        "run.json",
    ),
    "a config file of another kind of run": (
        lambda s: ["pretrain", "ar", "--config", str(s.done.runs / "diffusion" / "config.json")],
        "these options describe a run of `pretrain diffusion`, not `pretrain ar`",
    ),
    "--config without a file": (lambda s: [*s.run(), "--config"], "--config needs a value"),
}
DECODING: dict[str, tuple[Case, str]] = {
    "a prompt longer than the context": (
        lambda s: s.generate("ar", "--prompt", "Tom has " * 60),
        "tokens, the model's context is 256: nothing can be written after it",
    ),
    "no tokens to write": (
        lambda s: s.generate("ar", "--max-new-tokens", 0),
        "max_new_tokens must be at least 1, got 0",
    ),
    "a threshold with steps": (
        lambda s: s.generate("diffusion", "--threshold", 0.9, "--steps", 4),
        "threshold leaves it open: give one of them",
    ),
    "a diffusion option for an AR model": (
        lambda s: s.generate("ar", "--threshold", 0.9),
        "threshold: for diffusion models only; this model is autoregressive",
    ),
    "an unknown strategy": (
        lambda s: s.generate("diffusion", "--strategy", "best"),
        "--strategy best: expected one of low_confidence, random, margin, entropy",
    ),
    "top_k without a temperature": (lambda s: s.generate("ar", "--top-k", 5), "set a temperature above 0"),
    "a batch of nothing": (lambda s: s.generate("ar", "--batch-size", 0), "batch_size"),
    "infill with an AR model": (
        lambda s: ["infill", "--checkpoint", s.done.runs / "ar", "--text", "Tom ___"],
        "infilling needs a diffusion model",
    ),
    "infill without a gap": (
        lambda s: ["infill", "--checkpoint", s.done.runs / "diffusion", "--text", "Tom"],
        "no gap in the text: mark one with ___",
    ),
    "more lengths than gaps": (
        lambda s: ["infill", "--checkpoint", s.done.runs / "diffusion", "--text", "Tom ___", "--length", 2, 3],
        "1 gaps but 2 lengths",
    ),
    "a gap of nothing": (
        lambda s: ["infill", "--checkpoint", s.done.runs / "diffusion", "--text", "Tom ___", "--length", 0],
        "length must be at least 1, got 0",
    ),
    "nothing to measure": (lambda s: ["eval", "--checkpoints", s.done.runs / "ar"], "nothing to measure"),
    "no model to measure": (lambda s: ["eval", "--checkpoints", "--text", s.done.text], "no model: give at least one"),
    "nothing to compare on": (lambda s: ["compare", "--checkpoints", s.done.runs / "ar"], "nothing to compare on"),
    "a window longer than the context": (
        lambda s: ["eval", "--checkpoints", s.done.runs / "ar", "--text", s.done.text, "--window", 512],
        "window must be from 2 to the models' shortest context 256, got 512",
    ),
    "a window of one token": (
        lambda s: ["eval", "--checkpoints", s.done.runs / "ar", "--text", s.done.text, "--window", 1],
        "window",
    ),
    "no draws": (
        lambda s: ["eval", "--checkpoints", s.done.runs / "diffusion", "--text", s.done.text, "--draws", 0],
        "draws must be at least 1",
    ),
    "a suite that is none": (
        lambda s: ["eval", s.done.runs / "ar", "--text", s.done.text, "--suites", "likelyhood"],
        "unknown suite 'likelyhood'",
    ),
    "a suite without examples": (
        lambda s: ["eval", s.done.runs / "ar", "--text", s.done.text, "--suites", "choices"],
        "the suite choices needs --choices",
    ),
    "answers without questions": (
        lambda s: ["eval", s.done.runs / "ar", "--text", s.done.text, "--suites", "generation"],
        "needs --skills or --questions",
    ),
    "quality without a judge": (
        lambda s: ["eval", s.done.runs / "ar", "--text", s.done.text, "--suites", "quality"],
        "needs --judge",
    ),
    "a diffusion model as judge": (
        lambda s: (
            [
                "eval",
                *f"{s.done.runs / 'ar'} --text {s.done.text} --suites quality --judge".split(),
                s.done.runs / "diffusion",
            ]
        ),
        "judge",
    ),
    "no likelihood error from one draw": (
        lambda s: ["eval", s.done.runs / "diffusion", "--text", s.done.text, "--draws", 1],
        "draws must be at least 2",
    ),
    "an answer outside the choices": (
        lambda s: (["eval", s.done.runs / "ar", "--choices", s.file("mc.jsonl", WRONG_CHOICE)]),
        "mc.jsonl:1: answer 2 is not one of the 2 choices",
    ),
    "a question without an answer": (
        lambda s: ["eval", s.done.runs / "ar", "--questions", s.file("q.jsonl", '{"prompt": "1+1?"}\n')],
        "q.jsonl:1: ",
    ),
    "a decoder that is no setting": (
        lambda s: ["eval", s.done.runs / "diffusion", "--text", s.done.text, "--decoders", "treshold=0.9"],
        "'treshold=0.9' is not SETTING=VALUE; did you mean 'threshold'?",
    ),
    "a decoder that cannot be": (
        lambda s: ["eval", s.done.runs / "diffusion", "--text", s.done.text, "--decoders", "threshold=1.5"],
        "threshold",
    ),
    "a model compared with itself": (
        lambda s: ["compare", s.done.runs / "ar", s.done.runs / "ar", "--prompts", "Tom", "--out", s.here],
        "given twice",
    ),
    "no text to time": (
        lambda s: ["compare", "--checkpoints", s.done.runs / "ar", "--prompts", "Tom", "--timed", 0, "--out", s.here],
        "timed",
    ),
}
CASES = DATA | FOLDERS | CHECKPOINTS | VALUES | DECODING


@pytest.fixture
def scene(tmp_path, tmp_path_factory) -> Scene:
    return Scene(family(tmp_path_factory.getbasetemp()), tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_told_in_words(scene, capfd, name):
    arguments, message = CASES[name]
    words = arguments(scene)
    capfd.readouterr()
    status = run_cli(words)
    error = " ".join(capfd.readouterr().err.replace("│", " ").split())
    assert message in error
    assert status == 2
    assert "Traceback" not in error


def test_an_import_that_is_refused_deletes_nothing(scene):
    run_cli(imported(scene))
    assert (scene.here / "precious" / "thesis.txt").read_text() == "years of work"


def test_a_loss_that_is_no_number_names_the_documents(scene, capsys):
    words = scene.run(learning_rate=1e30, steps=9, clip_norm=0.0, save_every=0)
    assert run_cli(words) == 2
    error = capsys.readouterr().err
    assert "error: the loss is not a number at step " in error
    assert "documents of that batch: row 0: " in error
    assert "start again with a lower --learning-rate" in error


def test_bad_rows_are_skipped_and_counted_when_asked(scene, capsys):
    rows = [*texts(30), {"text": ""}, {"words": "x"}, *texts(30)]
    path = write_rows(scene.here / "data.jsonl", rows)
    assert run_cli(scene.run(data=(path,), on_bad_row="skip")) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "bad rows skipped: 2" in out
    assert "data.jsonl:31" in out
    assert json.loads((scene.here / "runs" / "x" / "best.json").read_text())["checkpoint"] == "step-000003"


def test_a_refused_run_leaves_no_run_behind(scene):
    assert run_cli(scene.rows("{")) == 2
    assert run_cli(scene.run(num_heads=4)) == 0  # the same name can be used at once

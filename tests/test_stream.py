"""Data that is read while it is learnt, by parts; mixtures of sources; tokenising in several processes."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import signal
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import several
from nano_llada.checkpoint.files import step_folders
from nano_llada.config.data import DataConfig
from nano_llada.core.errors import UserError
from nano_llada.data import read, store, stream
from nano_llada.data.documents import Encoding
from nano_llada.data.loader import Batches
from nano_llada.data.mixture import CYCLE, MixedBatches, weighted
from nano_llada.data.read import BadRows, Row, Source, read_rows, resolve
from nano_llada.data.store import JoinedStore, TokenStore, open_store
from nano_llada.data.stream import Parts, Share, StreamBatches, held_out
from nano_llada.data.tokenizer import Tokenizer
from nano_llada.data.workers import Workers
from nano_llada.report.training_run import read_run
from nano_llada.session.run import execute
from tiny import Place, make_place, read_lines, texts, tiny_run, write_rows

TEXT, ALONE = Encoding("text"), Share()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    place = make_place(tmp_path_factory.mktemp("stream"))
    for name, rows in (("a", texts(40)), ("b", texts(30)[7:]), ("c", texts(50)[31:])):
        write_rows(place.root / "shards" / f"{name}.jsonl", rows)
    return place


@pytest.fixture(scope="module")
def tokenizer(place) -> Tokenizer:
    return Tokenizer.load(place.tokenizer)


# Parts


def rows_of(*sources: Source) -> list[tuple[object, str]]:
    found = []
    for source in sources:
        for row in read_rows(source):
            found.append((row.value if isinstance(row, Row) else row.reason, str(row.where)))
    return found


@given(
    lines=st.lists(st.sampled_from(['{"text": "一 b"}', "", "{broken", '{"text": "a"}', " "]), max_size=12),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    last=st.booleans(),
    size=st.integers(1, 40),
)
@settings(max_examples=30, deadline=None)
def test_parts_of_json_lines_have_the_rows_and_the_places_of_the_whole(tmp_path_factory, lines, end, last, size):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes((end.join(lines) + end * last).encode())
    source = Source(str(path))
    assert rows_of(*read.parts(source, size)) == rows_of(source)


def test_parts_of_other_sources_have_the_rows_of_the_whole(tmp_path):
    rows = texts(50)
    write_rows(tmp_path / "set" / "one.jsonl", rows[:20])
    write_rows(tmp_path / "set" / "two.jsonl", rows[20:])
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=7)
    whole = Source(str(tmp_path / "a.parquet"))
    some = read.parts(whole, 600)
    assert 1 < len(some) < 8
    assert rows_of(*some) == rows_of(whole)
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"), num_shards=3)
    for name, count in (("set", 2), ("saved", 1)):
        whole = Source(f"hf:{tmp_path / name}")
        some = read.parts(whole)
        assert len(some) == count
        assert [row for row, _ in rows_of(*some)] == rows
        assert rows_of(some[-1])[0][1] == f"hf:{tmp_path / name} shard {count - 1}:1"


def test_places_in_a_stream_are_lines_of_a_part(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", texts(9))
    whole = Source(str(path))
    some = read.parts(whole, 150, count_lines=False)
    assert len(some) > 2
    first = next(iter(read_rows(some[1])))
    assert isinstance(first, Row)
    assert str(first.where) == f"{path} from byte {some[1].start}:1"


# Words that are encoded once


LETTERS = "ab Zé1²½Ⅷ,.!?。，\n\t 汤姆有一个红色的球大石头々〇𠀀'_\u0301"


@pytest.mark.parametrize("name", ["world", "story"])
def test_words_have_the_tokens_that_the_library_gives_the_text(name):
    tokenizer, draw = Tokenizer.load(Path(name)), random.Random(0)
    known = re.findall(r"[\u4e00-\u9fff]{2,}", tokenizer.to_json())[:300]
    some = ["".join(draw.choice([*LETTERS, *known]) for _ in range(draw.randrange(30))) for _ in range(400)]
    assert tokenizer.encode_many(some) == tokenizer.encode_by_library(some)
    assert tokenizer._cutter is not None
    cut = [tokenizer._cutter.cut(text) for text in some]
    fits = [bool(tokenizer._cutter.fits(word)) for words in cut for word in words]
    assert (any(fits), all(fits)) == (True, False)
    assert ["".join(words) for words in cut] == some
    assert sum(map(len, cut)) > 10 * len(some)  # it was cut


def test_a_tokenizer_that_joins_words_is_not_cut():
    plain = json.loads(Tokenizer.load(Path("world")).to_json())
    plain["pre_tokenizer"] = {"type": "Split", "pattern": {"String": "\n"}, "behavior": "Isolated", "invert": False}
    plain["model"]["vocab"] |= {"b,": len(plain["model"]["vocab"])}
    plain["model"]["merges"] = [["b", ","]]
    from tokenizers import Tokenizer as Backend

    tokenizer = Tokenizer(Backend.from_str(json.dumps(plain)))
    assert tokenizer._cutter is not None
    assert tokenizer.encode_many(["ab, b,"]) == tokenizer.encode_by_library(["ab, b,"])
    assert tokenizer._cutter is None  # noticed


# Several processes tokenise


def test_several_processes_make_the_same_store(place, tokenizer, tmp_path, monkeypatch):
    rows = [*texts(30), {"text": 3}, {"other": "x", "text": "Tom <|im_end|>"}, *texts(60)[30:]]
    sources = resolve([str(write_rows(tmp_path / name, rows)) for name in ("a.jsonl", "b.jsonl")])
    made = []
    for count in (1, 2):
        monkeypatch.setattr(store, "cores", lambda n=count: n)
        monkeypatch.setattr(store, "parts", lambda source: read.parts(source, 2500))
        assert len(store.parts(sources[0])) > 1
        bad = BadRows("skip")
        made.append(open_store(sources, tokenizer, TEXT, cache=tmp_path / f"{count}", bad_rows=bad))
        assert bad.count == 2
        with pytest.raises(UserError, match=r"a\.jsonl:31: text is a number"):
            open_store(sources, tokenizer, TEXT, cache=tmp_path / f"stop-{count}", bad_rows=BadRows("stop"))
        assert list((tmp_path / f"stop-{count}").iterdir()) == []
    one, two = (made_store.folder for made_store in made)
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name


def test_a_process_that_is_killed_while_it_tokenises_is_an_error(place, tokenizer, tmp_path):
    with Workers(1, tokenizer, TEXT, "stop") as some:
        future = some.submit(Source(str(place.text)), tmp_path / "one")
        assert future.result().folder == tmp_path / "one"
        assert len(TokenStore(tmp_path / "one")) == 60
        some._all[0].kill()
        some._all[0].wait()
        with pytest.raises(UserError, match=r"ended \(exit status -9\): is there enough memory\?"):
            some.submit(Source(str(place.text)), tmp_path / "two").result()
    assert not (tmp_path / "two").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_build_at_once_and_one_is_killed(place, tokenizer, tmp_path, monkeypatch):
    sources, cache = resolve([str(place.text)]), tmp_path / "cache"
    wait = tmp_path / "wait"

    def child(slow: bool) -> int:
        if pid := os.fork():
            return pid
        try:
            if slow:  # it has written some documents when the other one is done
                made = store.documents

                def slowly(*arguments):
                    for number, document in enumerate(made(*arguments)):
                        if number == 20:
                            wait.touch()
                            time.sleep(60)
                        yield document

                store.documents = slowly
            open_store(sources, tokenizer, TEXT, cache=cache, bad_rows=BadRows("stop"))
        finally:
            os._exit(0)

    slow = child(slow=True)
    while not wait.exists():
        time.sleep(0.01)
    fast = [child(slow=False), child(slow=False)]
    assert [os.waitpid(pid, 0)[1] for pid in fast] == [0, 0]
    names = sorted(path.name for path in cache.iterdir())
    assert [name.startswith(".building-") for name in names] == [True, False]  # what the slow one is at, and the store
    os.kill(slow, signal.SIGKILL)
    os.waitpid(slow, 0)
    monkeypatch.setattr(store, "documents", None)  # nothing is tokenised again
    assert len(open_store(sources, tokenizer, TEXT, cache=cache, bad_rows=BadRows("stop"))) == 60
    monkeypatch.undo()
    other = resolve([str(place.root / "shards" / "a.jsonl")])
    open_store(other, tokenizer, TEXT, cache=cache, bad_rows=BadRows("stop"))
    assert not list(cache.glob(".building-*"))  # swept by the next build


# Streams


def batches(place, tokenizer, cache: Path, share: Share = ALONE, **changes) -> StreamBatches:
    config = DataConfig(stream=True, sequence_length=64, cache=cache, **{"stream_window": 2, **changes})
    found = Parts(resolve([str(place.root / "shards")]), tokenizer, TEXT, config, share)
    return StreamBatches(found, config, tokenizer.vocab, rows=4, seed=1, share=0.1)


def test_rows_are_those_of_any_number_of_processes_and_every_document_is_learnt_once_an_epoch(
    place, tokenizer, tmp_path
):
    alone = batches(place, tokenizer, tmp_path / "alone")
    some = [alone.batch(step).tokens for step in range(12)]
    two = [batches(place, tokenizer, tmp_path / "two", Share(rank, 2)) for rank in (0, 1)]
    two[0]._parts.prepare(range(3))  # each its share, beside the others
    two[1]._parts.prepare(range(3))
    assert (len(two[0]._parts._begun), len(two[1]._parts._begun)) == (2, 1)
    for other in two:
        assert all(torch.equal(one, other.batch(step).tokens) for step, one in enumerate(some))
        other.close()
    alone.close()
    windows = [alone._window(number) for number in (0, 1)]
    learnt = sum(len(window._documents) for window in windows)
    kept = sum(len(held_out(alone._parts.store(n), 0.1)) for n in range(3))
    assert learnt + kept == 40 + 23 + 19
    assert kept > 0
    assert alone._numbers(0) + alone._numbers(1) != alone._numbers(2) + alone._numbers(3)  # another order
    assert sorted(alone._numbers(2) + alone._numbers(3)) == [0, 1, 2]


def test_who_does_not_own_a_part_waits_for_it_and_makes_it_where_nobody_else_does(
    place, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(stream, "PATIENCE", 0.2)
    found = batches(place, tokenizer, tmp_path, Share(1, 2))._parts
    begin = time.monotonic()
    assert len(found.store(0)) == 40
    assert time.monotonic() - begin >= 0.2
    found.close()


def test_what_is_held_out_depends_on_the_document_alone(place, tokenizer, tmp_path):
    some = batches(place, tokenizer, tmp_path, stream_window=3)
    stores = [some._parts.store(number) for number in range(3)]
    before, kept = 0, []
    for one in stores:
        kept += [before + int(number) for number in held_out(one, 0.1)]
        before += len(one)
    assert held_out(JoinedStore(stores), 0.1).tolist() == kept
    assert set(held_out(stores[0], 0.05)) <= set(held_out(stores[0], 0.1)) <= set(held_out(stores[0], 1.0))
    assert len(held_out(stores[0], 1.0)) == 40
    assert len(held_out(stores[0], 0.0)) == 0
    validation = some.validation()
    assert validation is not None
    assert set(validation._documents.tolist()) == set(kept)
    assert not set(kept) & set(learnt_first(some))
    some.close()


def learnt_first(some: StreamBatches) -> list[int]:
    """Documents that the first window learns, counted in the order of the sources."""
    window, begins = some._window(0), np.cumsum([0, *(len(some._parts.store(n)) for n in range(3))])
    order = some._numbers(0)
    spans = [range(begins[number], begins[number + 1]) for number in order]
    flat = list(itertools.chain.from_iterable(spans))
    return [flat[document] for document in window._documents]


def test_a_stream_that_fills_no_row_and_one_without_steps_are_refused(place, tokenizer, tmp_path):
    short = batches(place, tokenizer, tmp_path, stream_window=1)
    short._config = replace(short._config, sequence_length=100_000)
    with pytest.raises(UserError, match="no 1 parts of the stream fill one row of 100000 tokens"):
        short.batch(0)
    short.close()
    run = tiny_run(place, name="no steps", data=(str(place.text),), stream=True, steps=None, cache=tmp_path)
    with several.unmeasured(), pytest.raises(UserError, match="give --steps"):
        execute(run)
    with pytest.raises(ValueError, match="stream is for pretraining and SFT"):
        DataConfig(format="preference", packing=False, stream=True)


def test_bad_rows_of_a_stream_stop_it_or_are_counted(place, tokenizer, tmp_path, capsys):
    rows = write_rows(tmp_path / "bad.jsonl", [*texts(30), {"text": 3}])
    config = DataConfig(stream=True, sequence_length=64, cache=tmp_path, on_bad_row="skip")
    for policy, count in (("skip", 30), ("skip", 30)):
        found = Parts(resolve([str(rows)]), tokenizer, TEXT, replace(config, on_bad_row=policy), Share())
        assert len(found.store(0)) == count
        assert "bad rows skipped: 1" in capsys.readouterr().out  # also where it is found, not built
    stop = Parts(resolve([str(rows)]), tokenizer, TEXT, replace(config, on_bad_row="stop"), Share())
    with pytest.raises(UserError, match=r"bad\.jsonl:31: text is a number"):
        stop.store(0)


# Runs


def cut(run, to: Path, step: str):
    """A copy of a run as it was at a step."""
    again = replace(run, runs=to)
    shutil.copytree(run.folder, again.folder)
    for folder in step_folders(again.folder):
        if folder.name != step:
            shutil.rmtree(folder)
    (again.folder / "outcome.json").unlink()
    return again


def same(one: Path, other: Path) -> None:
    for a, b in zip(step_folders(one)[-1:], step_folders(other)[-1:], strict=True):
        left, right = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
        assert all(torch.equal(left[name], right[name]) for name in left)
    keys = ("step", "loss", "validation_loss", "share_a", "share_b")
    lines = [[tuple(row.get(k) for k in keys) for row in read_lines(run / "metrics.jsonl")] for run in (one, other)]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_a_resumed_stream_is_an_uninterrupted_one_bit_for_bit(place, tmp_path, kind, monkeypatch):
    positions: list[list[int]] = []
    real = StreamBatches.continue_from
    monkeypatch.setattr(StreamBatches, "continue_from", lambda self, at: positions.append(at) or real(self, at))
    data = str(place.root / "shards")
    if kind == "sft":
        for i in range(3):
            lines = place.chat.read_text(encoding="utf-8").splitlines(keepends=True)[i * 20 : i * 20 + 20]
            (tmp_path / "chats" / f"{i}.jsonl").parent.mkdir(exist_ok=True)
            (tmp_path / "chats" / f"{i}.jsonl").write_text("".join(lines), encoding="utf-8")
        data = str(tmp_path / "chats")
    options = {"steps": 9, "save_every": 4, "eval_every": 4, "stream": True, "stream_window": 1}
    run = tiny_run(place, kind, name="run", data=(data,), runs=tmp_path / "one", cache=tmp_path / "c1", **options)
    with several.unmeasured():
        assert execute(run).state == "finished"
        again = cut(run, tmp_path / "two", "step-000008")
        again = replace(again, data=replace(again.data, cache=tmp_path / "c2"))
        assert execute(again, resume=True).state == "finished"
    same(run.folder, again.folder)
    assert any("validation_loss" in row for row in read_lines(run.folder / "metrics.jsonl"))
    assert len(positions) == 1
    assert positions[0][0] > 0  # in a later window than the first: what comes before was not read again


def test_a_mixture_has_its_shares_and_is_resumed_and_reported(place, tmp_path):
    shards = place.root / "shards"
    data = (f"{shards / 'a.jsonl'}=0.7", f"{shards / 'b.jsonl'}=0.3")
    for stream_it in (False, True):
        options = {"steps": 8, "save_every": 4, "eval_every": 4, "stream": stream_it, "cache": tmp_path / "cache"}
        run = tiny_run(place, name="run", data=data, runs=tmp_path / f"one-{stream_it}", **options)
        with several.unmeasured():
            assert execute(run).state == "finished"
            again = cut(run, tmp_path / f"two-{stream_it}", "step-000004")
            assert execute(again, resume=True).state == "finished"
        same(run.folder, again.folder)
        lines = [row for row in read_lines(run.folder / "metrics.jsonl") if "share_a" in row]
        assert len(lines) == 8
        assert all(row["share_a"] + row["share_b"] == pytest.approx(1) for row in lines)
        found = read_run(run.folder, "run")
        assert found is not None
        mean = sum(row["share_a"] for row in lines) / 8
        assert found.sources == {"a": pytest.approx(mean), "b": pytest.approx(1 - mean)}


class Counted:
    """A source of rows that says which were taken."""

    def row_parts(self, index):
        return index


def test_every_thousand_rows_have_the_shares_asked_for_and_each_source_its_own_order(tokenizer):
    weights = {"a": 0.7, "b": 0.2, "c": 0.0995, "d": 0.0005}
    sources = dict.fromkeys(weights, Counted())
    mixed = MixedBatches(sources, weights, DataConfig(), tokenizer.vocab, rows=4, seed=3, rows_per_epoch=None)
    places = [mixed.place(i) for i in range(3 * CYCLE)]
    for cycle in range(3):
        counts = np.bincount([source for source, _ in places[cycle * CYCLE : (cycle + 1) * CYCLE]])
        assert counts.tolist() == [700, 200, 99, 1]
    for source in range(4):
        rows = [row for one, row in places if one == source]
        assert rows == list(range(len(rows)))  # each in its own order, none left out
    assert [s for s, _ in places[:CYCLE]] != [s for s, _ in places[CYCLE : 2 * CYCLE]]


def test_weights_are_read_from_what_is_no_name_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert weighted(["a.jsonl", "b.jsonl"]) == []
    found = weighted(["web/a.jsonl.gz=2", "hf:x/y@train=.5"])
    assert [(one.name, one.source, one.weight) for one in found] == [
        ("a", "web/a.jsonl.gz", 2.0),
        ("y@train", "hf:x/y@train", 0.5),
    ]
    assert [one.name for one in weighted(["x/a.jsonl=1", "y/a.jsonl=1"])] == ["x/a.jsonl", "y/a.jsonl"]
    with pytest.raises(UserError, match="b has no weight and other data has"):
        weighted(["a=1", "b"])
    with pytest.raises(UserError, match="a has the weight 0"):
        weighted(["a=0", "b=1"])
    Path("a=1").write_text("", encoding="utf-8")
    assert weighted(["a=1", "b"]) == []  # it is a file


def test_a_stream_of_a_hugging_face_data_set(place, tmp_path):
    pytest.importorskip("datasets")
    shutil.copytree(place.root / "shards", tmp_path / "set")
    run = tiny_run(
        place, name="hf", data=(f"hf:{tmp_path / 'set'}",), runs=tmp_path, cache=tmp_path / "c", stream=True, steps=4
    )
    with several.unmeasured():
        assert execute(run).state == "finished"
    assert len(list((tmp_path / "c").glob("part-*"))) == 3


# Memory


def peak_memory(data: Path, tokenizer: Tokenizer, cache: Path, *, stream_it: bool) -> int:
    """The most bytes that Python and NumPy held while a corpus was tokenised, and a batch of it made."""
    config = DataConfig(stream=stream_it, stream_window=1, sequence_length=256, cache=cache)
    tracemalloc.start()
    try:
        if stream_it:
            found = Parts(resolve([str(data)]), tokenizer, TEXT, config, ALONE)
            some: StreamBatches | Batches = StreamBatches(found, config, tokenizer.vocab, rows=4, seed=1, share=0.1)
        else:
            made = open_store(resolve([str(data)]), tokenizer, TEXT, cache=cache, bad_rows=BadRows("stop"))
            some = Batches(made, config, tokenizer.vocab, rows=4, seed=1, documents=range(len(made)))
        assert some.batch(1).tokens.shape == (4, 256)
        some.close()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_corpus(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "parts", lambda source, **more: read.parts(source, 2**19, **more))
    text = " ".join(row["text"] for row in texts(60))
    peaks = {}
    for megabytes in (1, 2):
        path = write_rows(tmp_path / f"{megabytes}.jsonl", [{"text": f"{i} {text}"} for i in range(500 * megabytes)])
        assert path.stat().st_size > 0.9e6 * megabytes
        for stream_it in (False, True):
            peaks[megabytes, stream_it] = peak_memory(path, tokenizer, tmp_path / f"{megabytes}", stream_it=stream_it)
    for stream_it in (False, True):
        assert peaks[2, stream_it] - peaks[1, stream_it] < 0.5e6  # a million more tokens

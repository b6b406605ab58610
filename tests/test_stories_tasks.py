"""Tests of the conversations about stories: right answers pass, wrong ones fail, later turns refer to earlier ones."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from nano_llada.core.errors import UserError
from nano_llada.data.chat import encode_conversation
from nano_llada.data.rows import to_messages
from nano_llada.data.tokenizer import STORY_TOKENIZER, Tokenizer
from nano_llada.world.splits import LANGUAGES, SPLITS, Language, Split, split_of
from nano_llada.world.stories.answers import passes
from nano_llada.world.stories.check import check
from nano_llada.world.stories.files import documents, write_stories
from nano_llada.world.stories.mixture import written_out
from nano_llada.world.stories.questions import possible, questions
from nano_llada.world.stories.simulate import simulate, stories
from nano_llada.world.stories.story import tell
from nano_llada.world.stories.talk import intents, talk
from nano_llada.world.stories.tasks import Conversation, changed_story, conversations
from tiny import read_lines, run_cli

TASKS = {
    "tell", "about", "words", "count", "happy", "continue", "fill", "mistake", "correct",
    "question", "possible", "summary", "translate", "view", "change", "talk",
}  # fmt: skip


def rows(split: Split, count: int, seed: int = 0) -> list[dict[str, object]]:
    return [talking.to_row() for talking in conversations(split, count, seed)]


def test_the_seed_decides_everything() -> None:
    assert rows("test", 60, 1) == rows("test", 60, 1)
    assert rows("test", 60, 1) != rows("test", 60, 2)
    assert rows("test", 70, 1)[:60] == rows("test", 60, 1)
    assert list(documents("train", 40, 3)) == list(documents("train", 50, 3))[:40]


@pytest.mark.parametrize("split", SPLITS)
def test_every_reference_answer_passes_its_check(split: Split) -> None:
    seen: Counter[str] = Counter()
    for talking in conversations(split, 350, 4):
        for exchange in talking.exchanges:
            assert passes(exchange.check, exchange.assistant), (exchange.task, exchange.user, exchange.assistant)
            seen[exchange.task] += 1
    assert set(seen) == TASKS


def test_wrong_answers_fail() -> None:
    found = [exchange for talking in conversations("train", 300, 5) for exchange in talking.exchanges]
    failed = 0
    for exchange, other in zip(found, found[7:] + found[:7], strict=True):
        for garbage in ("", " ", "xyz", exchange.assistant + " xyz", exchange.user):
            assert not passes(exchange.check, garbage), (exchange, garbage)
        failed += not passes(exchange.check, other.assistant)
    # Another answer is right only by chance: any story is one to "Tell me a story.", and yes is often right.
    assert failed > 0.9 * len(found)


def test_rows_are_chat_rows_and_json() -> None:
    for row in rows("validation", 80):
        again = json.loads(json.dumps(row, ensure_ascii=False))
        assert again == row
        messages = to_messages(again)
        assert [message.role for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert again["verifier"] == again["verifiers"][-1]
        assert len(again["verifiers"]) == len(again["tasks"]) == len(messages) // 2


def test_splits_share_neither_skeletons_nor_prompts_of_small_talk() -> None:
    keys = {split: {tuple(row["key"]) for row in rows(split, 300)} for split in SPLITS}  # type: ignore[arg-type]
    for split in SPLITS:
        assert {split_of(key) for key in keys[split] if key[0] == "story"} == {split}
    rng = Random(0)
    typed = {split: {talk(rng, split, "en").prompt.rstrip("?.!").lower() for _ in range(800)} for split in SPLITS}
    assert not typed["train"] & typed["test"]
    assert len(typed["test"]) > 30


@pytest.mark.parametrize("language", LANGUAGES)
def test_small_talk_is_answered_in_its_language(language: Language) -> None:
    rng = Random(1)
    assert len(intents()) >= 40
    for intent in intents():
        for _ in range(20):
            said = talk(rng, "train", language, intent)
            assert len(set(said.answers)) >= 2
            for text in (said.prompt, *said.answers):
                assert "<" not in text
                assert "[" not in text
                assert (
                    any("一" <= letter <= "鿿" for letter in text) == (language == "zh" or "文心" in text)
                    or text[0] in ".…"
                )


@pytest.mark.parametrize("language", LANGUAGES)
def test_questions_are_answered_by_the_story(language: Language) -> None:
    """The names, things and places of an answer occur in the story, and different stories get different answers."""
    asked = 0
    for seed, story in enumerate(stories(None, 150, 6)):
        rng = Random(seed)
        found = questions(story, language, rng)
        assert len({question.text for question in found}) == len(found)
        asked += len(found)
        for question in found:
            assert question.answers
            assert "{" not in question.text + "".join(question.answers)
    assert asked > 600


def test_a_reply_to_small_talk_follows_from_it() -> None:
    """Somebody who says yes, or a name, has been offered a story, or asked for one."""
    replies = 0
    for talking in conversations("train", 800, 9):
        for before, after in zip(talking.exchanges, talking.exchanges[1:], strict=False):
            if after.user.rstrip(".!") in ("Yes", "OK", "Sure", "Yes, please", "Go ahead"):
                replies += 1
                assert before.task == "talk"
                assert before.assistant.endswith("?")
    assert replies > 3


def test_possible_has_both_answers() -> None:
    answers: Counter[str] = Counter()
    rng = Random(2)
    for story in stories(None, 400, 7):
        question = possible(story, "en", rng)
        if question:
            answers[question.answers[0].split(",")[0]] += 1
    assert min(answers["Yes"], answers["No"]) > 50


def test_a_changed_fact_changes_the_story_and_keeps_the_split() -> None:
    rng = Random(3)
    changes = 0
    for _ in range(150):
        story = simulate(rng, "test")
        changed = changed_story(story, "test", "en", rng)
        if changed is None:
            continue
        changes += 1
        new, old_words, new_words = changed
        assert old_words != new_words
        assert split_of(new.key) == "test"
        assert (new.log, new.adjectives) != (story.log, story.adjectives)
        assert check(tell(new, "en", rng).text, "en").coherent
    assert changes > 100


def test_prompts_come_in_many_wordings() -> None:
    first: Counter[str] = Counter()
    for talking in conversations("train", 1500, 8):
        assert isinstance(talking, Conversation)
        first[talking.exchanges[0].user[:12]] += 1
    assert len(first) > 250


def test_files_are_written(tmp_path: Path) -> None:
    paths = write_stories(tmp_path / "data", documents_count=60, chats_count=40, seed=1)
    assert sorted(path.name for path in paths) == sorted(
        f"{name}-{split}.jsonl" for name in ("pretrain", "chat") for split in SPLITS
    )
    lines = {path.name: path.read_text(encoding="utf-8").splitlines() for path in paths}
    assert [len(lines[f"pretrain-{split}.jsonl"]) for split in SPLITS] == [60, 6, 6]
    assert [len(lines[f"chat-{split}.jsonl"]) for split in SPLITS] == [40, 4, 4]
    texts = [json.loads(line)["text"] for line in lines["pretrain-train.jsonl"]]
    assert len(set(texts)) == 60
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write"):
        write_stories(blocked, documents_count=1, chats_count=1, seed=1)
    with pytest.raises(UserError, match="-1"):
        write_stories(tmp_path, documents_count=-1, chats_count=1, seed=1)


def test_unknown_checks_are_refused() -> None:
    with pytest.raises(UserError, match="Unknown kind of check"):
        passes({"kind": "guess"}, "text")


def test_the_command_writes_stories_and_conversations(tmp_path, capsys):
    words = ["data", "stories", tmp_path / "stories", "--documents", 20, "--chats", 20, "--seed", 3]
    assert run_cli(words) == 0
    listed = capsys.readouterr().out.split()
    assert sorted(Path(path).name for path in listed) == sorted(
        f"{kind}-{split}.jsonl" for kind in ("pretrain", "chat") for split in SPLITS
    )
    rows = read_lines(tmp_path / "stories" / "pretrain-train.jsonl")
    assert [row["text"] for row in rows] == [row["text"] for row in documents("train", 20, 3)]
    assert run_cli(words) == 2
    assert "give another --out" in capsys.readouterr().err


def test_a_mixture_holds_every_text_once_and_reads_as_the_conversations_do(tmp_path):
    folder = tmp_path / "stories"
    assert run_cli(["data", "stories", folder, "--documents", 30, "--chats", 20, "--mixed"]) == 0
    texts = [row["text"] for row in read_lines(folder / "mixed-train.jsonl")]
    parts = [part / f"{kind}-train.jsonl" for part in (folder, folder / "skills") for kind in ("pretrain", "chat")]
    rows = [row for part in parts for row in read_lines(part)]
    assert len(rows) == 30 + 20 + 10 + 20
    assert sorted(texts) == sorted(map(written_out, rows))
    assert texts != list(map(written_out, rows))
    tokenizer = Tokenizer.load(STORY_TOKENIZER)
    chats = [to_messages(row) for row in rows if "text" not in row]
    assert len(chats) == 40
    marks = {"<|im_start|>": tokenizer.vocab.turn_start, "<|im_end|>": tokenizer.vocab.turn_end}

    def encoded(text):
        parts = [part for part in re.split(r"(<\|im_\w+\|>)", text) if part]
        return [t for part in parts for t in ([marks[part]] if part in marks else tokenizer.encode(part))]

    marked = {tuple(encoded(text)) for text in texts}
    assert {tuple(encode_conversation(tokenizer, messages)[0]) for messages in chats} <= marked

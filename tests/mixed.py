"""A thousand texts of everything that tokenizers treat differently, and tiny trained models, for tests of exports."""

from __future__ import annotations

import random
from pathlib import Path

from nano_llada.data.tokenizer import train_bpe
from nano_llada.session.run import execute
from tiny import SHAPE, Place, chats, make_place, texts, tiny_run

PIECES = (
    *("hello", "World", "don't", "I'LL", "naïve", "straße", "x_y", "foo.bar()", "https://a.b/c?d=1"),
    *("你好", "世界", "，", "。", "图书馆", "北京大学", "「引」", "１２", "〇"),
    *("1", "12", "123", "12345", "3.14", "1,000", "2026-12-01", "0x1F", "½"),
    *("😀", "👩‍👩‍👧", "🇨🇳", "é", "ё", "ا", "कि", "한국어", "ไทย"),
    *(" ", "  ", "\n", "\n\n", "\t", " \n ", "\r\n", "\u00a0", "\u3000"),
    *("<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|mask|>", "<|", "|>", "<s>", "</s>"),
    *("!", "?!", "...", "—", "$", "a+b", "#", "@me", "{}", '"', "\\n", "`"),
)


def mixed(count: int = 1000) -> list[str]:
    """Texts without an end of their own: some have spaces between their pieces, some have none."""
    rng = random.Random(7)
    found = [("" if n % 2 else " ").join(rng.choices(PIECES, k=rng.randint(1, 12))) for n in range(count)]
    assert len(set(found)) > 0.95 * count
    return found


def trained(root: Path) -> Place:
    """Runs `ar`, `full`, `block` and `tri` (of 4), trained until their logits are far from uniform."""
    place = make_place(root)
    corpus = [row["text"] for row in texts()] + [message["content"] for row in chats() for message in row["messages"]]
    train_bpe([*corpus, "system user assistant"], vocab_size=400).save(place.tokenizer)
    shape = {"tokenizer": place.tokenizer, **SHAPE, "max_length": 64}
    changes = {"steps": 40, "learning_rate": 1e-2, "eval_rows": 1, "log_every": 40}
    full = place.runs / "full"
    runs = [
        tiny_run(place, "pretrain", "ar", name="ar", **(shape | {"num_kv_heads": 2}), **changes),
        tiny_run(place, "pretrain", "diffusion", name="full", **shape, **changes),
        tiny_run(place, "pretrain", "diffusion", name="block", init_from=full, blocks={"block_size": 4}, **changes),
        tiny_run(
            place, "pretrain", "tri", name="tri", init_from=place.runs / "ar", blocks={"block_size": 4}, **changes
        ),
    ]
    for run in runs:
        assert execute(run).state == "finished"
    return place

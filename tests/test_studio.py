"""The studio in a real browser, with a server that answers from a script."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nano_llada.serve.replay import write_replay
from nano_llada.serve.trace import passes, read_trace
from studio_server import ANSWERS, MODELS, PAGE, StudioServer, card
from traces import SCRIPT, WRONG, edit, hostile, of_frames, scripted, token, write

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install -e '.[dev]')")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path (apt-get install chromium)")
KITE = ANSWERS["kite"][0]


@pytest.fixture(scope="module")
def running() -> Iterator[StudioServer]:
    server = StudioServer()
    yield server
    server.shutdown()


@pytest.fixture
def server(running) -> StudioServer:
    running.reset()
    return running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server) -> Iterator[Callable[..., Any]]:
    """Opens a view in a fresh context. A script that ran, an error or a blocked resource fails the test."""
    pages, wrong = [], []

    def open_page(view: str = "chat", wait: str = "#model option", **options: Any) -> Any:
        context = browser.new_context(
            **({"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"} | options)
        )
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: wrong.append(request.url) if not local(request.url, server) else None)
        page.goto(f"{server.address}/page/#{view}")
        if wait:
            page.wait_for_selector(wait, state="attached")
        pages.append((page, context))
        return page

    yield open_page
    for page, context in pages:
        assert page.evaluate("window.hacked") is None
        context.close()
    assert [
        text for text in wrong if not re.search("Failed to load resource: (the server responded|net::ERR)", text)
    ] == []


def local(address: str, server: StudioServer) -> bool:
    return address.startswith((server.address, "blob:", "data:", "file:"))


def ask(page: Any, text: str) -> Any:
    """Send a message; gives the player of the finished answer."""
    page.fill("#prompt", text)
    page.keyboard.press("Enter")
    page.wait_for_selector("body:not(.busy) .turn:last-child .player.done", state="attached")
    return page.locator(".turn .player").last


def text_of(player: Any) -> str:
    return player.locator(".text").text_content()


def eventually(test: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not test() and time.monotonic() < end:
        time.sleep(0.02)
    return test()


def saved(page: Any, act: str) -> bytes:
    """The file that a click on an entry of the save menu downloads."""
    page.locator(".save summary").last.click()
    with page.expect_download() as download:
        page.locator(f"[data-act={act}]").last.click()
    return Path(download.value.path()).read_bytes()


def serious(page: Any) -> list[str]:
    """Accessibility findings of axe that are serious or critical."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]


# chat


def test_the_first_screen_offers_three_prompts_and_one_of_them_is_answered(visit, server):
    page = visit()
    assert page.locator("h1").text_content() == "Watch a language model write."
    assert page.locator(".card").count() == 3
    page.locator(".card").first.click()
    page.wait_for_selector(".player.done")
    assert text_of(page.locator(".player")) == KITE
    path, body = server.requests[-1]
    assert path == "/v1/chat/completions"
    assert body["diffusion"] == {"frames": True, "alternatives": 4}
    assert "64 tokens" in page.locator(".figures").text_content()
    assert "story-block has answered: Mia had a red kite." in page.locator("#spoken").text_content()


def test_a_conversation_is_sent_as_a_whole_and_text_of_an_ar_model_streams(visit, server):
    page = visit()
    ask(page, "Who has the ball?")
    page.select_option("#model", "story-ar")
    server.pause = 0.03
    page.fill("#prompt", "Tell me about a kite.")
    page.keyboard.press("Enter")
    part = page.wait_for_function(
        "() => { const t = [...document.querySelectorAll('.text')].at(-1)?.textContent; return t?.length > 9 && t }"
    )
    assert KITE.startswith(part.json_value())
    assert part.json_value() != KITE
    page.wait_for_selector("body:not(.busy)")
    said = [(m["role"], m["content"]) for m in server.requests[-1][1]["messages"]]
    assert said == [
        ("user", "Who has the ball?"),
        ("assistant", "Mia has the ball."),
        ("user", "Tell me about a kite."),
    ]
    page.click("text=New chat")
    assert page.locator(".turn").count() == 0


def test_an_answer_can_be_stopped(visit, server):
    page = visit()
    server.pause = 0.2
    page.fill("#prompt", "a kite")
    page.keyboard.press("Enter")
    page.wait_for_selector("body.busy .text .token")
    page.keyboard.press("Escape")
    page.wait_for_selector("text=Stopped.")
    assert eventually(lambda: server.cancelled == 1)  # the server sees it when it next writes
    assert 0 < len(text_of(page.locator(".player"))) < len(KITE)


# the canvas


def test_watching_shows_masks_confidence_edits_and_alternatives(visit, server):
    page = visit()
    player = ask(page, "a kite")
    last = int(player.locator(".passes").get_attribute("max"))
    assert last == 23  # the opening and 22 passes
    assert player.locator(".mask").count() == 1  # of the legend alone
    assert {"sure0", "sure4"} <= {
        name for name in " ".join(player.locator(".token").evaluate_all("all => all.map(n => n.className)")).split()
    }
    changed = player.locator(".text .edited")
    assert changed.all_text_contents() == ["hill", "bridge", "Tom", "smiled"]
    changed.first.hover()
    bubble = player.locator(".bubble")
    assert bubble.is_visible()
    assert "was ␣river" in bubble.text_content()
    assert bubble.locator("li").count() == 4
    assert bubble.locator("li.chosen").text_content().startswith("␣hill")
    page.keyboard.press("Tab")
    player.locator(".text").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == "had"
    assert player.locator(".canvas .spoken").text_content().startswith("␣had, ")


def test_scrubbing_playing_and_stepping_show_every_pass(visit, tmp_path):
    page = visit()
    player = ask(page, "a kite")
    expected = [
        "".join("" if place.token is None else place.token.text or "" for place in writing.shown)
        for writing in passes(read_trace(write(tmp_path / "t.json", scripted())))
    ]
    shown = player.evaluate(
        """n => [...Array(23).keys()].map((i) => {
          n.player.seek(i + 1);
          return n.querySelector(".text").textContent;
        })"""
    )
    assert shown == expected
    assert player.evaluate("n => { n.player.seek(6); return n.querySelector('.text').textContent }") == expected[5]
    assert player.locator(".text .mask").count() > 0
    page.locator("h2").first.click()
    page.keyboard.press("Home")
    assert player.locator(".pass").text_content() == "pass 0 of 22"
    page.keyboard.press("ArrowRight")
    assert player.locator(".pass").text_content() == "pass 1 of 22"
    assert player.locator(".passes").get_attribute("aria-valuetext") == "pass 1 of 22"
    player.locator("select").select_option("4")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press(" ")
    assert player.locator("[data-act=play]").get_attribute("aria-label") == "Pause"
    page.wait_for_function("() => document.querySelector('.pass').textContent.startsWith('pass 4 ')")
    page.keyboard.press(" ")
    assert player.locator("[data-act=play]").get_attribute("aria-label") == "Play"


# saving, and opening what was saved


def test_a_saved_trace_is_one_that_the_command_reads(visit, tmp_path):
    page = visit()
    ask(page, "a kite")
    path = tmp_path / "saved.json"
    path.write_bytes(saved(page, "json"))
    trace = read_trace(path)
    assert (trace.model, trace.kind, trace.text, trace.finish_reason) == ("story-block", "editing", KITE, "stop")
    assert len(trace.frames) == 23
    assert trace.frames[-1].milliseconds == pytest.approx(1000 * (trace.seconds or 0), abs=1)


def test_a_gif_has_a_picture_of_every_pass(visit):
    image = pytest.importorskip("PIL.Image")
    page = visit()
    ask(page, "a kite")
    moving = image.open(io.BytesIO(saved(page, "gif")))
    assert (moving.format, moving.n_frames, moving.size[0], moving.info["loop"]) == ("GIF", 23, 720, 0)
    colours = []
    for number in range(23):
        moving.seek(number)
        colours.append({colour for _, colour in moving.convert("RGB").getcolors(1 << 20)})
    assert near((228, 223, 214), colours[0]), "masks in the first picture"
    assert near((183, 223, 213), colours[-1]), "sure tokens in the last one"
    assert not near((183, 223, 213), colours[0])


def near(wanted: tuple[int, int, int], colours: set[tuple[int, int, int]]) -> bool:
    return any(max(abs(a - b) for a, b in zip(wanted, colour, strict=True)) <= 4 for colour in colours)


def test_the_encoder_keeps_every_pixel_of_pictures_with_few_colours(visit):
    image = pytest.importorskip("PIL.Image")
    page = visit()
    made = page.evaluate(
        """async () => {
          const { encodeGif } = await import("/page/gif.js");
          const shades = [0, 85, 170, 255];
          const pictures = [3, 4, 5].map((factor) => {
            const data = new Uint8ClampedArray(4 * 61 * 37);
            for (let i = 0; i < 61 * 37; i += 1) {
              const mixed = (i * i * factor + (i >> 5)) % 64;
              data.set([shades[mixed & 3], shades[(mixed >> 2) & 3], shades[mixed >> 4], 255], 4 * i);
            }
            return { data, width: 61, height: 37 };
          });
          pictures.push(pictures[2]);
          const bytes = [...encodeGif(pictures, [100, 200, 300, 400])];
          return { bytes, pictures: pictures.map(({ data }) => [...data]) };
        }"""
    )
    moving = image.open(io.BytesIO(bytes(made["bytes"])))
    assert moving.n_frames == 4
    for number, pixels in enumerate(made["pictures"]):
        moving.seek(number)
        # 85 and 170 are 6-bit values repeated, so nothing is rounded
        assert list(moving.convert("RGBA").tobytes()) == pixels
        assert moving.info["duration"] == 100 * (number + 1)


def test_a_replay_file_plays_without_a_server_or_a_network(visit, server, tmp_path):
    page = visit()
    ask(page, "a kite")
    text = saved(page, "html").decode()
    held = re.search(r'id="trace">(.*?)</script>', text, re.DOTALL)
    assert held is not None
    ours, theirs = (re.sub(r"[0-9a-f]{32}|id=\"trace\">.*?</script>", "", one) for one in (write_replay({}), text))
    assert ours == theirs  # `nano-llada trace --html` writes the same page
    path = tmp_path / "replay.html"
    path.write_text(text, encoding="utf-8")
    page.context.set_offline(True)
    page.goto(path.as_uri())
    player = page.locator(".player")
    assert text_of(player) == KITE
    page.keyboard.press("Home")
    assert player.locator(".text .mask").count() == 16
    page.set_input_files("#file", write(tmp_path / "other.json", scripted("球")))
    page.wait_for_selector("text=other.json")
    assert text_of(page.locator(".player")) == ANSWERS["球"][0]


def test_a_trace_is_opened_from_a_file_or_dropped_when_the_server_is_gone(visit, server, tmp_path):
    page = visit("open")
    page.context.set_offline(True)
    page.set_input_files("#file", write(tmp_path / "kite.json", scripted()))
    page.wait_for_selector(".player")
    assert text_of(page.locator(".player")) == KITE
    page.goto(page.url.replace("#open", "#chat"))
    page.evaluate(
        """(text) => {
          const data = new DataTransfer();
          data.items.add(new File([text], "dropped.json"));
          document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
        }""",
        json.dumps(scripted("球")),
    )
    page.wait_for_selector("text=dropped.json")
    assert text_of(page.locator(".player")) == ANSWERS["球"][0]


def test_what_is_no_trace_is_refused_as_the_command_refuses_it(visit, tmp_path):
    page = visit("open")
    tell = """async (texts) => {
      const { readTrace } = await import("/page/trace.js");
      const read = (text) => {
        try {
          readTrace(text);
          return "read";
        } catch (error) {
          return `${error.key} ${error.values?.where}`;
        }
      };
      return texts.map(read);
    }"""
    told = page.evaluate(tell, [json.dumps(value) for value, _ in WRONG.values()])
    for (case, (_, place)), answer in zip(WRONG.items(), told, strict=True):
        assert answer.startswith("trace_"), case
        assert place in answer or {"format": "trace_other", "version": "trace_version"}.get(place, " ") in answer, case
    assert page.evaluate(tell, ["", "[" * 100_000, "\ufeff" + json.dumps(scripted())]) == [
        "trace_json undefined",
        "trace_json undefined",
        "read",
    ]
    page.set_input_files("#file", write(tmp_path / "bad.json", {"format": "nano-llada-trace", "version": 9}))
    page.wait_for_selector(".wrong")
    assert "version 9" in page.locator(".wrong").text_content()


def test_a_trace_of_a_very_long_text_is_shown(visit, tmp_path):
    page = visit("open")
    masks = [token(None)] * 20_000
    trace = of_frames([edit(0, 0, *masks)], [edit(i, 1, token("a ")) for i in range(0, 20_000, 2)])
    page.set_input_files("#file", write(tmp_path / "long.json", trace))
    page.wait_for_selector(".player")
    assert len(text_of(page.locator(".player"))) == 20_000
    page.locator("[data-act=back]").click()
    assert page.locator(".text .mask").count() == 20_000


# race, gaps, templates


def test_a_race_measures_each_lane_alone_and_replays_all(visit, server):
    page = visit("race")
    assert page.locator(".lane select").evaluate_all("all => all.map(n => n.selectedOptions[0].text)") == [
        "story-ar",
        "story-block",
        "story-tri · self-speculation",
    ]
    page.click("text=Start the race")
    page.wait_for_selector("tbody tr")
    assert [text_of(lane) for lane in page.locator(".lane").all()] == [KITE] * 3
    rows = [[cell.text_content() for cell in row.locator("th, td").all()] for row in page.locator("tbody tr").all()]
    passes = rows[2][2]
    assert 22 < int(passes) < 65
    assert [row[:4] for row in rows] == [
        ["story-ar", "64", "65", "0.98"],
        ["story-block", "64", "22", "2.91"],
        ["story-tri · self-speculation", "64", passes, f"{64 / int(passes):.2f}"],
    ]
    for row in rows:
        assert float(row[5]) == pytest.approx(64 / float(row[4]), rel=0.1)
    bodies = [body for _, body in server.requests]
    assert len({body["seed"] for body in bodies}) == 1
    assert [body["model"] for body in bodies] == ["story-ar", "story-block", "story-tri"]
    clock = page.locator(".results input")
    clock.evaluate("n => { n.value = 500; n.dispatchEvent(new Event('input')); }")
    lengths = [len(text_of(lane)) for lane in page.locator(".lane").all()]
    assert max(lengths) > min(lengths) > 0
    page.click("text=Add a lane")
    assert page.locator(".lane").count() == 4
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Lane 4"


def test_one_model_races_against_itself_by_its_presets(visit, server):
    server.models = MODELS[:1]
    page = visit("race")
    page.click("text=Start the race")
    page.wait_for_selector("tbody tr")
    names = page.locator("tbody th").all_text_contents()
    assert names == ["story-block · Quality", "story-block · Balanced", "story-block · Fast"]
    asked = [(body["diffusion"]["threshold"], body["diffusion"]["edit_threshold"]) for _, body in server.requests]
    assert asked == [(0.7, 0.5), (0.6, 0.25), (0.5, 0)]
    page.get_by_label("Lane 2", exact=True).locator("select").select_option("story-block")
    assert page.locator("tbody").count() == 0
    page.click("text=Start the race")
    page.wait_for_selector("tbody tr")
    assert server.requests[-2][1]["diffusion"].keys() == {"frames", "alternatives"}


def test_selected_text_becomes_a_gap_that_a_model_fills(visit, server):
    page = visit("fill")
    page.click("text=Fill the gaps")
    page.wait_for_selector("text=There is no gap yet")
    page.click("#make-gap")
    page.wait_for_selector("text=Nothing is selected")
    page.fill("#prompt", "Mia saw a small dog. It was big.")
    page.evaluate("document.getElementById('prompt').setSelectionRange(10, 19)")
    page.fill("#gap-length", "2")
    page.click("#make-gap")
    page.evaluate("document.getElementById('prompt').setSelectionRange(22, 25)")
    page.fill("#gap-length", "1")
    page.keyboard.press("Alt+g")
    assert page.input_value("#prompt") == "Mia saw a ⟨2⟩. It was ⟨1⟩."
    assert page.locator(".mirror mark").count() == 2
    page.click("text=Fill the gaps")
    page.wait_for_selector(".player.done")
    path, body = server.requests[-1]
    assert (path, body["model"], body["text"], body["gaps"]) == (
        "/v1/infill",
        "story-canvas",
        "Mia saw a ___. It was ___.",
        [2, 1],
    )
    assert "story-canvas writes" in page.locator("main").text_content()
    assert text_of(page.locator(".player")) == "Mia saw a little fox. It was Pip."
    assert page.locator(".text .token").all_text_contents() == ["little", "fox", "Pip"]


def test_a_template_keeps_what_is_printed(visit, server):
    page = visit("templates")
    page.click("#template-card")
    page.get_by_label("Gap 4: tokens").fill("3")
    page.click(".toolbar .main")
    page.wait_for_selector(".player.done")
    body = server.requests[-1][1]
    assert body["text"] == "Name: ___\nAnimal: ___\nColour: ___\nLikes: ___\nLives in: ___"
    assert body["gaps"] == [1, 1, 1, 3, 3]
    text = text_of(page.locator(".player"))
    assert re.fullmatch(r"Name: .+\nAnimal: .+\nColour: .+\nLikes: .+\nLives in: .+", text)
    server.models = [model for model in MODELS if not model["nano_llada"]["infill"]]
    page.reload()
    page.wait_for_selector("#model option", state="attached")
    page.click(".toolbar .main")
    page.wait_for_selector("text=None of the models of this server fills gaps")


# settings


def test_only_what_a_model_has_can_be_set_and_what_is_set_is_sent(visit, server):
    page = visit()

    def offered() -> list[str]:
        return page.locator("#panel input").evaluate_all("all => all.map(n => n.id.slice(4))")

    assert offered() == ["max_tokens", "temperature", "threshold", "edit_threshold", "block_size"]
    page.click("#preset-fast")
    assert page.locator("#preset-fast").get_attribute("aria-pressed") == "true"
    page.locator("#set-max_tokens").evaluate(
        "n => { n.value = 32; n.dispatchEvent(new Event('input')); n.dispatchEvent(new Event('change')); }"
    )
    ask(page, "a kite")
    body = server.requests[-1][1]
    assert body["max_tokens"] == 32
    assert body["diffusion"] == {"threshold": 0.5, "edit_threshold": 0, "frames": True, "alternatives": 4}
    page.click("#reset")
    ask(page, "a kite")
    assert "max_tokens" not in server.requests[-1][1]
    page.select_option("#model", "story-ar")
    assert offered() == ["max_tokens", "temperature"]
    assert page.locator(".segments").count() == 0
    page.select_option("#model", "story-tri")
    assert offered() == ["max_tokens", "temperature", "drafts"]
    page.select_option("#mode", "block")
    assert offered() == ["max_tokens", "temperature", "threshold", "block_size"]
    page.click("#preset-fast")
    ask(page, "a kite")
    assert server.requests[-1][1]["diffusion"] == {
        "threshold": 0.6,
        "decode": "block",
        "frames": True,
        "alternatives": 4,
    }
    page.select_option("#mode", "speculative")
    ask(page, "a kite")  # which has no threshold
    assert server.requests[-1][1]["diffusion"].keys() == {"frames", "alternatives"}
    page.select_option("#model", "story-canvas")
    for name in ("threshold", "steps"):  # one excludes the other
        page.locator(f"#set-{name}").evaluate(
            "n => { n.value = 0.8 * n.max; n.dispatchEvent(new Event('input')); n.dispatchEvent(new Event('change')); }"
        )
    ask(page, "a kite")
    assert server.requests[-1][1]["diffusion"].keys() == {"frames", "alternatives", "steps"}


def test_a_story_is_marked_where_the_server_has_a_verifier(visit, server):
    server.models = [card("story-check", "block", {}, [], check=True)]
    server.verdict = {"verdict": "contradiction", "sentence": 3}
    page = visit()
    ask(page, "a kite")
    page.wait_for_selector("text=Contradiction in sentence 3")
    server.verdict = {"verdict": "<b>"}
    ask(page, "a kite")
    page.wait_for_timeout(100)
    assert page.locator(".verdict").count() == 1


# languages, looks, access


def test_the_interface_speaks_both_languages(visit):
    page = visit(locale="zh-CN")
    assert page.locator("h1").text_content() == "看语言模型如何写作。"
    ask(page, "讲一个风筝的故事。")
    assert text_of(page.locator(".player")) == ANSWERS["风筝"][0]
    chinese = page.locator("body").inner_text()
    assert "前进一步" in page.locator(".player [data-act=forward]").get_attribute("aria-label")
    page.click("#to-language")
    assert page.locator("html").get_attribute("lang") == "en"
    english = page.locator("body").inner_text()
    assert "How it writes" in english
    assert "书写方式" in chinese
    assert text_of(page.locator(".player")) == ANSWERS["风筝"][0]
    left = (
        page.locator(".top").inner_text()
        + page.locator("#panel").inner_text()
        + page.locator(".transport").inner_text()
    )
    assert re.search("[一-鿿]", left.replace("中文", "")) is None
    page.reload()
    page.wait_for_selector(".welcome")
    assert page.locator("html").get_attribute("lang") == "en"  # it is remembered


def test_every_text_exists_in_both_languages_and_is_used():
    words = dict(
        re.findall(
            r'^  (\w+): \[\s*(".*?"|\'.*?\'),',
            (PAGE / "words.js").read_text(encoding="utf-8"),
            re.MULTILINE | re.DOTALL,
        )
    )
    assert len(words) > 100
    sources = "".join(path.read_text(encoding="utf-8") for path in PAGE.iterdir() if path.name != "words.js")
    built = re.compile(
        r"^(set|hint|kind|template|col|example)_|^(chat|race|fill|templates|open)$|^(coherent|contradiction|not_understood|quality|balanced|fast)$"
    )
    unused = [key for key in words if not built.search(key) and not re.search(rf'["`]{key}["`]', sources)]
    assert unused == []
    asked = set(re.findall(r'\bt\("(\w+)"', sources)) | set(re.findall(r'data-(?:word|label|hint)="(\w+)"', sources))
    assert asked <= words.keys()


def test_dark_and_light_are_readable_and_the_choice_is_kept(visit):
    page = visit(color_scheme="dark")
    ink = "() => ['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name])"

    def contrast() -> float:
        shades = [[int(part) / 255 for part in re.findall(r"\d+", colour)[:3]] for colour in page.evaluate(ink)]
        lights = sorted(
            sum(w * ((c + 0.055) / 1.055) ** 2.4 for w, c in zip((0.2126, 0.7152, 0.0722), shade, strict=True))
            for shade in shades
        )
        return (lights[1] + 0.05) / (lights[0] + 0.05)

    dark = page.evaluate(ink)[1]
    assert contrast() > 7
    page.click("#to-theme")
    assert page.evaluate(ink)[1] != dark
    assert contrast() > 7
    page.reload()
    page.wait_for_selector(".welcome")
    assert page.evaluate(ink)[1] != dark


def test_a_phone_needs_no_sideways_scrolling(visit):
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True)
    wide = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    ask(page, "a kite")
    for view in ("chat", "race", "fill", "templates", "open"):
        page.goto(f"{page.url.split('#')[0]}#{view}")
        page.wait_for_selector(f"body[data-view={view}]")
        assert page.evaluate(wide) <= 0, view
    page.goto(f"{page.url.split('#')[0]}#chat")
    assert not page.locator("#panel").is_visible()
    page.click("#to-panel")
    assert page.locator("#panel").is_visible()
    page.select_option("#model", "story-ar")
    page.locator(".text .token").first.tap()
    assert page.locator(".bubble").is_visible()


def test_axe_finds_nothing_serious(visit, server):
    page = visit()
    found = {"first": serious(page)}
    ask(page, "a kite")
    page.locator(".text .token").nth(4).hover()
    found["chat"] = serious(page)
    page.click("#to-theme")
    found["dark"] = serious(page)
    page.goto(page.url.replace("#chat", "#race"))
    page.click("text=Start the race")
    page.wait_for_selector("tbody tr")
    found["race"] = serious(page)
    for view in ("fill", "templates", "open"):
        page.goto(f"{page.url.split('#')[0]}#{view}")
        page.wait_for_selector(f"body[data-view={view}]")
        found[view] = serious(page)
    page.keyboard.press("?")
    found["help"] = serious(page)
    assert [finding for findings in found.values() for finding in findings] == []
    assert len(found) == 8


def test_the_keyboard_reaches_everything(visit):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.keyboard.press("Alt+3")
    page.wait_for_selector("body[data-view=fill]")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    assert page.locator("dialog dt").count() == 10
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


# trouble


def test_a_server_that_is_gone_and_comes_back(visit, server):
    page = visit()
    page.route("**/v1/**", lambda route: route.abort())
    page.fill("#prompt", "a kite")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert] >> text=The server does not answer.")
    assert "nano-llada serve" in page.locator("#banner code").text_content()
    page.unroute("**/v1/**")
    page.click("button:text('Try again')")
    page.wait_for_selector("#banner:empty", state="attached")
    ask(page, "a kite")
    server.breaks = True
    page.fill("#prompt", "a kite")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert] >> text=The server does not answer.")
    page.wait_for_selector("text=Not finished.")


def test_a_wrong_key_is_asked_for_and_kept_in_the_tab_alone(visit, server):
    server.key = "right"
    page = visit(wait=".banner")
    assert "The server wants a key." in page.locator("#banner").text_content()
    for key, answer in (("wrong", "this one is not it"), ("中文", "this one is not it")):
        page.click("text=Enter the key")
        assert page.evaluate("document.activeElement.type") == "password"
        page.keyboard.press("Control+a")
        page.keyboard.insert_text(key)
        page.keyboard.press("Enter")
        page.wait_for_selector(f"#banner >> text={answer}")
    page.click("text=Enter the key")
    page.keyboard.press("Control+a")
    page.keyboard.type("right")
    page.keyboard.press("Enter")
    page.wait_for_selector("#model option", state="attached")
    assert ask(page, "a kite")
    assert page.evaluate("JSON.stringify(localStorage)").find("right") < 0


# the real server


def test_the_page_and_the_real_server_agree(visit, browser):
    serving = pytest.importorskip("serving", reason="the server needs the extra [serve]")
    with serving.live(serving.writers()) as live:
        page = browser.new_context(reduced_motion="reduce").new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        answer = page.goto(f"{live.url}/")
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        page.wait_for_selector("#model option", state="attached")
        for kind in ("ar", "canvas", "block", "editing", "tri"):
            page.select_option("#model", kind)
            page.click("text=New chat") if page.locator(".turn").count() else None
            player = ask(page, "red ball?")
            expected = post(f"{live.url}/v1/chat/completions", {"model": kind, "messages": said("red ball?")})
            assert text_of(player) == expected["choices"][0]["message"]["content"].replace("\ufffd", "◌"), kind
            passes = int(player.locator(".passes").get_attribute("max")) - 1
            assert passes == expected["usage"]["forwards"] > 0, kind
            assert text_of(player)
            player.locator(".text .token").first.hover()
            assert player.locator(".bubble li").count() == 4
        page.goto(f"{live.url}/page/#fill")
        page.fill("#prompt", "a ⟨2⟩ ball is ⟨3⟩.")
        for kind in ("canvas", "tri"):
            page.select_option("#model", kind)
            filled = post(f"{live.url}/v1/infill", {"model": kind, "text": "a ___ ball is ___.", "gaps": [2, 3]})
            expected = filled["text"].replace("\ufffd", "◌")
            page.click(".toolbar .main")
            page.wait_for_selector(".player.done")
            assert eventually(lambda expected=expected: text_of(page.locator(".player")) == expected), kind
            page.wait_for_selector("body:not(.busy) .player.done")
            passes = int(page.locator(".player .passes").get_attribute("max")) - 1
            assert passes == filled["usage"]["forwards"] > 0, kind
        page.goto(f"{live.url}/page/#race")
        page.click("text=Start the race")
        page.wait_for_selector("tbody tr")
        assert page.locator("tbody tr").count() == 3
        page.context.close()
        assert wrong == []


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def post(address: str, body: dict[str, Any]) -> Any:
    data = json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


# nothing from outside becomes HTML


def test_scripts_in_prompts_names_answers_and_traces_stay_text(visit, server, tmp_path):
    server.models = [card(SCRIPT, "canvas", {"x": SCRIPT}, ["threshold"], modes=[SCRIPT])]
    server.answer = (SCRIPT, {})
    page = visit()
    player = ask(page, SCRIPT)
    assert text_of(player) == SCRIPT
    assert page.locator(".said").text_content() == SCRIPT
    assert page.locator(".who").last.text_content() == SCRIPT
    player.locator(".token").first.hover()
    page.goto(f"{page.url.split('#')[0]}#race")
    page.fill("#prompt", SCRIPT)
    page.click("text=Start the race")
    page.wait_for_selector("tbody tr")
    page.goto(f"{page.url.split('#')[0]}#open")
    page.set_input_files("#file", write(tmp_path / "<img src=x onerror=hacked=1>.json", hostile()))
    page.wait_for_selector(".player")
    assert text_of(page.locator(".player")) == f"{SCRIPT}{SCRIPT}end{SCRIPT}"
    page.locator(".text .edited").hover()
    assert SCRIPT in page.locator(".bubble").text_content()
    assert page.locator("main script, main img").count() == 0
    path = tmp_path / "replay.html"
    path.write_bytes(saved(page, "html"))
    page.goto(path.as_uri())
    assert text_of(page.locator(".player")) == f"{SCRIPT}{SCRIPT}end{SCRIPT}"
    assert page.locator("main script, main img").count() == 0


def test_the_page_writes_no_html_and_asks_nobody_else():
    for path in sorted(PAGE.iterdir()):
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function|srcdoc|DOMParser", text
        ), path.name
        assert re.findall(r"https?://[\w.]+", text.replace("http://www.w3.org/", "")) == [], path.name
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", page)

"""The screenshots of the studio in docs/images: `PYTHONPATH=src:tests python docs/pictures_studio.py [--server URL]`.

Without --server the answers come from the script in tests/studio_server.py, not from a model.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from studio_server import StudioServer

OUT = Path(__file__).parent / "images"


class Camera:
    """Takes the pictures, one after the other."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.browser, self.address = browser, address

    def page(self, view: str = "chat", **options: Any) -> Page:
        size = {"width": 1200, "height": 760}
        page = self.browser.new_context(**({"viewport": size, "color_scheme": "light"} | options)).new_page()
        page.goto(f"{self.address}/page/#{view}")
        page.set_default_timeout(120_000)
        page.wait_for_selector("h1, .drop")
        page.wait_for_timeout(300)
        return page

    def shoot(self, page: Page, name: str) -> None:
        """Write a picture of at most 150 kB."""
        page.wait_for_timeout(700)
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(200, dither=Image.Dither.NONE)
        path = OUT / f"studio-{name}.png"
        picture.save(path, optimize=True)
        assert path.stat().st_size <= 150_000, path
        print(path.name, path.stat().st_size)

    def answered(self, **options: Any) -> Page:
        """The chat with the answer to the first example."""
        page = self.page(**options)
        page.locator(".card").first.click()
        page.wait_for_selector("body:not(.busy) .player.done")
        page.mouse.move(5, 5)
        return page


def chat_and_canvas(camera: Camera) -> None:
    camera.shoot(camera.page(), "first")
    page = camera.answered()
    camera.shoot(page, "chat")
    seek(page, 0.35)
    camera.shoot(page, "scrub")
    page.locator("#prompt").blur()
    seek(page, 0.55)
    changed = page.locator(".text .edited")
    (changed.first if changed.count() else page.locator(".text .token:not(.mask)").nth(4)).hover()
    camera.shoot(page, "watch")
    page.mouse.move(5, 700)
    page.locator(".save summary").click()
    with page.expect_download() as download:
        page.click("[data-act=gif]")
    shutil.copy(download.value.path(), OUT / "studio.gif")
    print("studio.gif", (OUT / "studio.gif").stat().st_size)
    camera.shoot(camera.answered(locale="zh-CN"), "zh")
    dark = camera.answered(color_scheme="dark")
    seek(dark, 0.68)
    camera.shoot(dark, "dark")
    phone = camera.answered(viewport={"width": 390, "height": 780})
    seek(phone, 0.8)
    phone.mouse.move(5, 5)
    camera.shoot(phone, "phone")


def seek(page: Page, share: float) -> None:
    """Show the text after a share of its passes."""
    script = f"n => {{ n.value = Math.round({share} * n.max); n.dispatchEvent(new Event('input')); }}"
    page.locator(".passes").last.evaluate(script)


def other_views(camera: Camera, folder: Path) -> None:
    page = camera.answered()
    page.locator(".save summary").click()
    with page.expect_download() as download:
        page.click("[data-act=json]")
    shutil.copy(download.value.path(), folder / "kite.trace.json")
    page = camera.page("open")
    page.set_input_files("#file", folder / "kite.trace.json")
    page.wait_for_selector(".player")
    seek(page, 0.75)
    camera.shoot(page, "replay")
    page = camera.page("fill")
    for words in ("small dog under a tree", "happy"):
        page.evaluate(
            "words => { const f = document.getElementById('prompt'); const i = f.value.indexOf(words);"
            "f.setSelectionRange(i, i + words.length); }",
            words,
        )
        page.click("#make-gap")
    page.click(".toolbar .main")
    page.wait_for_selector(".player.done")
    camera.shoot(page, "infill")
    page = camera.page("templates")
    page.click(".toolbar .main")
    page.wait_for_selector(".player.done")
    page.evaluate("scrollTo(0, 9999)")
    camera.shoot(page, "template")
    page = camera.page("race", viewport={"width": 1200, "height": 980})
    page.click("text=Start the race")
    page.wait_for_selector("tbody tr")
    page.locator(".results [data-act=play]").click()
    page.locator(".results input").evaluate("n => { n.value = 420; n.dispatchEvent(new Event('input')); }")
    page.evaluate("scrollTo(0, 9999)")
    camera.shoot(page, "race")


def trouble(camera: Camera, scripted: Camera, server: StudioServer) -> None:
    page = camera.answered()
    page.route("**/v1/**", lambda route: route.abort())
    page.fill("#prompt", "And then?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".banner")
    camera.shoot(page, "server-gone")
    server.key = "another"
    page = scripted.page()
    page.wait_for_selector(".banner")
    page.click("text=Enter the key")
    page.keyboard.type("guess")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=this one is not it")
    camera.shoot(page, "wrong-key")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", help="address of a running nano-llada serve")
    address = parser.parse_args().server
    server = StudioServer()
    server.pause = 0.02
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        camera = Camera(browser, address or server.address)
        chat_and_canvas(camera)
        other_views(camera, Path(folder))
        trouble(camera, Camera(browser, server.address), server)
        browser.close()


if __name__ == "__main__":
    main()

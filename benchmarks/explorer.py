"""How long the explorer takes to answer each of its controls, with the shipped small model, quiet and beside a busy
neighbour: the page's own computing, and in a browser from the input to the changed page.

    python benchmarks/explorer.py [--rounds N] [--browser PATH] [--out FILE]      leave the machine alone meanwhile

The browser is asked through Playwright; without it, or without `--browser`, that part is left out. In the browser two
moments count: the first change that a reader sees, and the complete answer.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROUNDS = 10
LONGEST = 60_000  # milliseconds
COMPANY = ("quiet", "busy")
BUSY = [sys.executable, "-c", "while True: pass"]


@contextlib.contextmanager
def neighbour(company: str) -> Iterator[None]:
    "Inside the block another process keeps one core busy, or none does."
    process = subprocess.Popen(BUSY) if company == "busy" else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def turned(control: Any) -> None:
    "The next option of a menu, the next number of a field."
    if hasattr(control, "options"):
        control.index = (control.index + 1) % len(control.options)
    else:
        control.value += 1


def actions(page: Any) -> dict[str, Callable[[int], None]]:
    "Control -> what a hand does with it, in a turn of a number."
    view, c = page.views[0], page.controls
    said = view.panels["said"]
    menus = {name: c[name] for name in ("weather", "brushwork", "canvas")} | {
        name: view.controls[name] for name in ("layer", "head")
    }
    pictures = [_picture(colour) for colour in ("red", "blue")]
    found = {"painting": lambda i: setattr(c["picture"], "index", i % len(page.samples))}
    found |= {name: lambda i, control=control: turned(control) for name, control in menus.items()}
    found["upload, 2 megapixels"] = lambda i: page.receive("x.jpg", pictures[i % 2])
    found["emotion"] = lambda i: turned(c["emotion"])
    found["word"] = lambda i: setattr(said, "chosen", i % max(1, len(page.reading.words)))
    buttons = {
        "cover patches": "occlude",
        "nine emotions": "emotions",
        "other ways": "ways",
        "PNG": "png",
        "SVG": "svg",
        "JSON": "json",
    }
    return found | {name: lambda i, b=b: view.controls[b].click() for name, b in buttons.items()}


def _picture(colour: str) -> bytes:
    import io

    from PIL import Image

    Image.new("RGB", (1600, 1250), colour).save(buffer := io.BytesIO(), "JPEG")
    return buffer.getvalue()


def computing(rounds: int) -> dict[str, list[float]]:
    "Seconds of each control in this process."
    import torch

    from sevlm.app.explorer import Explorer
    from sevlm.models.explainer import load
    from sevlm.utils import choose_threads

    explainer = load(device="cpu")
    torch.set_num_threads(choose_threads(explainer.model.config.width, 1))
    page, found = Explorer(explainer, at_once=True), {}
    for name, act in actions(page).items():
        act(-1)  # what is made once is made now, and the first round changes something
        seconds = []
        for i in range(rounds):
            began = time.perf_counter()
            act(i)
            seconds.append(time.perf_counter() - began)
        assert not page.message.value, page.message.value
        found[name] = seconds
    return found


SOME = 4  # options of a menu that are tried
SAID = (".sevlm-show-said", '.sevlm-word[aria-pressed="true"]')  # the sentence is complete when a word is chosen
# control -> selector of the control, of the panel that changes first, of the panel that changes last, of what ends it
MENUS = {
    "painting": (".sevlm-painting select", ".sevlm-show-bars", *SAID),
    "weather": (".sevlm-weather select", ".sevlm-show-bars", *SAID),
    "brushwork": (".sevlm-brushwork select", ".sevlm-show-bars", *SAID),
    "emotion": (".sevlm-emotion select", ".sevlm-show-said", *SAID),
    "layer": (".sevlm-layer select", ".sevlm-show-picture", ".sevlm-show-picture", "img"),
    "head": (".sevlm-head select", ".sevlm-show-picture", ".sevlm-show-picture", "img"),
}
BUTTONS = {"cover patches": "occlusion", "nine emotions": "emotions", "other ways": "ways", "PNG": "file"}
PRESSED = {"cover patches": "occlude", "nine emotions": "emotions", "other ways": "ways", "PNG": "png"}
WATCH = """([first, last, done]) => {
  const page = (window.watched = { began: performance.now() });
  const see = (name, selector, test) => {
    const panel = document.querySelector(selector);
    const look = () => { if (page[name] === undefined && test(panel)) page[name] = performance.now() - page.began; };
    new MutationObserver(look).observe(panel, { childList: true, subtree: true });
  };
  see("first", first, () => true);
  see("last", last, (panel) => panel.querySelector(done));
}"""


def in_browser(browser: str, rounds: int) -> dict[str, list[tuple[float, float]]]:
    "Seconds from the input to the first change and to the complete answer."
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "sevlm", "explore", "--port", "0", "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        if not (address := server.stdout.readline().strip()):
            raise SystemExit("the explorer did not start; why stands above.")
        with sync_playwright() as p:
            chrome = p.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            page = chrome.new_page(viewport={"width": 1280, "height": 900})
            page.goto(address)
            page.wait_for_selector('.sevlm-word[aria-pressed="true"]', timeout=LONGEST)

            def watched(first: str, last: str, done: str, act: Callable[[], None]) -> tuple[float, float]:
                page.evaluate(WATCH, [first, last, done])
                act()
                page.wait_for_function("window.watched.last !== undefined", timeout=LONGEST)
                page.wait_for_timeout(200)
                return tuple(page.evaluate("[window.watched.first, window.watched.last].map((ms) => ms / 1000)"))

            for name, (control, first, last, done) in MENUS.items():
                menu, n = page.locator(control), page.locator(f"{control} option").count()
                turn = lambda: menu.select_option(index=(menu.evaluate("e => e.selectedIndex") + 1) % min(n, SOME))
                found[name] = [watched(first, last, done, turn) for _ in range(rounds)]
            for i in range(rounds):
                words = page.locator('.sevlm-word[aria-pressed="false"]')
                act = words.nth(i % words.count()).click
                found.setdefault("word", []).append(watched(".sevlm-show-said", ".sevlm-show-picture", "img", act))
            for name, panel in BUTTONS.items():
                show, done = f".sevlm-show-{panel}", "a[download]" if name == "PNG" else "table"
                press = page.locator(f"button.sevlm-{PRESSED[name]}").click
                found[name] = [watched(show, show, done, press) for _ in range(rounds)]
            chrome.close()
    finally:
        server.terminate()
        server.wait()
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--browser", help="a Chromium, such as /usr/bin/chromium")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args(argv)
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for company in COMPANY:
        with neighbour(company):
            for name, seconds in computing(args.rounds).items():
                rows.setdefault("computing", {}).setdefault(name, {})[company] = statistics.median(seconds)
            for name, pairs in (in_browser(args.browser, args.rounds) if args.browser else {}).items():
                for which, seconds in zip(("first change", "complete"), zip(*pairs)):
                    rows.setdefault(f"browser, {which}", {}).setdefault(name, {})[company] = statistics.median(seconds)
    for what, table in rows.items():
        print(f"\n{what}: median seconds of {args.rounds}\n{'':24}{'quiet':>8}{'busy':>8}")
        for name, row in table.items():
            print(f"{name:24}" + "".join(f"{row[company]:8.2f}" for company in COMPANY))
    if args.out:
        from sevlm.utils import write_json

        write_json(args.out, rows)


if __name__ == "__main__":
    main()

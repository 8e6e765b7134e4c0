"""The explorer as a reader uses it, in JupyterLab and as a page of its own. Its controls and panels are found by their
classes, which `nbs/library/explorer_page.ipynb` gives them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import ANSWERED

PAUSE = 20  # milliseconds between two looks
QUIET = 1.0  # seconds without a change, after which an answer is complete


@dataclass
class Explorer:
    "The explorer in a page."

    page: Any
    root: Any  # locator of what holds it

    def list(self, name: str) -> Any:
        "A control to choose in: `painting`, `weather`, `layer` and so on."
        return self.root.locator(f".sevlm-{name} select").first

    def button(self, name: str) -> Any:
        "`upload`, `clear`, `occlude`, `emotions`, `ways`, `png`, `svg` or `json`."
        return self.root.locator(f"button.sevlm-{name}").first

    def panel(self, name: str) -> Any:
        "What is shown: `bars`, `picture`, `said`, `vad`, `plane`, `occlusion`, `emotions`, `ways`, `file`."
        return self.root.locator(f".sevlm-show-{name}").first

    def message(self) -> str:
        return self.root.locator(".sevlm-message").first.inner_text()

    def wait(self, there: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + ANSWERED
        while not there():
            assert time.monotonic() < end, f"{what}: not within {ANSWERED} s; the page says {self.message()!r}"
            self.page.wait_for_timeout(PAUSE)

    def settle(self) -> None:
        "Until a sentence is written, which chooses one of its words, and nothing has changed for a while."
        self.root.locator('.sevlm-word[aria-pressed="true"]').first.wait_for()
        shown, since = "", time.monotonic()
        while time.monotonic() < since + QUIET:
            self.page.wait_for_timeout(PAUSE)
            if (now := self.panel("said").inner_html() + self.panel("picture").inner_html()) != shown:
                shown, since = now, time.monotonic()

    def after(self, act: Callable[[], Any], panel: str) -> None:
        "Do something, and wait until a panel has changed."
        before = self.panel(panel).inner_html()
        act()
        self.wait(lambda: self.panel(panel).inner_html() != before, f"a change of {panel}")

    def choose(self, control: str, panel: str, **option: Any) -> None:
        "Choose in a list, and wait until a panel has changed."
        self.after(lambda: self.list(control).select_option(**option), panel)

    def upload(self, file: Path) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.button("upload").click()
        chooser.value.set_files(file)

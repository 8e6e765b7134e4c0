"""JupyterLab as a reader uses it: pages opened, cells run and typed into, controls moved; and what shows afterwards."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
OPENED = 180  # seconds until a notebook is shown and its kernel answers
RAN = 600  # seconds until all cells of a page have run
ANSWERED = 120  # seconds until a cell has run, or a control has been answered
HIGHEST = 16_000  # pixels of a picture
OWN = ("127.0.0.1", "localhost")  # hosts a page may ask

# The notebook in front, and one of its code cells: [times it was run, is it idle, outputs]
PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden)"
NOTEBOOK = "jupyterapp.shell.currentWidget"
STATE = "c => [c.model.executionCount, c.model.executionState, c.model.outputs.toJSON()]"

# What a cell shows, without its controls, which change by themselves: its pictures, byte for byte, and its text.
SHOWN = """async area => {
  const hash = async img => {
    const bytes = await (await fetch(img.src)).arrayBuffer();
    return Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)), b => b.toString(16)).join('');
  };
  const copy = area.cloneNode(true);
  copy.querySelectorAll('select, input, textarea, button, .widget-readout').forEach(e => e.remove());
  const pictures = await Promise.all([...area.querySelectorAll('img[src]')].map(hash));
  return {pictures: pictures, text: copy.textContent.trim()};
}"""
CHANGED = f"""async (area, [before, what, seconds]) => {{
  const shown = {SHOWN}, end = Date.now() + 1000 * seconds;
  while (Date.now() < end) {{
    try {{
      const now = await shown(area);
      if (JSON.stringify(now[what]) !== JSON.stringify(before[what])) return now;
    }} catch (e) {{ }}  // a picture was exchanged while it was read
    await new Promise(done => setTimeout(done, 15));
  }}
  return null;
}}"""


@dataclass
class Watch:
    "A page, and what went wrong in it: errors on the console, errors of scripts, requests that leave the machine."

    page: Any
    picture: Path  # where the test's picture goes
    problems: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda e: self.problems.append(f"script: {e}"))
        self.page.on("request", lambda r: self._asked(r.url))
        self.page.on("websocket", lambda w: self._asked(w.url))

    def _said(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob", "about", "file") and parts.hostname not in OWN:
            self.problems.append(f"asked for {url}")

    def shoot(self, what: str = "", of: Any = None) -> None:
        "Keeps a picture of the page, or of a part of it."
        name = self.picture.with_stem(f"{self.picture.stem}-{what}") if what else self.picture
        (of or self.page).screenshot(path=name)


@dataclass
class Lab:
    "JupyterLab in a page."

    watch: Watch
    url: str
    token: str
    step: Callable

    @property
    def page(self) -> Any:
        return self.watch.page

    def open(self, name: str) -> "Notebook":
        "Opens a notebook, by its path below the root, and waits until its kernel answers."
        with self.step("opens"):
            self.page.goto(f"{self.url}/lab/tree/{name}?token={self.token}&reset")
            self.page.locator(PANEL).wait_for(timeout=1000 * OPENED)
            self.call(  # the indicator says "idle" before there is a session: ask the kernel itself
                f"""const w = {NOTEBOOK};
                await jupyterapp.restored; await w.context.ready; await w.sessionContext.ready;
                await w.sessionContext.session.kernel.info; return true""",
                OPENED,
            )
        return Notebook(self)

    def call(self, code: str, seconds: float, arg: Any = None) -> Any:
        "Runs the body of an asynchronous function in the page; by itself Playwright would wait forever."
        late = f"new Promise((_, no) => setTimeout(() => no(new Error('no answer in {seconds} s')), {1000 * seconds}))"
        return self.page.evaluate(f"arg => Promise.race([(async () => {{ {code} }})(), {late}])", arg)


@dataclass
class Notebook:
    "A notebook that is open in JupyterLab."

    lab: Lab

    @property
    def page(self) -> Any:
        return self.lab.page

    def sources(self) -> list[str]:
        "The source of every cell."
        return self.page.evaluate(f"{NOTEBOOK}.content.widgets.map(c => c.model.sharedModel.getSource())")

    def find(self, line: str) -> int:
        "The number of the code cell that has this line."
        kinds = self.page.evaluate(f"{NOTEBOOK}.content.widgets.map(c => c.model.type)")
        cells = enumerate(zip(kinds, self.sources()))
        (found,) = [i for i, (kind, text) in cells if kind == "code" and line in text.splitlines()]
        return found

    def cell(self, number: int) -> Any:
        "The element of a cell."
        return self.page.locator(f"{PANEL} .jp-Notebook .jp-Cell").nth(number)

    def output(self, number: int) -> Any:
        "The element of what a cell shows."
        return self.cell(number).locator(".jp-Cell-outputArea")

    def run_all(self) -> None:
        "Runs all cells; fails with the error of the one that raised, and where a widget is not displayed."
        ok = self.lab.call("return await jupyterapp.commands.execute('notebook:run-all-cells')", RAN)
        code = self.page.evaluate(f"{NOTEBOOK}.content.widgets.filter(c => c.model.type == 'code').map({STATE})")
        errors = [o for _, _, outputs in code for o in outputs if o["output_type"] == "error"]
        assert ok and not errors, [f"{e['ename']}: {e['evalue']}" for e in errors]
        assert all(count and state == "idle" for count, state, _ in code), "a cell has not run"
        warned = [o["text"] for _, _, outputs in code for o in outputs if o.get("name") == "stderr"]
        assert not warned, f"a reader sees warnings: {warned}"
        for text in ("Error displaying widget", "Loading widget"):
            self.page.wait_for_function(f"!document.body.innerText.includes({text!r})", timeout=1000 * ANSWERED)

    def shoot_whole(self) -> None:
        "Keeps a picture of the notebook from top to bottom, as far as a picture may be high."
        window, panel = self.page.viewport_size, self.page.locator(f"{PANEL} .jp-WindowedPanel-outer")
        height = window["height"] + panel.evaluate("e => e.scrollHeight - e.clientHeight")
        self.page.set_viewport_size({**window, "height": min(height, HIGHEST)})
        panel.evaluate("e => { e.scrollTop = 0; return new Promise(r => requestIdleCallback(r, {timeout: 5000})) }")
        self.lab.watch.shoot("whole", panel)
        self.page.set_viewport_size(window)

    def type(self, number: int, text: str) -> str:
        "Replaces the text of a cell by the keyboard, runs it by Ctrl+Enter, and gives what it answers."
        before = self._count(number)
        self.cell(number).locator(".cm-content").click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(text)
        self.page.keyboard.press("Control+Enter")
        return self._answer(number, before)

    def paste(self, number: int, text: str) -> str:
        "As `type`, but the text is set at once."
        before = self._count(number)
        self.lab.call(
            f"""const n = {NOTEBOOK}.content; n.activeCellIndex = arg[0];
            n.activeCell.model.sharedModel.setSource(arg[1]);
            return await jupyterapp.commands.execute('notebook:run-cell')""",
            ANSWERED,
            [number, text],
        )
        return self._answer(number, before)

    def _count(self, number: int) -> int:
        return self.page.evaluate(f"{NOTEBOOK}.content.widgets[{number}].model.executionCount") or 0

    def _answer(self, number: int, before: int) -> str:
        "The text of a cell's outputs, in one line, once it has been run again."
        self.page.wait_for_function(
            f"""before => {{ const [n, state] = ({STATE})({NOTEBOOK}.content.widgets[{number}]);
            return n > before && state == 'idle' }}""",
            arg=before,
            timeout=1000 * ANSWERED,
        )
        _, _, outputs = self.page.evaluate(f"({STATE})({NOTEBOOK}.content.widgets[{number}])")
        assert not [o for o in outputs if o["output_type"] == "error"], json.dumps(outputs)[-2000:]
        texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs]
        return " ".join("".join("".join(text) for text in texts).split())

    def shown(self, number: int) -> dict:
        "What a cell shows beside its controls: `pictures` (a hash of each) and `text`."
        return self.output(number).evaluate(SHOWN)

    def changed(self, number: int, before: dict, what: str = "pictures") -> dict:
        "What a cell shows as soon as its pictures (or its `text`) are no longer those of `before`."
        now = self.output(number).evaluate(CHANGED, [before, what, ANSWERED])
        assert now is not None, f"the {what} did not change within {ANSWERED} s"
        return now

"""The explorer: in JupyterLab on its course page, and as a page of its own that `sevlm explore` serves."""

import json
import sys

import pytest
from explorer import Explorer
from lab import ROOT

PAGE = "nbs/course/15_explorer.ipynb"
if not (ROOT / PAGE).exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("the notebooks are not beside the tests", allow_module_level=True)
DROP = """(box, [name, content]) => {  // no content: what cannot be read, as a folder
  const bytes = content && new Uint8Array(content).buffer;
  const read = () => (bytes === null ? Promise.reject(new Error("a folder")) : Promise.resolve(bytes));
  const file = { name, size: content?.length ?? 4096, arrayBuffer: read };
  box.firstElementChild.dispatchEvent(Object.assign(new Event("drop"), { dataTransfer: { files: [file] } }));
}"""
PHONE = {"width": 390, "height": 844}  # pixels


@pytest.fixture
def text_file(tmp_path):
    "A file that is no picture, although its name says so."
    file = tmp_path / "notes.png"
    file.write_text("not a picture", encoding="utf-8")
    return file


def use(explorer, step, watch, text_file):
    "What is tried wherever the explorer is shown."
    with step("another painting: the bars follow"):
        explorer.choose("painting", "bars", index=2)
    explorer.settle()
    with step("another weather: the bars follow"):
        now = explorer.list("weather").input_value()
        explorer.choose("weather", "bars", label="fog" if now != "fog" else "storm")
    explorer.settle()
    with step("an emotion is asked for: the sentence follows"):
        explorer.choose("emotion", "said", label="fear")
    explorer.settle()
    assert explorer.panel("said").inner_text().strip().startswith("fear")
    watch.shoot("fear", explorer.root)
    with step("an uploaded picture: it is shown"):
        explorer.after(lambda: explorer.upload(ROOT / "figures" / "example.jpg"), "picture")
    explorer.settle()
    with step("an uploaded text: a message"):
        explorer.upload(text_file)
        explorer.wait(lambda: "JPEG or PNG" in explorer.message(), "a message")
    watch.shoot("refused", explorer.root)
    assert "Traceback" not in explorer.message()
    with step("a sample again: the message goes"):
        explorer.choose("painting", "bars", index=0)
    explorer.settle()
    assert "JPEG or PNG" not in explorer.message()


def test_explorer_in_jupyterlab(lab, step, text_file):
    notebook = lab.open(PAGE)
    with step("runs from top to bottom"):
        notebook.run_all()
    notebook.shoot_whole()
    explorer = Explorer(lab.page, notebook.output(notebook.find("Explorer(explainer).show()")))
    explorer.settle()
    lab.watch.shoot("opened", explorer.root)
    use(explorer, step, lab.watch, text_file)


def test_explorer_as_a_page_of_its_own(serve_command, watch, step, text_file):
    page = watch.page
    with step("the server starts"):
        url = serve_command(sys.executable, "-m", "sevlm", "explore", "--port", "0", "--no-browser")
    explorer = Explorer(page, page.locator("body"))
    with step("opens, with its first answer"):
        page.goto(url)
        explorer.settle()
    watch.shoot("opened")
    use(explorer, step, watch, text_file)

    box = explorer.root.locator(".sevlm-paste").first
    with step("a folder is dropped: a message"):
        box.evaluate(DROP, ["holiday", None])
        explorer.wait(lambda: "holiday cannot be read" in box.inner_text(), "a message")
    with step("a picture is dropped: it is shown, and nothing is being sent any more"):
        content = list((ROOT / "figures" / "example.jpg").read_bytes())
        explorer.after(lambda: box.evaluate(DROP, ["x.jpg", content]), "picture")
        explorer.wait(lambda: "sending" not in box.inner_text(), "its arrival")
    explorer.settle()
    with step("back to a sample"):
        explorer.choose("painting", "bars", index=0)
    explorer.settle()
    with step("a word is chosen from the keyboard"):
        word = explorer.root.locator('.sevlm-word[aria-pressed="false"]').last
        word.focus()
        explorer.after(lambda: page.keyboard.press("Enter"), "picture")
    for control, index in (("layer", 0), ("head", 1)):  # the last layer is shown at first, and the mean of its heads
        with step(f"another {control}: the picture follows"):
            explorer.choose(control, "picture", index=index)
    for button, panel in (("occlude", "occlusion"), ("emotions", "emotions"), ("ways", "ways")):
        with step(f"{button}: an answer"):
            explorer.after(lambda b=button: explorer.button(b).click(), panel)
            explorer.wait(lambda p=panel: len(explorer.panel(p).inner_text()) > 40, "an answer of some words")
    watch.shoot("answers")
    for kind in ("json", "png", "svg"):
        with step(f"a file is made: {kind}"):
            explorer.button(kind).click()
            link = explorer.root.locator(f"a.sevlm-download[download$='.{kind}']").first
            link.wait_for()
        with page.expect_download() as download:
            link.click()
        saved = download.value.path().read_bytes()
        begins = {"json": b"{", "png": b"\x89PNG", "svg": b"<?xml"}[kind]
        assert saved.startswith(begins), saved[:40]
        if kind == "json":
            record = json.loads(saved)
            word = explorer.root.locator('.sevlm-word[aria-pressed="true"]').first.get_attribute("data-choose")
            chosen = {"layer": "mean", "head": 1, "word": int(word) + 1}
            assert chosen.items() <= record["settings"].items() and chosen.items() <= record["occlusion"].items()
            scene = record["picture"]["scene"]
            for control in ("weather", "time", "palette"):
                assert scene[control] == explorer.list(control).input_value()

    page.set_viewport_size(PHONE)
    explorer.wait(
        lambda: page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], "a page as wide as a phone"
    )
    watch.shoot("phone")

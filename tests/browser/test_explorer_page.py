"""The explorer in JupyterLab: another painting, a picture of one's own, and a file that is no picture.

Controls are found by the labels that a reader sees, and nothing is asked of how they are made."""

import re

import pytest
from lab import ROOT

PAGE = "nbs/course/15_explorer.ipynb"
if not (ROOT / PAGE).exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("the notebooks are not beside the tests", allow_module_level=True)


def test_explorer_page(lab, step, tmp_path):
    notebook = lab.open(PAGE)
    with step("runs from top to bottom"):
        notebook.run_all()
    notebook.shoot_whole()
    cell = notebook.find("Explorer(explainer).show()")
    output, first = notebook.output(cell), notebook.shown(cell)
    assert first["pictures"]
    lab.watch.shoot("opened", output)

    with step("another painting: the picture follows"):
        output.get_by_label("painting", exact=True).select_option(index=2)
        second = notebook.changed(cell, first)
    with step("an emotion is asked for: the picture follows"):
        output.get_by_label("emotion", exact=True).select_option("fear")
        third = notebook.changed(cell, second)
    lab.watch.shoot("fear", output)

    def upload(file):
        with lab.page.expect_file_chooser() as chooser:
            output.get_by_role("button", name=re.compile("upload", re.I)).click()
        chooser.value.set_files(file)

    with step("an uploaded picture: the picture follows"):
        upload(ROOT / "figures" / "example.jpg")
        fourth = notebook.changed(cell, third)
    lab.watch.shoot("uploaded", output)
    text = tmp_path / "notes.png"
    text.write_text("not a picture", encoding="utf-8")
    with step("an uploaded text: a message"):
        upload(text)
        fifth = notebook.changed(cell, fourth, "text")
    lab.watch.shoot("refused", output)
    assert "JPEG or PNG" in fifth["text"] and "Traceback" not in fifth["text"]

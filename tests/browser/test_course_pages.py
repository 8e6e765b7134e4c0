"""Four pages of the course as a student meets them: run from top to bottom, an exercise answered wrongly and rightly,
a control moved."""

import ast
import json
from dataclasses import dataclass

import pytest
from conftest import ROOT

SOLUTIONS = ROOT / "nbs" / "course" / "solutions"
if not SOLUTIONS.exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("the notebooks are not beside the tests", allow_module_level=True)


@dataclass(frozen=True)
class Answers:
    "To one exercise, as its solution has them: expressions to hand to the check."

    functions: str  # that the expressions use
    right: str
    wrong: str
    hint: str  # a part of what the check says to the wrong one


def answers_to(page: str, check: str) -> Answers:
    "Read from the page of solutions, which asserts `check(right).passed` and `hint in check(wrong).message`."
    cells = json.loads((SOLUTIONS / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
    (text,) = (t for c in cells if f"\nassert {check}(" in "\n" + (t := "".join(c["source"])))
    body = ast.parse(text).body
    functions = [ast.get_source_segment(text, node) for node in body if isinstance(node, ast.FunctionDef)]
    asserted = [node.test for node in body if isinstance(node, ast.Assert) and f"{check}(" in ast.unparse(node)]
    right = next(t.value.args[0] for t in asserted if isinstance(t, ast.Attribute) and t.attr == "passed")
    compared = next(t for t in asserted if isinstance(t, ast.Compare))
    wrong = compared.comparators[0].value.args[0]
    return Answers("\n\n\n".join(functions), ast.unparse(right), ast.unparse(wrong), compared.left.value)


def control(output, label):
    "The handle of a slider, the box of a checkbox, or the list of a choice, by its label."
    row = output.locator(".widget-inline-hbox, .widget-checkbox").filter(has_text=label)
    return row.locator(".noUi-handle, input[type=checkbox], select")


# page -> moves of its play: what is moved, how (a key, None for a click, or the option chosen), the text afterwards
PLAYS = {
    "02_token_vad": [
        ("also a look-up that looks ahead", None, "known"),
        ("tokens written", "Home", "1 tokens"),
    ],
    "07_fusion": [
        ("word that is moved", "ArrowLeft", "Orange"),
        ("causal mask", None, "Positions before it do not change."),
    ],
    "09_contrast": [
        ("s+ true", "ArrowRight", "Loss"),
        ("as published, with 1e-8", None, "published form"),
    ],
    "12_generation": [
        ("take candidate", "ArrowLeft", "yours (the same)"),
        ("painting", "a skull in a storm", "greedy"),
    ],
}


@pytest.mark.parametrize("name", PLAYS)
def test_course_page(name, lab, step):
    notebook, number = lab.open(f"nbs/course/{name}.ipynb"), name[:2]
    with step("runs from top to bottom"):
        notebook.run_all()

    # an exercise to choose, typed
    cell, answers = notebook.find(f"check_{number}a(answer)"), answers_to(name, f"check_{number}a")
    with step("a wrong answer, typed"):
        said = notebook.type(cell, f"answer = {answers.wrong}\ncheck_{number}a(answer)")
    assert said.startswith("✗") and answers.hint in said
    lab.watch.shoot("wrong", notebook.cell(cell))
    with step("the right answer, typed"):
        said = notebook.type(cell, f"answer = {answers.right}\ncheck_{number}a(answer)")
    assert said.startswith("✓") and "passed" in said

    # an exercise to complete
    answers = answers_to(name, f"check_{number}b")
    cell = notebook.find(f"check_{number}b({answers.right})")
    with step("a wrong function"):
        said = notebook.paste(cell, f"{answers.functions}\n\n\ncheck_{number}b({answers.wrong})")
    assert said.startswith("✗") and answers.hint in said
    lab.watch.shoot("wrong-function", notebook.cell(cell))
    with step("the right function"):
        said = notebook.paste(cell, f"{answers.functions}\n\n\ncheck_{number}b({answers.right})")
    assert said.startswith("✓") and "passed" in said
    lab.watch.shoot("right-function", notebook.cell(cell))

    # the play
    cell = notebook.find(f"play_{number}()")
    lab.watch.shoot("play", notebook.output(cell))
    for label, how, text in PLAYS[name]:
        before, moved = notebook.shown(cell), control(notebook.output(cell), label)
        assert before["pictures"]
        with step(f"{label}: the picture follows"):
            if how is None:
                moved.click()
            elif moved.evaluate("e => e.tagName") == "SELECT":
                moved.select_option(how)
            else:
                moved.focus()
                moved.press(how)
            now = notebook.changed(cell, before)
        assert text in now["text"]
    lab.watch.shoot("play-moved", notebook.output(cell))

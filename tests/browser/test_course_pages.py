"""Four pages of the course as a student meets them: run from top to bottom, an exercise answered wrongly and rightly,
a control moved."""

import ast
import json
from dataclasses import dataclass

import pytest
from lab import ROOT

SOLUTIONS = ROOT / "nbs" / "course" / "solutions"
if not SOLUTIONS.exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("the notebooks are not beside the tests", allow_module_level=True)


@dataclass(frozen=True)
class Answer:
    "What a student writes."

    functions: str
    expression: str  # to hand to the check


@dataclass(frozen=True)
class Answers:
    "To one exercise, as its solution has them."

    right: Answer
    wrong: Answer
    hint: str  # a part of what the check says to the wrong one


def answers_to(page: str, check: str) -> Answers:
    "Read from the page of solutions, which asserts `check(right).passed` and `hint in check(wrong).message`."
    cells = json.loads((SOLUTIONS / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
    (text,) = (t for c in cells if f"\nassert {check}(" in "\n" + (t := "".join(c["source"])))
    body = ast.parse(text).body
    asserted = [node.test for node in body if isinstance(node, ast.Assert) and f"{check}(" in ast.unparse(node)]
    right = next(t.value.args[0] for t in asserted if isinstance(t, ast.Attribute) and t.attr == "passed")
    compared = next(t for t in asserted if isinstance(t, ast.Compare))
    wrong = compared.comparators[0].value.args[0]
    return Answers(source_of(right, body, text), source_of(wrong, body, text), compared.left.value)


def source_of(expression: ast.expr, body: list, text: str) -> Answer:
    "An expression, and the functions that it needs, found by their names."
    names, found = {n.id for n in ast.walk(expression) if isinstance(n, ast.Name)}, []
    for node in reversed([n for n in body if isinstance(n, ast.FunctionDef)]):
        if node.name in names:
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            found.insert(0, ast.get_source_segment(text, node) + "\n\n\n")
    return Answer("".join(found), ast.get_source_segment(text, expression))


def control(output, label):
    "The handle of a slider, the box of a checkbox, or the list of a choice, by its label."
    row = output.locator(".widget-inline-hbox, .widget-checkbox").filter(has_text=label)
    return row.locator(".noUi-handle, input[type=checkbox], select")


# page -> moves of its play: what is moved, how (a key, None for a click, or the option chosen), the text afterwards
PLAYS = {
    "02_token_vad": [
        ("also a look-up that looks ahead", None, "known"),
        ("tokens written", "Home", "tokens: 1;"),
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
    notebook.shoot_whole()

    def try_answers(what, put, cell, wrong, right, hint):
        "A wrong answer gets its hint, the right one passes; `put` brings a text into a cell and runs it."
        with step(f"a wrong {what}"):
            said = put(cell, wrong)
        assert said.startswith("✗") and hint in said
        lab.watch.shoot(f"wrong-{what}", notebook.cell(cell))
        with step(f"the right {what}"):
            said = put(cell, right)
        assert said.startswith("✓") and "passed" in said
        lab.watch.shoot(f"right-{what}", notebook.cell(cell))

    # an exercise to choose, typed
    check = f"check_{number}a"
    answers = answers_to(name, check)
    wrong, right = (f"answer = {a.expression}\n{check}(answer)" for a in (answers.wrong, answers.right))
    try_answers("answer", notebook.type, notebook.find(f"{check}(answer)"), wrong, right, answers.hint)

    # an exercise to complete
    check = f"check_{number}b"
    answers = answers_to(name, check)
    wrong, right = (f"{a.functions}{check}({a.expression})" for a in (answers.wrong, answers.right))
    cell = notebook.find(f"{check}({answers.right.expression})")
    try_answers("function", notebook.paste, cell, wrong, right, answers.hint)

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

"""The course: exercises that answer, plays, and the figure that says where a page stands; read from the notebooks."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from sevlm.course.exercises import NOTHING, beside, exercise

REPO = Path(__file__).resolve().parent.parent
COURSE = REPO / "nbs" / "course"
if not COURSE.exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("the notebooks are not beside the tests", allow_module_level=True)
SOLVED = sorted(page.name for page in (COURSE / "solutions").glob("*.ipynb"))
EXPLORER = "15_explorer.ipynb"
each_page = pytest.mark.parametrize("page", SOLVED)
FEWEST_EXERCISES, FEWEST_HINTS, LONGEST_MINUTES = 3, 2, 30


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def text(path, kind):
    return "\n\n".join("".join(c["source"]) for c in cells(path) if c["cell_type"] == kind)


def checks_of(page):
    "Name -> check, of a page of the course."
    module = importlib.import_module(f"sevlm.course.checks_{page[:2]}")
    return {name: getattr(module, name) for name in module.__all__ if name.startswith("check_")}


@each_page
def test_a_page_has_three_exercises_or_more_and_each_says_how_long_it_takes(page):
    checks, prose, code = checks_of(page), text(COURSE / page, "markdown"), text(COURSE / page, "code")
    assert len(checks) >= FEWEST_EXERCISES
    kinds = re.findall(rf"\*\*({page[:2]}[a-z])\. (Predict|Complete|Extend)\*\* \((\d+) minutes?\)", prose)
    assert {f"check_{number}" for number, _, _ in kinds} == set(checks)
    assert {kind for _, kind, _ in kinds} == {"Predict", "Complete", "Extend"}
    for number, _, minutes in kinds:
        check = checks[f"check_{number}"]
        assert check.minutes == int(minutes) <= LONGEST_MINUTES and check.cases >= 1
        assert re.search(rf"^check_{number}\(\w+\)$", code, re.M), f"{page} does not call check_{number}"


def predictions_of(page):
    "The exercises that ask for a choice or a number, not for a function."
    return {f"check_{number}" for number in re.findall(r"\*\*(\w+)\. Predict\*\*", text(COURSE / page, "markdown"))}


@each_page
def test_a_blank_is_answered_and_stops_nothing(page):
    for name, check in checks_of(page).items():
        for blank in (..., None, lambda *args, **kwargs: None):
            verdict = check(blank)
            assert not verdict.passed and verdict.message, name
            assert "Traceback" not in verdict.message
        assert verdict.message == NOTHING or name in predictions_of(page), name


@each_page
def test_a_page_stores_that_its_blanks_are_not_filled_in(page):
    for cell in cells(COURSE / page):
        if called := re.search(r"^check_\w+", "".join(cell["source"]), re.M):
            stored = "".join(cell["outputs"][0]["data"]["text/plain"])
            assert stored.startswith(("… Not filled in", "✗ Nothing came back")), called[0]


@each_page
def test_a_function_that_looks_at_nothing_never_passes(page):
    for name, check in checks_of(page).items():
        for found in (0, True, (0, 1)):
            assert not check(lambda *args, found=found: found).passed, (name, found)
        assert not check(lambda *args: args[0]).passed, name


def check_of(wanted, picture=None):
    "A check with one case, of a function without arguments."
    return exercise(cases=1, minutes=1)(lambda expect, attempt: expect(attempt(), wanted, "the hint", picture=picture))


@pytest.mark.parametrize("shape", [(4,), (2, 2)])
@pytest.mark.filterwarnings("error")
def test_a_picture_of_infinite_values_loses_no_hint(shape):
    wanted = np.arange(4.0).reshape(shape)
    for bad in (np.inf, -np.inf):
        found = np.where(wanted == 2, bad, wanted)
        verdict = check_of(wanted, beside)(lambda found=found: found)
        assert verdict.message == "the hint" and "image/png" in verdict._repr_mimebundle_()
    verdict = check_of(wanted, beside)(lambda: np.full(shape, -np.inf))
    assert verdict.message == "the hint" and "image/png" in verdict._repr_mimebundle_()
    assert beside(np.full(shape, np.inf), np.full(shape, np.nan)) is None


def test_an_error_is_placed_in_the_readers_function():
    def helper():
        raise ValueError("not like this.")

    def asks_a_helper():
        found = 1
        return found + helper()

    def makes_a_function():
        inner = lambda: (
            1 / 0  # the third line
        )
        return inner()

    assert check_of(1)(asks_a_helper).message == "It stopped in line 3 of your function: ValueError: not like this."
    assert "line 3 of your function" in check_of(1)(makes_a_function).message
    assert "when your answer was used" in check_of(1)(int.bit_length).message


def test_tensors_with_a_gradient_may_come_in_a_list():
    ones = torch.ones(2, requires_grad=True)
    assert check_of([1.0, 2.0])(lambda: [ones.sum() / 2, ones.sum()]).passed
    assert check_of([[1.0, 1.0]])(lambda: (ones * 1,)).passed


@each_page
def test_solutions_feed_each_check_a_right_answer_and_two_wrong_ones(page):
    "The page itself runs with all others; here: that it has the assertions, and that no hint is asserted empty."
    code = text(COURSE / "solutions" / page, "code")
    for name in checks_of(page):
        assert re.search(rf"assert {name}\(.*\)\.passed", code), f"no right answer for {name}"
        hints = re.findall(rf'assert "([^"]+)" in {name}\(', code)
        assert len(set(hints)) >= FEWEST_HINTS and all(len(h) > 3 for h in hints), f"{name}: wrong answers {hints}"


@each_page
def test_a_page_shows_where_it_stands_and_has_something_to_play_with(page):
    prose, code = text(COURSE / page, "markdown"), text(COURSE / page, "code")
    figure = "architecture" if page.startswith("00_") else f"architecture_{page[:2]}"  # the tour shows all parts
    assert f"](../../figures/{figure}.png)" in prose and f"](solutions/{page})" in prose
    if page == EXPLORER:  # all of it is a play
        assert re.search(r"^Explorer\(explainer\).show\(\)$", code, re.M) and "](../../figures/explorer.png)" in prose
        return
    assert re.search(rf"^play_{page[:2]}\(\)$", code, re.M) and f"](../../figures/play_{page[:2]}.png)" in prose


@pytest.mark.parametrize("page", [page for page in SOLVED if page != EXPLORER])
def test_run_all_meets_no_cell_that_was_not_run_here(page):
    "JupyterLab knows nothing of nbdev's marks: a cell that `make notebooks` leaves out would stop a reader's Run All."
    assert not re.search(r"^#\|\s*(eval: *false|slow|cuda|net)\b", text(COURSE / page, "code"), re.M)


@pytest.mark.parametrize("page", [page for page in SOLVED if page != EXPLORER])
def test_a_play_answers_every_control(page):
    "Each control, moved to another value, changes what is shown."
    widgets = pytest.importorskip("ipywidgets")
    module = importlib.import_module(f"sevlm.course.play_{page[:2]}")
    play = getattr(module, f"play_{page[:2]}")()
    assert play.controls and (play.image.value or play.text.value)
    for name, control in play.controls.items():
        shown, kept = (play.image.value, play.text.value), control.value
        if isinstance(control, widgets.Checkbox):
            control.value = not kept
        elif isinstance(control, widgets.Text):
            control.value = "the bright sky makes me feel calm"
        elif hasattr(control, "options"):
            control.value = next(v for v in (o[1] if isinstance(o, tuple) else o for o in control.options) if v != kept)
        elif hasattr(control, "max"):
            control.value = control.max if kept != control.max else control.min
        else:
            continue  # a control of its own kind: the page's own assertions test it
        assert (play.image.value, play.text.value) != shown, f"{name} changes nothing"
        control.value = kept


def test_a_painting_is_covered_and_uncovered():
    "The second play of 06: patches, buttons and another painting, without a browser."
    pytest.importorskip("anywidget")
    from sevlm.course.play_06b import play_06b

    assert re.search(r"^play_06b\(\)$", text(COURSE / "06_decoder.ipynb", "code"), re.M)
    assert "](../../figures/play_06b.png)" in text(COURSE / "06_decoder.ipynb", "markdown")
    play = play_06b()
    covered, whole = play.controls["covered"], (play.image.value, play.text.value)
    assert "0 of 64" in play.text.value and "(the same)" in play.text.value
    covered.value = list(range(32))  # as the script in the browser sets it
    assert play.image.value != whole[0] and "32 of 64" in play.text.value
    most, least, none = play.children[4].children
    for button, count in ((most, 8), (none, 0), (least, 8), (none, 0)):
        button.click()
        assert len(covered.value) == count and f"{count} of 64" in play.text.value
    assert (play.image.value, play.text.value) == whole
    covered.value = [0]
    before = covered.picture
    play.controls["painting"].value = play.controls["painting"].options[1]
    assert covered.value == [] and covered.picture != before and "(the same)" in play.text.value


def test_patches_are_covered_exactly():
    pytest.importorskip("anywidget")
    from PIL import Image

    from sevlm.course.patch_picture import COVER_GREY, PATCH_SCRIPT, PatchPicture, cover_patches
    from sevlm.errors import ConfigError

    red = Image.new("RGB", (96, 96), (200, 0, 0))
    found = cover_patches(red, [9])  # second row, second column of 8 x 8
    grey = (COVER_GREY,) * 3
    assert {found.getpixel(at) for at in ((12, 12), (23, 23))} == {grey}
    assert {found.getpixel(at) for at in ((11, 12), (12, 11), (24, 23), (23, 24))} == {(200, 0, 0)}
    assert len(found.getcolors()) == 2 and found.getcolors()[0][0] + found.getcolors()[1][0] == 96 * 96
    with pytest.raises(ConfigError, match="96 x 96"):
        cover_patches(red, [0], rows=7)
    for bad in ([64], [-1]):
        with pytest.raises(ConfigError, match="from 0 to 63"):
            PatchPicture(red, "red").value = bad
    for role in ('"grid"', '"row"', '"gridcell"', '"aria-selected"', '"aria-label"', '"aria-live"'):
        assert role in PATCH_SCRIPT
    assert "http" not in PATCH_SCRIPT


GLOSSARY = REPO / "docs" / "glossary.md"
ENTRY = re.compile(r"^\| ([^|]+) \| ([^|]+) \| \[\w+\]\(([^)]+)\) \|$", re.M)


def test_the_glossary_names_pages_on_which_its_terms_stand():
    entries = ENTRY.findall(GLOSSARY.read_text(encoding="utf-8"))
    assert len(entries) > 40 and len({term for term, _, _ in entries}) == len(entries)
    missing = []
    for term, meaning, page in entries:
        said = " ".join(text((GLOSSARY.parent / page).resolve(), "markdown").lower().split())
        forms = [re.sub(r"\s*\(.*?\)", "", form).strip().lower() for form in re.split(r",\s*", term)]
        forms += re.findall(r"\((\w+)\)", term.lower())
        if not any(form in said for form in forms):
            missing.append(f"{term}: not on {page}")
        assert len(meaning) > 20, term
    assert not missing, "\n".join(missing)

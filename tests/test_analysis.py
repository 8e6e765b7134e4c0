"""The files the analysis pages read are complete and sane, and the pictures the pages name are there."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sevlm.config import EMOTIONS
from sevlm.errors import ConfigError, DataError
from sevlm.studies.ablation import (
    COMBINATIONS,
    GRIDS,
    IDEAS,
    SUMS,
    Judged,
    combination_name,
    differences,
    score_values,
)
from sevlm.studies.factorial import effects, factorial_contrasts, late_gain
from sevlm.synthetic.dataset import catalogue

REPO = Path(__file__).resolve().parent.parent
DATA, PAGES, FIGURES = REPO / "nbs" / "data", REPO / "nbs" / "analysis", REPO / "figures"
if not DATA.exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("the notebooks and their data are not beside the tests", allow_module_level=True)
EMPTY = dict(right="", grounded="", cider="")  # columns in which an empty field is a missing value
ALL = sorted(page.name for page in PAGES.glob("a*.ipynb"))
COLUMNS = ["dataset", "split", "system", "metric", "value", "source_repo", "source_path", "note"]
SEED_OF_TEST_SET = 12


@pytest.fixture(scope="module")
def published():
    return pd.read_csv(DATA / "published_numbers.csv", dtype=str, keep_default_na=False)


@pytest.fixture(scope="module", params=["factorial", "corrections"])
def grid(request):
    "A stored grid: its arms, its rows of texts, its answers without texts."
    name = request.param
    rows = pd.read_csv(DATA / f"{name}_rows.csv.gz", keep_default_na=False, na_values=EMPTY)
    return list(GRIDS[name]), rows, Judged.load(DATA / f"{name}_judged.npz")


def cells(page):
    return json.loads((PAGES / page).read_text(encoding="utf-8"))["cells"]


def code(page):
    return "\n".join("".join(c["source"]) for c in cells(page) if c["cell_type"] == "code")


def test_every_published_figure_has_a_source(published):
    assert list(published.columns) == COLUMNS and len(published) > 300
    for column in ("dataset", "split", "system", "metric", "value", "source_repo", "source_path"):
        assert (published[column].str.strip() != "").all(), published[published[column].str.strip() == ""]
    assert published.source_repo.str.contains(r"[/. ]").all()  # an owner/name, a host, or "arXiv 1234.5678"


def test_a_published_value_is_a_number_or_said_not_to_be_found(published):
    odd = [
        v
        for v in published.value
        if v != "not found" and not re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?(/\d+(\.\d+)?)*|\d+(\.\d+){2}", v)
    ]
    assert not odd, odd


def test_no_figure_passes_for_the_papers_own(published):
    "Its tables were found in no source: not a single value may appear under its name before that changes."
    paper = published[published.source_repo.str.startswith("arXiv 2403.11150")]
    assert len(paper) and (paper.value == "not found").all()
    again = published[(published.system == "SEVLM") & published.dataset.str.startswith("ArtEmis")]
    assert len(again) and again.note.str.contains("third-party").all()


def test_the_small_file_of_published_figures_is_part_of_the_large_one(published):
    small = pd.read_csv(DATA / "published_artemis.csv", dtype=str, keep_default_na=False)
    assert len(small.merge(published, on=COLUMNS[:-1])) == len(small) > 0


def test_a_grid_is_complete(grid):
    arms, rows, judged = grid
    assert list(rows.arm.unique()) == arms == judged.arms
    counts, seeds = rows.groupby(["arm", "seed"]).painting.nunique(), judged.named.shape[1]
    assert len(counts) == len(arms) * seeds and seeds >= 5 and counts.nunique() == 1 and len(rows) == counts.sum()
    assert set(rows.seed) == set(range(seeds)) and set(rows.steps) == {judged.steps[-1]}
    assert not rows.duplicated(["arm", "seed", "painting"]).any()
    assert judged.named.shape[2] == len(judged.chance) == 10_000 and judged.emotions == list(EMOTIONS)


def test_a_grids_rows_are_sane(grid):
    arms, rows, judged = grid
    assert set(rows.right.dropna()) <= {0, 1} and set(rows.grounded.dropna()) <= {0, 1}
    runs = len(rows.groupby(["arm", "seed"]))
    assert set(rows.groupby("painting").right.count()) == {0, runs}  # a majority is one for every run, or for none
    assert set(rows.emotion) <= {*EMOTIONS, ""} and (rows.explanation != "").mean() > 0.99
    sums = rows[SUMS].to_numpy(float)
    assert np.isfinite(sums).all() and (sums >= 0).all() and (sums[:, :4] <= sums[:, 4:8]).all()
    assert (rows.said == rows.possible1).all()
    causal = rows[~rows.arm.isin(["causal_vad", "all as published"])]
    assert np.allclose(causal.loss_trained, causal.loss_written, atol=1e-4)  # causal models are trained as they write
    assert judged.accuracy().min() > 0.4 and judged.accuracy().max() < judged.ceiling()  # the models have learnt


def test_a_grid_is_about_the_synthetic_test_set(grid):
    keys = {f"{m.style}/{m.name}" for m in catalogue(grid[1].painting.nunique(), SEED_OF_TEST_SET)}
    assert set(grid[1].painting) == keys


def test_a_grid_can_be_compared_and_a_broken_one_cannot(grid):
    arms, rows, _ = grid
    found = differences(rows, arms[0], draws=100)
    assert set(found.arm) == set(arms) and (found.low <= found.high).all()
    assert (found[found.arm == arms[0]].difference == 0).all()
    with pytest.raises(DataError, match="every arm needs every seed"):
        differences(rows[(rows.arm != arms[-1]) | (rows.seed != 2)], arms[0], draws=100)
    few, odd, whole = (differences(rows, arms[0], draws=draws) for draws in (7, 107, 100))
    assert np.isfinite(few[["low", "high"]].to_numpy()).all() and (few.low <= few.high).all()
    assert not odd.equals(whole) and found.equals(whole)
    with pytest.raises(ConfigError, match="draws = 0"):
        differences(rows, arms[0], draws=0)


def test_the_prose_about_the_ideas_follows_from_their_grid():
    judged = Judged.load(DATA / "factorial_judged.npz")
    ideas = {combination_name(on): [IDEAS[idea] for idea in on] for on in COMBINATIONS}
    main = {name: weights for name, weights in factorial_contrasts(ideas).items() if " : " not in name}
    lighter = {"lighter": {"all, weights 0.1": 1.0, "all": -1.0}}
    found = effects(100 * judged.right(), judged.arms, {**main, **lighter}).set_index("effect")
    cost, gain = -found.loc["contrast", ["value", "high", "low"]], found.loc["lighter", ["value", "low", "high"]]
    assert cost.min() > 0 and gain.min() > 0 and found.loc[["fusion", "VAD head"]].value.abs().max() < 0.4
    said = "{:.1f} points of expected accuracy ({}{:.1f} to {:.1f})".format
    for page, interval in (("README.md", ""), ("docs/results.md", "95 %: ")):
        text = " ".join((REPO / page).read_text(encoding="utf-8").replace("*costs*", "costs").split())
        assert f"contrastive loss costs {said(cost.value, interval, cost.high, cost.low)}" in text, page
    assert f"gains {gain.value:.1f} points back ({gain.low:.1f} to {gain.high:.1f})" in text


def test_the_prose_of_the_ablations_follows_from_their_grid():
    judged = Judged.load(DATA / "factorial_judged.npz")
    rows = pd.read_csv(DATA / "factorial_rows.csv.gz", keep_default_na=False, na_values=EMPTY)
    ideas = {combination_name(on): [IDEAS[idea] for idea in on] for on in COMBINATIONS}
    main = {name: weights for name, weights in factorial_contrasts(ideas).items() if " : " not in name}
    found = effects(100 * judged.right(), judged.arms, main).set_index("effect")
    text = " ".join(" ".join("".join(c["source"]) for c in cells("a2_ablations.ipynb")).split())
    assert f"by so little ({-found.value['VAD head']:.2f} points" in text
    assert f"Fusion is ruled out to be worth more than {found.high['fusion']:.2f} points" in text
    scores = {"log score": judged.log_scores, **score_values(rows, judged.arms)}
    price = {name: effects(v, judged.arms, {"contrast": main["contrast"]}).iloc[0] for name, v in scores.items()}
    without_zero = {name for name, r in price.items() if r.low > 0 or r.high < 0} - {"emotion accuracy"}
    assert without_zero == {"log score", "grounding"} and found.high["contrast"] < 0
    assert "price is clear in accuracy, log score and grounding" in text


def test_the_prose_about_the_corrections_follows_from_their_grid():
    judged = Judged.load(DATA / "corrections_judged.npz")
    arms = [arm for arm in judged.arms if arm != "corrected"]
    found = effects(100 * judged.right(), judged.arms, {arm: {"corrected": 1.0, arm: -1.0} for arm in arms})
    found = found.set_index("effect")
    text = " ".join((REPO / "docs" / "results.md").read_text(encoding="utf-8").split())
    together = found.loc["all as published"]
    said = "worth {:.1f} points of expected accuracy (95 %: {:.1f} to {:.1f})"
    assert said.format(together.value, together.low, together.high) in text
    worth = [arm for arm in arms[:-1] if found.low[arm] > 0]
    assert worth == ["fusion_start", "picture"] and (found.high > 0).all() and arms[-1] == "all as published"
    for arm, words in zip(worth, ("worth {:.1f} ({:.1f} to {:.1f})", "resizing {:.1f} ({:.1f} to {:.1f})")):
        assert words.format(*found.loc[arm, ["value", "low", "high"]]) in text, arm
    assert f"the {['', 'one', 'two', 'three', 'four', 'five', 'six'][len(arms) - 3]} others" in text
    gain = 100 * late_gain(judged.steps, judged.curves).mean(0)
    assert f"still rises by {gain.mean():.1f} points" in text


def test_the_stored_grids_take_little_room():
    assert sum(file.stat().st_size for file in DATA.iterdir() if file.is_file()) < 10_000_000


@pytest.mark.parametrize("page", ALL)
def test_figures_named_on_a_page_are_there(page):
    from PIL import Image

    names = re.findall(r"(?:save_figure|show)\(fig, ['\"](\w+)['\"]", code(page))
    assert names, f"{page} saves no figure"
    for name in names:
        with Image.open(FIGURES / f"{name}.png") as picture:
            assert picture.width >= 600 and picture.height >= 200, f"{name}.png is {picture.size}"
            assert len(np.unique(np.asarray(picture.convert("L")))) > 8, f"{name}.png is nearly empty"


@pytest.mark.parametrize("page", ALL)
def test_a_page_names_only_pages_that_are_there(page):
    text = "\n".join("".join(c["source"]) for c in cells(page) if c["cell_type"] == "markdown")
    for link in re.findall(r"\]\(([\w./]+\.ipynb)\)", text):
        assert (PAGES / link).resolve().is_file(), f"{page}: {link}"


def test_the_main_table_places_results_by_what_they_say(tmp_path):
    "The page's own functions on files made up here: a real run into its data set, a synthetic one into none."
    source = next("".join(c["source"]) for c in cells("a1_main_table.ipynb") if "def why_not" in "".join(c["source"]))
    page = {"re": re}
    exec(source, page)
    ok = dict(data="ArtEmis v1.0", synthetic=False, part="test")
    assert page["why_not"](dict(about=ok, scores={})) == "" and page["dataset_of"](ok) == "ArtEmis v1.0"
    for data, expected in (
        ("artemis_v2", "ArtEmis v2.0"),
        ("combined", "ArtEmis v2.0"),
        ("ArtEmis v2.0", "ArtEmis v2.0"),
        ("data/v1", "ArtEmis v1.0"),
        ("my paintings", None),
        ("v1 and v2", None),
        ("v12", None),
    ):
        assert page["dataset_of"](dict(data=data)) == expected, data
    assert page["why_not"](dict(about=ok | dict(synthetic=True, data="mini"), scores={})) == ""
    for bad, why in (
        (dict(scores={}), "no `about`"),
        (dict(about=ok | dict(part="val"), scores={}), "val"),
        (dict(about=ok | dict(synthetic="no"), scores={}), "synthetic"),
        (dict(about=ok | dict(data="my paintings"), scores={}), "not told"),
        ({"BLEU-4": {"value": 0.1}}, "no `about`"),
        ([], "no `about`"),
        (None, "no `about`"),
    ):
        assert why in page["why_not"](bad), bad

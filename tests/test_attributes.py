"""What encoder and model make of each attribute: probes, interventions, stored rows; and emotions without texts."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from sevlm.config import EMOTIONS
from sevlm.data.paintings import Release
from sevlm.errors import DataError
from sevlm.models.explainer import load
from sevlm.studies.attributes import (
    ALL_VALUES,
    ATTRIBUTE_COLUMNS,
    ATTRIBUTE_KINDS,
    Change,
    attribute_table,
    change_attribute,
    follow_measures,
    follow_rows,
    has_value,
    interventions,
    probe_attributes,
    read_attributes,
    store_attributes,
)
from sevlm.synthetic.dataset import emotion_odds, make_mini
from sevlm.synthetic.paint import random_scene
from sevlm.training.inputs import cache_features
from sevlm.training.validation import answer_all, probabilities_of_paintings

STORED = Path(__file__).resolve().parents[1] / "nbs" / "data" / "attributes.csv"


@pytest.fixture(scope="module")
def explainer():
    return load(device="cpu")


def scenes_of(n, seed=0):
    rng = np.random.default_rng(seed)
    return [random_scene(rng) for _ in range(n)]


@pytest.mark.parametrize("kind", ATTRIBUTE_KINDS)
def test_one_value_is_exchanged_and_nothing_else(kind):
    rng = np.random.default_rng(1)
    for scene in scenes_of(100):
        other, before, after = change_attribute(scene, kind, rng)
        assert scene.attributes() - other.attributes() == {before}
        assert other.attributes() - scene.attributes() == {after}
        assert {before, after} <= set(ATTRIBUTE_KINDS[kind]) and len(other.subjects) == len(scene.subjects)
        if kind == "subjects":  # the other subject keeps its place
            assert sum(a != b for a, b in zip(scene.subjects, other.subjects)) == 1


def test_unknown_kind():
    with pytest.raises(DataError, match="expected one of subjects"):
        change_attribute(scenes_of(1)[0], "mood", np.random.default_rng(0))


def test_probes_find_what_is_there_and_only_that():
    scenes, rng = scenes_of(500), np.random.default_rng(2)
    tokens = rng.normal(size=(500, 12))
    tokens[:, 0] += 6 * has_value(scenes, "night")  # this value alone can be seen
    rows = {r["value"]: r for r in probe_attributes(tokens[:300], scenes[:300], tokens[300:], scenes[300:])}
    assert len(rows) == 36 and rows["night"]["precision"] > 0.95
    others = [r["precision"] - r["share"] for v, r in rows.items() if v not in ATTRIBUTE_KINDS["time"]]
    assert abs(np.mean(others)) < 0.1
    assert rows["night"]["share"] == has_value(scenes[300:], "night").mean()


def test_a_value_that_never_occurs_has_no_precision():
    scenes = [s for s in scenes_of(300) if "skull" not in s.attributes()]
    tokens = np.random.default_rng(3).normal(size=(len(scenes), 4))
    rows = {r["value"]: r for r in probe_attributes(tokens, scenes, tokens, scenes)}
    assert rows["skull"]["precision"] is None and rows["skull"]["share"] == 0 < rows["boat"]["precision"]


@pytest.mark.parametrize("tokens", [np.zeros((9, 4)), np.zeros(10), np.zeros((0, 4))])
def test_probes_check_shapes(tokens):
    with pytest.raises(DataError, match="expected"):
        probe_attributes(tokens, scenes_of(10), tokens, scenes_of(10))


def test_following():
    rng = np.random.default_rng(4)
    true = rng.dirichlet(np.ones(9), size=40) - rng.dirichlet(np.ones(9), size=40)
    changes = [Change("time", "day", "night", d, -0.25 * d) for d in true]
    found = follow_measures(changes)
    assert np.isclose(found["correlation"].value, -1) and np.isclose(found["slope"].value, -0.25)
    noisy = [Change("time", "day", "dusk", d, d + e) for d, e in zip(true, 0.1 * rng.normal(size=true.shape))]
    model = np.stack([c.model - c.model.mean() for c in noisy])  # changes of probabilities sum to zero
    noisy = [Change(c.kind, c.before, c.after, c.true, m - m.mean()) for c, m in zip(noisy, model)]
    flat = [np.concatenate([getattr(c, k) for c in noisy]) for k in ("true", "model")]
    assert np.isclose(follow_measures(noisy)["correlation"].value, np.corrcoef(*flat)[0, 1])
    rows = {r["value"]: r for r in follow_rows([*changes, *noisy], draws=50)}
    assert rows.keys() == {ALL_VALUES, "day", "night", "dusk"} and rows["day"]["changes"] == 80
    assert rows["night"]["correlation"] < 0 < rows["dusk"]["low"] < rows["dusk"]["correlation"] < rows["dusk"]["high"]
    assert np.isclose(rows["night"]["moved"], np.sqrt(np.mean(true**2)))
    with pytest.raises(DataError, match="no change"):
        follow_measures([])


def test_interventions_ask_the_model_before_and_after(explainer):
    changes = interventions(explainer, n=2, seed=6, size=128, kinds=("time", "subjects"), progress=False)
    assert [c.kind for c in changes] == ["time", "subjects"] * 2
    for c in changes:
        assert np.isclose(c.true.sum(), 0) and np.isclose(c.model.sum(), 0, atol=1e-5) and np.abs(c.model).max() > 0
    rng = np.random.default_rng([6, 0])
    scene = random_scene(rng)
    other, before, after = change_attribute(scene, "time", rng)
    assert (changes[0].before, changes[0].after) == (before, after)
    assert np.allclose(changes[0].true, emotion_odds(other) - emotion_odds(scene))


def test_table_is_made_stored_and_found_again(explainer, tmp_path, caplog):
    how = dict(fit=60, test=30, scenes=2, size=128, workers=1, progress=False)
    caplog.set_level("INFO", "sevlm.synthetic.dataset")
    rows = attribute_table(explainer, tmp_path / "sets", **how)
    assert attribute_table(explainer, tmp_path / "sets", **how) == rows  # sets and patch tokens are there
    assert caplog.text.count("reused") == 2
    assert all(tuple(r) == ATTRIBUTE_COLUMNS for r in rows) and [
        r["kind"] for r in rows if r["value"] == ALL_VALUES
    ] == list(ATTRIBUTE_KINDS)
    path = store_attributes(tmp_path / "rows.csv", rows, "first")
    store_attributes(path, rows[:2], "second")
    store_attributes(path, rows[:1], "second")  # in place of the two
    back = read_attributes(path)
    assert [r["edition"] for r in back] == ["first"] * len(rows) + ["second"]
    assert float(back[0]["correlation"]) == pytest.approx(rows[0]["correlation"], abs=1e-4)
    assert read_attributes(tmp_path / "none.csv") == []


@pytest.mark.skipif(not STORED.exists(), reason="the notebooks' data is not beside the tests")
def test_stored_rows_are_whole():
    "For each edition every kind and every value once, from as many scenes as the page says."
    with open(STORED, encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    expected = {(kind, v) for kind, values in ATTRIBUTE_KINDS.items() for v in (ALL_VALUES, *values)}
    editions = {r["edition"] for r in rows}
    assert "first" in editions
    for edition in editions:
        here = {(r["kind"], r["value"]): r for r in rows if r["edition"] == edition}
        assert here.keys() == expected
        for kind, values in ATTRIBUTE_KINDS.items():
            mean = np.mean([float(here[kind, v]["precision"]) for v in values])
            assert float(here[kind, ALL_VALUES]["precision"]) == pytest.approx(mean, abs=1e-3)
            assert int(here[kind, ALL_VALUES]["changes"]) >= 400
            assert sum(int(here[kind, v]["changes"]) for v in values) == 2 * int(here[kind, ALL_VALUES]["changes"])
    for r in rows:
        assert float(r["low"]) <= float(r["correlation"]) <= float(r["high"]) and 0 <= float(r["precision"]) <= 1


def test_emotions_without_texts(explainer, tmp_path):
    folder = make_mini(tmp_path / "mini", n=20, seed=8, workers=1, progress=False)
    paintings, _ = Release(folder).paintings()
    q = probabilities_of_paintings(explainer, paintings, batch_size=8, progress=False)
    assert q.shape == (20, 9) and explainer.emotions == EMOTIONS
    answers = answer_all(explainer, paintings, progress=False)
    assert np.allclose(q, [list(a.probabilities.values()) for a in answers], atol=1e-4)
    grids = cache_features(explainer.model, paintings, progress=False)
    assert isinstance(grids, torch.Tensor)
    assert np.allclose(q, probabilities_of_paintings(explainer, paintings, grids, progress=False), atol=1e-4)
    assert probabilities_of_paintings(explainer, [], progress=False).shape == (0, 9)

"""Grids over all combinations: effects with intervals, what a grid can see, and a tiny grid from data to files."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from sevlm.cli import main
from sevlm.config import EMOTIONS, PUBLISHED, SEVLMConfig, TrainConfig
from sevlm.data.paintings import Painting
from sevlm.errors import ConfigError, DataError, SevlmError
from sevlm.models.explainer import Explainer
from sevlm.models.generation import next_logits
from sevlm.models.sevlm import SEVLM
from sevlm.models.tokenizer import prompt_ids, special_ids
from sevlm.studies.ablation import (
    COMBINATIONS,
    GRIDS,
    IDEAS,
    SUMS,
    CurveCB,
    GridData,
    Judged,
    accuracy_of,
    arm_config,
    chances,
    combination_name,
    hear,
    judged_grid,
    run_grid,
    score_values,
    spread_over,
)
from sevlm.studies.factorial import (
    contrasts_with,
    effects,
    factorial_contrasts,
    largest_spread,
    late_gain,
    power_of,
    run_spread,
    smallest_effect,
    standard_error,
)
from sevlm.synthetic.dataset import make_mini
from sevlm.training.inputs import load_training_data
from sevlm.training.validation import probabilities_of_paintings

FACTORS = {combination_name(on): list(on) for on in COMBINATIONS}
CONTRASTS = factorial_contrasts(FACTORS)
TINY = SEVLMConfig.preset("tiny", max_tokens=40, new_tokens=6, vad_hidden=8, lookup="word")
SHORT = TrainConfig.preset("tiny", epochs=1, batch_size=16)
ARMS = {"plain": {}, "leaky": {"causal_vad": False}}


# ---- the grids


def test_the_factorial_grid_has_every_combination_once_and_three_weights():
    arms = GRIDS["factorial"]
    switches = [tuple(changes[f"use_{idea}"] for idea in IDEAS) for changes in arms.values()]
    assert sorted(switches[:8]) == sorted(set(switches)) and len(set(switches)) == 8
    assert switches[8:] == [(True,) * 3] * 3
    weights = [(changes["vad_weight"], changes["con_weight"]) for changes in list(arms.values())[8:]]
    assert weights == [(0.1, 0.1), (0.3, 0.3), (3.0, 3.0)]
    assert GRIDS["captioner"] == {"captioner": arms["none"]}
    for changes in arms.values():
        assert arm_config(SEVLMConfig.preset("mini"), changes)  # valid


# ---- effects


def test_effects_of_known_scores():
    "y = 1 + 2a - b + 3ac, without noise: every effect is what the formula says, and its interval has no width."
    names = list(IDEAS)
    on = {arm: [float(idea in FACTORS[arm]) for idea in names] for arm in FACTORS}
    y = np.array([1 + 2 * a - b + 3 * a * c for a, b, c in on.values()])
    found = effects(np.tile(y[:, None, None], (1, 4, 5)), list(FACTORS), CONTRASTS).set_index("effect")
    first, second, third = names
    wanted = {first: 3.5, second: -1, third: 1.5, f"{first} : {third}": 3}
    for effect, row in found.iterrows():
        assert np.isclose(row.value, wanted.get(effect, 0)) and np.isclose(row.high - row.low, 0, atol=1e-9), effect


def test_a_seed_that_is_good_in_every_arm_widens_nothing():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(8, 6, 1))
    seeds = 100 * rng.normal(size=(1, 6, 1))
    alone, shifted = (effects(x, list(FACTORS), CONTRASTS)[["value", "low", "high"]] for x in (noise, noise + seeds))
    assert np.allclose(alone, shifted)


@pytest.mark.parametrize("spread, taste", [(1.0, 0.0), (0.3, 2.0)])
def test_intervals_contain_the_truth(spread, taste):
    "400 made-up grids of five seeds: at least 93 of 100 intervals; fewer without the paintings' part, if there is one."
    rng, N, hits, narrow = np.random.default_rng(1), 40, [], []
    first, second = list(IDEAS)[:2]
    on = np.array([first in FACTORS[arm] for arm in FACTORS])
    for _ in range(400):
        x = spread * rng.normal(size=(8, 5, 1)) + taste * rng.normal(size=(8, 1, N)) + rng.normal(size=(8, 5, N))
        x[on] += 2.0
        r = effects(x, list(FACTORS), {first: CONTRASTS["fusion"], second: CONTRASTS["vad_head"]})
        truth, half = np.array([2.0, 0.0]), (r.high - r.low) / 2
        hits += list(np.abs(r.value - truth) <= half)
        narrow += list(np.abs(r.value - truth) <= half * r.seed_error / np.hypot(r.seed_error, r.painting_error))
    assert np.mean(hits) >= 0.93
    assert np.mean(narrow) < 0.85 if taste else np.mean(narrow) >= 0.9


def test_the_smallest_effect_is_seen_in_four_of_five_grids():
    rng, seeds = np.random.default_rng(2), 6
    weights = CONTRASTS["fusion"]
    size = smallest_effect(standard_error(weights, 1.0, seeds), seeds - 1)
    on = np.array(["fusion" in FACTORS[arm] for arm in FACTORS])[:, None, None]
    seen = 0
    for _ in range(500):
        row = effects(size * on + rng.normal(size=(8, seeds, 1)), list(FACTORS), {"fusion": weights}).iloc[0]
        seen += row.low > 0
    assert 0.74 < seen / 500 < 0.86
    assert np.isclose(power_of(size, standard_error(weights, 1.0, seeds), seeds - 1), 0.8)
    assert np.isclose(power_of(0, 1, 5), 0.05) and power_of(1, 1, 5) < power_of(2, 1, 5) < power_of(2, 1, 50)


def test_more_seeds_and_more_arms_see_more():
    single = contrasts_with("none", ["none", "fusion"])["fusion"]
    assert single == {"fusion": 1.0, "none": -1.0}
    visible = lambda weights, n: smallest_effect(standard_error(weights, 1.0, n), n - 1)
    assert visible(CONTRASTS["fusion"], 8) < visible(CONTRASTS["fusion"], 5) < visible(single, 5)
    assert standard_error(single, 1.0, 4, of_paintings=3.0) > 3.0


def test_the_spread_of_a_run_leaves_out_arms_and_seeds():
    rng = np.random.default_rng(3)
    scores = 5 * rng.normal(size=(40, 1)) + 7 * rng.normal(size=(1, 30)) + 0.5 * rng.normal(size=(40, 30))
    spread, freedom = run_spread(scores)
    assert freedom == 39 * 29 and abs(spread - 0.5) < 0.05
    assert largest_spread(1.0, 2) > largest_spread(1.0, 20) > 1


def test_late_gain_between_points():
    steps = np.array([0, 100, 200])
    assert np.isclose(late_gain(steps, np.array([0.0, 1.0, 2.0]), share=0.25), 0.5)
    assert np.allclose(late_gain(steps, np.zeros((2, 3, 3))), 0)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: factorial_contrasts({"none": [], "a": ["a"], "b": ["b"]}), "each of their 4 combinations once"),
        (lambda: effects(np.zeros((8, 1, 3)), list(FACTORS), CONTRASTS), "one seed"),
        (lambda: effects(np.zeros((1, 2, 3)), ["none"], CONTRASTS), "needs the arm"),
        (lambda: run_spread(np.zeros((1, 5))), "two or more of each"),
        (lambda: smallest_effect(0.0, 4), "positive standard error"),
    ],
)
def test_what_cannot_be_computed_is_refused(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


# ---- judged without a text


def test_real_paintings_are_judged_by_their_votes():
    some = [
        Painting("Realism", "a", ("awe", "awe", "fear"), ("x",) * 3, ("",) * 3),
        Painting("Realism", "b", ("awe", "fear"), ("x",) * 2, ("",) * 2),  # no majority
    ]
    chance, odds = chances(some)
    awe, fear = EMOTIONS.index("awe"), EMOTIONS.index("fear")
    assert chance.sum() == 1 and chance[0, awe] == 1 and np.allclose(odds[1, [awe, fear]], 0.5)
    assert accuracy_of(np.array([awe, fear]), chance) == 1 and accuracy_of(np.array([fear, awe]), chance) == 0
    all_votes = tuple({"awe": 3, "fear": 5}.get(e, 0) for e in EMOTIONS)  # of more annotators than those kept
    chance, odds = chances([replace(some[0], votes=all_votes)])
    assert chance[0, fear] == 1 == chance.sum() and odds[0, fear] == 5 / 8
    chance, _ = chances([replace(some[0], votes=all_votes)], emotions=EMOTIONS[::-1])
    assert chance[0, EMOTIONS[::-1].index("fear")] == 1


def test_synthetic_paintings_are_judged_over_the_models_emotions():
    p, odds = Painting("s", "a", ("awe",) * 5, ("x",) * 5, ("",) * 5), np.arange(1, 10) / 45
    one, back = (chances([p], {p.key: (None, odds)}, emotions) for emotions in (EMOTIONS, EMOTIONS[::-1]))
    assert np.allclose(one[0], back[0][:, ::-1]) and (one[1] == back[1][:, ::-1]).all()


def test_paintings_of_a_curve_lie_evenly():
    assert spread_over(5, 9) == list(range(5)) and spread_over(101, 3) == [0, 50, 100]
    assert len(set(spread_over(10_000, 500))) == 500


def test_a_curve_has_each_step_once():
    class Stub:
        epochs, batches, step, model = 2, [0] * 4, 0, torch.nn.Linear(1, 1)

    curve, learner = CurveCB(lambda model: dict(accuracy=0.5), points=3), Stub()
    curve.before_fit(learner)
    for step in (0, 1, 4, 4, 8, 8):
        learner.step = step
        curve.between_steps(learner)
    assert [row["step"] for row in curve.rows] == [0, 4, 8] and learner.model.training


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("grid")


@pytest.fixture(scope="module")
def data(folder):
    return make_mini(folder / "data", n=70, seed=3, size=64, workers=1, progress=False)


@pytest.fixture(scope="module")
def more(folder):
    return make_mini(folder / "more", n=30, seed=4, size=64, workers=1, progress=False)


@pytest.fixture(scope="module")
def grid(folder, data, more):
    "Two arms, two seeds; texts for the test part, another folder judged."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEVLM_CACHE", str(folder / "cache"))
        how = dict(config=TINY, settings=SHORT, gpt2=None, seeds=2, progress=False)
        yield lambda: run_grid(ARMS, data, folder / "out", judged=more, **how)


LEAKY = {k: v for k, v in PUBLISHED.items() if k != "lookup"}  # the words' emotions change what stands before them


@pytest.mark.parametrize("switches", [{}, LEAKY, dict(use_fusion=False)])
def test_emotions_are_read_as_the_model_reads_them(data, switches):
    torch.manual_seed(0)
    parts = load_training_data(data, TINY, progress=False)
    model = SEVLM(TINY.replace(**switches, vocab_size=len(parts.tokenizer))).eval()
    grids = torch.randn(5, TINY.patches, model.encoder.width)
    special, start = special_ids(parts.tokenizer), len(prompt_ids(parts.tokenizer))
    wanted = torch.zeros(5, len(TINY.emotions))
    for e, emotion in enumerate(TINY.emotions):
        answer = torch.tensor([prompt_ids(parts.tokenizer, emotion)]).repeat(5, 1)
        for t in range(start, answer.shape[1]):  # each token from the whole text before it
            ids = answer[:, :t]
            logits = next_logits(model, ids, parts.table(ids)[0], model.adapt(grids), special)
            wanted[:, e] += logits.log_softmax(-1)[:, answer[0, t]]
    found = probabilities_of_paintings(
        Explainer(model, parts.tokenizer, parts.table), [None] * 5, grids, progress=False
    )
    assert np.allclose(found, wanted.softmax(-1).detach().numpy(), atol=1e-5)


def test_a_grid_from_data_to_files(grid, folder, more):
    rows = grid()
    times = {p: p.stat().st_mtime_ns for p in (folder / "out").rglob("scores.json")}
    assert len(times) == 4 and grid().equals(rows) and all(p.stat().st_mtime_ns == t for p, t in times.items())
    assert not list((folder / "out").rglob("state.pt"))  # states of finished runs are removed
    judged = judged_grid(folder / "out", list(ARMS), seeds=2)
    paintings, truth = GridData(None, more).tested(TINY)
    chance, _ = chances(paintings, truth)
    assert judged.named.shape == (2, 2, len(paintings)) and np.allclose(judged.chance, chance)
    assert judged.steps[0] == 0 and judged.steps[-1] == rows.steps.max()
    assert np.allclose(judged.curves[..., -1], judged.accuracy(), atol=1e-3)  # few paintings: all are on the curve
    judged.save(folder / "judged.npz")
    again = Judged.load(folder / "judged.npz")
    assert (again.named == judged.named).all() and np.allclose(again.recalls(), judged.recalls(), atol=2e-3)
    assert np.allclose(again.right().mean(-1), again.accuracy()) and (again.accuracy() <= again.ceiling() + 1e-6).all()


def test_a_grid_is_judged_over_the_pictures_that_are_left(grid, folder, more, caplog):
    grid()
    whole = judged_grid(folder / "out", list(ARMS), seeds=2)
    lost = GridData(None, more).tested(TINY)[0][3].image
    saved = lost.read_bytes()
    try:
        lost.unlink()
        judged = judged_grid(folder / "out", list(ARMS), seeds=2)
    finally:
        lost.write_bytes(saved)
    keep = np.delete(np.arange(whole.named.shape[-1]), 3)
    assert "1 judged paintings are left out" in caplog.text
    assert (judged.named == whole.named[..., keep]).all() and (judged.chance == whole.chance[keep]).all()
    assert judged.accuracy().shape == (2, 2)


def test_a_grid_with_a_missing_run_is_not_judged(grid, folder):
    grid()
    with pytest.raises(DataError, match="holds no finished run"):
        judged_grid(folder / "out", list(ARMS), seeds=3)
    (folder / "broken.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match="no judged grid"):
        Judged.load(folder / "broken.npz")


def test_each_seed_has_its_decoder(data, folder, monkeypatch):
    "The name of the decoder holds the seed; one that is not there is named."
    monkeypatch.setenv("SEVLM_CACHE", str(folder / "cache"))
    with pytest.raises(SevlmError, match="decoder-0"):
        run_grid(
            {"plain": {}},
            data,
            folder / "seeds",
            config=TINY,
            settings=SHORT,
            gpt2=f"{folder}/decoder-{{seed}}",
            seeds=1,
            progress=False,
        )


# ---- scores of the texts


def made_up_rows(n=60):
    rng = np.random.default_rng(5)
    rows = pd.DataFrame(
        [dict(arm=a, seed=s, painting=f"p{p:02d}") for a in ("x", "y") for s in range(3) for p in range(n)]
    )
    majority = rows.painting.map(lambda p: "awe" if int(p[1:]) % 2 else "")
    emotion = rng.choice(["awe", "fear"], len(rows))
    right = np.where(majority == "", np.nan, emotion == majority)
    counts = {c: rng.integers(1, 5, len(rows)) + (4 if "possible" in c else 0) for c in SUMS[:8]}
    more = dict(
        explanation=rng.choice(["so calm", "", "very dark"], len(rows)), grounded=1.0, cider=rng.random(len(rows))
    )
    return rows.assign(majority=majority, emotion=emotion, right=right, **more, **counts, said=9, wanted=9)


class Reader:
    "Reads fear from whatever is dark, awe from the rest."

    settings = type("Settings", (), dict(emotions=("awe", "fear")))

    def probabilities(self, texts):
        assert all(t.strip() for t in texts)
        return np.array([[0.2, 0.8] if "dark" in t else [0.9, 0.1] for t in texts])


def test_text_scores_painting_by_painting():
    rows = hear(made_up_rows(), Reader())
    assert (rows.heard[rows.explanation == ""] == "").all() and set(rows.heard) == {"", "awe", "fear"}
    values = score_values(rows, ["y", "x"])
    assert values["emotion accuracy"].shape == (2, 3, 30) and values["CIDEr"].shape == (2, 3, 60)
    of = rows[rows.arm == "y"]
    assert np.isclose(values["emotion accuracy"][0].mean(), of.right.mean())
    assert np.isclose(values["text fits the emotion named"][0].mean(), (of.heard == of.emotion).mean())
    voted = of[of.majority != ""]
    assert np.isclose(values["emotional alignment"][0].mean(), (voted.heard == voted.majority).mean())
    by_hand = [of[of.seed == s][SUMS].sum().to_numpy(float) for s in range(3)]
    ratio = [np.prod(b[:4] / b[4:8]) ** 0.25 for b in by_hand]  # no brevity penalty: as many words as wanted
    assert np.allclose(values["BLEU-4"][0].mean(-1), ratio, atol=1e-6)


def test_the_command_writes_what_the_pages_read(data, folder, capsys, monkeypatch):
    monkeypatch.setenv("SEVLM_CACHE", str(folder / "cache"))
    out = folder / "command"
    argv = ["ablate", data, "--out", out, "--grid", "captioner", "--preset", "tiny", "--seeds", 2, "--quiet", "--gpt2"]
    argv += ["auto", "--set", "epochs=1", "batch_size=32", "max_tokens=40", "new_tokens=4", "vocab_size=1504"]
    assert main([str(a) for a in argv]) == 0
    said = capsys.readouterr().out
    assert "accuracy without texts" in said and "captioner 0." in said
    judged = Judged.load(out / "judged.npz")
    assert judged.arms == ["captioner"] and judged.named.shape[:2] == (1, 2) and len(pd.read_csv(out / "rows.csv"))

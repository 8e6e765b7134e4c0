"The artificial language of two laboratories, its models, its stored run, and how its differences are read."

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sevlm.config import SEVLMConfig
from sevlm.data.batches import Batch
from sevlm.errors import ConfigError, DataError
from sevlm.models.sevlm import SEVLM
from sevlm.studies import lab_words as L
from sevlm.synthetic.words import SPREAD

LABS = {"fusion": L.FUSION_LAB, "VAD head": L.VAD_HEAD_LAB}
STORED = {lab.name: lab for lab in L.ALL_LABS}
each_lab = pytest.mark.parametrize("lab", LABS.values(), ids=LABS)
DATA = Path(__file__).resolve().parent.parent / "nbs/data"
beside_the_data = pytest.mark.skipif(not DATA.exists(), reason="the notebooks' data are not beside the tests")


@each_lab
@pytest.mark.parametrize("texts", [350, 777])
def test_cues_occur_exactly_as_often_as_promised(lab, texts):
    language = L.make_language(lab, 0.6, seed=3)
    group, cue = L.draw_cues(lab, language, texts)
    ids = L.write_word_texts(language, group, cue, np.random.default_rng(0))
    counts = np.bincount(ids.ravel(), minlength=language.vocab_size)[language.cues]
    rare = len(lab.occurrences)
    assert len(ids) == texts and counts.sum() == texts
    assert (counts[:, :rare] == lab.occurrences).all()
    assert counts[:, rare:].min() >= 1 and np.ptp(counts[:, rare:]) <= 1
    with pytest.raises(ConfigError, match="too few"):
        L.draw_cues(lab, language, language.cues.shape[0] * (sum(lab.occurrences) + lab.frequent) - 1)


@each_lab
def test_a_text_is_what_the_table_says(lab):
    language = L.make_language(lab, 1.0, seed=3)
    group, cue = L.draw_cues(lab, language, 400)
    for named in (False, True):
        ids = L.write_word_texts(language, group, cue, np.random.default_rng(0), named)
        assert (ids[:, 0] == L.BOS).all() and (ids[:, 2] == L.BECAUSE_ID).all()
        assert (ids[:, 1] == (language.names[group] if named else L.NO_NAME)).all()
        assert (ids[:, L.CUE_AT] == language.cues[group, cue]).all()
        assert (ids[:, 4, None] == language.continuations[group]).any(1).all()  # clear: always of the cue's group
    words = [[L.BOS, L.NO_NAME, L.BECAUSE_ID], language.names, language.cues, language.continuations]
    assert sorted(np.concatenate([np.ravel(w) for w in words])) == list(range(language.vocab_size))


def test_unclear_texts_show_other_groups_as_often_as_the_true_odds_say():
    lab, language = L.VAD_HEAD_LAB, L.make_language(L.VAD_HEAD_LAB, 0.6, seed=0)
    ids = L.write_word_texts(language, np.full(20_000, 5), np.full(20_000, 6), np.random.default_rng(1))
    shares = np.bincount(ids[:, 4], minlength=language.vocab_size)[language.continuations] / len(ids)
    truth = language.true_odds(np.array([5]))[0]
    assert truth.sum() == pytest.approx(1) and truth[5].sum() == pytest.approx(0.6 + 0.4 / 16)
    assert np.abs(shares - truth).max() < 5 * np.sqrt(truth.max() / len(ids))
    assert (np.diff(truth, axis=1) < 0).all() and lab.zipf


@each_lab
def test_the_dictionary_lists_what_it_should_and_words_of_a_group_feel_alike(lab):
    language = L.make_language(lab, 0.6, seed=4)
    listed, other = language.cues, language.continuations
    if lab.listed == "continuations":
        listed, other = other, listed
    assert language.known[listed].all() and not language.known[other].any() and language.known.sum() == listed.size
    assert (language.vad[~language.known] == 0).all() and np.abs(language.vad).max() <= 1
    assert np.ptp(language.vad[listed], axis=1).max() <= 2 * SPREAD / lab.shades + 1e-9


@each_lab
def test_the_controls_dictionary_is_a_permutation(lab):
    language = L.make_language(lab, 0.6, seed=4)
    shuffled = L.shuffle_dictionary(language, 4)
    assert (shuffled[~language.known] == 0).all()
    assert sorted(map(tuple, shuffled)) == sorted(map(tuple, language.vad))
    moved = (shuffled[language.known] != language.vad[language.known]).any(1)
    assert moved.mean() > 0.9
    assert np.array_equal(L.shuffle_dictionary(language, 4), shuffled)
    assert not np.array_equal(L.shuffle_dictionary(language, 5), shuffled)


def test_scores_know_the_perfect_model_and_the_false_one():
    language = L.make_language(L.VAD_HEAD_LAB, 0.6, seed=0)
    G, W = language.cues.shape
    group = np.repeat(np.arange(G), W)
    perfect = np.zeros((G * W, language.vocab_size))
    perfect[:, language.continuations] = language.true_odds(group)
    false = np.zeros_like(perfect)
    false[:, language.continuations] = language.true_odds((group + 8) % G)
    right, wrong = L.word_scores(language, perfect), L.word_scores(language, false)
    assert np.allclose(right["nats_lost"], 0) and np.allclose(right["vad_error"], 0)
    assert np.allclose(right["right_feeling"], 0.625) and np.allclose(wrong["right_feeling"], 0.025)
    assert (wrong["nats_lost"] > 1).all() and (wrong["vad_error"] > 0.1).all()
    assert np.isfinite(L.word_scores(language, np.zeros_like(perfect))["nats_lost"]).all()
    for_readers = L.make_language(L.FUSION_LAB, 0.6, seed=0)
    p = np.full((for_readers.cues.size, for_readers.vocab_size), 1 / for_readers.vocab_size)
    assert np.isnan(L.word_scores(for_readers, p)["vad_error"]).all()


def test_the_loss_is_that_of_sevlm():
    "The laboratory's model is SEVLM without a picture: same scores, same losses with the same weights."
    language = L.make_language(L.VAD_HEAD_LAB, 0.6, seed=0)
    config = SEVLMConfig.preset("tiny", vocab_size=language.vocab_size, dropout=0.0, use_contrast=False, vad_weight=3.0)
    torch.manual_seed(0)
    whole, small = SEVLM(config), L.LabModel(config, "encoder")
    torch.nn.init.zeros_(whole.adapt.bias) if isinstance(whole.adapt, torch.nn.Linear) else None
    small.decoder.load_state_dict(whole.decoder.state_dict())
    small.vad_encoder.load_state_dict(whole.vad_encoder.state_dict())
    small.fusion.load_state_dict(whole.fusion.state_dict())
    small.vad_head.load_state_dict(whole.vad_head.state_dict())
    group, cue = np.arange(40) % 16, np.arange(40) % 11
    ids = torch.from_numpy(L.write_word_texts(language, group, cue, np.random.default_rng(0)))
    vad, known = torch.from_numpy(language.vad).float()[ids], torch.from_numpy(language.known)[ids]
    span = L.explanation_span(ids)
    labels = ids.clone()
    labels[:, 0] = -100
    out = whole(
        Batch(
            ids=ids,
            segs=torch.where(span, L.BECAUSE_ID, L.NO_NAME),
            labels=labels,
            vad=vad,
            known=known,
            emo_span=~span,
            exp_span=span,
            image_of=torch.arange(len(ids)),
            grid=torch.zeros(len(ids), 1, whole.encoder.width),
        )
    )
    scores, predicted = small(ids, vad)
    assert torch.allclose(scores, out.logits, atol=1e-4) and torch.allclose(
        predicted, whole.vad_head(out.hid), atol=1e-4
    )
    loss = L.lab_loss(small, dict(small.named_parameters()), ids, vad, known, torch.tensor(3.0))
    assert loss.item() == pytest.approx(out.losses["total"].item(), rel=1e-4)


SHORT = replace(L.FUSION_LAB, name="short", occurrences=(0, 1, 2), frequent=3, steps=20, check_every=10)
MODELS = [("fusion", 0), ("shuffled", 0), ("fusion", 1)]


def test_models_trained_together_do_not_touch_each_other():
    together = L.train_together(SHORT, MODELS, 60, 0.6, progress=False)
    assert together.shape == (3, 8 * 6, L.make_language(SHORT, 0.6, 0).vocab_size)
    assert np.allclose(together.sum(-1), 1, atol=1e-4)
    alone = L.train_together(SHORT, MODELS[:1], 60, 0.6, progress=False)
    assert np.allclose(alone[0], together[0], atol=1e-3)
    assert not np.allclose(together[1], together[0], atol=1e-3)  # the other dictionary acts
    with pytest.raises(ConfigError, match="same fusion"):
        L.train_together(SHORT, [("fusion", 0), ("none", 0)], 60, 0.6, progress=False)


def test_without_fusion_and_head_the_dictionary_does_not_act():
    lab = replace(SHORT, arms={"none": L.Arm(), "none too": L.Arm(shuffled=True)})
    one, other = L.train_together(lab, [("none", 0), ("none too", 0)], 60, 0.6, progress=False)
    assert np.allclose(one, other, atol=1e-5)


def test_a_stored_run_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    lab = replace(SHORT, arms={"none": L.Arm(), "plain": L.Arm("plain")}, steps=4, check_every=2)
    lab = replace(lab, cells=((60, 0.6), (80, 1.0)), seeds=(0, 1))
    rows = L.run_lab(lab, tmp_path, progress=False)
    assert len(rows) == 2 * 2 * 2 * 4 and not rows.duplicated(["arm", "seed", *L.CELL]).any()
    assert sorted(rows.occurrences.unique()) == [L.FREQUENT, 0, 1, 2]
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    asked = []
    real = L.train_together
    monkeypatch.setattr(L, "train_together", lambda *a: asked.append(a[1:4]) or real(*a))
    assert L.run_lab(lab, tmp_path, progress=False).equals(rows) and not asked
    (tmp_path / "short-80-1.0-plain.csv").unlink()
    again = L.run_lab(lab, tmp_path, progress=False)
    assert asked == [([("plain", 0), ("plain", 1)], 80, 1.0)]
    pd.testing.assert_frame_equal(again, rows, rtol=1e-3)
    with pytest.raises(DataError, match="expected"):
        L.run_lab(replace(lab, seeds=(0, 2)), tmp_path, progress=False)


def table(*arms, seeds=6, spread=0.05):
    "Made-up rows: each arm with its effect at 0, 1, 2 and many occurrences."
    rng = np.random.default_rng(0)
    cells = [0, 1, 2, L.FREQUENT]
    rows = [
        dict(arm=a, seed=s, texts=1000, clear=0.6, occurrences=n, nats_lost=s + effect[j] + rng.normal(0, spread))
        for a, effect in arms
        for s in range(seeds)
        for j, n in enumerate(cells)
    ]
    return pd.DataFrame(rows)


def test_differences_are_paired_and_have_students_interval():
    stats = pytest.importorskip("scipy.stats")
    rows = table(("none", [0] * 4), ("idea", [-1, -0.5, 0, 0.5]))
    effects = L.paired_effects(rows.sample(frac=1, random_state=0), "idea", "none")
    for row in effects.itertuples():
        d = rows[rows.occurrences == row.occurrences].pivot(index="seed", columns="arm", values="nats_lost")
        d = d["idea"] - d["none"]
        expected = stats.ttest_1samp(d, 0).confidence_interval(0.95)
        assert (row.effect, row.low, row.high) == pytest.approx((d.mean(), expected.low, expected.high))
        assert row.seeds == 6
    with pytest.raises(ConfigError, match="idea"):
        L.paired_effects(rows, "idae", "none")
    with pytest.raises(DataError, match="expected one"):
        L.paired_effects(rows[:-1], "idea", "none")
    with pytest.raises(DataError, match="two seeds"):
        L.paired_effects(rows[rows.seed == 0], "idea", "none")
    with pytest.raises(DataError, match="texts = 7"):
        L.at_cell(effects, texts=7)


def test_reading():
    pytest.importorskip("scipy")
    assert [L.verdict(*ends) for ends in ((-2, -1), (1, 2), (-1, 1))] == ["helps", "harms", "no difference seen"]
    assert L.verdict(1, 2, lower_is_better=False) == "helps"
    good, late, none = [-1, -1, -1, -1], [-1, -1, 0, 1], [0] * 4
    rows = table(("none", none), ("good", good), ("late", late), ("control", none), ("strong control", good))
    stops = lambda arm, **how: L.where_it_stops(L.at_cell(L.paired_effects(rows, arm, "none"), texts=1000), **how)
    assert stops("good") is None and stops("late") == 2
    assert L.at_cell(L.paired_effects(rows, "late", "none"), texts=1000).occurrences.tolist() == [0, 1, 2, L.FREQUENT]
    only_frequent = table(("none", none), ("late", [-1, -1, -1, 0]))
    effects = L.at_cell(L.paired_effects(only_frequent, "late", "none"), texts=1000)
    assert L.where_it_stops(effects) == L.FREQUENT and L.where_it_stops(effects, first=1) == L.FREQUENT
    assert L.plan_answer(rows, "good", "control") == "yes"
    assert L.plan_answer(rows, "good", "strong control") == "no"  # the dictionary is not the reason
    assert L.plan_answer(rows, "late", "control") == "no"  # two occurrences decide
    said = L.effect_sentence(rows, "good", "none", L.DECIDING)
    assert "good - none: -" in said and said.endswith("helps.") and "6 seeds" in said


@beside_the_data
@pytest.mark.parametrize("lab", STORED.values(), ids=STORED)
def test_the_stored_rows_are_the_whole_grid(lab):
    rows = pd.read_csv(DATA / f"{lab.name}_rows.csv.gz", keep_default_na=False)
    keys = set(map(tuple, rows[["arm", "seed", *L.CELL]].itertuples(index=False)))
    wanted = {
        (arm, seed, texts, clear, n)
        for arm in lab.arms
        for seed in lab.seeds
        for texts, clear in lab.cells
        for n in (*lab.occurrences, L.FREQUENT)
    }
    assert keys == wanted and len(rows) == len(wanted)
    assert (rows.nats_lost > 0).all() and rows.right_feeling.between(0, 1).all()

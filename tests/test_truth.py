"""Scores against the known odds, and the similes of synthetic explanations."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sevlm.config import EMOTIONS
from sevlm.data.paintings import Painting, over_emotions
from sevlm.errors import DataError
from sevlm.metrics.bootstrap import bootstrap_weights, interval
from sevlm.synthetic.paint import Scene, random_scene
from sevlm.synthetic.truth import (
    BEST_REACHABLE,
    CEILING_SHARE,
    EXPECTED_ACCURACY,
    LOG_SCORE,
    NONE_NAMED,
    TRUTHFUL_SIMILES,
    bayes_ceiling,
    expected_accuracy,
    log_scores,
    majority_odds,
    synthetic_scores,
    truth_measures,
    truthful_simile,
    votes_cast,
)
from sevlm.synthetic.words import mini_words, similes_in, utterance
from sevlm.utils import normalise


def test_majority_odds_by_enumeration():
    p = np.array([0.5, 0.3, 0.2] + [0] * 6)
    exact = np.zeros(9)
    for votes in product(range(3), repeat=5):
        counts = np.bincount(votes, minlength=9)
        if 2 * counts.max() > 5:
            exact[counts.argmax()] += np.prod(p[list(votes)])
    assert np.allclose(majority_odds([p], [5])[0], exact)


def test_ceiling_of_hand_made_votes():
    odds = np.array([[0.9] + [0.1 / 8] * 8] * 3)
    counts = np.zeros((3, 9), int)
    counts[0, 0], counts[1, 1] = 5, 5  # right, wrong
    counts[2, :2] = 3  # three of six: no majority
    ceiling = bayes_ceiling(odds, counts)
    assert ceiling.labelled == 2 and ceiling.realised == 0.5 and 0.99 < ceiling.expected <= 1
    none = bayes_ceiling(odds[:1], counts[2:])
    assert none.labelled == 0 and np.isnan(none.realised)


def odds_of(rng, n, width=9):
    return rng.dirichlet(np.ones(width), size=n)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 5))
def test_expected_accuracy_is_the_mean_over_all_votes(seed, emotions, votes):
    "Every possible list of votes, with its probability: nothing is drawn."
    rng = np.random.default_rng(seed)
    p, named = odds_of(rng, 1, emotions), int(rng.integers(-1, emotions))
    hit = counted = 0.0
    for cast in product(range(emotions), repeat=votes):
        counts, chance = np.bincount(cast, minlength=emotions), np.prod(p[0, list(cast)])
        if 2 * counts.max() > votes:
            counted += chance
            hit += chance * (counts.argmax() == named)
    right, any_majority = expected_accuracy([named], p, [votes])
    assert np.isclose(right[0], hit) and np.isclose(any_majority[0], counted)


def test_the_best_is_to_name_the_most_likely():
    rng = np.random.default_rng(0)
    odds, n = odds_of(rng, 60), rng.integers(1, 12, size=60)
    right = np.stack([expected_accuracy(np.full(60, e), odds, n)[0] for e in range(9)], 1)
    best, counted = expected_accuracy(odds.argmax(1), odds, n)
    assert np.allclose(right.max(1), best) and np.allclose(right.sum(1), counted)
    counts = np.stack([rng.multinomial(k, p) for k, p in zip(n, odds)])
    assert np.isclose(best.sum() / counted.sum(), bayes_ceiling(odds, counts).expected)


def test_no_emotion_is_never_right():
    right, counted = expected_accuracy([NONE_NAMED, 0], [[0.5, 0.5]] * 2, [5, 5])
    assert right[0] == 0 < right[1] and np.allclose(counted, 1)  # an odd number of votes for two: one must win


@pytest.mark.parametrize(
    "wrong, what",
    [
        (dict(named=[0]), "Named emotions of shape"),
        (dict(named=[0.0, 1.0]), "whole numbers"),
        (dict(named=[0, 2]), "expected 0 to 1"),
        (dict(named=[0, -2]), "-1 for none"),
        (dict(annotators=[5]), "one number for each"),
        (dict(odds=[0.5, 0.5]), r"expected \[N, E\]"),
        (dict(odds=np.zeros((0, 2))), "at least one painting"),
    ],
)
def test_shapes_are_checked(wrong, what):
    with pytest.raises(DataError, match=what):
        expected_accuracy(**{**dict(named=[0, 1], odds=[[0.8, 0.2]] * 2, annotators=[5, 5]), **wrong})


def test_log_scores():
    rng = np.random.default_rng(1)
    odds = odds_of(rng, 50)
    best, uniform = log_scores(odds, odds), log_scores(np.full((50, 9), 1 / 9), odds)
    assert np.allclose(uniform, -np.log(9)) and (best >= uniform).all()
    assert (log_scores(odds_of(rng, 50), odds) <= best).all()  # Gibbs
    assert np.isfinite(log_scores(np.eye(9)[rng.integers(9, size=50)], odds)).all()
    with pytest.raises(DataError, match="expected the same"):
        log_scores(odds[:, :8], odds)


def test_measures_with_intervals():
    rng = np.random.default_rng(2)
    odds, n = odds_of(rng, 80), rng.integers(5, 10, size=80)
    perfect = truth_measures([EMOTIONS[e] for e in odds.argmax(1)], odds, n, odds)
    assert (
        perfect[CEILING_SHARE].value == 1
        and perfect[EXPECTED_ACCURACY].value == perfect[EXPECTED_ACCURACY + BEST_REACHABLE].value
    )
    assert perfect[LOG_SCORE].value == perfect[LOG_SCORE + BEST_REACHABLE].value < 0
    weights = bootstrap_weights(80, 200)
    assert interval(perfect[CEILING_SHARE], weights) == (1, 1)
    low, high = interval(perfect[LOG_SCORE], weights)
    assert low < perfect[LOG_SCORE].value < high < 0  # a score below zero keeps its interval
    none = truth_measures([None, "", "joy", *["awe"] * 77], odds, n)
    assert 0 < none[EXPECTED_ACCURACY].value < perfect[EXPECTED_ACCURACY].value and LOG_SCORE not in none


PHRASES = [(p, e) for e, mood in mini_words()["moods"].items() for p in mood["like"] + mood["asif"]]


@pytest.mark.parametrize("change", [str, str.capitalize, str.upper, normalise, lambda s: s.replace("'", " '")])
def test_every_simile_is_traced_back(change):
    "As typed, with capitals, as the model reads it, and with a token of its own for the possessive."
    for phrase, emotion in PHRASES:
        assert similes_in(change(f"the sky, as if {phrase}, is vast")) == {emotion}, phrase
        assert similes_in(change(f"it looks like {phrase}.")) == {emotion}, phrase


def test_a_part_of_a_phrase_or_of_a_word_is_no_simile():
    for phrase, _ in PHRASES:
        words = phrase.split()
        assert similes_in("like " + " ".join(words[:-1])) == frozenset(), phrase
        assert similes_in(f"like {phrase}ish") == frozenset(), phrase


def test_annotators_are_truthful():
    "Whatever the grammar writes is truthful for its own emotion and scene, and for no other emotion."
    rng, seen = np.random.default_rng(4), 0
    for i in range(600):
        scene, emotion = random_scene(rng), EMOTIONS[i % 9]
        text = utterance(scene, emotion, rng)
        verdict = truthful_simile(emotion, normalise(text), scene)
        assert verdict in (None, True), text
        if verdict:
            seen += 1
            assert truthful_simile(EMOTIONS[(i + 1) % 9], text, scene) is False
            assert truthful_simile(None, text, scene) is False
    assert seen > 60


def test_a_simile_beside_something_that_is_not_there():
    scene = Scene(("skull",), "hills", "fog", "night", "muted", "smooth")
    assert truthful_simile("fear", "the skull looks like a nightmare", scene)
    assert truthful_simile("fear", "the boat looks like a nightmare", scene) is False
    assert truthful_simile("fear", "it looks like a nightmare and a lullaby", scene) is False  # of two emotions


def test_scores_of_a_synthetic_set():
    rng = np.random.default_rng(5)
    scenes = [random_scene(rng) for _ in range(6)]
    truth = {f"s/{i}": (scene, p) for i, (scene, p) in enumerate(zip(scenes, odds_of(rng, 6)))}
    paintings = [Painting("s", str(i), ("awe",) * 5, ("x",) * 5, ("x",) * 5) for i in range(6)]
    said = ["it looks like a prayer made visible", "it seems like spoiled milk", *["nothing"] * 4]
    measures, plain = synthetic_scores(truth)(said, paintings, ["awe"] * 6, np.full((6, 9), 1 / 9))
    assert measures[TRUTHFUL_SIMILES].value == 1 / 2 and measures[TRUTHFUL_SIMILES].n == 2
    assert (
        EXPECTED_ACCURACY + BEST_REACHABLE not in measures
        and plain[EXPECTED_ACCURACY + BEST_REACHABLE]["value"] > measures[EXPECTED_ACCURACY].value
    )
    assert measures[EXPECTED_ACCURACY].n == 6 and np.isclose(measures[LOG_SCORE].value, -np.log(9))
    turned = over_emotions([replace(p, votes=p.counts) for p in paintings], EMOTIONS[::-1])  # as of another model
    shares = [replace(p, votes=tuple(n / 5 for n in p.counts)) for p in paintings]  # their listed annotations count
    for same in (turned, shares):
        assert (votes_cast(same) == votes_cast(paintings)).all() and votes_cast(same).sum() == 30
        assert synthetic_scores(truth)(said, same)[1]["Bayes ceiling"] == plain["Bayes ceiling"]
    without, _ = synthetic_scores(truth)(said, paintings)  # captions alone
    assert not {EXPECTED_ACCURACY, LOG_SCORE, TRUTHFUL_SIMILES} & without.keys() and "grounding" in without
    assert plain["Bayes ceiling"]["n"] == 6 and synthetic_scores(None) is None

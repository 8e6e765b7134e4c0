"""Judging saved answers, and comparing two runs of them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sevlm.config import EMOTIONS
from sevlm.data.paintings import Painting
from sevlm.errors import ConfigError, DataError
from sevlm.studies.compare import compare, comparison_sentence, forest_plot
from sevlm.studies.evaluate import aligned, explanation_of, read_predictions, read_scores, score

WHY = {
    e: f"the {w} makes it so" for e, w in zip(EMOTIONS, "dog mountain garden horse knife mud wolf rain line".split())
}


def world(n=80, seed=0):
    "Paintings with votes, and a speaker of some skill."
    rng = np.random.default_rng(seed)
    odds = rng.dirichlet([0.3] * 9, n)
    votes = [[str(v) for v in rng.choice(EMOTIONS, 6, p=o)] for o in odds]
    paintings = [Painting("Realism", f"p{i}", tuple(v), tuple(WHY[e] for e in v), ()) for i, v in enumerate(votes)]

    def run(skill):
        heard = skill * odds + (1 - skill) * rng.dirichlet([0.3] * 9, n)
        named = [EMOTIONS[i] for i in heard.argmax(1)]
        return [
            dict(painting=p.key, emotion=e, explanation=WHY[e], probabilities=dict(zip(EMOTIONS, h)))
            for p, e, h in zip(paintings, named, heard.tolist())
        ]

    return paintings, run


class Listener:
    def probabilities(self, captions):
        return np.array(
            [[0.92 if WHY[e] == c else 0.01 for e in EMOTIONS] if c in WHY.values() else [1 / 9] * 9 for c in captions]
        )


@pytest.mark.parametrize(
    "emotion, explanation, first, published",
    [
        ("awe", "it glows", "it glows", "it glows"),
        ("fear", "dark because night", "dark because night", "night"),
        ("fear", "dark because", "dark because", "<unk>"),
        ("awe", "", "", "<unk>"),
        ("fear it is dark", "", "", "is dark"),
        (None, "", "", "<unk>"),
    ],
)
def test_both_rules_of_an_explanation(emotion, explanation, first, published):
    said = dict(emotion=emotion, explanation=explanation)
    assert (explanation_of(said), explanation_of(said, "published")) == (first, published)
    with pytest.raises(ConfigError, match="first, published"):
        explanation_of(said, "last")


def test_saved_answers_score_as_the_first_time(tmp_path):
    paintings, run = world()
    one = score(
        run(0.6),
        paintings,
        meteor="off",
        alignment=Listener(),
        training_texts=list(WHY.values()),
        about=dict(data="invented", part="val"),
    )
    one.save(tmp_path)
    kept, two = (
        json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8")),
        score(tmp_path, paintings, meteor="off", alignment=Listener(), training_texts=list(WHY.values())),
    )
    assert two.scores == one.scores and two.predictions == one.predictions
    assert (
        kept["about"]["data"] == "invented"
        and kept["about"]["part"] == "val"
        and kept["about"]["synthetic"] is False
        and kept["about"]["paintings"] == 80
    )
    assert kept["about"]["protocols"]["explanation"] == "first" and set(kept["about"]["versions"]) == {
        "sevlm",
        "pycocoevalcap",
    }
    assert read_scores(tmp_path) == kept["scores"] == json.loads(json.dumps(one.scores))
    assert (
        np.sum(kept["tables"]["confusion"]["counts"])
        == kept["scores"]["emotion accuracy (strict)"]["n"]
        == sum(r["n"] for r in kept["tables"]["reliability"])
    )
    assert sum(r["n"] for r in kept["tables"]["recall"].values()) == kept["scores"]["macro F1"]["n"]
    assert {
        "emotional alignment (strict)",
        "emotional alignment (tolerant)",
        "alignment cross-entropy",
        "novelty, largest LCS",
        "BLEU-4",
        "BLEU-4, artemis",
    } <= set(one.scores)
    for name, s in one.scores.items():
        assert (s["value"] is None) == name.startswith("METEOR"), name
        if s["value"] is not None:
            assert s["interval"][0] - 1e-9 <= s["value"] <= s["interval"][1] + 1e-9 and s["n"] and s["note"], name


def test_old_score_files_are_read(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"BLEU-4": dict(value=0.1, n=3, note="")}), encoding="utf-8")
    assert read_scores(tmp_path)["BLEU-4"]["value"] == 0.1
    with pytest.raises(DataError, match="metrics.json"):
        read_scores(tmp_path / "nowhere.json")


def test_missing_answers_are_wrong_and_strange_ones_refused():
    paintings, run = world(30)
    answers = [a | {"emotion": p.majority() or "awe"} for a, p in zip(run(1), paintings)]
    eligible = [i for i, p in enumerate(paintings) if p.majority()]
    full, less = (
        score(answers, paintings, meteor="off"),
        score([a for i, a in enumerate(answers) if i != eligible[0]], paintings, meteor="off"),
    )
    n = len(eligible)
    assert full.scores["emotion accuracy (strict)"]["value"] == 1 and less.scores["emotion accuracy (strict)"][
        "value"
    ] == pytest.approx((n - 1) / n)
    assert (
        less.about["without an answer"] == 1
        and "1 empty answers" in less.scores["BLEU-4"]["note"]
        and less.scores["Brier score"]["value"] is None
    )
    with pytest.raises(DataError, match="1 of 30 predictions are for none"):
        aligned(answers, paintings[1:])
    with pytest.raises(DataError, match="31 predictions for 30 paintings"):
        aligned([*answers, answers[0]], paintings)
    with pytest.raises(DataError, match="no painting"):
        score([], [])


def test_alignment_counts_both_majorities_and_hears_nothing_in_silence():
    p = [
        Painting("s", str(i), v, tuple(WHY[e] for e in v), ())
        for i, v in enumerate(
            (("awe", "awe", "fear"), ("fear", "fear", "awe", "anger"), ("awe", "fear"), ("amusement",))
        )
    ]
    said = [
        dict(painting=q.key, emotion="awe", explanation=e, probabilities=None)
        for q, e in zip(p, (WHY["awe"], WHY["fear"], WHY["fear"], ""))
    ]
    s = score(said, p, meteor="off", alignment=Listener()).scores
    assert (s["emotional alignment (strict)"]["value"], s["emotional alignment (strict)"]["n"]) == (0.5, 2)
    assert (s["emotional alignment (tolerant)"]["value"], s["emotional alignment (tolerant)"]["n"]) == (
        pytest.approx(2 / 3),
        3,
    )
    big, small = -np.log(0.92), -np.log(0.01)
    by_hand = [(2 * big + small) / 3, (2 * big + 2 * small) / 4, (big + small) / 2, np.log(9)]
    assert (
        s["alignment cross-entropy"]["value"] == pytest.approx(np.mean(by_hand))
        and s["alignment cross-entropy"]["n"] == 4
    )


def test_predictions_files(tmp_path):
    paintings, run = world(5)
    answers = run(0.5)
    file = tmp_path / "predictions.jsonl"
    file.write_text("\n".join(map(json.dumps, answers)) + "\n\n", encoding="utf-8")
    assert read_predictions(file) == read_predictions(tmp_path) == answers
    for bad, words in (
        ('{"painting": "x"}', "answer 1.*emotion and explanation"),
        ('{"painting"', "not JSON"),
        ("7", "expected an object"),
        ('{"painting": "x", "emotion": "awe", "explanation": null}', "a text"),
    ):
        file.write_text(bad, encoding="utf-8")
        with pytest.raises(DataError, match=words):
            read_predictions(file)
    with pytest.raises(DataError, match="cannot read"):
        read_predictions(tmp_path / "nothing.jsonl")
    coco = tmp_path / "results.json"
    coco.write_text(json.dumps([dict(image_id=3, caption="x y"), dict(image_id=4, caption="")]), encoding="utf-8")
    got = read_predictions(coco, {"3": "a/b", 4: "c/d"})
    assert [(g["painting"], g["explanation"], g["emotion"]) for g in got] == [("a/b", "x y", None), ("c/d", "", None)]
    with pytest.raises(DataError, match="image id 3"):
        read_predictions(coco)
    coco.write_text('[{"caption": "x"}]', encoding="utf-8")
    with pytest.raises(DataError, match="no COCO result file"):
        read_predictions(coco, {})


def test_compare_finds_a_difference_and_none_where_there_is_none(tmp_path):
    paintings, run = world(250)
    a, b = run(0.4), run(0.9)
    found = compare(a, b, paintings, ("weak", "strong"), meteor="off")
    t = found.table.set_index("score")
    assert t.loc["emotion accuracy (strict)", "low"] > 0 and t.loc["cross-entropy of the votes", "high"] < 0
    assert (
        t.loc["emotion accuracy (strict)", "strong"]
        == score(b, paintings, meteor="off").scores["emotion accuracy (strict)"]["value"]
    )
    assert ((t.low <= t.difference) & (t.difference <= t.high)).all() and set(found.skipped) == {
        "METEOR",
        "METEOR, artemis",
        "METEOR, filtered",
    }
    assert ("strong is better") in comparison_sentence(found) and ("strong is better") in comparison_sentence(
        found, "cross-entropy of the votes"
    )
    longer = [said | dict(explanation=said["explanation"] + " and more") for said in a]
    lengths = compare(a, longer, paintings, ("short", "long"), meteor="off")
    assert "long is higher; neither is better for that" in comparison_sentence(lengths, "mean length")
    same = compare(a, score(a, paintings, meteor="off"), paintings, meteor="off")
    assert (same.table[["difference", "low", "high"]].to_numpy() == 0).all() and (
        "are the same"
    ) in comparison_sentence(same)
    back = compare(b, a, paintings, meteor="off").table.set_index("score")
    assert np.allclose(back.low, -t.high) and np.allclose(back.difference, -t.difference)
    with pytest.raises(DataError, match="no score"):
        comparison_sentence(found, "SPICE")
    with pytest.raises(ConfigError, match="both runs are called 'test'"):
        compare(a, b, paintings, ("test", "test"), meteor="off")


def test_models_that_choose_from_more_than_the_data_has_are_compared_as_they_are_scored():
    paintings, run = world(40)
    eight = tuple(e for e in EMOTIONS if e != "awe")
    chosen = [(replace(p, choices=eight), a) for p, a in zip(paintings, run(0.6)) if "awe" not in p.emotions]
    paintings, nine = zip(*chosen)
    few = [a | dict(probabilities=dict.fromkeys(eight, 1 / 8)) for a in nine]  # chooses from the eight
    for a, b in ((nine, nine), (nine, few), (few, nine)):
        found = compare(a, b, paintings, meteor="off", draws=10)
        values = found.table.set_index("score")
        for name, answers in (("a", a), ("b", b)):
            scores = score(answers, paintings, meteor="off", draws=10).scores
            for measure in ("Brier score", "calibration error", "cross-entropy of the votes", "macro F1"):
                assert values.loc[measure, name] == pytest.approx(scores[measure]["value"])
        assert not found.notes


def test_an_unsettled_difference_says_what_it_excludes():
    "Each run is right on the half of the paintings on which the other is wrong."
    paintings = [Painting("s", str(i), ("awe",), ("the sky",), ()) for i in range(40)]
    a, b = (
        [
            dict(painting=p.key, emotion="awe" if i % 2 == side else "fear", explanation="the sky", probabilities=None)
            for i, p in enumerate(paintings)
        ]
        for side in (0, 1)
    )
    found = compare(a, b, paintings, meteor="off")
    said, row = (
        comparison_sentence(found, "emotion accuracy (tolerant)"),
        found.table.set_index("score").loc["emotion accuracy (tolerant)"],
    )
    assert row.difference == 0 and -0.45 < row.low < -0.2 and 0.2 < row.high < 0.45  # 1.96 / sqrt(40) = 0.31
    nothing = replace(found, table=found.table.assign(difference=-1e-9, low=-0.0, high=0.25))
    assert "-0.000" not in comparison_sentence(nothing, "emotion accuracy (tolerant)")
    assert (
        "Not settled" in said
        and f"higher by more than {row.high:.3f} or lower by more than {-row.low:.3f}" in said
        and "better" not in said
    )


def test_the_paired_interval_is_the_narrower_one():
    paintings, run = world(200)
    a = run(0.6)
    b = [x if i % 20 else y for i, (x, y) in enumerate(zip(a, run(0.6)))]  # the same but for every twentieth answer
    row = compare(a, b, paintings, meteor="off").table.set_index("score").loc["emotion accuracy (tolerant)"]
    low, high = score(a, paintings, meteor="off").scores["emotion accuracy (tolerant)"]["interval"]
    assert row.high - row.low < (high - low) / 2


def test_runs_on_other_paintings_are_refused():
    paintings, run = world(20)
    a = run(0.5)
    with pytest.raises(DataError, match="differ in 3 paintings.*20 answers in a, 17 in b"):
        compare(a, a[3:], paintings)
    with pytest.raises(DataError, match="none of the 20 paintings"):
        compare(a, a, [Painting("x", "y", ("awe",), ("z",), ())])
    assert compare(a[:12], a[:12], paintings, meteor="off").paintings == 12


def test_forest_takes_and_returns_axes():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    paintings, run = world(40)
    found = compare(run(0.3), run(0.9), paintings, meteor="off")
    fig, ax = plt.subplots()
    assert forest_plot(found, ax) is ax and forest_plot(found) is not ax
    spans = {tuple(np.round(s[:, 1], 6)) for c in ax.collections for s in c.get_segments()}
    assert all(y0 == y1 for y0, y1 in spans)  # the intervals lie flat
    assert not any("similes" in t.get_text() for t in ax.get_yticklabels())  # zero has no per cent
    plt.close("all")

"""Metrics and caption scores: what the pages cannot check about themselves."""

import math
import shutil
import subprocess
import sys

import numpy as np
import pytest

from sevlm.config import EMOTIONS
from sevlm.data.paintings import Painting
from sevlm.errors import ConfigError, DataError
from sevlm.metrics import bootstrap as B
from sevlm.metrics import captions as C
from sevlm.metrics import emotions as M
from sevlm.metrics import novelty as V

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed")

HYP = {
    "a": "The dark sky makes me feel sad and lonely.",
    "b": "The woman's gentle smile makes me feel warm.",
    "c": "The flowers look bright and happy, like a summer day.",
}
REF = {
    "a": [
        "The dark sky makes me feel lonely and afraid.",
        "I feel sad because the sky is so dark.",
        "The gloomy colours look like a coming storm.",
    ],
    "b": ["The woman's soft smile looks kind and warm.", "Her gentle smile makes me feel calm."],
    "c": [
        "The bright yellow flowers remind me of a happy summer day.",
        "The flowers are bright, fresh and cheerful!",
        "It's a joyful scene full of light.",
    ],
}
GOLDEN = {
    "BLEU-1": (0.895993, 1.0, 1.0, 0.723870),
    "BLEU-2": (0.695811, 0.866025, 0.866025, 0.381513),
    "BLEU-3": (0.553834, 0.753947, 0.753947, 0.000003),
    "BLEU-4": (0.455734, 0.680375, 0.614788, 0.0),
    "METEOR": (0.366410, 0.440760, 0.458682, 0.267784),
    "ROUGE-L": (0.652338, 0.777778, 0.639413, 0.539823),
    "CIDEr": (2.309743, 2.506589, 3.419686, 1.002955),
}


def votes(*rows):
    out = np.zeros((len(rows), 9), int)
    for row, given in zip(out, rows):
        for e, n in given.items():
            row[EMOTIONS.index(e)] = n
    return out


# ---- captions


def check_golden(scores, names):
    for name in names:
        total, *each = GOLDEN[name]
        assert scores.values[name] == pytest.approx(total, abs=2e-6), name
        assert scores.each[name] == pytest.approx(each, abs=2e-6), name


@needs_java
def test_golden_values_with_java_and_no_process_left(monkeypatch):
    made, start = [], C._start_java
    monkeypatch.setattr(C, "_start_java", lambda *how: made.append(start(*how)) or made[-1])
    scores = C.caption_scores(HYP, REF, meteor="on")
    assert scores.tokenizer == "ptb" and scores.skipped == {} and scores.n == 3 and not scores.stand_in
    check_golden(scores, GOLDEN)
    assert len(made) >= 2 and all(java.poll() is not None for java in made)  # the tokenizer, METEOR; perhaps the probe
    for name, m in scores.measures.items():  # the scores rebuilt from what the paintings add
        assert m.value == pytest.approx(scores.values[name], abs=1e-9), name
        assert [float(m.of(row)) for row in m.sums] == pytest.approx(scores.each[name].tolist(), abs=1e-9), name


ARTEMIS = {
    "BLEU-1": (0.820879, 0.888889, 1.0, 0.633386),
    "BLEU-4": (0.438110, 0.660633, 0.614788, 0.0),
    "METEOR": (0.370978, 0.428601, 0.402606, 0.281728),
    "ROUGE-L": (0.641564, 0.777778, 0.674779, 0.472136),
    "CIDEr": (2.075406, 2.140157, 3.314988, 0.771073),
}


@needs_java
def test_golden_values_of_the_other_family():
    scores = C.caption_scores(HYP, REF, family="artemis")
    assert (scores.tokenizer, scores.family) == ("split", "artemis")
    for name, (total, *each) in ARTEMIS.items():
        assert scores.values[name] == pytest.approx(total, abs=2e-6) == scores.measures[name].value
        assert scores.each[name] == pytest.approx(each, abs=2e-6), name
    assert scores.values["METEOR"] == pytest.approx(scores.each["METEOR"].mean())  # not the aggregate


def test_family_decides_on_tokens_and_is_checked():
    lower = {k: v.lower() for k, v in HYP.items()}
    split = lambda h: C.caption_scores(h, REF, "off", family="artemis").values["BLEU-1"]
    coco = lambda h: C.caption_scores(h, REF, "off").values["BLEU-1"]
    assert split(HYP) > split(lower) and coco(HYP) == coco(lower)
    with pytest.raises(ConfigError, match="coco, artemis"):
        C.caption_scores(HYP, REF, family="sevlm")


@needs_java
def test_meteor_of_word_for_word_answers_and_of_nothing():
    "The program gives a perfect answer no chunk when it sums, and an empty one no match."
    hyp = HYP | {"same": "the dark blue sky", "none": "", "other": "zzz"}
    ref = REF | {"same": ["the dark blue sky", "a sea"], "none": ["a sky"], "other": ["calm sea"]}
    scores = C.caption_scores(hyp, ref, meteor="on")
    assert scores.measures["METEOR"].value == pytest.approx(scores.values["METEOR"], abs=1e-9)
    assert (
        scores.each["METEOR"][3:].tolist()
        == [1.0, 0.0, 0.0]
        == C.meteor_from_sums(scores.measures["METEOR"].sums)[3:].tolist()
    )


# ---- sums, draws, intervals


def test_redrawn_scores_are_the_scores_of_redrawn_paintings():
    "Weights times sums give what scoring the drawn paintings anew gives; CIDEr keeps its weights of n-grams."
    rng = np.random.default_rng(0)
    words = "the sky is dark and calm so wide that i feel small".split()
    say = lambda: " ".join(rng.choice(words, rng.integers(3, 9)))
    hyp, ref = {i: say() for i in range(30)}, {i: [say() for _ in range(3)] for i in range(30)}
    measures, weights = C.caption_scores(hyp, ref, "off", "split").measures, B.bootstrap_weights(30, 5)
    assert weights.shape == (5, 30) and (weights.sum(1) == 30).all() and weights.max() > 1
    for w in weights:
        drawn = [(i, k) for i in range(30) for k in range(int(w[i]))]
        anew = C.caption_scores({d: hyp[d[0]] for d in drawn}, {d: ref[d[0]] for d in drawn}, "off", "split").values
        for name in ("BLEU-1", "BLEU-4", "ROUGE-L"):
            assert measures[name].resampled(w[None])[0] == pytest.approx(anew[name], abs=1e-9), name
    assert measures["CIDEr"].resampled(weights[:1])[0] == pytest.approx(
        (weights[0] * measures["CIDEr"].sums[:, 0]).sum() / 30
    )


def test_mean_of_some_paintings():
    m = B.mean_of([1, 5, 3], [True, False, True])
    assert (m.value, m.n) == (2, 2)
    assert (
        B.mean_of([1, 2], [False, False]).value is None
        and B.interval(B.mean_of([1, 2], [False, False]), B.bootstrap_weights(2)) is None
    )
    low, high = B.interval(
        B.mean_of([1.0, 5.0, 3.0], [True, False, True]), B.bootstrap_weights(3)
    )  # draws without a marked painting have no value
    assert (low, high) == (1, 3)
    assert B.percentile_interval(np.full(9, np.nan)) is None


def test_intervals_have_their_coverage():
    "Of 200 samples, about 95 % of the intervals hold the true mean."
    rng = np.random.default_rng(1)
    ends = [B.interval(B.mean_of(rng.normal(2, 1, 60)), B.bootstrap_weights(60, 300, seed)) for seed in range(200)]
    assert 0.89 <= np.mean([low < 2 < high for low, high in ends]) <= 0.99


@needs_java
def test_our_pipe_gives_what_the_librarys_ptb_wrapper_gives(tmp_path):
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = [*HYP.values(), *sum(REF.values(), [])]
    theirs = PTBTokenizer().tokenize({i: [{"caption": t}] for i, t in enumerate(texts)})
    assert C.ptb_tokens(texts) == [theirs[i][0] for i in range(len(texts))] == C.simple_tokens(texts)


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name, *a, **k: None)


def test_without_java_the_rest_is_scored_and_meteor_is_explained(no_java):
    scores = C.caption_scores(HYP, REF)
    assert scores.tokenizer == "simple" and scores.values["METEOR"] is None and "METEOR" not in scores.each
    assert "default-jre-headless" in scores.skipped["METEOR"]
    check_golden(scores, [m for m in GOLDEN if m != "METEOR"])
    assert "-" in [line.split()[2] for line in M.metrics_table({"caption": scores}).splitlines() if "METEOR" in line]


def test_without_java_asking_for_it_is_an_error(no_java):
    for ask in (dict(meteor="on"), dict(tokenizer="ptb")):
        with pytest.raises(ConfigError, match="Java was not found"):
            C.caption_scores(HYP, REF, **ask)
    with pytest.raises(ConfigError, match="Java was not found"):
        C.bleu_scores(HYP, REF, "ptb")


WEIRD = [
    "first\nsecond",
    "a\r\nb",
    "x\u2028y\u2029z",
    "tab\there\x0b\x0c\x1c\x85end",
    "",
    " \u2028 ",
    "emoji \U0001f600 only",
    "\U0001f600",
    "\x00",
    "lone \ud83d surrogate",
    "pipe ||| pipe",
    '(brackets) "quotes" “curly” – dash…',
    "ümläut café 絵",
    "-- . !",
]


def aligned(tokenize):
    "Every odd caption is a marker with its number: it must come back at its own place."
    texts = [t for i, w in enumerate(WEIRD) for t in (w, f"marker{i} stays")]
    out = tokenize([C.one_line(t) for t in texts])
    assert len(out) == len(texts)
    assert out[1::2] == [f"marker{i} stays" for i in range(len(WEIRD))]
    assert all("\n" not in t and "\r" not in t and "\u2028" not in t for t in out)
    return out[::2]


@pytest.mark.parametrize("name", ["simple", "split", pytest.param("ptb", marks=needs_java)])
def test_weird_captions_stay_with_their_painting(name):
    out = aligned(C.TOKENIZERS[name])
    assert out[0] == "first second" and out[4] == out[5] == ""


@needs_java
def test_weird_captions_through_meteor():
    hyp = dict(enumerate(WEIRD)) | {"last": "the dark sky is sad"}
    ref = {i: ["the calm sea", "a\u2028boat ||| there"] for i in range(len(WEIRD))} | {"last": ["the dark sky is sad"]}
    scores = C.caption_scores(hyp, ref, meteor="on")
    assert scores.each["METEOR"][-1] == pytest.approx(1.0, abs=0.01)
    assert scores.each["ROUGE-L"][-1] == pytest.approx(1.0)
    assert scores.each["METEOR"][:-1].max() < 0.5
    assert scores.empty_hypotheses >= 3


def test_a_shifted_tokenizer_is_noticed(monkeypatch):
    monkeypatch.setattr(C, "java_missing", lambda: None)
    monkeypatch.setattr(C, "_run_java", lambda *a, **k: (0, "only one line\n", "boom"))
    with pytest.raises(DataError, match="out of step.*boom"):
        C.ptb_tokens(["one", "two"])


def test_a_dying_meteor_is_reported_and_ended(monkeypatch):
    made = []

    def start(arguments, folder=None):
        pipe = subprocess.PIPE
        program = [sys.executable, "-c", 'import sys; sys.exit("no memory")']
        made.append(subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True))
        return made[-1]

    monkeypatch.setattr(C, "_start_java", start)
    monkeypatch.setattr(C, "java_missing", lambda: None)
    scores = C.caption_scores(HYP, REF, tokenizer="simple")
    assert scores.values["METEOR"] is None and "no memory" in scores.skipped["METEOR"]
    assert scores.skipped["METEOR"].startswith(C.FAILED)
    check_golden(scores, [m for m in GOLDEN if m != "METEOR"])
    with pytest.raises(DataError, match="METEOR stopped"):
        C.caption_scores(HYP, REF, meteor="on", tokenizer="simple")
    assert made[-1].poll() is not None


def test_empty_answers_score_zero_and_are_counted():
    scores = C.caption_scores({"a": "", "b": "...", "c": HYP["c"]}, REF, meteor="off", tokenizer="simple")
    assert scores.empty_hypotheses == 2
    for m in ("BLEU-1", "ROUGE-L", "CIDEr"):
        assert scores.each[m][:2].max() < 1e-6
    nothing = C.caption_scores(dict.fromkeys(HYP, ""), REF, meteor="off", tokenizer="simple")
    assert all(v is None or v < 1e-6 for v in nothing.values.values())


def test_empty_references_are_left_out_and_counted():
    scores = C.caption_scores({"a": ""}, {"a": ["!!!", "the sky"]}, meteor="off", tokenizer="simple")
    assert scores.empty_references == 1 and scores.values["ROUGE-L"] == 0
    for refs in ([], [""], ["..."]):
        with pytest.raises(DataError, match=r"no reference with a word in it, e.g. \['a'\]"):
            C.bleu_scores({"a": "x"}, {"a": refs})


def test_mismatched_keys_are_named():
    with pytest.raises(DataError, match=r"no reference, e.g. \['z'\]"):
        C.bleu_scores(HYP | {"z": "x"}, REF)
    with pytest.raises(DataError, match=r"no hypothesis, e.g. \['b', 'c'\]"):
        C.caption_scores({"a": "x"}, REF)
    with pytest.raises(DataError, match="expected a list"):
        C.bleu_scores({"a": "x"}, {"a": "x y"})
    with pytest.raises(DataError, match="NoneType"):
        C.bleu_scores({"a": None}, {"a": ["x"]})
    with pytest.raises(ConfigError, match="ptb, simple, split"):
        C.bleu_scores(HYP, REF, "nltk")
    with pytest.raises(ConfigError, match="auto, on or off"):
        C.caption_scores(HYP, REF, meteor="yes")


def test_order_of_keys_does_not_matter():
    turned = {k: REF[k] for k in reversed(REF)}
    a, b = C.caption_scores(HYP, REF, "off", "simple"), C.caption_scores(HYP, turned, "off", "simple")
    assert a.values == b.values and (a.each["ROUGE-L"] == b.each["ROUGE-L"]).all()


def test_bleu_alone_is_the_same_and_quick(capsys, monkeypatch):
    "Quick because each caption is cut into n-grams once, and no other score is made."
    from pycocoevalcap.bleu import bleu_scorer
    from pycocoevalcap.cider import cider
    from pycocoevalcap.rouge import rouge

    for tokenizer in ("simple", "split"):
        full = C.caption_scores(HYP, REF, "off", tokenizer).values
        assert C.bleu_scores(HYP, REF, tokenizer) == {m: full[m] for m in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")}
    cut, precook = [], bleu_scorer.precook
    monkeypatch.setattr(bleu_scorer, "precook", lambda text, *how: cut.append(text) or precook(text, *how))
    for other in (cider.Cider, rouge.Rouge):
        monkeypatch.setattr(other, "compute_score", None)
    monkeypatch.setattr(C, "_start_java", None)
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(300)]
    say = lambda: " ".join(rng.choice(words, 15))
    hyp = {i: say() for i in range(400)}
    ref = {i: [say() for _ in range(5)] for i in range(400)}
    C.bleu_scores(hyp, ref)
    assert sorted(cut) == sorted([*hyp.values(), *sum(ref.values(), [])])
    assert capsys.readouterr().out == ""


def test_bleu_by_hand():
    got = C.bleu_scores({0: "the dark sky"}, {0: ["the dark blue sky"]})
    assert got["BLEU-1"] == pytest.approx(math.exp(-1 / 3), abs=1e-6)
    assert got["BLEU-2"] == pytest.approx(math.exp(-1 / 3) * 0.5**0.5, abs=1e-6)


# ---- accuracy and confusion


def test_accuracy_by_hand():
    counts = votes(
        {"awe": 4, "fear": 1},
        {"contentment": 3, "awe": 2, "amusement": 1},
        {"fear": 3, "sadness": 3},
        {"sadness": 2, "awe": 1},
        {"something else": 5},
    )
    said = ["awe", "contentment", "fear", "joy", " something else "]
    strict, tolerant = M.emotion_accuracy(said, counts), M.emotion_accuracy(said, counts, "tolerant")
    assert (strict.correct, strict.eligible, strict.total, strict.unnamed, strict.value) == (2, 3, 5, 1, 2 / 3)
    assert (tolerant.correct, tolerant.eligible, tolerant.value) == (3, 4, 0.75)
    assert strict.interval[0] < strict.value < strict.interval[1]
    assert M.emotion_accuracy(said, counts / counts.sum(1, keepdims=True)) == strict  # a histogram of shares will do


def test_accuracy_has_no_value_without_eligible_paintings():
    got = M.emotion_accuracy(["fear", "awe"], votes({"fear": 1, "sadness": 1}, {}))
    assert got.value is None and got.interval is None and (got.eligible, got.total) == (0, 2)
    wrong = M.emotion_accuracy(["awe"], votes({"fear": 1}))
    assert wrong.value == 0.0  # not -1


def test_missing_answers_are_wrong_and_counted():
    got = M.emotion_accuracy([None, "", "Awe", "awe"], votes(*[{"awe": 1}] * 4))
    assert (got.correct, got.unnamed, got.value) == (1, 3, 0.25)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: M.emotion_accuracy([], []), "at least one painting"),
        (lambda: M.emotion_accuracy(["awe"], np.ones((1, 8))), r"\(1, 8\)"),
        (lambda: M.emotion_accuracy(["awe"], votes({"awe": 1}, {"awe": 1})), "1 predicted emotions for 2 paintings"),
        (lambda: M.confusion([], []), "at least one"),
        (lambda: M.confusion(["awe"], ["joy"]), "joy"),
        (lambda: M.confusion(["awe"], [None]), "majority emotion"),
        (lambda: B.bootstrap([]), "N >= 1"),
        (lambda: M.grounding([], []), "at least one"),
        (lambda: M.grounding([frozenset()], []), "expected one for each"),
        (lambda: V.unique_share([]), "No captions"),
        (lambda: V.simile_share([]), "No captions"),
        (lambda: V.mean_length([]), "No captions"),
        (lambda: V.distinct_tokens([]), "No captions"),
        (lambda: C.caption_scores({}, {}), "No captions"),
        (lambda: C.bleu_scores({}, {}), "No captions"),
    ],
)
def test_empty_and_misfit_input_says_what_is_wrong(call, words):
    with pytest.raises(DataError, match=words):
        call()


def test_emotion_measures_are_the_accuracies():
    counts = votes(
        {"awe": 4, "fear": 1},
        {"contentment": 3, "awe": 2, "amusement": 1},
        {"fear": 3, "sadness": 3},
        {"sadness": 2, "awe": 1},
        {"something else": 5},
    )
    said = ["awe", "contentment", "fear", None, " something else "]
    found = M.emotion_measures(said, counts)
    for rule in M.RULES:
        a, m = M.emotion_accuracy(said, counts, rule), found[f"emotion accuracy ({rule})"]
        assert (m.value, m.n) == (a.value, a.eligible) and f"{a.correct} of {a.eligible}" in m.note
    assert found["macro F1"].value == pytest.approx(
        M.macro_f1(M.confusion(["awe", "", "something else"], ["awe", "sadness", "something else"]))
    )
    assert M.emotion_measures(["awe"], votes({"fear": 1, "awe": 1}))["macro F1"].value is None


def test_calibration_against_loops_and_sklearn():
    from sklearn.metrics import log_loss

    rng = np.random.default_rng(0)
    counts, p = rng.multinomial(5, [0.3, 0.3, 0.2, 0.1, 0.1, 0, 0, 0, 0], 300), rng.dirichlet([0.5] * 9, 300)
    truth, found = M.majority_ids(counts), M.calibration_measures(p, counts)
    kept = np.flatnonzero(truth >= 0)
    assert (
        0 < len(kept) < 300
        and found["Brier score"].n == found["calibration error"].n == len(kept)
        and found["cross-entropy of the votes"].n == 300
    )
    assert found["Brier score"].value == pytest.approx(
        np.mean([sum((p[i, e] - (e == truth[i])) ** 2 for e in range(9)) for i in kept])
    )
    repeated = [(i, e) for i in range(300) for e in range(9) for _ in range(counts[i, e])]
    assert found["cross-entropy of the votes"].value == pytest.approx(
        log_loss([e for _, e in repeated], p[[i for i, _ in repeated]], labels=range(9))
    )
    gap = 0
    for low in range(10):
        inside = [i for i in kept if low / 10 < p[i].max() <= (low + 1) / 10]
        if inside:
            gap += abs(sum(p[i].max() - (p[i].argmax() == truth[i]) for i in inside))
    assert found["calibration error"].value == pytest.approx(gap / len(kept))
    table = M.reliability(p, counts)
    assert sum(r["n"] for r in table) == len(kept) and all((r["n"] == 0) == (r["accuracy"] is None) for r in table)


def test_calibration_ends_and_bad_probabilities():
    sure = np.eye(9)[[1, 6]]
    assert M.calibration_measures(sure, votes({"awe": 3}, {"fear": 2}))["Brier score"].value == 0
    wrong = M.calibration_measures(sure[::-1], votes({"awe": 3}, {"fear": 2}))
    assert (
        wrong["Brier score"].value == 2
        and wrong["calibration error"].value == 1
        and math.isfinite(wrong["cross-entropy of the votes"].value)
    )
    for bad in (sure[:, :8], sure * 0.5, sure[:1], -sure):
        with pytest.raises(DataError, match="each row with the sum 1"):
            M.calibration_measures(bad, votes({"awe": 3}, {"fear": 2}))


def test_unknown_rule():
    with pytest.raises(ConfigError, match="strict, tolerant"):
        M.emotion_accuracy(["awe"], votes({"awe": 1}), "majority")


@pytest.mark.parametrize("seed", range(20))
def test_confusion_recalls_and_f1_by_their_definitions(seed):
    "With emotions that are never true, never named, or neither, and answers that are none."
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(seed)
    n, answers = int(rng.integers(1, 60)), np.array([*EMOTIONS, "joy", "", "unnamed"])
    truth = rng.choice(EMOTIONS[: rng.integers(1, 10)], n).tolist()
    said = rng.choice(answers[rng.permutation(12)[: rng.integers(1, 12)]], n).tolist()
    pairs = list(zip(truth, said))
    counts, recalled = M.confusion(said, truth), M.recalls(M.confusion(said, truth))
    assert counts.shape == (9, 10) and counts.sum() == n and np.issubdtype(counts.dtype, np.integer)
    scores = []
    for i, e in enumerate(EMOTIONS):
        assert counts[i].tolist() == [
            *(pairs.count((e, other)) for other in EMOTIONS),
            sum(t == e and p not in EMOTIONS for t, p in pairs),
        ]
        right, true, named = pairs.count((e, e)), truth.count(e), said.count(e)
        assert recalled[e] == (pytest.approx(right / true) if true else None)
        scores += [2 * right / (true + named)] if true + named else []
    assert M.macro_f1(counts) == pytest.approx(np.mean(scores))
    met = [e for e in EMOTIONS if e in truth + said]
    assert M.macro_f1(counts) == pytest.approx(f1_score(truth, said, labels=met, average="macro", zero_division=0))
    assert M.macro_f1(np.stack([counts, counts])).tolist() == [M.macro_f1(counts)] * 2


def test_plot_takes_and_returns_axes():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    counts = M.confusion(["awe", "joy"], ["awe", "fear"])
    fig, ax = plt.subplots()
    assert M.plot_confusion(counts, ax) is ax and len(ax.texts) == 2
    assert M.plot_confusion(counts) is not ax
    plt.close("all")


# ---- grounding, style, table


def test_grounding_by_hand():
    f = frozenset
    got = M.grounding([f("s"), f("st"), f(), f("b")], [f("s"), f("s"), f("st"), f("sb")])
    # pairs i != j: {s} is in all three others; {s,t} in the third; {} never; {b} in none of the first three
    assert (got.share, got.named_share, got.n) == (0.5, 0.75, 4)
    assert got.shuffled == pytest.approx((3 + 1 + 0 + 0) / 12)
    assert M.grounding([f()], [f()]).share == 0 and M.grounding([f("s")], [f("s")]).shuffled is None
    assert M.grounding([f(), f()], [f(), f()]).shuffled == 0  # no thing anywhere


class Counting(frozenset):
    "A set that counts how often it is asked for a thing, and cannot be compared with another."

    asked = 0

    def __contains__(self, thing):
        Counting.asked += 1
        return super().__contains__(thing)

    def __le__(self, other):
        raise AssertionError("two sets were compared")

    issubset = __lt__ = __ge__ = __gt__ = __and__ = __sub__ = __le__


def test_grounding_is_the_mean_over_pairs_and_quick():
    "Quick because a set is asked once for each thing, and never compared with those of the other paintings."
    rng = np.random.default_rng(0)
    draw = lambda k: frozenset(rng.choice(40, rng.integers(0, k), replace=False).tolist())
    present, named = [draw(12) for _ in range(60)], [draw(4) for _ in range(60)]
    slow = np.mean([bool(a) and a <= b for i, a in enumerate(named) for j, b in enumerate(present) if i != j])
    assert M.grounding(named, present).shuffled == pytest.approx(slow)
    many, Counting.asked = 3000, 0
    said, there = ([Counting(sets[i % 60]) for i in range(many)] for sets in (named, present))
    big = M.grounding(said, there, draws=200)
    assert 0 < Counting.asked <= 2 * many * 40
    assert big.share == M.grounding(named, present).share and big.interval[0] <= big.share <= big.interval[1]


def test_style_counts():
    texts = ["it looks like rain", "Reminds Me of home", "plain", "plain"]
    assert (V.unique_share(texts), V.simile_share(texts), V.mean_length(texts), V.distinct_tokens(texts)) == (
        0.75,
        0.5,
        2.5,
        9,
    )
    assert len(V.SIMILES) == len(set(V.SIMILES)) == 13


def test_bootstrap_and_wilson():
    values = np.random.default_rng(1).normal(size=500)
    low, high = B.bootstrap(values)
    assert B.bootstrap(values) == (low, high) != B.bootstrap(values, seed=1)
    assert low < values.mean() < high and (high - low) == pytest.approx(2 * 1.96 * values.std() / 500**0.5, rel=0.12)
    assert B.wilson(0, 10)[0] == pytest.approx(0, abs=1e-12) and B.wilson(10, 10)[1] == pytest.approx(1)
    assert B.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # textbook value


def test_table_is_aligned_and_complete():
    results = {
        "acc": M.emotion_accuracy(["awe"], votes({"awe": 2})),
        "none": M.emotion_accuracy(["awe"], votes({})),
        "ground": M.grounding([frozenset("s")], [frozenset("s")]),
        "plain": 0.5,
        "words": 7,
        "with note": (0.25, 4, "why"),
    }
    lines = M.metrics_table(results).splitlines()
    assert len(lines) == 1 + 7 and lines[0].split() == ["metric", "value", "n", "note"]
    assert [line.split()[1] for line in lines if line.startswith(("acc", "none", "plain", "words"))] == [
        "1.0000",
        "-",
        "0.5000",
        "7",
    ]
    assert lines[-1].split()[-3:] == ["0.2500", "4", "why"]


def test_an_interval_stays_where_scores_can_be():
    "A score that drawing displaces upwards: its interval, moved back, would begin below zero."
    square = B.Measure(np.array([[0.0], [0.0], [0.0], [1.0]]), lambda s: s[..., 0] ** 2 / 16, centred=True)
    weights = B.bootstrap_weights(4)
    low, high = B.interval(square, weights)
    assert B.percentile_interval(square.resampled(weights), square.value)[0] < 0 and low == 0 < square.value < high

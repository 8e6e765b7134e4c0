"""ArtEmis v2.0: stacking, the splitter with its budget and its anchors, the parts and the test sets; each rule from
both sides."""

import json
import unicodedata
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sevlm.artemis.protocol import (
    ANCHORS,
    RAW,
    Protocol,
    Vocabulary,
    combine,
    decorate,
    held_out_paintings,
    parts,
    preprocess,
    read_preprocessed,
    split_combined,
    write_parts,
)
from sevlm.artemis.protocol import test_sets as sets_of  # the name would be collected as a test
from sevlm.config import EMOTIONS, RELEASE_COLUMNS
from sevlm.errors import DataError

MINIMAL, DEEP = Protocol.preset("minimal"), Protocol.preset("deep")


def old_rows(paintings):
    return pd.DataFrame(
        [("R", name, EMOTIONS[i % 9], "the sea is very calm", n) for name, n in paintings.items() for i in range(n)],
        columns=RELEASE_COLUMNS,
    )


def new_rows(paintings, anchors=("far",)):
    rows = [
        ("fear", "this looks like a storm", "R", name, "R", None, n) for name, n in paintings.items() for _ in range(n)
    ]
    return pd.DataFrame(rows, columns=RAW["v2"]).assign(
        anchor_painting=[anchors[i % len(anchors)] for i in range(len(rows))]
    )


def places(frame, version=None):
    frame = frame[frame.split != "rest"] if version is None else frame[frame.version == version]
    return frame.groupby("painting").split.first().to_dict()


def some(n, k=5, start=""):
    return {f"{start}p{i:03d}": k for i in range(n)}


# stacking


def test_new_comes_first_in_nfd_with_versions_and_anchors():
    accent = "eug\u00e3\u00a8ne"  # as in v1's names: composed
    old, new = old_rows({accent: 1, "b": 2}), new_rows({unicodedata.normalize("NFD", accent): 2, "c": 1}, ["caf\u00e9"])
    both = combine(old.assign(worker="w"), new[list(RAW["v2"])[::-1]])
    assert (
        list(both) == [*RAW["v2"], "version"]
        and list(both.version) == ["new"] * 3 + ["old"] * 3
        and list(both.index) == list(range(6))
    )
    assert both.painting[0] == both.painting[3] == unicodedata.normalize("NFD", accent) != accent
    assert (
        list(both.anchor_painting) == ["cafe\u0301"] * 3 + ["nan"] * 3 and list(both.anchor_art_style[3:]) == [""] * 3
    )
    assert list(both.utterance) == list(new.utterance) + list(old.utterance)
    with pytest.raises(
        DataError, match=r"the new rows have no column anchor_art_style; expected what `read_rows\(path, 'v2'\)`"
    ):
        combine(old, old)


def test_art_style_is_left_alone():
    old = old_rows({"a": 1}).assign(art_style="\u00c9cole")
    assert combine(old, new_rows({"b": 1})).art_style[1] == "\u00c9cole"
    assert decorate(combine(old, new_rows({"b": 1})).assign(split="train")).art_style[1] == "E\u0301cole"


# the budget


def counts(*numbers):
    return pd.Series({f"p{i:02d}": n for i, n in enumerate(numbers)})


@pytest.mark.parametrize(
    "numbers,budget,expected",
    [
        ((5, 5), 0, []),
        ((5, 5), -3, []),
        ((5, 5), 4, []),
        ((5, 5), 5, [0]),
        ((5, 5), 9, [0]),
        ((5, 5), 10, [0, 1]),
        ((5, 5), 11, [0, 1]),
        ((4, 5, 10, 9), 1000, [1, 3]),  # only 5 to 9
        ((6, 5, 6), 5, [1]),
        ((6, 5, 6), 11, [1, 0]),
        ((6, 5, 6), 10, [1]),
        ((6, 5, 6), 17, [1, 0, 2]),
        ((5, 5, 6), 9, [0]),  # 9 < 10: one painting of five; the whole group is charged, nothing is left for the six
        ((5, 7, 6, 8, 9), 5 + 6 + 7 + 8, [0, 2, 1, 3]),
        ((5, 7, 6, 8, 9), 5 + 6 + 7 + 8 + 9, [0, 2, 1, 3, 4]),
        ((5, 7, 6, 8, 9), 5 + 6 + 7 + 8 + 8, [0, 2, 1, 3]),
        ((7, 7), 100, [0, 1]),
        ((), 100, []),
    ],
)
def test_budget_walk(numbers, budget, expected):
    assert held_out_paintings(counts(*numbers), budget) == [f"p{i:02d}" for i in expected]


def test_budget_takes_the_first_by_name():
    table = pd.Series({"z": 5, "a": 5, "m": 5})
    assert held_out_paintings(table, 10) == ["a", "m"] == held_out_paintings(table[::-1], 10)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(3, 11), max_size=40), st.integers(0, 250))
def test_budget_is_kept(numbers, budget):
    table = counts(*numbers)
    taken = held_out_paintings(table, budget)
    assert (
        len(set(taken)) == len(taken)
        and table[taken].sum() <= budget
        and table[taken].between(5, 9).all()
        and list(table[taken]) == sorted(table[taken])
    )


def test_budget_comes_from_the_rows_and_test_before_val():
    new = new_rows({**some(30, 5), **some(10, 6, "six")})  # 210 rows, 15 %: 31 of them, 6 paintings
    place = places(split_combined(combine(old_rows(some(100, 5, "old")), new), DEEP), "new")
    assert [n for n, s in place.items() if s == "test"] == [f"p{i:03d}" for i in range(4)] and [
        n for n, s in place.items() if s == "val"
    ] == ["p004", "p005"]
    assert Counter(place.values()) == {"train": 34, "test": 4, "val": 2}
    none = places(split_combined(combine(old_rows(some(100, 5, "old")), new_rows(some(30, 4))), DEEP), "new")
    assert set(none.values()) == {"train"}


# old paintings


def test_anchors_are_trained_on_and_shares_stay():
    old = old_rows(some(200))
    anchors = [f"p{i:03d}" for i in range(0, 200, 2)]
    with_anchors = places(split_combined(combine(old, new_rows(some(40, 5, "new"), anchors)), DEEP), "old")
    without = places(split_combined(combine(old, new_rows(some(40, 5, "new"))), DEEP), "old")
    assert {with_anchors[a] for a in anchors} == {"train"} and {without[a] for a in anchors} == {"train", "val", "test"}
    for place in (with_anchors, without):
        assert Counter(place.values())["train"] in (169, 170) and Counter(place.values())["test"] in (20, 21)


@pytest.mark.parametrize("n_anchors,in_train", [(84, 84), (85, 85), (86, 85), (97, 85)])
def test_anchors_up_to_the_share_of_train(n_anchors, in_train):
    old, anchors = old_rows(some(100)), [f"p{i:03d}" for i in range(n_anchors)]
    new = new_rows(some(40, 5, "new"), anchors)
    place = places(split_combined(combine(old, new), DEEP), "old")
    forced = list(anchors[:in_train])
    assert {place[a] for a in forced} == {"train"} and Counter(place.values())["train"] in (84, 85)
    if n_anchors > in_train:
        assert {place[a] for a in anchors[in_train:]} <= {"val", "test", "train"} and place[
            anchors[-1]
        ] != "train"  # the last by name is let go


def test_a_contrastive_anchor_is_no_forced_one():
    "An anchor that is itself contrastive goes by the budget, even into test."
    new = new_rows(some(40, 5), ["p000"])
    place = places(split_combined(combine(old_rows({**some(40), **some(60, 5, "old")}), new), DEEP))
    assert place["p000"] == "test"
    forced = places(
        split_combined(combine(old_rows({**some(40), **some(60, 5, "old")}), new_rows(some(40, 5), ["oldp000"])), DEEP)
    )
    assert forced["oldp000"] == "train"


def test_a_painting_in_both_versions_has_one_split():
    split = split_combined(combine(old_rows(some(100, 6)), new_rows(some(40))), DEEP)
    assert (split.groupby("painting").split.nunique() == 1).all() and set(
        places(split[split.version == "old"]).values()
    ) == {"train", "val", "test"}
    shared = split[split.painting == "p000"]
    assert set(shared.version) == {"old", "new"} and set(shared.split) == {"test"}


def test_rest_is_last_without_anchors_and_its_contrasts_stay():
    split = split_combined(
        combine(old_rows({"often": 41, "nearly": 40, **some(60)}), new_rows({"often": 6, **some(20, 5, "new")})), DEEP
    )
    assert (
        set(split.split[-41:]) == {"rest"}
        and set(split.version[split.split == "rest"]) == {"old"}
        and not set(ANCHORS) & set(split)
    )
    assert set(split.split[split.painting == "often"]) == {"train", "rest"} and "rest" not in set(
        split.split[split.painting == "nearly"]
    )
    assert list(split.index) == list(range(len(split))) and split.version[0] == "new"
    assert "rest" not in set(
        split_combined(combine(old_rows({"often": 41, **some(60)}), new_rows(some(20, 5, "new"))), MINIMAL).split
    )


def test_order_of_rows_does_not_decide_and_seed_does():
    both = combine(old_rows(some(100)), new_rows(some(30, 5, "new"), ["p001", "p002"]))
    split, shuffled = (
        split_combined(both, DEEP),
        split_combined(both.sample(frac=1, random_state=3).reset_index(drop=True), DEEP),
    )
    assert places(split) == places(shuffled) and places(split) != places(split_combined(both, DEEP.replace(seed=1)))
    assert len(split_combined(both, DEEP.replace(rows=70))) == 70 and split_combined(
        both, DEEP.replace(rows=70)
    ).equals(split[:70])


def test_what_cannot_be_split():
    with pytest.raises(DataError, match="no column version; expected what `combine` gives"):
        split_combined(old_rows(some(9)), DEEP)
    with pytest.raises(DataError, match="Give more rows of v1"):
        split_combined(combine(old_rows(some(1)), new_rows(some(9, 5, "new"))), DEEP)
    with pytest.raises(DataError, match="Give more rows of v1"):
        split_combined(combine(old_rows({**some(9), "alone": 5}), new_rows(some(9))), DEEP)
    assert set(split_combined(combine(old_rows(some(9)), new_rows(some(9))), DEEP).split) == {
        "train",
        "val",
    }  # every old painting is contrastive: the budget alone decides
    place = places(
        split_combined(combine(old_rows(some(100)), new_rows(some(20, 5, "new"))), Protocol(train=0.9, val=0, test=0.1))
    )
    assert set(place.values()) == {"train", "test"}


# preprocessing, parts, test sets


@pytest.fixture(scope="module")
def pre():
    old, new = (
        old_rows({**some(150, 6), **some(5, 41, "often"), "caf\u00e9": 5}),
        new_rows({**some(40, 5), **some(30, 6, "new")}, ["p100", "p101"]),
    )
    split = split_combined(combine(old, new), DEEP)
    return preprocess(split.assign(utterance_spelled=split.utterance), DEEP)


def test_preprocess_keeps_the_split_and_starts_the_vocabulary_with_new_rows(pre):
    assert list(pre.frame) == [
        "emotion",
        "utterance",
        "art_style",
        "painting",
        "repetition",
        "version",
        "split",
        "tokens_len",
        "utterance_spelled",
        "emotion_label",
    ]
    assert pre.vocabulary.words[4:9] == [
        "this",
        "looks",
        "like",
        "a",
        "storm",
    ] and pre.report.kept == pre.report.read == len(pre.frame)


def test_parts_are_samples_of_rows(pre):
    made = parts(pre.frame, "wiki/art/")
    n = {name: len(f) for name, f in made.items()}
    new, old = (pre.frame[pre.frame.version == v] for v in ("new", "old"))
    assert n == {
        "full_combined": len(pre.frame),
        "new": len(new),
        "old_full": len(old),
        "old_small": len(new),
        "old_large": min(2 * len(new), len(old)),
        "combined": 2 * len(new),
    }
    expected = old.reset_index(drop=True).sample(len(new), random_state=42)
    for column in old:
        assert list(made["old_small"][column]) == list(expected[column])
    assert list(made["combined"].version) == ["new"] * len(new) + ["old"] * len(new) and "rest" in set(
        made["old_full"].split
    )
    assert list(made["new"])[-2:] == ["image_file", "grounding_emotion"] and list(
        made["new"].grounding_emotion
    ) == list(new.emotion)
    cafe = made["old_full"].query("painting == 'cafe\u0301'").image_file
    assert (
        len(cafe) == 5
        and set(cafe) == {"wiki/art/R/cafe\u0301.jpg"}
        and parts(pre.frame)["new"].image_file[0] == "R/p000.jpg"
    )


def test_sizes_of_old_samples():
    frame = preprocess(
        (s := split_combined(combine(old_rows(some(100, 6)), new_rows(some(60, 5, "new"))), DEEP)).assign(
            utterance_spelled=s.utterance
        ),
        DEEP,
    ).frame
    old, new = frame[frame.version == "old"], frame[frame.version == "new"]
    made = parts(frame)
    assert len(made["old_large"]) == 600 == 2 * len(new) == len(old)
    assert (
        len(parts(pd.concat([new, old[:599]]))["old_large"]) == 599
        and len(parts(pd.concat([new, old[:300]]))["old_small"]) == 300
    )
    with pytest.raises(DataError, match="300 new rows and 299 old ones"):
        parts(pd.concat([new, old[:299]]))
    with pytest.raises(DataError, match="no column version; expected preprocessed rows of `split_combined`"):
        parts(frame.drop(columns="version"))


def test_test_sets(pre):
    sets, frame = sets_of(pre.frame), pre.frame
    assert list(sets) == ["test_new", "test_ref", "test_old", "test_all", "test_40"]
    assert (
        set(sets["test_new"].version) == {"new"}
        and len(sets["test_new"]) == ((frame.version == "new") & (frame.split == "test")).sum() > 0
    )
    assert (
        set(sets["test_ref"].version) == {"old"}
        and len(sets["test_ref"]) == ((frame.version == "old") & (frame.split == "test")).sum() > 0
    )
    ref, half = set(sets["test_ref"].painting), set(sets["test_old"].painting)
    names = sorted("R" + p for p in ref)
    np.random.seed(42)
    assert (
        half < ref
        and len(half) == len(ref) // 2
        and {"R" + p for p in half} == set(np.random.choice(names, len(names) // 2, replace=False))
    )
    assert len(sets["test_old"]) == sets["test_ref"].painting.isin(half).sum()  # whole paintings, not rows
    assert sets["test_all"].equals(pd.concat([sets["test_new"], sets["test_old"]], ignore_index=True))
    assert (
        set(sets["test_40"].split) == {"test"}
        and set(sets["test_40"].painting) == set(some(5, start="often"))
        and "rest" in set(frame.split)
    )
    assert sets_of(frame.sample(frac=1, random_state=0))["test_old"].painting.nunique() == len(half)
    empty = sets_of(frame[frame.split == "train"])
    assert all(len(f) == 0 for f in empty.values())


def test_a_draw_does_not_touch_the_global_seed(pre):
    np.random.seed(5)
    a = np.random.rand()
    np.random.seed(5)
    sets_of(pre.frame)
    parts(pre.frame)
    assert np.random.rand() == a


def test_written_folders(pre, tmp_path):
    files = write_parts(pre, tmp_path, "wikiart", {"automatic_spell_check": True})
    assert sorted(files) == sorted([*parts(pre.frame), *sets_of(pre.frame)])
    for name, frame in (parts(pre.frame, "wikiart") | sets_of(pre.frame, "wikiart")).items():
        pd.testing.assert_frame_equal(read_preprocessed(files[name]), frame)
        assert files[name] == tmp_path / name / (
            f"{name}.csv" if name.startswith("test") else "train/artemis_preprocessed.csv"
        )
    for name in ("new", "combined"):
        assert (
            Vocabulary.load(tmp_path / name / "train" / "vocabulary.json").words == pre.vocabulary.words
        )  # one vocabulary for all
        assert (
            json.loads((tmp_path / name / "train" / "config.json.txt").read_text(encoding="utf-8"))[
                "automatic_spell_check"
            ]
            is True
        )
    assert (
        not (tmp_path / "test_new" / "vocabulary.json").exists()
        and len(read_preprocessed(files["test_40"], lists=True).tokens[0]) == 5
    )
    assert list(write_parts(pre, tmp_path / "less", only=["new"])) == ["new"] and [
        p.name for p in (tmp_path / "less").iterdir()
    ] == ["new"]
    with pytest.raises(DataError, match="no part 'small'. Valid: full_combined"):
        write_parts(pre, tmp_path, only=["small"])

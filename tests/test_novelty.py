"""Longest common subsequences by bits against the plain table, the draws of novelty, the share of distinct captions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sevlm.errors import DataError
from sevlm.metrics.novelty import DistinctShare, TextIndex, novelty, unique_share


def lcs(a, b):
    row = [0] * (len(b) + 1)
    for x in a:
        old = row[:]
        for j, y in enumerate(b):
            row[j + 1] = old[j] + 1 if x == y else max(row[j], old[j + 1])
    return row[-1]


words = st.lists(st.sampled_from("abcde"), max_size=150)


@settings(max_examples=150, deadline=None)
@given(words, st.lists(words, min_size=1, max_size=6))
def test_bits_equal_the_table(caption, texts):
    assert TextIndex([" ".join(t) for t in texts]).lcs(" ".join(caption)).tolist() == [lcs(caption, t) for t in texts]


@pytest.mark.parametrize("length", [1, 62, 63, 64, 65, 127, 128, 129, 200])
def test_borders_of_the_machine_word(length):
    rng = np.random.default_rng(length)
    for alphabet in (1, 2, 20):
        caption = rng.integers(alphabet, size=length).astype(str).tolist()
        texts = [rng.integers(alphabet + 1, size=n).astype(str).tolist() for n in (0, 1, 64, 65, 150)] + [
            caption,
            caption[::-1],
        ]
        got = TextIndex([" ".join(t) for t in texts]).lcs(" ".join(caption)).tolist()
        assert got == [lcs(caption, t) for t in texts] and got[-2] == length


def test_spaces_unknown_words_and_nothing():
    index = TextIndex(["the  dark\tsky ", "", "sea"])
    assert index.lcs("the sky\n").tolist() == [2, 0, 0] and index.lcs("").tolist() == index.lcs(
        "never seen"
    ).tolist() == [0, 0, 0]


def test_novelty_by_hand():
    found = novelty(
        ["the sky is dark", "a boat"], ["the dark sky", "the sky is so dark", "the sky is so dark", "a house"]
    )
    assert found.texts == 3 and found.chosen.tolist() == [0, 1]  # the repeated text counts once
    assert found.each_max.tolist() == [4, 1] and found.each_mean.tolist() == pytest.approx([(2 + 4 + 0) / 3, 1 / 3])
    assert (
        found.max_lcs == 2.5
        and found.mean_lcs == pytest.approx((2 + 1 / 3) / 2)
        and found.nearest == ["the sky is so dark", "a house"]
    )
    assert [r[2] for r in found.rows("novelty")] == [2, 2]


def test_draws_are_reproducible_bounded_and_seeded():
    texts, said = [f"w{i} w{i // 2} w{i // 3}" for i in range(200)], [f"w{i} w{i // 3}" for i in range(90)]
    one = novelty(said, texts, captions_n=40, texts_n=50)
    two = novelty(said, [*reversed(texts), *texts], captions_n=40, texts_n=50)  # order and repetitions do not matter
    assert one.max_lcs == two.max_lcs and (one.chosen == two.chosen).all() and one.nearest == two.nearest
    assert (len(one.chosen), one.texts) == (40, 50) == (len(set(one.chosen.tolist())), len(set(texts)) // 4)
    other = novelty(said, texts, captions_n=40, texts_n=50, seed=1)
    assert other.chosen.tolist() != one.chosen.tolist()
    assert novelty(said, ["one text"] * 17).rows("all")[0][3].endswith("with 1 different training text")
    assert novelty(said, texts).texts == 200 and len(novelty(said, texts).chosen) == 90
    with pytest.raises(DataError, match="No captions"):
        novelty([], texts)
    with pytest.raises(DataError, match="No captions"):
        novelty(said, [])


def test_distinct_and_its_half_sets():
    captions = ["a", "b", "a", "c", "c", "c", "d", "e"]
    d = DistinctShare(captions)
    assert d.value == unique_share(captions) == 5 / 8 and d.n == 8
    draws = d.resampled(np.ones(400))
    assert (
        draws.min() >= 2 / 4
        and draws.max() == 1
        and draws.mean() > d.value
        and (draws == d.resampled(np.ones(400))).all()
    )
    assert set(DistinctShare(["x"] * 10).resampled(np.ones(50))) == {0.2} and set(
        DistinctShare(list("abcdef")).resampled(np.ones(50))
    ) == {1.0}

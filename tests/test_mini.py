"""The synthetic mini-ArtEmis: the grammar and its inverse, the files, the ceiling."""

import csv
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sevlm.config import EMOTIONS
from sevlm.data.paintings import Release
from sevlm.errors import DataError
from sevlm.lexicon.lexicon import Lexicon
from sevlm.synthetic import dataset
from sevlm.synthetic.dataset import (
    ANNOTATORS,
    catalogue,
    emotion_odds,
    make_mini,
    mini_statistics,
    odds_table,
    read_truth,
    vote_counts,
)
from sevlm.synthetic.paint import random_scene
from sevlm.synthetic.words import grounded, mini_lexicon, mini_words, surface_forms, things_named, utterance

seeds = st.integers(0, 2**32 - 1)


def digest(folder):
    "A fingerprint of every file."
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    return make_mini(tmp_path_factory.mktemp("set") / "mini", n=40, size=32, workers=1, progress=False)


@settings(max_examples=300, deadline=None)
@given(seeds, st.sampled_from(EMOTIONS))
def test_what_an_utterance_names_is_there(seed, emotion):
    rng = np.random.default_rng(seed)
    scene = random_scene(rng)
    text = utterance(scene, emotion, rng)
    named = things_named(text)
    assert named and named <= scene.attributes() and len(named) <= 3 and grounded(text, scene) is True
    assert "because" not in text.lower() and text == " ".join(text.split())
    assert things_named("".join(c if c.isalpha() or c in "' " else " " for c in text.lower())) == named


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(surface_forms())))
def test_each_form_names_one_value_and_only_as_a_whole_word(form):
    assert things_named(form.upper()) == {surface_forms()[form]}
    assert surface_forms()[form] not in things_named(f"x{form}x")


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_odds_are_a_distribution(seed):
    odds = emotion_odds(random_scene(np.random.default_rng(seed)))
    assert odds.shape == (9,) and odds.min() > 0 and np.isclose(odds.sum(), 1)


def test_all_attribute_values_have_words_and_weights():
    assert set(mini_words()["things"]) | set(mini_words()["colours"]) | {"base"} == set(odds_table())


def test_workers_do_not_change_the_set(mini, tmp_path):
    assert digest(make_mini(tmp_path / "two", n=40, size=32, workers=2, progress=False)) == digest(mini)


def test_seed_and_index_decide(mini, tmp_path):
    assert catalogue(20, 3) == catalogue(60, 3)[:20] and catalogue(20, 3) != catalogue(20, 4)
    less = vote_counts(make_mini(tmp_path / "less", n=12, size=32, workers=1, progress=False))
    assert all((vote_counts(mini)[key] == votes).all() for key, votes in less.items())


def test_release_form(mini):
    with open(mini / "artemis_dataset_release_v0.csv", encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0]) == ["art_style", "painting", "emotion", "utterance", "repetition"]
    truth, votes = read_truth(mini), vote_counts(mini)
    assert truth.keys() == votes.keys() and len(truth) == 40
    for r in rows:
        key = f"{r['art_style']}/{r['painting']}"
        assert int(r["repetition"]) == votes[key].sum() and votes[key].sum() in ANNOTATORS
        assert grounded(r["utterance"], truth[key][0])
        assert (mini / "wikiart" / f"{key}.jpg").is_file()
    lines = (mini / "mini-vad-lexicon.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(mini_lexicon()) and all(len(line.split("\t")) == 4 for line in lines)


def test_the_real_readers_read_it(mini):
    release = Release(mini)
    paintings, report = release.paintings()
    assert {p.key for p in paintings} == set(read_truth(mini))
    lexicon = Lexicon.read(release.lexicon)
    assert len(lexicon) == len(mini_lexicon()) and np.allclose(lexicon["dread"], mini_lexicon()["dread"])
    assert lexicon.lookup("reminds")[1]  # only 'remind' is listed


def test_same_set_is_reused_and_another_refused(mini, capsys):
    before, said = digest(mini), []
    assert make_mini(mini, n=40, size=32, log=said.append) == mini and "reused" in said[0]
    assert make_mini(mini, n=40, size=32) == mini and capsys.readouterr().out == ""  # the library prints nothing
    with pytest.raises(DataError, match="another mini-ArtEmis"):
        make_mini(mini, n=41, size=32)
    assert digest(mini) == before


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("two years of work", encoding="utf-8")
    with pytest.raises(DataError, match="something else"):
        make_mini(tmp_path, n=2, size=32)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "new").mkdir()
    folder = make_mini(tmp_path / "new", n=2, size=32, workers=1, progress=False)
    assert json.loads((folder / "mini.json").read_text(encoding="utf-8"))["n"] == 2


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "paint", stop)
    with pytest.raises(KeyboardInterrupt):
        make_mini(tmp_path / "deep" / "set", n=3, size=32, workers=1, progress=False)
    assert not list((tmp_path / "deep").iterdir())


@pytest.mark.parametrize("wrong", [dict(n=0), dict(n=True), dict(size=8), dict(workers=0), dict(seed=-1), dict(n=2.5)])
def test_settings_are_checked(tmp_path, wrong):
    with pytest.raises(DataError, match=next(iter(wrong))):
        make_mini(tmp_path / "x", **{**dict(n=2, size=32), **wrong})
    assert not list(tmp_path.iterdir())


def test_truth_of_a_real_release_is_missed_politely(tmp_path):
    with pytest.raises(DataError, match="synthetic"):
        read_truth(tmp_path)


def test_statistics_count_the_files(mini):
    stats = mini_statistics(mini)
    assert stats["Unique paintings"] == 40 and stats["Minimum annotations per painting"] >= 5
    shares = [stats[f"Fraction of annotations {p}"] for p in ("positive", "negative", "something else")]
    assert np.isclose(sum(shares), 1) and stats["Annotations"] == round(stats["Mean annotations per painting"] * 40)

"""ArtEmis's preprocessing: reading a release as rows, the split, the length rule, the vocabulary, the files; each
rule from both sides."""

import csv
import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sevlm.artemis.protocol import (
    ANCHORS,
    MADE,
    RAW,
    SOURCE_FILES,
    SPLITS,
    Protocol,
    Vocabulary,
    preprocess,
    read_preprocessed,
    read_rows,
    split_rows,
    token_counts,
    tokens_of,
    write_preprocessed,
)
from sevlm.config import EMOTIONS, RELEASE_COLUMNS
from sevlm.data.paintings import Painting, split_paintings
from sevlm.errors import ConfigError, DataError

MINIMAL, DEEP = Protocol.preset("minimal"), Protocol.preset("deep")
GOOD = ("Cubism", "lamp", "awe", "It glows.", "1")


def write(path, rows, header=RELEASE_COLUMNS, encoding="utf-8", end="\n"):
    with open(path, "w", newline="", encoding=encoding) as f:
        csv.writer(f, lineterminator=end).writerows([header, *rows])
    return path


def frame_of(paintings, texts=("the sky is very blue",)):
    "Rows: painting name -> repetition."
    return pd.DataFrame(
        [
            ("Realism", name, EMOTIONS[i % 9], text.capitalize(), n, text)
            for name, n in paintings.items()
            for i in range(n)
            for text in [texts[i % len(texts)]]
        ],
        columns=[*RELEASE_COLUMNS, "utterance_spelled"],
    )


# reading


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_rows_come_as_they_stand(tmp_path, end, encoding):
    rows = [
        ("Cubism", "lamp", "awe", 'It "glows",\nsoftly', "3"),
        ("Cubism", "lamp", "fear", "", "3"),
        ("Cubism", "nan", "something else", "NA", "1"),
        ("Cubism", "lamp", "awe", " None ", "3"),
    ]
    frame, report = read_rows(write(tmp_path / "a.csv", rows, encoding=encoding, end=end))
    assert list(frame.itertuples(index=False, name=None)) == [
        (*r[:4], int(r[4])) for r in rows
    ]  # order kept; nothing becomes a missing value
    assert (
        list(frame) == list(RELEASE_COLUMNS)
        and frame.repetition.dtype == np.int64
        and report.kept == report.read == 4
        and not report.dropped
    )
    assert report.notes == {"paintings": 2, "paintings with another number of usable rows than `repetition` says": 0}


def test_contrastive_file_in_any_order_and_extra_columns_are_named(tmp_path):
    row = dict(zip(RAW["v2"], ("awe", "Bright", "Cubism", "lamp", "Realism", "moon", "1"))) | {"worker": "w"}
    names = list(row)[::-1]
    frame, report = read_rows(write(tmp_path / "Contrastive.csv", [[row[n] for n in names]], names), "v2")
    assert (
        frame.to_dict("records") == [{**{n: row[n] for n in RAW["v2"]}, "repetition": 1}]
        and report.notes["columns ignored"] == "worker"
    )


@pytest.mark.parametrize(
    "row,reason",
    [
        (("Cubism", "lamp", "joy", "x", "1"), "unknown emotion"),
        (("Cubism", "lamp", "awful", "x", "1"), "unknown emotion"),
        (("..", "lamp", "awe", "x", "1"), "name that could leave"),
        (("Cubism", "../lamp", "awe", "x", "1"), "name that could leave"),
        (("Cubism", "a\\b", "awe", "x", "1"), "name that could leave"),
        (("", "lamp", "awe", "x", "1"), "name that could leave"),
        (GOOD[:4], "wrong number of fields"),
        ((*GOOD, "more"), "wrong number of fields"),
    ],
)
def test_rows_that_cannot_be_used_are_counted_with_their_line(tmp_path, row, reason):
    frame, report = read_rows(write(tmp_path / "a.csv", [("Cubism", "lamp", "awe", "two\nlines", "2"), row, GOOD, row]))
    assert len(frame) == 2 and report.read == 4 and report.kept == 2
    ((found, examples),) = report.examples.items()
    assert (
        found.startswith(reason)
        and report.dropped[found] == 2
        and examples[0].startswith("line 4 (")
        and examples[1].startswith("line 6 (")
    )
    with pytest.raises(DataError, match=f"none of the 1 rows(.|\n)*{reason}"):
        read_rows(write(tmp_path / "b.csv", [row]))


@pytest.mark.parametrize("name", ["a..b", "t.-c.-steele_road", "eug\u00e3\u00a8ne", "lamp(1)", "10"])
def test_odd_names_stay(tmp_path, name):
    assert read_rows(write(tmp_path / "a.csv", [("Cubism", name, "awe", "x", "1")]))[0].painting[0] == name


def test_the_wrong_file_is_told(tmp_path):
    one, two = (
        write(tmp_path / "one.csv", [GOOD]),
        write(tmp_path / "two.csv", [("awe", "x", "Cubism", "lamp", "Cubism", "moon", "1")], RAW["v2"]),
    )
    assert len(read_rows(one)[0]) == len(read_rows(two, "v2")[0]) == 1
    with pytest.raises(
        DataError,
        match=r"is ArtEmis v2's Contrastive.csv \(--contrastive\).*Expected the release of ArtEmis v1 \(--artemis\)",
    ):
        read_rows(two)
    with pytest.raises(
        DataError,
        match=r"is the release of ArtEmis v1 \(--artemis\): it has no column anchor_painting. Expected ArtEmis v2",
    ):
        read_rows(one, "v2")
    for version in ("v1", "v2"):
        made = write(tmp_path / "made.csv", [(*GOOD, "train")], (*RELEASE_COLUMNS, "split"))
        with pytest.raises(DataError, match="column split: it is preprocessed. Expected"):
            read_rows(made, version)
        both = write(tmp_path / "both.csv", [], (*RAW["v2"], "version"))
        with pytest.raises(DataError, match="holds both versions"):
            read_rows(both, version)
        with pytest.raises(DataError, match="found the columns word, valence; expected"):
            read_rows(write(tmp_path / "lexicon.csv", [], ("word", "valence")), version)
    with pytest.raises(DataError, match="Missing or repeated: emotion"):
        read_rows(write(tmp_path / "twice.csv", [], (*RELEASE_COLUMNS, "emotion")))
    with pytest.raises(DataError, match="Missing or repeated: anchor_art_style"):
        read_rows(write(tmp_path / "half.csv", [], (*RELEASE_COLUMNS, "anchor_painting")), "v2")
    with pytest.raises(DataError, match="version 'v3' is not known"):
        read_rows(one, "v3")


@pytest.mark.parametrize(
    "content,part",
    [
        (b'Cubism,lamp,awe,Bright,1\nCubism,lamp,awe,"open,1\nCubism,lamp,awe,x,1\n', "row starting in line 3"),
        ("Cubism,caf\u00e9,awe,x,1\n".encode("latin-1"), "line 2: found bytes that are not UTF-8"),
        (
            'Cubism,lamp,awe,"a\ufffd\nb",2\nCubism,lamp,awe,'.encode() + b"\xff,2\n",
            "line 4: found bytes that are not UTF-8",
        ),
        (b"Cubism,lamp,awe,x,1\nCubism,lamp,awe,x,many\n", "line 3: repetition 'many' is not a whole number"),
        (b"Cubism,lamp,awe,x,1.5\n", "repetition '1.5'"),
        (b"Cubism,lamp,awe,x,-1\n", "repetition '-1'"),
        (b"", "none of the 0 rows"),
    ],
)
def test_files_that_stop_the_reading(tmp_path, content, part):
    (tmp_path / "a.csv").write_bytes(",".join(RELEASE_COLUMNS).encode() + b"\n" + content)
    with pytest.raises(DataError, match=part):
        read_rows(tmp_path / "a.csv")


def test_no_file_and_an_empty_one(tmp_path):
    with pytest.raises(DataError, match="cannot read .*No such file.*--artemis"):
        read_rows(tmp_path / "none.csv")
    with pytest.raises(DataError, match="cannot read .*--contrastive"):
        read_rows(tmp_path, "v2")
    (tmp_path / "a.csv").write_bytes(b"")
    with pytest.raises(DataError, match=r"columns \(none\)"):
        read_rows(tmp_path / "a.csv")


def test_repetition_may_be_a_float_and_is_compared_with_the_rows(tmp_path):
    frame, report = read_rows(
        write(
            tmp_path / "a.csv",
            [
                ("C", "a", "awe", "x", "2.0"),
                ("C", "a", "awe", "x", " 2 "),
                ("C", "b", "awe", "x", "2"),
                ("C", "c", "awe", "x", "1"),
                ("C", "c", "awe", "x", "2"),
            ],
        )
    )
    assert (
        list(frame.repetition) == [2, 2, 2, 1, 2] and list(report.notes.values())[-1] == 2
    )  # b lacks a row, c says two things


# the protocol


def test_protocol_is_checked():
    assert Protocol.preset("minimal") == Protocol() and (
        DEEP.percentile,
        DEEP.min_tokens,
        DEEP.min_count,
        DEEP.rest_from,
        DEEP.seed,
    ) == (95, 5, 5, 41, 2021)
    assert (
        Protocol(rows=None).rows == 0
        and Protocol.from_dict(json.loads(json.dumps(DEEP.to_dict()))) == DEEP
        and Protocol(train=0.9, val=0, test=0.1).val == 0
    )
    for bad in (
        dict(train=0.9),
        dict(train=0, val=0.5, test=0.5),
        dict(train=0.9, val=0.1, test=0),
        dict(percentile=0),
        dict(percentile=101),
        dict(min_tokens=-1),
        dict(rest_from=0),
        dict(rest_from=-2),
        dict(rows=-1),
        dict(seed=-1),
        dict(seed="2021"),
        dict(min_count=1.5),
    ):
        with pytest.raises(ConfigError):
            Protocol(**bad)
    with pytest.raises(ConfigError, match="Did you mean"):
        Protocol.preset("deeep")


# the split


def test_split_is_that_of_the_paintings_page():
    paintings = {f"p{i:03d}": 5 for i in range(300)}
    ours = split_rows(frame_of(paintings), MINIMAL)
    known = split_paintings([Painting("Realism", n, ("awe",), ("x",), ("X",)) for n in paintings])
    assert {k: {p.name for p in v} for k, v in known.items()} == {k: set(ours.painting[ours.split == k]) for k in known}
    assert (ours.groupby("painting").split.nunique() == 1).all() and list(ours.painting) == list(
        frame_of(paintings).painting
    )
    assert (
        split_rows(frame_of(paintings).sample(frac=1, random_state=1), MINIMAL).set_index("painting").split.to_dict()
        == ours.set_index("painting").split.to_dict()
    )


def test_rest_starts_at_its_threshold_and_comes_last():
    paintings = {"often": 41, **{f"p{i:03d}": 5 for i in range(60)}, "nearly": 40}
    frame = frame_of(paintings)
    ours, plain = split_rows(frame, DEEP), split_rows(frame, MINIMAL)
    assert (
        set(ours.painting[ours.split == "rest"]) == {"often"}
        and list(ours.painting[-41:]) == ["often"] * 41
        and list(ours.index) == list(range(len(frame)))
    )
    assert (
        "rest" not in set(plain.split) and list(plain.painting) == list(frame.painting) and plain.painting[0] == "often"
    )
    assert ours[:-41].drop(columns="split").equals(frame[41:].reset_index(drop=True))
    alone = split_rows(
        frame[frame.painting != "often"].reset_index(drop=True), DEEP
    )  # rest paintings do not take part in the shuffle
    assert list(alone.split) == list(ours.split[:-41])


@settings(max_examples=25, deadline=None)
@given(st.integers(7, 400), st.integers(0, 2**32 - 1))
def test_split_sizes(n, seed):
    parts = Counter(split_rows(frame_of({f"p{i}": 1 for i in range(n)}), Protocol(seed=seed)).split)
    assert (
        parts["test"] == round(0.1 * n)
        and parts["test"] + parts["val"] == int(np.ceil((0.05 + 0.1) * n))
        and parts.total() == n
    )


def test_too_few_paintings_and_no_val():
    with pytest.raises(DataError, match="3 paintings are too few"):
        split_rows(frame_of({"a": 1, "b": 1, "c": 1}), MINIMAL)
    assert Counter(
        split_rows(frame_of({f"p{i}": 1 for i in range(20)}), Protocol(train=0.9, val=0, test=0.1)).split
    ) == {"train": 18, "test": 2}


def test_style_and_stem_are_glued():
    "As in the original: 'ab' + 'c' is 'a' + 'bc', so two such paintings share a split."
    frame = pd.concat(
        [
            frame_of({f"p{i}": 1 for i in range(30)}),
            frame_of({"bc": 1}).assign(art_style="a"),
            frame_of({"c": 1}).assign(art_style="ab"),
        ],
        ignore_index=True,
    )
    for seed in range(8):
        assert len(set(split_rows(frame, Protocol(seed=seed)).split[-2:])) == 1


def test_cap_keeps_the_first_rows_of_the_whole():
    frame = frame_of({"often": 41, **{f"p{i:03d}": 5 for i in range(60)}})
    whole, some = split_rows(frame, DEEP), split_rows(frame, DEEP.replace(rows=303))
    assert some.equals(whole[:303]) and set(some.split[-3:]) == {"rest"}  # the split is made before, rest rows count
    made = preprocess(frame, DEEP.replace(rows=303))
    assert (
        made.report.dropped["beyond the wanted number of rows"] == len(frame) - 303
        and made.report.kept == len(made.frame) == 303
    )


# lengths


def lengths_frame(*train, **other):
    "A frame that is split already: numbers of tokens of the rows of each split."
    rows = [("train", n) for n in train] + [(s, n) for s, ns in other.items() for n in ns]
    return pd.DataFrame(
        [("R", f"p{i}", "awe", "X", 1, " ".join(["w"] * n), s) for i, (s, n) in enumerate(rows)],
        columns=[*RELEASE_COLUMNS, "utterance_spelled", "split"],
    )


def test_length_rule_on_either_side():
    made = preprocess(
        lengths_frame(1, *range(5, 24), test=[4, 5, 22, 23], val=[0, 30], rest=[22, 24]), DEEP.replace(min_count=0)
    )
    lengths = [1, *range(5, 24)]
    assert (
        made.threshold == np.percentile(lengths, 95) == 22.05 and made.max_len == 22
    )  # before the short row went: after, it would be 22.1
    assert np.percentile(lengths[1:], 95) == pytest.approx(22.1)
    kept = {s: list(made.frame.tokens_len[made.frame.split == s]) for s in SPLITS}
    assert kept == {"train": list(range(5, 23)), "test": [5, 22], "val": [], "rest": [22]}
    assert dict(made.report.dropped) == {
        "fewer than 5 tokens, train": 1,
        "fewer than 5 tokens, test": 1,
        "fewer than 5 tokens, val": 1,
        "more than 22.05 tokens, train": 1,
        "more than 22.05 tokens, test": 1,
        "more than 22.05 tokens, val": 1,
        "more than 22.05 tokens, rest": 1,
    }


def test_minimal_keeps_empty_texts_but_nothing_longer_than_train():
    made = preprocess(lengths_frame(0, 1, 7, test=[0, 7, 8]), MINIMAL)
    assert (
        list(made.frame.tokens_len) == [0, 1, 7, 0, 7]
        and made.threshold == 7
        and made.report.dropped == {"more than 7 tokens, test": 1}
    )


def test_threshold_comes_from_train_alone():
    a, b = (preprocess(lengths_frame(*range(5, 25), test=t), DEEP) for t in ([5] * 50, [90] * 50))
    assert a.threshold == b.threshold and len(a.frame) == len(b.frame) + 50
    with pytest.raises(DataError, match="none of 2 rows is in train"):
        preprocess(lengths_frame(test=[5, 6]), DEEP)
    with pytest.raises(DataError, match="no column utterance_spelled.*spell_utterances"):
        preprocess(frame_of({"a": 1}).drop(columns="utterance_spelled"), DEEP)


def test_tokens():
    assert (
        tokens_of("") == []
        and tokens_of("the boat 's sail") == ["the", "boat", "'s", "sail"]
        and list(token_counts(["", "a", "a b c"])) == [0, 1, 3]
    )


# vocabulary


def test_vocabulary_order_threshold_and_splits():
    frame = lengths_frame(2, 2, test=[2]).assign(utterance_spelled=["zebra apple", "apple moon", "sun sun"])
    assert preprocess(frame, MINIMAL).vocabulary.words == [
        *Vocabulary.specials,
        "zebra",
        "apple",
        "moon",
    ]  # first seen first; test words have no place
    assert preprocess(frame, Protocol(min_count=2)).vocabulary.words[4:] == ["apple"]
    assert preprocess(frame[::-1].reset_index(drop=True), MINIMAL).vocabulary.words[4:] == ["apple", "moon", "zebra"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("a b c d e unknown".split()), max_size=12), st.integers(1, 10))
def test_encoding(tokens, max_len):
    words = Vocabulary([*Vocabulary.specials, *"abcde"])
    ids = words.encode(tokens, max_len)
    assert (
        len(ids) == max_len + 2
        and ids[0] == 1
        and ids.index(2) == 1 + min(len(tokens), max_len)
        and set(ids[ids.index(2) + 1 :]) <= {0}
    )
    assert words.decode(ids).split() == [t if t in words else "<unk>" for t in tokens[:max_len]]


def test_vocabulary_files(tmp_path):
    words = Vocabulary([*Vocabulary.specials, "caf\u00e9", "\u2019"])
    words.save(tmp_path / "v.json")
    assert (
        Vocabulary.load(tmp_path / "v.json").words
        == words.words
        == json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))
        and len(words) == 6
    )
    with pytest.raises(DataError, match="id 6 is not in a vocabulary of 6"):
        words.decode([1, 6])
    for bad in (
        ["<pad>", "a"],
        [*Vocabulary.specials, "a", "a"],
        [*Vocabulary.specials, 3],
        [*Vocabulary.specials, []],
        {"a": 1},
        5,
        None,
    ):
        (tmp_path / "bad.json").write_text(json.dumps(bad), encoding="utf-8")
        with pytest.raises(DataError, match="expected <pad>, <sos>, <eos>, <unk> first"):
            Vocabulary.load(tmp_path / "bad.json")
    for content in (b"\x80\x02}q\x00.", b"[1"):
        (tmp_path / "v.pkl").write_bytes(content)
        with pytest.raises(DataError, match="a vocabulary.pkl of the original tools is read by"):
            Vocabulary.load(tmp_path / "v.pkl")
    with pytest.raises(DataError, match="cannot read"):
        Vocabulary.load(tmp_path / "none.json")


# files


def test_round_trip_with_hard_texts(tmp_path):
    frame = frame_of(
        {f"p{i}": 5 for i in range(40)},
        ("it 's a \" quoted ' thing", "a , b ( c )", "caf\u00e9 \u2019 t nan", "don \\ t know", ""),
    ).assign(version="new")
    frame.loc[0, "utterance"] = 'carriage\r\nreturn, "quotes"\rand\nlines'
    made = preprocess(frame, Protocol(min_count=2))
    path = write_preprocessed(made, tmp_path / "out", {"automatic_spell_check": True})
    pd.testing.assert_frame_equal(read_preprocessed(path), made.frame)
    whole = read_preprocessed(path, lists=True)
    assert list(whole) == [*RELEASE_COLUMNS, "version", *MADE] and list(whole.tokens) == [
        tokens_of(t) for t in made.frame.utterance_spelled
    ]
    assert list(whole.tokens_encoded) == [
        made.vocabulary.encode(tokens_of(t), made.max_len) for t in made.frame.utterance_spelled
    ]
    config = json.loads((tmp_path / "out" / "config.json.txt").read_text(encoding="utf-8"))
    assert config == dict(
        random_seed=2021,
        split_loads=[0.85, 0.05, 0.1],
        too_long_utter_prc=100,
        too_short_len=0,
        min_word_freq=2,
        too_high_repetition=-1,
        n_train_examples=None,
        preprocess_for_deep_nets=False,
        automatic_spell_check=True,
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "artemis_preprocessed.csv",
        "config.json.txt",
        "vocabulary.json",
    ]


def test_pieces_make_the_same_file(tmp_path):
    made = preprocess(frame_of({f"p{i}": 5 for i in range(40)}), MINIMAL)
    assert [len(c) for c in made.chunks(77)] == [77, 77, 46] and pd.concat(made.chunks(77)).equals(
        pd.concat(made.chunks())
    )
    path = write_preprocessed(made, tmp_path)
    assert path.read_text(encoding="utf-8").count("\n") == 201 and len(pd.read_csv(path)) == 200  # one header


def test_writing_fails_whole(tmp_path):
    made = preprocess(frame_of({f"p{i}": 5 for i in range(40)}), MINIMAL)
    path = write_preprocessed(made, tmp_path)
    before = path.read_bytes()
    made.frame = made.frame.drop(columns="tokens_len")
    with pytest.raises(KeyError):
        write_preprocessed(made, tmp_path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 3
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot write"):
        write_preprocessed(made, tmp_path / "file")


@pytest.mark.parametrize(
    "column,value,part",
    [
        (
            "split",
            "dev",
            "row 3 after the header: split is 'dev' .1 such rows.. Expected one of train, val, test, rest",
        ),
        ("emotion", "joy", "emotion is 'joy'"),
        ("emotion_label", "8", "emotion_label is '8'"),
        ("emotion_label", "9", "emotion_label"),
        ("tokens_len", "", "tokens_len is ''"),
        ("repetition", "5.5", "repetition is '5.5'"),
        ("tokens", "a b", "a value of tokens is not a list"),
        ("tokens_encoded", "[1,", "a value of tokens_encoded is not a list"),
    ],
)
def test_preprocessed_files_are_checked(tmp_path, column, value, part):
    path = write_preprocessed(preprocess(frame_of({f"p{i}": 5 for i in range(40)}), MINIMAL), tmp_path)
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.loc[2, column] = value
    frame.to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(DataError, match=part):
        read_preprocessed(tmp_path / "bad.csv", lists=True)
    if column.startswith("tokens") and column != "tokens_len":
        assert len(read_preprocessed(tmp_path / "bad.csv")) == 200  # nobody asked for the lists
    frame.drop(columns=column).to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(DataError, match=f"has no column {column}"):
        read_preprocessed(tmp_path / "less.csv", lists=True)


def test_what_is_no_preprocessed_file(tmp_path):
    with pytest.raises(DataError, match="It is a raw release: preprocess it first"):
        read_preprocessed(write(tmp_path / "raw.csv", [GOOD]))
    with pytest.raises(DataError, match="Expected preprocessed rows"):
        read_preprocessed(write(tmp_path / "x.csv", [("a", "b")], ("word", "valence")))
    for content in (b"", b"a,b\n1,2,3\n4,5,6,7\n", b'a,b\n"x,1\n'):
        (tmp_path / "bad.csv").write_bytes(content)
        with pytest.raises(DataError, match="Expected an artemis_preprocessed.csv|Expected preprocessed rows"):
            read_preprocessed(tmp_path / "bad.csv")
    (tmp_path / "latin.csv").write_bytes("a,b\n1,2\ncaf\u00e9,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="line 3: found bytes"):
        read_preprocessed(tmp_path / "latin.csv")
    with pytest.raises(DataError, match="cannot read .*No such file"):
        read_preprocessed(tmp_path / "none.csv")


def test_names_of_the_files_lead_to_options():
    assert (
        "--artemis" in SOURCE_FILES["v1"] and "--contrastive" in SOURCE_FILES["v2"] and set(ANCHORS) <= set(RAW["v2"])
    )

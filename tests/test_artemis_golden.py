"""ArtEmis v1's own preprocessing, recorded on an invented release, against ours.

SEVLM_ARTEMIS_GOLDEN names another recording of the same form, SEVLM_ARTEMIS_WORDS another list of known words. A
recording made with other parameters
than ArtEmis's two runs says so in `<way>.config.json`, under the names of `Protocol` or of the original tool's
arguments.
"""

import csv
import difflib
import gzip
import io
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sevlm.artemis.protocol import (
    Protocol,
    Vocabulary,
    preprocess,
    read_preprocessed,
    read_rows,
    split_rows,
    token_counts,
    write_preprocessed,
)
from sevlm.artemis.utterances import Speller, spell_utterances
from sevlm.config import EMOTIONS

FOLDER = Path(os.environ.get("SEVLM_ARTEMIS_GOLDEN") or Path(__file__).parent / "golden" / "artemis_v1")
WORDS = Path(os.environ.get("SEVLM_ARTEMIS_WORDS") or FOLDER / "known_words.txt")
WAYS = {"minimal": "minimal", "deep_nets": "deep", "deep_nets_no_spelling": "deep"}
NAMES = {
    "random_seed": "seed",
    "too_long_utter_prc": "percentile",
    "too_short_len": "min_tokens",
    "min_word_freq": "min_count",
    "too_high_repetition": "rest_from",
    "n_train_examples": "rows",
}
AGREEMENT = 0.995  # of the texts; two hand-made tables of the original are not public knowledge
if not FOLDER.is_dir():
    pytest.skip(f"no recording of ArtEmis's preprocessing in {FOLDER}", allow_module_level=True)
each_way = pytest.mark.parametrize("way", WAYS)


def text_of(name):
    "A file of the recording, gzipped or not."
    if (FOLDER / name).exists():
        return (FOLDER / name).read_bytes()
    return gzip.decompress((FOLDER / f"{name}.gz").read_bytes())


def table(name):
    return pd.DataFrame(csv.DictReader(io.StringIO(text_of(f"{name}.csv").decode(), newline="")))


def protocol_of(way):
    given = json.loads(text_of(f"{way}.config.json")) if (FOLDER / f"{way}.config.json").exists() else {}
    if loads := given.get("split_loads"):
        given.update(zip(("train", "val", "test"), loads))
    known = Protocol.preset("minimal").to_dict()
    return Protocol.preset(WAYS[way], **{NAMES.get(k, k): v for k, v in given.items() if NAMES.get(k, k) in known})


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "artemis_dataset_release_v0.csv"
    path.write_bytes(text_of(path.name))
    rows, report = read_rows(path)
    assert report.kept == report.read == len(rows), str(report)
    return rows


@pytest.fixture(scope="module")
def recordings():
    return {way: table(way) for way in WAYS}


@pytest.fixture(scope="module")
def recorded_texts(recordings):
    """way -> utterance -> its text as recorded; what a run dropped has the text of the minimal run (spelling changes
    no number of tokens)."""
    texts = {way: dict(zip(r.utterance, r.utterance_spelled)) for way, r in recordings.items()}
    return {way: texts["minimal"] | t for way, t in texts.items()}


def with_recorded_texts(raw, texts, recording):
    "The raw rows with recorded texts; a row whose text no run has recorded must have been too long for all of them."
    longest = int(recording.tokens_len.astype(int).max())
    return raw.assign(utterance_spelled=[texts.get(u, " ".join(["x"] * (longest + 1))) for u in raw.utterance])


def test_the_recording_holds_what_it_should(raw, recordings):
    for way, r in recordings.items():
        assert list(r) == [*raw, "split", "tokens_len", "utterance_spelled", "emotion_label"] and len(r), way
        assert [len(t.split(" ")) if t else 0 for t in r.utterance_spelled] == [int(n) for n in r.tokens_len], way


@each_way
def test_splits_rows_order_labels_lengths_and_vocabulary_are_exact(way, raw, recordings, recorded_texts):
    r = recordings[way]
    made = preprocess(with_recorded_texts(raw, recorded_texts[way], r), protocol_of(way))
    assert list(made.frame) == list(r) and len(made.frame) == len(r)
    for column in r:
        assert list(made.frame[column].astype(str)) == list(r[column]), f"{way}: {column}"
    assert made.vocabulary.words == json.loads(text_of(f"{way}.vocabulary.json"))
    assert made.report.read == len(raw) and made.report.kept == len(r)


@each_way
def test_the_split_needs_no_text(way, raw, recordings):
    ours, r = split_rows(raw, protocol_of(way)), recordings[way]
    assert len(ours) == len(raw)
    place = dict(zip(ours.art_style + "/" + ours.painting, ours.split))
    theirs = dict(zip(r.art_style + "/" + r.painting, r.split))
    assert theirs and {k: place[k] for k in theirs} == theirs


def test_another_seed_or_threshold_would_be_noticed(raw, recordings, recorded_texts):
    "The exact comparison can fail: each parameter, changed, gives another result."
    r, protocol = recordings["deep_nets"], protocol_of("deep_nets")
    rows = with_recorded_texts(raw, recorded_texts["deep_nets"], r)
    base = preprocess(rows, protocol)
    for change in (
        dict(seed=protocol.seed + 1),
        dict(percentile=protocol.percentile - 30),
        dict(min_tokens=protocol.min_tokens + 6),
        dict(rest_from=-1),
        dict(min_count=protocol.min_count + 200),
    ):
        made = preprocess(rows, protocol.replace(**change))
        same = list(made.frame.split) == list(base.frame.split) and list(made.frame.utterance) == list(
            base.frame.utterance
        )
        assert not same or made.vocabulary.words != base.vocabulary.words, change


@each_way
def test_written_files_are_read_back(way, raw, recordings, recorded_texts, tmp_path):
    r = recordings[way]
    made = preprocess(with_recorded_texts(raw, recorded_texts[way], r), protocol_of(way))
    again = read_preprocessed(write_preprocessed(made, tmp_path), lists=True)
    assert [" ".join(t) for t in again.tokens] == list(r.utterance_spelled) and {
        len(ids) for ids in again.tokens_encoded
    } == {made.max_len + 2}
    words = Vocabulary.load(tmp_path / "vocabulary.json")
    assert words.words == json.loads(text_of(f"{way}.vocabulary.json"))
    for ids, text in zip(again.tokens_encoded, r.utterance_spelled):
        assert words.decode(ids) == " ".join(t if t in words else "<unk>" for t in text.split(" ") if t)


def test_a_recording_is_read_as_a_preprocessed_file(raw, recordings, tmp_path):
    for way, r in recordings.items():
        (tmp_path / "a.csv").write_bytes(text_of(f"{way}.csv"))
        frame = read_preprocessed(tmp_path / "a.csv")  # without the two token columns, which nobody asks for
        assert list(frame.utterance_spelled) == list(r.utterance_spelled) and list(frame.emotion) == [
            EMOTIONS[i] for i in frame.emotion_label
        ]


def differences(theirs, ours):
    "What was made of what, token by token, for texts that differ."
    a, b = theirs.split(" "), ours.split(" ")
    return [
        (" ".join(a[i:j]), " ".join(b[k:m]))
        for tag, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
        if tag != "equal"
    ]


def unspelled_part(way, recordings):
    """Without the list of known words: the texts that the spelling step left as they were must agree; the rest is
    skipped and said to be."""
    before = dict(
        zip(recordings["deep_nets_no_spelling"].utterance, recordings["deep_nets_no_spelling"].utterance_spelled)
    )
    r = recordings[way]
    pairs = [(u, t) for u, t in zip(r.utterance, r.utterance_spelled) if before.get(u) == t]
    equal = np.mean([a == t for a, (_, t) in zip(spell_utterances([u for u, _ in pairs]), pairs)])
    assert pairs and equal >= AGREEMENT, f"{way}: {equal:.2%} of {len(pairs)} texts agree that need no spelling"
    pytest.skip(
        f"{equal:.2%} of {len(pairs)} texts that need no spelling agree; {len(r) - len(pairs)} others need the list of "
        f"known words: {WORDS} is not there, set SEVLM_ARTEMIS_WORDS"
    )


@each_way
def test_from_the_raw_text(way, raw, recordings, recorded_texts, capsys):
    "End to end: how many texts agree, what the others differ in, and which rows are kept for it."
    speller = None
    if "no_spelling" not in way:
        if not WORDS.exists():
            return unspelled_part(way, recordings)
        speller = Speller(set(WORDS.read_text(encoding="utf-8").split("\n")) - {""})
    r, protocol = recordings[way], protocol_of(way)
    rows = raw.assign(utterance_spelled=spell_utterances(raw.utterance.tolist(), speller=speller))
    ours = dict(zip(rows.utterance, rows.utterance_spelled))
    pairs = [(theirs, ours[u]) for u, theirs in zip(r.utterance, r.utterance_spelled)]
    equal = np.mean([a == b for a, b in pairs])
    causes = Counter(d for a, b in pairs if a != b for d in differences(a, b))
    made = preprocess(rows, protocol)
    mine, their = (
        Counter(map(tuple, f[["art_style", "painting", "emotion", "utterance", "split"]].to_numpy()))
        for f in (made.frame, r)
    )
    with capsys.disabled():
        print(
            f"\n{way}: {equal:.2%} of {len(pairs)} texts equal; rows kept by one only: {(mine - their).total()} + "
            f"{(their - mine).total()}; vocabulary "
            f"{'equal' if made.vocabulary.words == json.loads(text_of(f'{way}.vocabulary.json')) else 'differs'}"
        )
        for (a, b), n in causes.most_common(12):
            print(f"{n:5d}  {a!r} recorded, {b!r} ours")
    assert equal >= AGREEMENT, (
        f"{way}: {equal:.2%} of the texts agree, expected {AGREEMENT:.0%}; first causes {causes.most_common(5)}"
    )
    same_length = sum(a == b for a, b in zip(token_counts([a for a, _ in pairs]), token_counts([b for _, b in pairs])))
    assert same_length / len(pairs) >= AGREEMENT and (mine & their).total() >= AGREEMENT * len(r)

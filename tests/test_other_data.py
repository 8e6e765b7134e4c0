"""Data sets of pictures, emotions and texts that are not ArtEmis: read, checked, unpacked, trained, explained."""

import io
import json
import os
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sevlm.artemis.folder import open_data, paintings_of, provenance
from sevlm.artemis.protocol import Vocabulary
from sevlm.cli import main
from sevlm.config import EMOTIONS, POLARITY, SEVLMConfig, TrainConfig, emotions_problem
from sevlm.data.batches import PairBatches, pair_of_one_emotion
from sevlm.data.imagefolder import is_columnar, make_imagefolder
from sevlm.data.paintings import Painting, emotions_of, over_emotions
from sevlm.data.tables import MOST_EMOTIONS, ImageTable, complete_parts, find_picture, find_tables
from sevlm.errors import ConfigError, DataError, SevlmError
from sevlm.lexicon.lexicon import Lexicon
from sevlm.lexicon.token_table import vad_table
from sevlm.metrics.emotions import (
    calibration_measures,
    confusion,
    emotion_accuracy,
    emotion_measures,
    macro_f1,
    recalls,
)
from sevlm.models.contrast import contrastive_loss, contrastive_scores
from sevlm.models.explainer import load
from sevlm.models.generation import emotion_probabilities
from sevlm.models.sevlm import SEVLM
from sevlm.models.tokenizer import encode_all, load_tokenizer, prompt_ids
from sevlm.plot import EMOTION_COLOURS, bars, colours_of
from sevlm.studies.evaluate import alignment_measures, evaluate, score
from sevlm.studies.image_emotion import ImageEmotionConfig, vote_shares
from sevlm.studies.text_emotion import TextEmotion, TextEmotionConfig, accuracies, load_text_emotion, save_text_emotion
from sevlm.training.inputs import emotions_for
from sevlm.training.run import start_run
from sevlm.utils import asset

MOODS = ("calm", "gloomy", "joyful", "lonely", "tense")
COLOURS = dict(zip(MOODS, ("steelblue", "dimgray", "gold", "lightgray", "firebrick")))
LEXICON = "calm\t0.5\t-0.5\t0.1\ntense\t-0.5\t0.6\t-0.1\nsky\t0.2\t-0.2\t0\n"


def row(k, mood, text=None, **more):
    return dict(file_name=f"{k:02d}.png", emotion=mood, text=text or f"The sky, it is {mood}!", **more)


def picture(path, colour="grey"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), colour).save(path)


def fill(folder, rows, table="metadata.jsonl"):
    "Pictures, table and lexicon."
    for r in rows:
        picture(folder / r["file_name"], COLOURS.get(r.get("emotion"), "grey"))
    write(folder / table, rows)
    (folder / "tiny-lexicon.txt").write_text(LEXICON, encoding="utf-8")
    return folder


def write(table, rows):
    if table.suffix == ".jsonl":
        text = "".join(json.dumps(r) + "\n" for r in rows)
    else:
        text = "\n".join([",".join(rows[0]), *(",".join(f'"{v}"' for v in r.values()) for r in rows)]) + "\n"
    table.write_text(text, encoding="utf-8")


def two_each(n=25):
    "Two annotators a picture, of different moods."
    return [row(k, MOODS[(k + a) % 5]) for k in range(n) for a in (0, 1)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("data") / "photos", two_each())


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = TrainConfig.preset("tiny", epochs=1)
    return start_run(photos, out, SEVLMConfig.preset("tiny"), settings, progress=False), out


# ---- reading


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv"])
def test_one_table(tmp_path, table):
    data = open_data(fill(tmp_path, two_each(), table))
    parts, (read, opened) = data.parts()
    assert isinstance(data, ImageTable) and data.emotions == MOODS and data.polarity == {}
    assert read.kept == 50 and opened.kept == 25
    assert {k: len(p) for k, p in parts.items()} == dict(train=21, val=2, test=2)
    p = next(p for part in parts.values() for p in part if p.name == "07.png")
    assert p.key == "./07.png" and p.emotions == ("joyful", "lonely") and p.counts == (0, 0, 1, 1, 0)
    assert p.explanations[0] == "the sky it is joyful" and p.utterances[0] == "The sky, it is joyful!"
    assert data.lexicon.name == "tiny-lexicon.txt" and provenance(tmp_path)["synthetic"] is False
    assert len(paintings_of(data, "all")[0]) == 25


@pytest.mark.parametrize(
    "names",
    [
        dict(file_name="image", emotion="label", text="caption"),
        dict(file_name="Path", emotion="MOOD", text="Explanation"),
        dict(file_name="image_file", emotion="feeling", text="utterance"),
    ],
)
def test_columns_by_other_names(tmp_path, names):
    rows = [{names[k]: v for k, v in r.items()} for r in two_each()]
    fill(tmp_path, two_each())
    write(tmp_path / "metadata.jsonl", rows)
    assert ImageTable(tmp_path).paintings()[1].kept == 50


def test_splits_from_folders_columns_and_names(tmp_path):
    "Folders with a table each, a column, or the first folder of a name."
    rows = two_each()
    for part, some in (("Train", rows[:30]), ("validation", rows[30:40]), ("test", rows[40:])):
        fill(tmp_path / "folders" / part, some)
    assert [t.parent.name for t in find_tables(tmp_path / "folders")] == ["Train", "test", "validation"]
    names = ["dev"] * 10 + ["TEST"] * 10 + ["train"] * 30
    fill(tmp_path / "column", [{**r, "split": name} for r, name in zip(rows, names)])
    sizes = lambda folder: {k: len(p) for k, p in open_data(tmp_path / folder).parts()[0].items()}
    assert sizes("folders") == dict(train=15, val=5, test=5) and sizes("column") == dict(train=15, val=5, test=5)


def test_what_a_table_leaves_open_is_drawn(photos):
    (named, _), some = ImageTable(photos).paintings(), dict(train=[], val=[], test=[])
    parts = complete_parts({"test": named[""][:5], "": named[""][5:]}, seed=1)
    assert [p.key for p in parts["test"]] == [p.key for p in named[""][:5]]
    assert len(parts["val"]) == 1 and len(parts["train"]) == 19
    keys = [p.key for part in parts.values() for p in part]
    assert len(keys) == len(set(keys)) == 25
    assert complete_parts({**some, "": named[""]}, 3) == complete_parts({**some, "": named[""]}, 3)
    many = [Painting("s", str(i), ("awe",), ("x",), ()) for i in range(1000)]
    assert {k: len(v) for k, v in complete_parts({"train": many}, 0).items()} == dict(train=850, val=50, test=100)


def test_further_test_sets_are_artemis_only(tmp_path):
    fill(tmp_path, two_each())
    (tmp_path / "artEmisX_test_x.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="no part 'test_x'. Valid: train, val, test, all"):
        paintings_of(open_data(tmp_path), "test_x")


def test_bad_rows_are_counted(tmp_path):
    bad = {
        "name that could leave the folder": row(0, "calm") | {"file_name": "../photos/00.png"},
        "no such picture": row(0, "calm") | {"file_name": "gone.png"},
        "no picture": row(0, "calm") | {"file_name": " "},
        "no emotion": row(0, None),
        "no text": row(0, "calm", "..."),
        "emotion is no text": row(0, ["calm", "tense"]),
        "the picture is in another split already": row(0, "calm", split="test"),
        "split that is none of train, val, test": row(1, "calm", split="holdout"),
    }
    fill(tmp_path, two_each())
    write(tmp_path / "metadata.jsonl", [*two_each(), *bad.values()])
    parts, report = ImageTable(tmp_path).paintings()
    assert report.read == 58 and report.kept == 50 == sum(len(p.emotions) for p in parts[""])
    assert report.dropped == dict.fromkeys(bad, 1)
    assert main(["inspect", str(tmp_path)]) == 1  # what is dropped in train and prepare is in their reports
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text(
        "file_name,emotion,text\n00.png,calm,so\n00.png,calm\n01.png,tense,so\n", encoding="utf-8"
    )
    assert ImageTable(tmp_path).report.dropped == {"wrong number of cells": 1}


@pytest.mark.parametrize(
    "name,found",
    [
        ("a/x.jpg", "a/x.jpg"),
        ("./a/x.jpg", "a/x.jpg"),
        ("YOUR/PATH/TO/a/x.jpg", "a/x.jpg"),
        ("/somewhere/a/x.jpg", "a/x.jpg"),
        ("a/x.png", "a/x.jpg"),
        ("b.jpg", "images/b.jpg"),
        ("../out.jpg", None),
        ("a/../../out.jpg", None),
        ("/etc/passwd", None),
        ("a/x\0.jpg", None),
        ("", None),
    ],
)
def test_names_of_pictures(tmp_path, name, found):
    for file in ("data/a/x.jpg", "data/images/b.jpg", "out.jpg"):
        picture(tmp_path / file)
    assert find_picture(tmp_path / "data", name, {}) == (found and tmp_path / "data" / found)


@pytest.mark.parametrize("names", [("a/00.png", "00.png"), ("old/a/00.png", "old/00.png"), ("00.jpg", "00.png")])
def test_a_picture_belongs_to_the_nearest_name(tmp_path, names):
    "Whatever the order of the rows; the other name is dropped, and a name that is not the file's own is told."
    fill(tmp_path, two_each())
    wrong, right = (row(0, "calm", f"this is {name}") | {"file_name": name} for name in names)
    for rows in ([wrong, right], [right, wrong]):
        write(tmp_path / "metadata.jsonl", [*rows, *two_each()[2:]])
        parts, report = ImageTable(tmp_path).paintings()
        assert parts[""][0].utterances == (right["text"],)
        assert report.dropped == {"the picture belongs to another name already": 1}
    write(tmp_path / "metadata.jsonl", [wrong, *two_each()[2:]])
    report = ImageTable(tmp_path).paintings()[1]
    assert report.notes["pictures under another spelling or folder"] == f"1; for instance '00.png' for {names[0]}"


def test_pictures_of_one_name_in_two_folders(tmp_path):
    "As Affection has them: a column names the folder."
    rows = [dict(dataset=d, image_name="1.png", emotion=m, text=d) for d, m in (("a", "calm"), ("b", "tense"))]
    for r in rows:
        picture(tmp_path / r["dataset"] / r["image_name"])
    write(tmp_path / "metadata.csv", rows)
    parts, report = ImageTable(tmp_path).paintings()
    assert [(p.key, p.utterances) for p in parts[""]] == [("a/1.png", ("a",)), ("b/1.png", ("b",))]
    assert "pictures under another spelling or folder" not in report.notes


def test_emotions_are_counted_over_the_rows_that_are_kept(tmp_path):
    "So that one emotion that is left over, all others being dropped, is refused as a table with one is."
    fill(tmp_path, [row(k, mood) for k, mood in enumerate(["calm"] * 10 + ["Calm", "tense", "TENSE", "gloomy"])])
    (tmp_path / "11.png").unlink()
    notes = ImageTable(tmp_path).paintings()[1].notes
    assert notes["emotions"] == "calm (11), gloomy (1), tense (1)"
    assert notes["emotions read under another spelling"] == "'Calm' (1), 'TENSE' (1)"
    assert notes["emotions with one annotation"] == "gloomy, tense"
    for k in (12, 13):
        (tmp_path / f"{k}.png").unlink()
    with pytest.raises(DataError, match="at least two.*(?s:.*)3  no such picture"):
        ImageTable(tmp_path).paintings()
    (tmp_path / "emotions.csv").write_text("emotion\ncalm\ntense\ngloomy\n", encoding="utf-8")
    assert ImageTable(tmp_path).paintings()[1].kept == 11


def test_parts_that_a_table_does_not_name_are_told(tmp_path):
    fill(tmp_path, [row(k, MOODS[k % 5], split="test" if k < 5 else "train" if k < 20 else "") for k in range(25)])
    parts, (report, _) = ImageTable(tmp_path).parts()
    assert {part: len(some) for part, some in parts.items()} == dict(train=19, val=1, test=5)
    assert report.notes["the table has no usable picture for val"] == "1 of those for train are drawn"
    assert report.notes["pictures without a split, beside others with one"] == "5, taken for train"
    fill(tmp_path, two_each())
    assert not any("train" in str(note) for note in ImageTable(tmp_path).parts(images=False)[1][0].notes.values())


@pytest.mark.parametrize(
    "table,text,words",
    [
        ("metadata.csv", "file_name,emotion\na.png,calm\n", ["none for text", "Known names"]),
        ("metadata.csv", "file_name,emotion,text\n", ["holds no row"]),
        ("metadata.tsv", "file_name\temotion\ttext\na.png\tcalm\tso, so\n", ["found 'calm'; expected at least two"]),
        ("metadata.csv", "file_name,emotion,text,text\na.png,calm,so,so\n", ["2 columns 'text'"]),
        ("metadata.csv", 'file_name,emotion,text\na.png,"calm,so\n', ["line 2", "quote"]),
        ("metadata.csv", "file_name,emotion,text\na.png,calm,caf\xe9\n".encode("latin-1"), ["not UTF-8"]),
        ("metadata.jsonl", '{"file_name": \n', ["line 1", "not JSON"]),
        ("metadata.jsonl", "[1]\n", ["found a list"]),
        ("metadata.jsonl", "[" * 100_000 + "\n", ["line 1"]),
        ("metadata.csv", "file_name,label,text\na.png,0,so\na.png,1,so\n", ["holds numbers (0, 1)", "names"]),
        ("metadata.csv", "file_name,label,text\na.png,calm,so\n", ["at least two", "'label'"]),
        ("metadata.csv", "file_name,label,text\na.png,calm,so\na.png,sad because of it,so\n", ["'because'"]),
        (
            "metadata.csv",
            "file_name,label,text\n" + "".join(f"a.png,feeling {k}x,so\n" for k in range(MOST_EMOTIONS + 1)),
            ["41 different values", "right column"],
        ),
    ],
)
def test_tables_that_are_refused(tmp_path, table, text, words):
    "Before anything is trained; the message names the file or the column."
    picture(tmp_path / "a.png")
    (tmp_path / table).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as e:
        open_data(tmp_path)
    assert all(word in str(e.value) for word in words), e.value


def test_spellings_of_emotions(tmp_path):
    fill(tmp_path, two_each())
    write(
        tmp_path / "metadata.jsonl",
        [*two_each(), row(0, "CALM"), row(1, " Calm. "), row(2, "joyfull"), row(3, "gloomy")],
    )
    data = ImageTable(tmp_path)
    assert data.emotions == ("calm", "gloomy", "joyful", "joyfull", "lonely", "tense")
    notes = data.paintings()[1].notes
    assert "'CALM' (1)" in notes["emotions read under another spelling"]
    assert notes["emotions with one annotation"] == "joyfull"
    assert "joyful and joyfull" in notes["emotions with names alike, read as different"]
    write(tmp_path / "metadata.jsonl", [row(0, "Awe"), row(1, "SOMETHING_ELSE"), row(2, "fear")])
    data = ImageTable(tmp_path)
    assert data.emotions == EMOTIONS and data.polarity == POLARITY  # all are of the nine: the nine, in their order


def test_a_list_of_emotions_in_the_folder(tmp_path):
    fill(tmp_path, two_each())
    lines = ["emotion,polarity", "tense,negative", "calm,positive", "joyful,positive", "gloomy,negative"]
    (tmp_path / "emotions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = ImageTable(tmp_path)
    assert data.emotions == ("tense", "calm", "joyful", "gloomy") and data.polarity["gloomy"] == "negative"
    assert data.report.dropped == {"emotion that is not in emotions.csv": 10}


CELLS = st.one_of(
    st.text(max_size=12), st.none(), st.integers(), st.floats(), st.lists(st.text(max_size=3)), st.sampled_from(MOODS)
)
NAMES = st.one_of(st.text(max_size=12), st.sampled_from(["a.png", "b.png", "../a.png", "/a.png", "a.png/", "."]))
LINES = st.lists(st.fixed_dictionaries(dict(file_name=NAMES, emotion=CELLS, text=CELLS, split=CELLS)), max_size=6)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.sampled_from(["metadata.csv", "metadata.jsonl"]))
def test_any_bytes_are_read_or_refused(tmp_path, content, name):
    "Whatever bytes a table has: a data set, or an error of the project."
    for old in tmp_path.glob("metadata.*"):
        old.unlink()
    (tmp_path / name).write_bytes(content)
    with suppress(SevlmError):
        open_data(tmp_path).paintings()


def test_any_rows_are_read_or_refused(tmp_path):
    "Whatever stands below two good rows: a data set whose pictures lie in the folder, or an error of the project."
    good = [
        dict(file_name=f, emotion=mood, text="the sky", split="") for f, mood in (("a.png", "calm"), ("b.png", "tense"))
    ]
    for r in good:
        picture(tmp_path / r["file_name"])
    read = []

    @settings(max_examples=100, deadline=None)
    @given(LINES)
    def check(rows):
        write(tmp_path / "metadata.jsonl", [*good, *rows])
        read.append(False)
        try:
            parts, report = open_data(tmp_path).paintings()
        except SevlmError:
            return
        read[-1] = True
        found = [p for some in parts.values() for p in some]
        assert report.read == 2 + len(rows) and report.kept == sum(len(p.emotions) for p in found) >= 2
        assert {p.image for p in found} == {tmp_path / "a.png", tmp_path / "b.png"}
        assert all(sum(p.counts) == len(p.emotions) and all(p.explanations) for p in found)

    check()
    assert sum(read) > len(read) / 5  # so that what is asserted of them is asserted of many


# ---- published forms of other data sets


def artelingo(folder, n=8):
    lines = ["image_file,art_style,painting,emotion,utterance,language,split"]
    for k in range(n):
        picture(folder / "wikiart" / "Baroque" / f"p{k}.jpg")
        for language in ("english", "arabic"):
            split = ("train", "val", "test")[max(0, k - n + 3)]
            for emotion in ("awe", "something else"):
                lines.append(
                    f"YOUR/PATH/TO/WIKIART/Baroque/p{k}.jpg,Baroque,p{k},{emotion},text {k},{language},{split}"
                )
    (folder / "artelingo_release.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_artelingo(tmp_path, capsys):
    "Several languages are not mixed; one is chosen and the others are counted."
    folder = artelingo(tmp_path / "artelingo")
    with pytest.raises(DataError, match=r"english \(16 rows\), arabic \(16 rows\).*--language english"):
        open_data(folder)
    with pytest.raises(DataError, match="'klingon'"):
        ImageTable(folder, "klingon")
    assert main(["prepare", "--table", str(folder), "--language", "english", "--out", str(tmp_path / "out")]) == 0
    assert "16  another language" in capsys.readouterr().out
    parts, (report, _) = open_data(tmp_path / "out").parts()
    assert report.kept == 16 and {k: len(p) for k, p in parts.items()} == dict(train=6, val=1, test=1)
    assert emotions_of(parts["train"]) == EMOTIONS and parts["train"][0].image.name == "p0.jpg"


def test_affection(tmp_path):
    "A picture is named by its data set and its file; the preprocessed table has the split and comes first."
    lines = ["workerid,utterance,emotion,dataset,image_name,split"]
    for k in range(8):
        picture(tmp_path / "images" / "coco_affective" / f"COCO_{k}.jpg")
        split = ("train", "val", "test")[max(0, k - 5)]
        lines += [f"{w},Text {k}.,{e},coco_affective,COCO_{k}.jpg,{split}" for w, e in enumerate(("awe", "fear"))]
    (tmp_path / "affection_preprocessed_public_version_0.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "affection_raw_public_version_0.csv").write_text(
        "\n".join(x.rpartition(",")[0] for x in lines) + "\n", encoding="utf-8"
    )
    data = open_data(tmp_path)
    parts, (report, _) = data.parts()
    assert data.emotions == EMOTIONS and report.kept == 16 and len(parts["train"]) == 6
    assert parts["test"][0].key == "images/coco_affective/COCO_7.jpg"


# ---- Arrow and Parquet


def png(colour):
    Image.new("RGB", (8, 8), colour).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def columnar(names=("tense", "calm")):
    import pyarrow as pa

    image = [dict(bytes=png(c), path="x.png") for c in ("red", "blue", "red")] + [dict(bytes=b"no", path=None)]
    table = pa.table(dict(image=image, label=[0, 1, 1, 0], text=["so red", "so blue", "calm red", "nothing"]))
    features = dict(label=dict(names=list(names), _type="ClassLabel"))
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def save_arrow(table, folder, new):
    folder.mkdir(parents=True)
    with new(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text("{}", encoding="utf-8")


@pytest.mark.parametrize("form", ["stream", "file", "dict", "parquet", "parquets"])
def test_arrow_and_parquet_are_unpacked(tmp_path, form):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    source, split = tmp_path / "source", ""
    if form in ("stream", "file"):
        save_arrow(columnar(), source, pa.ipc.new_stream if form == "stream" else pa.ipc.new_file)
    elif form == "dict":
        save_arrow(columnar(), source / "validation", pa.ipc.new_stream)
        (source / "dataset_dict.json").write_text('{"splits": ["validation"]}', encoding="utf-8")
        split = "validation"
    else:
        source = source if form == "parquets" else tmp_path / "one.parquet"
        file = source / "data" / "test-00000-of-00001.parquet" if form == "parquets" else source
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(columnar(), file)
        split = "test" if form == "parquets" else ""
    assert is_columnar(source)
    data, report = make_imagefolder(source, tmp_path / "out")
    assert report.read == 4 and report.dropped == {"no picture": 1} and data.emotions == ("tense", "calm")
    rows = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [r["emotion"] for r in rows] == ["tense", "calm", "calm"] and {r.get("split", "") for r in rows} == {split}
    assert rows[0]["file_name"] == rows[2]["file_name"] and len(list((tmp_path / "out" / "images").iterdir())) == 2
    if source.is_dir():
        with pytest.raises(DataError, match="sevlm prepare --table"):
            open_data(source)


def stopping(replace, folder, after):
    "`os.replace` that is interrupted once, after so many files were moved into the folder."
    moved = []

    def call(old, new):
        replace(old, new)
        if Path(new).parent == folder != Path(old).parent:
            moved.append(new)
            if len(moved) == after + 1:
                raise KeyboardInterrupt

    return call


def test_unpacking_fails_whole(tmp_path, monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(columnar(), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[: len(data) // 2])
    (tmp_path / "bent.parquet").write_bytes(data[:40] + bytes(60) + data[100:])
    pq.write_table(columnar(("because", "so")), tmp_path / "names.parquet")
    before = sorted(p.name for p in tmp_path.iterdir())
    for name in ("cut.parquet", "bent.parquet", "names.parquet"):
        with pytest.raises(DataError):
            make_imagefolder(tmp_path / name, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    for stop in range(3):  # an interrupt after so many moves: the pictures, the report, the table
        with monkeypatch.context() as m:
            m.setattr(os, "replace", stopping(os.replace, tmp_path / "out", stop))
            with pytest.raises(KeyboardInterrupt):
                make_imagefolder(tmp_path / "a.parquet", tmp_path / "out")
        assert sorted(p.name for p in tmp_path.iterdir()) == before
    make_imagefolder(tmp_path / "a.parquet", tmp_path / "out")
    with pytest.raises(DataError, match="single file"):
        make_imagefolder(tmp_path / "out" / "metadata.jsonl", tmp_path / "more")
    with pytest.raises(ConfigError, match="not empty"):
        make_imagefolder(tmp_path / "a.parquet", tmp_path / "out")


# ---- emotions through model, scores and plots


@pytest.mark.parametrize("second", [None, "A", "", " b", "b because c", "<pad>", "b\n", "b" * 41])
def test_lists_that_are_none(second):
    names = ("a",) if second is None else ("a", second)
    assert emotions_problem(names)
    with pytest.raises(ConfigError, match="emotions"):
        SEVLMConfig.preset("tiny", emotions=names)


def test_the_setting_through_a_file(tmp_path):
    config = SEVLMConfig.preset("tiny", emotions=list(MOODS))
    config.save(tmp_path / "config.json")
    assert SEVLMConfig.load(tmp_path / "config.json") == config and config.emotions == MOODS
    old = {k: v for k, v in SEVLMConfig.preset("mini").to_dict().items() if k not in ("emotions", "one_emotion")}
    (tmp_path / "old.json").write_text(json.dumps(old), encoding="utf-8")
    assert SEVLMConfig.load(tmp_path / "old.json") == SEVLMConfig.preset("mini") and config.emotions != EMOTIONS


def test_emotions_of_a_run():
    config = SEVLMConfig.preset("tiny")
    assert emotions_for(config, EMOTIONS) == EMOTIONS and emotions_for(config, MOODS) == MOODS
    assert emotions_for(config.replace(emotions=(*MOODS, "bored")), MOODS) == (*MOODS, "bored")
    with pytest.raises(ConfigError, match="calm, tense; the data has calm, gloomy"):
        emotions_for(config.replace(emotions=("calm", "tense")), MOODS)


def voted(*emotions, choices=MOODS, votes=None):
    return Painting("s", "n", emotions, ("x",) * len(emotions), ("X",) * len(emotions), votes=votes, choices=choices)


def test_votes_over_the_emotions_of_a_model():
    p, shares = voted("calm", "tense", "calm"), voted("calm", votes=(0.25, 0, 0, 0, 0.75))
    wider = over_emotions([p, shares], ("tense", "bored", *MOODS[:4]))
    assert wider[0].counts == (1, 0, 2, 0, 0, 0) and wider[1].counts == (0.75, 0, 0.25, 0, 0, 0)
    assert [q.majority() for q in wider] == ["calm", "tense"] == [p.majority(), shares.majority()]
    assert over_emotions([p], ("calm", "tense"))[0].counts == (2, 1)  # nobody voted for the others
    with pytest.raises(DataError, match="the model chooses from calm, joyful; the data has calm, gloomy.*tense: not"):
        over_emotions([p], ("calm", "joyful"))
    with pytest.raises(DataError, match="cannot be mixed"):
        emotions_of([p, voted("awe", choices=EMOTIONS)])
    assert emotions_of([]) == EMOTIONS


def test_scores_over_five_moods():
    rng = np.random.default_rng(0)
    truth = [MOODS[k % 5] for k in range(40)]
    said = [t if rng.random() < 0.7 else "fear" for t in truth]
    counts = [voted(t, t, MOODS[0]).counts for t in truth]
    a = emotion_accuracy(said, counts, emotions=MOODS)
    assert a.correct == sum(s == t for s, t in zip(said, truth)) and a.unnamed == said.count("fear")
    table = confusion(said, truth, MOODS)
    assert table.shape == (5, 6) and table.trace() == a.correct and table[:, -1].sum() == a.unnamed
    assert recalls(table, MOODS)["calm"] == table[0, 0] / 8
    f1 = [2 * table[i, i] / (table[i].sum() + table[:, i].sum()) for i in range(5)]
    assert emotion_measures(said, counts, MOODS)["macro F1"].value == pytest.approx(np.mean(f1)) == macro_f1(table)
    odds = rng.dirichlet(np.ones(5), 40)
    assert calibration_measures(odds, counts, MOODS)["Brier score"].note.startswith("of 5 probabilities")
    for refused in (lambda: emotion_accuracy(said, counts), lambda: calibration_measures(odds, counts)):
        with pytest.raises(DataError, match=r"expected \[N, 9\]"):
            refused()


def test_colours():
    assert colours_of(EMOTIONS) == list(EMOTION_COLOURS.values()) and colours_of(["fear"]) == [EMOTION_COLOURS["fear"]]
    assert len(set(colours_of(MOODS))) == 5
    ax = bars(dict(zip(MOODS, range(5))))
    assert [t.get_text() for t in ax.get_yticklabels()] == list(MOODS)
    assert len(bars(range(5), emotions=MOODS).patches) == 5 and len(bars({"awe": 1}).patches) == 9


def test_probabilities_and_prompts_are_over_the_models_emotions(run):
    model, data = run[0].model.eval(), run[0].data
    odds = emotion_probabilities(model, torch.randn(2, 16, 48), data.tokenizer, data.table)
    assert odds.shape == (2, 5) and torch.allclose(odds.sum(1), torch.ones(2))
    tokenizer = load_tokenizer(asset("mini"))
    assert prompt_ids(tokenizer, "lonely", MOODS) == encode_all(tokenizer, [("lonely", "")], 40, MOODS)[0][:-1]
    with pytest.raises(DataError, match="unknown emotion 'lonely'"):
        prompt_ids(tokenizer, "lonely")
    with pytest.raises(DataError, match="unknown emotion 'awe'"):
        encode_all(tokenizer, [("awe", "x")], 40, MOODS)


# ---- pictures with one emotion


def of_one_emotion(n, texts=1):
    return [
        Painting("s", str(k), (MOODS[k % 5],) * texts, (f"sky {k}",) * texts, ("X",) * texts, choices=MOODS)
        for k in range(n)
    ]


def batches_of(paintings, **settings):
    config = SEVLMConfig.preset("tiny", emotions=MOODS, **settings)
    tokenizer = load_tokenizer(asset("mini"))
    table = vad_table(tokenizer, Lexicon({"sky": (0.1, 0.2, 0.3), "calm": (0.5, 0, 0)}), config.lookup)
    config = config.replace(vocab_size=len(tokenizer))
    return PairBatches(paintings, tokenizer, table, config, batch_size=4, grids=torch.zeros(len(paintings), 16, 48))


def test_pictures_of_one_emotion_are_kept_if_there_are_no_others():
    two = Painting("s", "two", ("calm", "tense"), ("a", "b"), ("A", "B"), choices=MOODS)
    alone, mixed, kept = (
        batches_of(of_one_emotion(6)),
        batches_of([*of_one_emotion(6), two]),
        batches_of([*of_one_emotion(6), two], one_emotion="keep"),
    )
    assert alone.report.kept == 6 and alone.report.notes["kept, with annotations of one emotion only"] == 6
    assert mixed.report.kept == 1 and mixed.report.dropped == {"one emotion only": 6}
    assert "one_emotion=keep" in mixed.report.notes["most paintings have one emotion only"]
    assert kept.report.kept == 7 and not kept.report.dropped
    assert sorted(b.same_emotion.tolist() for b in alone) == [[True] * 2, [True] * 4]
    assert next(iter(mixed)).same_emotion is None
    assert sum(b.same_emotion.sum() for b in kept) == 6


def test_second_annotation_of_one_emotion():
    rng = np.random.default_rng(0)
    (single,), (three,) = of_one_emotion(1), of_one_emotion(1, 3)
    assert pair_of_one_emotion(single, 4, rng) == (0, 0)
    pairs = {pair_of_one_emotion(three, 0, rng) for _ in range(40)}
    assert pairs == {(2, 0), (2, 1)}


def test_no_negative_of_the_same_emotion():
    "Where both texts share an emotion, only another picture's explanation is a negative; its gradient is finite."
    batch = next(iter(batches_of(of_one_emotion(4))))
    batches = batches_of(of_one_emotion(4))
    torch.manual_seed(0)
    model = SEVLM(batches.config)
    rows = tuple(torch.randn(n, 48, requires_grad=True) for n in (4, 8, 8))
    found = model.compare(rows, batch)["con"]
    scores = contrastive_scores(model.contrastive_head, *rows, batch.neg_perm, batches.config.lone_negative)
    assert scores.shape == (8, 3) and found.item() == pytest.approx(
        contrastive_loss(scores[:, [0, 2]]).item(), abs=1e-6
    )
    found.backward()
    assert all(torch.isfinite(r.grad).all() for r in rows)
    lone = next(iter(batches_of(of_one_emotion(1))))
    assert model.compare(tuple(torch.randn(n, 48) for n in (1, 2, 2)), lone)["con"].item() == 0  # nothing to tell apart


def test_one_annotation_each_is_trained(tmp_path):
    folder = fill(tmp_path / "data", [row(k, MOODS[k % 5]) for k in range(20)])
    settings = TrainConfig.preset("tiny", epochs=1)
    done = start_run(folder, tmp_path / "run", SEVLMConfig.preset("tiny"), settings, progress=False)
    losses = done.learner.losses
    assert done.learner.step == 4 and all(np.isfinite(v) for v in losses.values()) and "con" in losses


# ---- a run, its checkpoint, its scores


def test_a_checkpoint_brings_its_emotions(run, photos):
    done, out = run
    assert done.model.config.emotions == MOODS == done.data.emotions
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["emotions"] == list(MOODS)
    explainer = load(out / "last", device="cpu")
    answer = explainer(next(photos.glob("*.png")))
    assert tuple(answer.probabilities) == MOODS and explainer.emotions == MOODS
    with pytest.raises(DataError, match="unknown emotion 'awe'. Valid: calm, gloomy"):
        explainer(next(photos.glob("*.png")), "awe")
    assert explainer(next(photos.glob("*.png")), "tense").emotion == "tense"


def test_evaluation_is_over_the_models_emotions(run, photos):
    explainer = load(run[1] / "last", device="cpu")
    paintings = paintings_of(open_data(photos), "all")[0]
    result = evaluate(explainer, paintings, meteor="off", progress=False, draws=10)
    assert result.scores["cross-entropy of the votes"]["n"] == 25
    again = score(result.predictions, paintings, meteor="off", draws=10)
    assert again.scores == result.scores
    with pytest.raises(DataError, match="chooses from amusement.*the data has calm, gloomy"):
        evaluate(load(device="cpu"), paintings, progress=False)
    nine = [Painting("s", "a", ("awe", "awe"), ("x", "y"), ("X", "Y"), paintings[0].image)]
    with pytest.raises(DataError, match="chooses from calm, gloomy.*the data has amusement.*awe: not"):
        evaluate(explainer, nine, progress=False)


def test_a_part_without_one_of_the_moods(run, photos, tmp_path):
    "A test set in which a mood does not occur is scored over all of the model's."
    rows = [row(k, MOODS[a]) for k in range(4) for a in (0, 0, 1)]
    paintings = ImageTable(fill(tmp_path, rows)).checked()[0]
    assert emotions_of(paintings) == ("calm", "gloomy")
    result = evaluate(load(run[1] / "last", device="cpu"), paintings, meteor="off", progress=False, draws=10)
    assert len(result.tables["recall"]) == 5 and result.tables["recall"]["tense"]["value"] is None
    assert score(result.predictions, paintings, meteor="off", draws=10).scores == result.scores


def test_classifiers_know_their_emotions(tmp_path):
    model = TextEmotion(
        TextEmotionConfig.preset("mini", emotions=MOODS), Vocabulary.build(["the sky is wide"], 1)
    ).eval()
    save_text_emotion(model, tmp_path)
    again = load_text_emotion(tmp_path)
    p = again.probabilities(["the sky", "wide"])
    assert p.shape == (2, 5) and again.emotions == MOODS
    only = accuracies(p, ["calm", "tense"], MOODS, {})
    assert set(only) == {"5-way"}  # nothing is known of polarity
    polarity = dict(zip(MOODS, ("positive", "negative", "positive", "negative", "negative")))
    assert set(accuracies(p, ["calm", "tense"], MOODS, polarity)) == {"5-way", "3-way", "2-way"}
    counts = [voted("calm").counts, voted("tense").counts]
    assert alignment_measures(again, ["the sky", "wide"], counts, MOODS)
    turned = alignment_measures(again, ["the sky", "wide"], [c[::-1] for c in counts], MOODS[::-1])
    plain = alignment_measures(again, ["the sky", "wide"], counts, MOODS)
    assert {k: m.value for k, m in turned.items()} == pytest.approx({k: m.value for k, m in plain.items()})
    more = alignment_measures(again, ["the sky", "wide"], [(0, *c) for c in counts], ("awe", *MOODS))  # nobody's awe
    assert {k: m.value for k, m in more.items()} == pytest.approx({k: m.value for k, m in plain.items()})
    silent = SimpleNamespace(emotions=MOODS, probabilities=lambda texts: np.full((len(texts), 5), 0.2))
    last = alignment_measures(silent, ["", ""], [(*c, 0) for c in counts], (*MOODS, "awe"))
    assert last["emotional alignment (strict)"].value == 0  # probabilities that are all equal name none
    with pytest.raises(DataError, match="knows calm, gloomy.*the paintings have awe"):
        alignment_measures(again, ["x"], [(1, 0, 0, 0, 0, 0)], ("awe", *MOODS))
    with pytest.raises(DataError, match="knows calm, gloomy.*the paintings have gloomy"):
        alignment_measures(again, ["x"], [c[1:] for c in counts[1:]], MOODS[1:])  # one too many
    with pytest.raises(DataError, match="knows calm, gloomy.*the paintings have amusement"):
        alignment_measures(again, ["x"], [voted("awe", choices=EMOTIONS).counts])
    assert ImageEmotionConfig.preset("mini", emotions=MOODS).emotions == MOODS
    assert vote_shares([voted("calm", "tense")]).tolist() == [[0.5, 0, 0, 0, 0.5]]


# ---- the command line


def test_the_commands(photos, run, tmp_path, capsys):
    out = str(run[1])
    assert main(["inspect", str(photos)]) == 0
    said = capsys.readouterr().out
    assert "kind: pictures with a table" in said and "lonely" in said and "rows: 50" in said
    assert main(["train", str(photos), "--out", str(tmp_path / "x")]) == 2 and "--preset" in capsys.readouterr().err
    clash = ["train", str(photos), "--preset", "tiny", "--set", "emotions=calm,tense", "--out", str(tmp_path / "x")]
    assert main(clash) == 2 and "the data has calm, gloomy" in capsys.readouterr().err
    assert main(["evaluate", str(photos), "--checkpoint", out, "--no-meteor", "--quiet"]) == 0
    assert "of 5 probabilities" in capsys.readouterr().out
    picture = str(next(photos.glob("*.png")))
    assert main(["explain", picture, "--checkpoint", out, "--emotion", "tense"]) == 0
    assert "tense (asked for)" in capsys.readouterr().out
    assert main(["explain", picture, "--checkpoint", out, "--emotion", "awe"]) == 2
    assert "Valid: calm, gloomy, joyful, lonely, tense" in capsys.readouterr().err
    assert main(["prepare", "--table", str(photos), "--wikiart", "w", "--out", str(tmp_path / "y")]) == 2
    assert "leave out --wikiart" in capsys.readouterr().err
    assert main(["prepare", "--out", str(tmp_path / "y")]) == 2 and "--table" in capsys.readouterr().err

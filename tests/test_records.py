"""Each rule of the records on either side, and files that go round."""

import json
import pickle
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from sevlm.artemis.protocol import Vocabulary
from sevlm.artemis.records import (
    RecordFolder,
    coco_references,
    coco_results,
    emotion_histograms,
    group_references,
    image_id,
    load_records,
    make_records,
    pair_records,
    read_grouped,
    read_histograms,
    read_records,
    records_from_grouped,
    write_grouped,
    write_histograms,
    write_records,
)
from sevlm.config import EMOTIONS
from sevlm.errors import DataError

GOLDEN = Path(__file__).parent / "golden" / "dataset.json"


def rows(*said):
    return pd.DataFrame(said, columns=["split", "art_style", "painting", "emotion", "utterance_spelled"])


FRAME = rows(
    ("train", "Cubism", "half", "awe", "a b"),
    ("train", "Realism", "sea", "fear", "so dark"),
    ("train", "Cubism", "half", "fear", "c"),
    ("train", "Realism", "sea", "fear", "and cold"),
    ("val", "Rococo", "most", "awe", "d e f"),
    ("val", "Rococo", "most", "awe", "g"),
    ("val", "Rococo", "most", "anger", "h"),
    ("test", "Cubism", "one", "something else", " "),
    ("test", "Cubism", "one", "sadness", "i"),
    ("rest", "Cubism", "half", "awe", "often seen"),
)


def record(**changes):
    return {
        **dict(
            emotions=["awe", "fear"],
            explanations=["a", "b"],
            image_name="Cubism/x.jpg",
            origin_emotion_distribution=[0, 0.5, 0, 0, 0, 0, 0.5, 0, 0],
        ),
        **changes,
    }


def put(path, thing):
    path.write_text(json.dumps(thing), encoding="utf-8")
    return path


def test_histograms_go_round(tmp_path):
    table = emotion_histograms(FRAME)
    assert list(zip(table.art_style, table.painting)) == [
        ("Cubism", "half"),
        ("Cubism", "one"),
        ("Realism", "sea"),
        ("Rococo", "most"),
    ]
    assert table.emotion_histogram[0] == [0, 2, 0, 0, 0, 0, 1, 0, 0] and table.emotion_histogram[1] == [0] * 7 + [
        1,
        1,
    ]  # `rest` counts: all annotations
    write_histograms(tmp_path / "h.csv", table)
    assert (tmp_path / "h.csv").read_text(encoding="utf-8").splitlines()[:2] == [
        "art_style,painting,emotion_histogram",
        'Cubism,half,"[0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]"',
    ]
    assert read_histograms(tmp_path / "h.csv").equals(
        table.assign(emotion_histogram=[list(map(float, h)) for h in table.emotion_histogram])
    )
    for na in ("NA", "None", "null"):  # names that a careless reader takes for gaps
        write_histograms(tmp_path / "n.csv", emotion_histograms(FRAME.assign(painting=na)))
        assert set(read_histograms(tmp_path / "n.csv").painting) == {na}


@pytest.mark.parametrize(
    "cell",
    [
        "[1, 2]",
        "no list",
        "[0, 0, 0, 0, 0, 0, 0, 0, 0]",
        "[-1, 2, 0, 0, 0, 0, 0, 0, 0]",
        "[NaN, 2, 0, 0, 0, 0, 0, 0, 0]",
        "[Infinity, 2, 0, 0, 0, 0, 0, 0, 0]",
        '["1", 2, 0, 0, 0, 0, 0, 0, 0]',
        '{"a": 1}',
    ],
)
def test_bad_histograms(tmp_path, cell):
    pd.DataFrame(
        {"art_style": ["a", "b"], "painting": ["c", "d"], "emotion_histogram": ["[1, 0, 0, 0, 0, 0, 0, 0, 0]", cell]}
    ).to_csv(tmp_path / "h.csv", index=False)
    with pytest.raises(DataError, match="row 2.*9 numbers"):
        read_histograms(tmp_path / "h.csv")


def test_histograms_say_what_is_missing(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_histograms(tmp_path / "no.csv")
    (tmp_path / "h.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="expected also art_style, painting, emotion_histogram"):
        read_histograms(tmp_path / "h.csv")
    with pytest.raises(DataError, match="unknown emotion 'joy'"):
        emotion_histograms(FRAME.assign(emotion="joy"))


def test_ids_are_unique_stable_and_fit():
    ids = [image_id(style, f"painting-{k}") for style in ("Cubism", "Realism") for k in range(10_000)]
    assert len(set(ids)) == len(ids) and all(0 <= int(i) < 2**63 for i in ids) and max(map(int, ids)) > 2**62
    assert (
        image_id("Realism", "harbour") == "606479726306037097"
    )  # by rule: the first 63 bits of SHA-256 of 'Realism/harbour'; must never change
    composed, split = (unicodedata.normalize(form, "rené") for form in ("NFC", "NFD"))
    assert composed != split and image_id("a", composed) == image_id("a", split) != image_id("a", "rene")


def test_records_of_a_frame():
    records, report = make_records(FRAME, emotion_histograms(FRAME))
    assert {part: [r["image_name"] for r in group.values()] for part, group in records.items()} == {
        "train": ["Cubism/half.jpg", "Realism/sea.jpg"],
        "val": ["Rococo/most.jpg"],
        "test": ["Cubism/one.jpg"],
    }
    assert records["val"][image_id("Rococo", "most")] == dict(
        emotions=["awe", "awe", "anger"],
        explanations=["d e f", "g", "h"],
        image_name="Rococo/most.jpg",
        origin_emotion_distribution=[0, 2 / 3, 0, 0, 1 / 3, 0, 0, 0, 0],
        votes=[0, 2, 0, 0, 1, 0, 0, 0, 0],
    )
    assert (
        report.read == 10
        and report.kept == 9
        and report.dropped == {"split rest": 1}
        and report.notes["empty explanations kept"] == 1
    )


def test_votes_go_along_and_must_fit_the_distribution(tmp_path):
    "Counts say more than shares: they are read back where they stand, and refused where they contradict."
    records, _ = make_records(FRAME, emotion_histograms(FRAME))
    write_records(tmp_path, records)
    painting = next(p for p in read_records(tmp_path / "artEmisX_val.json")[0] if p.name == "most")
    assert painting.votes == (0, 2, 0, 0, 1, 0, 0, 0, 0)
    one = dict(records["val"][image_id("Rococo", "most")])
    for votes, fits in (([0, 4, 0, 0, 2, 0, 0, 0, 0], True), ([0, 1, 0, 0, 1, 0, 0, 0, 0], False), ([0, 2, 1], False)):
        (tmp_path / "one.json").write_text(json.dumps({"7": {**one, "votes": votes}}), encoding="utf-8")
        if fits:
            assert read_records(tmp_path / "one.json")[0][0].votes == tuple(votes)
        else:
            with pytest.raises(DataError, match="votes are"):
                read_records(tmp_path / "one.json")
    del one["votes"]
    (tmp_path / "one.json").write_text(json.dumps({"7": one}), encoding="utf-8")
    assert sum(read_records(tmp_path / "one.json")[0][0].votes) == pytest.approx(
        1
    )  # the reference's form has shares only


def test_two_spellings_of_a_name_are_one_painting():
    """In one part they are merged, votes and all; in two parts the second is left out and counted; one spelling in
    two parts is a mistake."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"

    def frame(*splits):
        return pd.DataFrame(
            dict(
                art_style="Cubism",
                painting=[composed, decomposed, decomposed],
                emotion=["awe", "awe", "fear"],
                split=splits,
                utterance_spelled=["a b", "c d", "e f"],
            )
        )

    rows = frame("test", "test", "test")
    records, report = make_records(rows, emotion_histograms(rows))
    (one,) = records["test"].values()
    assert (
        one["explanations"] == ["a b", "c d", "e f"]
        and one["votes"] == [0, 2, 0, 0, 0, 0, 1, 0, 0]
        and not report.dropped
    )
    records, report = make_records(frame("test", "train", "train"), emotion_histograms(rows))
    assert not records["train"] and report.dropped == {"the same painting, spelled otherwise, is in another split": 2}
    with pytest.raises(DataError, match="in train and in test|in test and in train"):
        make_records(frame("test", "test", "train").assign(painting=composed), emotion_histograms(rows))


def test_exactly_half_is_not_eligible():
    "`half` has two against one of all votes, and one against one of the kept."
    for source, shares in (("full", [0, 2 / 3, 0, 0, 0, 0, 1 / 3, 0, 0]), ("kept", [0, 0.5, 0, 0, 0, 0, 0.5, 0, 0])):
        records, report = make_records(FRAME, emotion_histograms(FRAME), source)
        assert records["train"][image_id("Cubism", "half")]["origin_emotion_distribution"] == shares
        assert (
            report.notes["eligible for accuracy, full votes"] == "train 2 of 2, val 1 of 1, test 0 of 1"
            and report.notes["eligible for accuracy, kept votes"] == "train 1 of 2, val 1 of 1, test 0 of 1"
        )
    assert "eligible for accuracy, full votes" not in make_records(FRAME, source="kept")[1].notes


def test_eligible_is_what_a_painting_says(tmp_path):
    for source in ("full", "kept"):
        records, report = make_records(FRAME, emotion_histograms(FRAME), source)
        write_records(tmp_path, records)
        count = {
            part: sum(p.majority() is not None for p in group)
            for part, group in RecordFolder(tmp_path).parts()[0].items()
        }
        assert report.notes[f"eligible for accuracy, {source} votes"] == ", ".join(
            f"{part} {n} of {len(records[part])}" for part, n in {**count, "test": 0}.items()
        )


def test_a_painting_without_histogram_is_counted():
    table = emotion_histograms(FRAME)
    records, report = make_records(FRAME, table[table.painting != "half"])
    assert report.dropped == {"split rest": 1, "no histogram for the painting": 2} and len(records["train"]) == 1
    assert len(make_records(FRAME, table[table.painting != "half"], "kept")[0]["train"]) == 2
    with pytest.raises(DataError, match="no record can be made"):
        make_records(FRAME, table[:0])


def test_accents_match_in_any_form():
    name = "rené"
    nfd = rows(
        ("train", "Cubism", unicodedata.normalize("NFD", name), "awe", "a"), ("train", "Cubism", name, "fear", "b")
    )
    records, _ = make_records(nfd, emotion_histograms(nfd.assign(painting=name)))
    (only,) = records["train"].values()
    assert (
        only["emotions"] == ["awe", "fear"] and unicodedata.normalize("NFC", only["image_name"]) == f"Cubism/{name}.jpg"
    )


@pytest.mark.parametrize(
    "frame, message",
    [
        (FRAME.assign(split="dev"), "split 'dev'"),
        (FRAME.drop(columns="split"), "expected also split"),
        (FRAME.assign(painting="../x"), "without separators"),
        (FRAME.assign(emotion="joy"), "unknown emotion 'joy'"),
        (pd.concat([FRAME, rows(("test", "Realism", "sea", "awe", "x"))]), "Realism/sea is in train and in test"),
    ],
)
def test_frames_that_cannot_be_used(frame, message):
    with pytest.raises(DataError, match=message):
        make_records(frame, source="kept")


def test_sources_are_checked():
    with pytest.raises(DataError, match="'ful'.*Did you mean 'full'"):
        make_records(FRAME, source="ful")
    with pytest.raises(DataError, match="needs the histograms"):
        make_records(FRAME)


def test_two_pictures_with_one_id(monkeypatch):
    monkeypatch.setattr("sevlm.artemis.records.image_id", lambda *key: "1")
    with pytest.raises(DataError, match="same id 1"):
        make_records(FRAME, source="kept")


def test_pairs_have_two_emotions():
    records = make_records(FRAME, source="kept")[0]["train"]
    assert [r["image_name"] for r in pair_records(records).values()] == ["Cubism/half.jpg"]  # sea: fear twice


def test_coco_form():
    records = {"5": record(explanations=["a", " "]), "6": record(explanations=["", ""]), "-7": record()}
    found = coco_references(records)
    assert (
        set(found) == {"info", "licenses", "type", "images", "annotations"}
        and found["type"] == "captions"
        and found["images"] == [{"id": 5}, {"id": -7}]
    )
    assert [(a["image_id"], a["id"], a["caption"]) for a in found["annotations"]] == [
        (5, 0, "a"),
        (-7, 1, "a"),
        (-7, 2, "b"),
    ]
    assert found["info"] == {"empty captions left out": 3, "images without a caption": 1}
    assert coco_results({"-7": "x", 5: "y"}, found) == [
        {"image_id": 5, "caption": "y"},
        {"image_id": -7, "caption": "x"},
    ]
    for captions in ({"5": "y"}, {"5": "y", "-7": "x", "8": "z"}):
        with pytest.raises(DataError, match="expected one for each of 2"):
            coco_results(captions, found)


def test_coco_tools_read_them(tmp_path):
    from pycocotools.coco import COCO

    found = coco_references(make_records(FRAME, source="kept")[0]["val"])
    coco = COCO(str(put(tmp_path / "a.json", found)))
    res = coco.loadRes(str(put(tmp_path / "b.json", coco_results({image_id("Rococo", "most"): "a caption"}, found))))
    assert (
        coco.getImgIds() == res.getImgIds() == [int(image_id("Rococo", "most"))]
        and len(coco.imgToAnns[coco.getImgIds()[0]]) == 3
    )


def test_files_go_round(tmp_path):
    records, _ = make_records(FRAME, emotion_histograms(FRAME))
    files = write_records(tmp_path / "new", records)
    assert (
        sorted(f.name for f in files)
        == sorted(p.name for p in (tmp_path / "new").iterdir())
        == [
            "artEmisX_cl_train.json",
            "artEmisX_test.json",
            "artEmisX_test_annot_exp.json",
            "artEmisX_train.json",
            "artEmisX_val.json",
            "artEmisX_val_annot_exp.json",
        ]
    )
    assert all(load_records(tmp_path / "new" / f"artEmisX_{part}.json") == records[part] for part in records)
    assert load_records(tmp_path / "new" / "artEmisX_cl_train.json") == pair_records(records["train"])
    assert json.loads(
        (tmp_path / "new" / "artEmisX_val_annot_exp.json").read_text(encoding="utf-8")
    ) == coco_references(records["val"])
    write_records(tmp_path / "empty", {**records, "val": {}})
    with pytest.raises(DataError, match="holds a dict.*expected an object"):
        load_records(tmp_path / "empty" / "artEmisX_val.json")


def test_a_broken_write_leaves_the_old_files(tmp_path):
    records, _ = make_records(FRAME, source="kept")
    write_records(tmp_path, records)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        write_records(tmp_path, {**records, "train": {"1": record(), "2": record(emotions={1})}})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_paintings_of_records(tmp_path):
    for style, name in (("Cubism", "half"), ("Realism", "ren#U00e9")):
        (tmp_path / style).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / style / f"{name}.jpg")
    path = put(
        tmp_path / "r.json",
        {
            "3": record(image_name="Realism/rené.jpg", explanations=["x ", " "]),
            "1": record(
                image_name="Cubism/half.jpg",
                emotions=["awe"],
                explanations=["y"],
                origin_emotion_distribution=[0, 1, 0, 0, 0, 0, 0, 0, 0],
            ),
            "2": record(image_name="Cubism/gone.jpg"),
            "4": record(image_name="Cubism/silent.jpg", explanations=["", ""]),
        },
    )
    paintings, report = read_records(path, tmp_path)
    assert [(p.key, p.emotions, p.explanations, p.utterances) for p in paintings] == [
        ("Cubism/half", ("awe",), ("y",), ("y",)),
        ("Realism/rené", ("awe",), ("x",), ("x",)),
    ]
    assert [p.image.name for p in paintings] == ["half.jpg", "ren#U00e9.jpg"] and paintings[1].votes == (
        0,
        0.5,
        0,
        0,
        0,
        0,
        0.5,
        0,
        0,
    )
    assert (
        [p.majority() for p in paintings] == ["awe", None]
        and report.notes["with a majority emotion"] == 1
        and report.notes["paintings"] == "2 of 4"
    )
    assert (
        report.read == 7
        and report.dropped == {"empty explanation": 3, "no picture for the painting": 2}
        and report.kept == 2
    )
    assert [p.image for p in read_records(path)[0]] == [None] * 3
    with pytest.raises(DataError, match="no folder"):
        read_records(path, tmp_path / "nowhere")
    with pytest.raises(DataError, match="none of the 1 records"):
        read_records(put(tmp_path / "s.json", {"1": record(explanations=["", ""])}))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(emotions=["awe", "Fear"]), "unknown emotion 'Fear'. Did you mean 'fear'"),
        (dict(emotions=["awe"]), "two lists of one length"),
        (dict(emotions=[], explanations=[]), "two lists"),
        (dict(explanations="ab"), "two lists"),
        (dict(explanations=["a", None]), "no text"),
        (dict(image_name="x.jpg"), "not style/painting.jpg"),
        (dict(image_name="a/b/c.jpg"), "not style"),
        (dict(image_name="../c.jpg"), "not style"),
        (dict(image_name="/c.jpg"), "not style"),
        (dict(image_name="a\\b/c.jpg"), "not style"),
        (dict(image_name="a/c.txt"), "not style"),
        (dict(image_name="a/.jpg"), "not style"),
        (dict(image_name="a/c.jpg\n"), "not style"),
        (dict(image_name="a/../c.jpg"), "not style"),
        (dict(image_name=3), "not style"),
        (dict(emotions=[[], "awe"]), "unknown emotion"),
        (dict(origin_emotion_distribution=[0.5, 0.5]), "9 shares"),
        (dict(origin_emotion_distribution=[0, 0.5, 0, 0, 0, 0, 0.502, 0, 0]), "9 shares"),
        (dict(origin_emotion_distribution=[-0.5, 1.5, 0, 0, 0, 0, 0, 0, 0]), "9 shares"),
        (dict(origin_emotion_distribution=[float("nan")] * 9), "9 shares"),
        (dict(origin_emotion_distribution=[True] + [0] * 8), "9 shares"),
        (dict(origin_emotion_distribution=None), "9 shares"),
    ],
)
def test_each_field_is_checked(tmp_path, changes, message):
    path = put(tmp_path / "r.json", {"41": record(image_name="a/b.jpg"), "42": record(**changes)})
    with pytest.raises(DataError, match=f"image 42: .*{message}"):
        read_records(path)


def test_what_is_just_allowed(tmp_path):
    path = put(
        tmp_path / "r.json",
        {
            str(2**63 - 1): record(
                origin_emotion_distribution=[0, 0.5, 0, 0, 0, 0, 0.5009, 0, 0], image_name="a/b.c.JPG", more=1
            ),
            str(-(2**63)): record(),
        },
    )
    assert [p.key for p in read_records(path)[0]] == ["Cubism/x", "a/b.c"]


@pytest.mark.parametrize("field", ["emotions", "explanations", "image_name", "origin_emotion_distribution"])
def test_each_field_is_needed(tmp_path, field):
    with pytest.raises(DataError, match=f"image 1: it has no {field}"):
        load_records(put(tmp_path / "r.json", {"1": {k: v for k, v in record().items() if k != field}}))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "cannot read"),
        ("[1]", "holds a list"),
        ('{"1": {}, "1": {}}', "'1' comes twice"),
        ('{"a1": {}}', "no whole number"),
        ('{"9223372036854775808": {}}', "no whole number of 64 bits"),
        ('{"1": 3}', "no fields"),
    ],
)
def test_files_that_are_no_records(tmp_path, text, message):
    (tmp_path / "r.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_records(tmp_path / "r.json")
    with pytest.raises(DataError, match="No such file"):
        load_records(tmp_path / "no.json")


def test_a_picture_has_one_record(tmp_path):
    with pytest.raises(DataError, match="several records for Cubism/x.jpg"):
        load_records(put(tmp_path / "r.json", {"1": record(), "2": record()}))


def test_the_references_own_records(tmp_path):
    "The five invented records its data classes were run on (with the two fields they do not use for texts)."
    golden = {g["id"]: g["record"] for g in json.loads(GOLDEN.read_text(encoding="utf-8"))["train"]}
    path = put(tmp_path / "r.json", {i: record(**r, image_name=f"Cubism/{i}.jpg") for i, r in golden.items()})
    paintings, report = read_records(path)
    assert len(golden) == 5 == len(paintings) and {
        p.name: (list(p.emotions), list(p.explanations)) for p in paintings
    } == {i: (r["emotions"], r["explanations"]) for i, r in golden.items()}
    assert not report.dropped


def test_a_prepared_folder(tmp_path):
    with pytest.raises(DataError, match="artEmisX_train.json, artEmisX_val.json, artEmisX_test.json"):
        RecordFolder(tmp_path)
    write_records(tmp_path, make_records(FRAME, source="kept")[0])
    parts, reports = RecordFolder(tmp_path).parts()
    assert {k: [p.key for p in v] for k, v in parts.items()} == {
        "train": ["Cubism/half", "Realism/sea"],
        "val": ["Rococo/most"],
        "test": ["Cubism/one"],
    } and len(reports) == 3
    put(tmp_path / "artEmisX_val.json", {"9": record(image_name="Realism/sea.jpg")})
    with pytest.raises(DataError, match="Realism/sea is in the records of train and of val"):
        RecordFolder(tmp_path).parts()
    (tmp_path / "artEmisX_val.json").unlink()
    with pytest.raises(DataError, match="has no artEmisX_val.json.*make them"):
        RecordFolder(tmp_path)


@pytest.fixture
def grouped():
    return group_references(FRAME, Vocabulary.build(["a b c d f"] * 2), max_len=2)


def test_grouped_references(grouped):
    assert list(grouped) == ["train", "val", "test", "rest"]
    assert grouped["train"].to_dict("list") == {
        "art_style": ["Cubism", "Realism"],
        "painting": ["half", "sea"],
        "emotion": [[1, 6], [6, 6]],
        "references_pre_vocab": [["a b", "c"], ["so dark", "and cold"]],
        "references": [["a b", "c"], ["<unk> <unk>", "<unk> <unk>"]],
    }
    assert (
        grouped["val"].references[0] == ["d <unk>", "<unk>", "<unk>"]
        and grouped["val"].references_pre_vocab[0][0] == "d e f"
    )  # cropped, rare
    assert group_references(FRAME)["val"].references[0] == ["d e f", "g", "h"]
    assert (
        group_references(FRAME, Vocabulary.build(["d e f"]))["val"].references[0][0] == "d e f"
    )  # nothing cropped by default


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_grouped_files_go_round(tmp_path, grouped, protocol):
    with open(tmp_path / "g.pkl", "wb") as f:
        for thing in (1, grouped):
            pickle.dump(thing, f, protocol)
    write_grouped(tmp_path / "g.json", grouped)
    for name in ("g.pkl", "g.json"):
        found = read_grouped(tmp_path / name)
        assert list(found) == list(grouped) and all(
            found[part].to_dict("list") == grouped[part].to_dict("list") for part in grouped
        )


def test_records_from_grouped_references(grouped):
    table = emotion_histograms(FRAME)
    records, report = records_from_grouped(grouped)
    assert (
        records == make_records(FRAME, source="kept")[0] and report.read == 10 and report.dropped == {"split rest": 1}
    )
    assert records_from_grouped(grouped, table, "full")[0] == make_records(FRAME, table)[0]


@pytest.mark.parametrize(
    "change",
    [
        dict(emotion=[9]),
        dict(emotion=["awe"]),
        dict(references=["a", "b"]),
        dict(references_pre_vocab=[1]),
        dict(emotion=[], references=[], references_pre_vocab=[]),
    ],
)
def test_bad_grouped_references(tmp_path, change):
    row = dict(art_style="Cubism", painting="x", emotion=[1], references_pre_vocab=["a"], references=["a"])
    assert len(read_grouped(put(tmp_path / "g.json", {"test": [row]}))["test"]) == 1
    with pytest.raises(DataError, match="test, Cubism/x: expected a list"):
        read_grouped(put(tmp_path / "g.json", {"test": [row, {**row, **change}]}))
    with open(tmp_path / "g.pkl", "wb") as f:
        pickle.dump({"test": pd.DataFrame([{**row, **change}])}, f)
    with pytest.raises(DataError, match="test, Cubism/x: expected a list"):
        read_grouped(tmp_path / "g.pkl")


def test_what_is_no_grouped_file(tmp_path):
    for thing, message in (
        ([1, 2], "expected a dictionary"),
        ({"dev": pd.DataFrame({"a": [1]})}, "expected a dictionary"),
        ({"test": [1]}, "expected a pandas DataFrame"),
        ({"test": pd.DataFrame({"a": [1]})}, "expected also art_style"),
    ):
        with open(tmp_path / "g.pkl", "wb") as f:
            pickle.dump(thing, f)
        with pytest.raises(DataError, match=message):
            read_grouped(tmp_path / "g.pkl")
    for rows in ([{"art_style": "a"}], 3, ["x"], {"a": 1}, [{"emotion": [[1]]}]):
        with pytest.raises(DataError, match="expected a list of emotions"):
            read_grouped(put(tmp_path / "g.json", {"test": rows}))
    with pytest.raises(DataError, match="No such file"):
        read_grouped(tmp_path / "no.pkl")


def test_ids_of_emotions_agree(grouped):
    assert [EMOTIONS[i] for i in grouped["test"].emotion[0]] == ["something else", "sadness"]

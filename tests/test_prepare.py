"""From files as they are handed out to data folders: every way in, every choice, nothing half-written, nothing done
twice, and mistakes told as such."""

import csv
import json
import shutil
import sys
import unicodedata
from pathlib import Path

import pytest
from commands import prepare_argv

from sevlm.artemis.folder import Prepared, open_data, paintings_of, provenance, truth_of
from sevlm.artemis.prepare import (
    STAMP,
    Choices,
    Inputs,
    Texts,
    check_wikiart,
    digest_of,
    find_pictures,
    listing_digest,
    page_of,
    prepare,
    staged,
)
from sevlm.artemis.protocol import read_preprocessed
from sevlm.artemis.records import load_records
from sevlm.cli import main
from sevlm.config import SEVLMConfig
from sevlm.errors import ConfigError, DataError, LexiconError
from sevlm.images import ENDING, check_picture
from sevlm.synthetic.dataset import make_mini

MOJIBAKE = "eugène".encode().decode("latin-1").lower()  # as WikiArt's names went wrong


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as f:
        header, *rows = csv.reader(f)
    return header, rows


def write_rows(path, header, rows):
    with open(path, "w", encoding="utf-8", newline="") as f:
        csv.writer(f, lineterminator="\n").writerows([header, *rows])


@pytest.fixture(scope="module")
def handed(tmp_path_factory):
    """A synthetic release with an artist whose name was spoilt, one crowded painting, long, short and quoted texts,
    and a v2.0 file beside it."""
    folder = tmp_path_factory.mktemp("handed")
    data = make_mini(folder / "mini", n=110, seed=9, workers=1, progress=False)
    header, rows = rows_of(data / "artemis_dataset_release_v0.csv")
    names = list(dict.fromkeys((r[0], r[1]) for r in rows))
    style, old = names[0]
    new = f"{MOJIBAKE}-grasset_the-sea-1907"
    for r in rows:
        if (r[0], r[1]) == names[0]:
            r[1] = unicodedata.normalize("NFD", new)
    escaped = "".join(c if c.isascii() else f"#U{ord(c):04x}" for c in unicodedata.normalize("NFC", new))
    (data / "wikiart" / style / f"{old}.jpg").rename(data / "wikiart" / style / f"{escaped}.jpg")
    crowd = names[1]
    rows = [r for r in rows if (r[0], r[1]) != crowd] + [
        [*crowd, "fear", f"the dark house number {i} makes me feel afraid", "41"] for i in range(41)
    ]
    rows[20][3], rows[21][3], rows[22][3] = "nice", "calm and wide " * 70, "It isn't \"real\",\nbut I can't look away"
    truth_header, truth = rows_of(data / "mini_truth.csv")
    for t in truth:
        t[:] = [
            unicodedata.normalize("NFD", new)
            if v == old
            else v.replace(f"/{old}", f"/{unicodedata.normalize('NFD', new)}")
            for v in t
        ]
    write_rows(data / "mini_truth.csv", truth_header, truth)
    write_rows(data / "artemis_dataset_release_v0.csv", header, rows)
    (data / "wikiart" / names[3][0] / f"{names[3][1]}.jpg").unlink()
    contrastive = [
        ["awe", f"the light over field number {i} is wide and calm", *names[k], *names[60 + k], "5"]
        for k in range(10, 26)
        for i in range(5)
    ]
    write_rows(
        folder / "Contrastive.csv",
        ["emotion", "utterance", "art_style", "painting", "anchor_art_style", "anchor_painting", "repetition"],
        contrastive,
    )
    (folder / "known.txt").write_text(
        "\n".join(sorted({w for r in rows for w in r[3].lower().split() if w.isalpha()})), encoding="utf-8"
    )
    return folder


def inputs_of(handed, **more):
    data = handed / "mini"
    return Inputs(
        **{
            **dict(
                wikiart=data / "wikiart",
                artemis=data / "artemis_dataset_release_v0.csv",
                lexicon=data / "mini-vad-lexicon.txt",
            ),
            **more,
        }
    )


@pytest.fixture(scope="module")
def made(handed, tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    return out, prepare(
        inputs_of(handed, contrastive=handed / "Contrastive.csv"), out, Choices(parts="all"), progress=False
    )


def every_file(folder):
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_prepared_folder_holds_what_it_should(made):
    out, done = made
    files = set(every_file(out / "v1"))
    assert files >= {
        "artEmisX_train.json",
        "artEmisX_val.json",
        "artEmisX_test.json",
        "artEmisX_cl_train.json",
        "artEmisX_val_annot_exp.json",
        "artEmisX_test_annot_exp.json",
        "image-emotion-histogram.csv",
        "missing_pictures.txt",
        "pictures.csv",
        STAMP,
        "vad_lexicon.txt",
        "mini_truth.csv",
        "deep_nets/artemis_gt_references_grouped.json",
        *(
            f"{run}/{name}"
            for run in ("minimal", "deep_nets")
            for name in ("artemis_preprocessed.csv", "vocabulary.json", "config.json.txt")
        ),
    }
    assert set(every_file(out / "v2")) >= {
        f"dataset/{p}/train/artemis_preprocessed.csv"
        for p in ("full_combined", "new", "old_full", "old_small", "old_large", "combined")
    } | {f"dataset/{t}/{t}.csv" for t in ("test_new", "test_ref", "test_old", "test_all", "test_40")} | {
        "artEmisX_test_all.json",
        "artEmisX_test_all_annot_exp.json",
    }
    assert json.loads((out / "prepare_report.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(done)
    ) and list(done) == [
        "v1",
        "v2",
    ]
    assert (out / "prepare_report.md").read_text(encoding="utf-8") == page_of(done)


def test_the_report_counts_what_was_spoilt(made):
    out, done = made
    s = done["v1"]
    dropped = {why: n for r in s["reports"] for why, n in r["dropped"].items()}
    assert (
        dropped["no picture"] == 1
        and len((out / "v1" / "missing_pictures.txt").read_text(encoding="utf-8").splitlines()) == 1
    )
    assert s["reports"][-1]["notes"]["pictures under another spelling"] == 1
    assert sum(s["paintings"].values()) == 109 and dropped["split rest"] == 41  # the crowded painting is in no part
    deep = read_preprocessed(out / "v1" / "deep_nets" / "artemis_preprocessed.csv")
    assert (deep.split == "rest").sum() == 41 and "is not real but i can not look away" in " ".join(
        deep.utterance_spelled
    )
    assert deep.tokens_len.between(5, 100).all() and set(
        read_preprocessed(out / "v1" / "minimal" / "artemis_preprocessed.csv").split
    ) == {"train", "val", "test"}
    assert s["synthetic"] and s["inputs"]["artemis"]["sha256"] and set(s["versions"]) >= {"sevlm", "nltk", "symspellpy"}
    text = page_of(done)
    for must in (
        "**synthetic**",
        "no picture: 1",
        "SHA-256",
        "spelling step: off",
        "eligible for accuracy, full votes",
        "words known",
    ):
        assert must in text, must


def test_both_runs_are_split_apart(made):
    "The same painting may be in train of one run and in test of the other: nothing is carried over."
    out, _ = made
    split = {
        run: dict(zip(f.art_style + f.painting, f.split))
        for run in ("minimal", "deep_nets")
        for f in [read_preprocessed(out / "v1" / run / "artemis_preprocessed.csv")]
    }
    common = split["minimal"].keys() & split["deep_nets"].keys()
    assert any(split["minimal"][k] != split["deep_nets"][k] for k in common)


def test_a_second_call_touches_nothing(handed, made):
    out, done = made
    before = every_file(out / "v1") | every_file(out / "v2")
    assert (
        prepare(inputs_of(handed, contrastive=handed / "Contrastive.csv"), out, Choices(parts="all"), progress=False)
        == done
    )
    assert every_file(out / "v1") | every_file(out / "v2") == before


def test_what_changed_is_made_anew_and_nothing_else(handed, tmp_path):
    first = prepare(inputs_of(handed), tmp_path, progress=False)
    texts = every_file(tmp_path / "cache")
    kept = prepare(inputs_of(handed), tmp_path, Choices(histogram="kept"), progress=False)
    assert kept["v1"]["choices"]["histogram"] == "kept" and every_file(tmp_path / "cache") == texts
    assert load_records(tmp_path / "v1" / "artEmisX_train.json") != {} and kept["v1"] != first["v1"]
    spelled = prepare(inputs_of(handed, known_words=(handed / "known.txt",)), tmp_path, progress=False)["v1"]
    notes = {k: v for r in spelled["reports"] for k, v in r["notes"].items()}
    assert notes["spelling step"] == "on" and len(every_file(tmp_path / "cache")) == 2 * len(texts)
    (tmp_path / "v1" / "artEmisX_val.json").unlink()  # a file was lost: the folder is not called done
    prepare(inputs_of(handed, known_words=(handed / "known.txt",)), tmp_path, progress=False)
    assert (tmp_path / "v1" / "artEmisX_val.json").is_file()


def test_moved_pictures_are_repaired_by_the_same_command(handed, tmp_path):
    wikiart = Path(shutil.copytree(handed / "mini" / "wikiart", tmp_path / "one" / "wikiart"))
    first = prepare(inputs_of(handed, wikiart=wikiart), tmp_path / "out", progress=False)
    texts = every_file(tmp_path / "out" / "cache")
    (tmp_path / "other").mkdir()
    moved = wikiart.rename(tmp_path / "other" / "wikiart")
    with pytest.raises(DataError, match="Run `sevlm prepare` again with their new place"):
        open_data(tmp_path / "out" / "v1")
    again = prepare(inputs_of(handed, wikiart=moved), tmp_path / "out", progress=False)
    assert open_data(tmp_path / "out" / "v1").images == moved and again["v1"]["inputs"] == first["v1"]["inputs"]
    assert every_file(tmp_path / "out" / "cache") == texts


def test_a_damaged_cache_is_made_anew(tmp_path):
    said = ["The sky is wide.", "a calm sea", "The sky is wide."]
    texts = Texts(tmp_path, (), None, ())
    first, report = texts(said, progress=False)
    assert first == ["the sky is wide", "a calm sea", "the sky is wide"]
    text, log = next(tmp_path.glob("*.txt")), next(tmp_path.glob("*.json"))
    good = text.read_bytes(), log.read_bytes()
    for file, damage in ((text, good[0][:5]), (text, b"\xff" + good[0]), (log, b"{"), (log, b"[]"), (log, b"")):
        file.write_bytes(damage)
        again, told = texts(said, progress=False)
        assert again == first and told.notes == report.notes and (text.read_bytes(), log.read_bytes()) == good
    text.write_bytes(b"one\ntwo")  # whole files are read, not made
    assert texts(said, progress=False)[0] == ["one", "two", "one"]


def test_a_missing_library_is_told_before_its_version(handed, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "symspellpy", None)  # as if it were not installed
    monkeypatch.setattr("sevlm.artemis.prepare.version", lambda name: 1 / 0)
    with pytest.raises(ConfigError, match=r"symspellpy is needed here.*sevlm\[prepare\]"):
        prepare(inputs_of(handed), tmp_path, progress=False)


def test_a_run_cut_off_leaves_nothing_half_written(handed, tmp_path, monkeypatch):
    from sevlm.artemis import prepare as module

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_records", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(inputs_of(handed), tmp_path, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]
    monkeypatch.undo()
    prepare(inputs_of(handed), tmp_path, progress=False)
    before = every_file(tmp_path / "v1")
    monkeypatch.setattr(module, "write_records", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(inputs_of(handed), tmp_path, Choices(histogram="kept"), progress=False)
    assert every_file(tmp_path / "v1") == before and not list(tmp_path.glob(".v1*"))


def test_a_machine_that_stops_between_the_renames_loses_nothing(tmp_path):
    with staged(tmp_path / "x") as folder:
        (folder / STAMP).write_text("{}", encoding="utf-8")
    (tmp_path / "x").rename(tmp_path / ".x.old")  # as if it had stopped there
    with pytest.raises(ValueError):
        with staged(tmp_path / "x") as folder:
            raise ValueError
    assert [p.name for p in tmp_path.iterdir()] == ["x"] and (tmp_path / "x" / STAMP).is_file()


def test_a_folder_of_others_is_refused(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="not made by preparing"):
        with staged(tmp_path / "x"):
            pass
    assert (tmp_path / "x" / "thesis.tex").is_file()


def content(folder):
    return {part: load_records(folder / f"artEmisX_{part}.json") for part in ("train", "val", "test")}


@pytest.mark.parametrize("way", ["preprocessed", "grouped", "records"])
def test_files_of_the_original_tools_lead_to_the_same_records(handed, made, tmp_path, way):
    out, _ = made
    given = {
        "preprocessed": out / "v1" / "deep_nets" / "artemis_preprocessed.csv",
        "grouped": out / "v1" / "deep_nets" / "artemis_gt_references_grouped.json",
        "records": out / "v1",
    }[way]
    histogram = None if way == "records" else out / "v1" / "image-emotion-histogram.csv"
    prepare(inputs_of(handed, artemis=None, **{way: given}, histogram=histogram), tmp_path, progress=False)
    theirs, ours = content(tmp_path / "v1"), content(out / "v1")
    sorted_ = lambda r: (
        sorted(zip(r["emotions"], r["explanations"])),
        r["image_name"],
        r["origin_emotion_distribution"],
    )
    counted = "as in the records given" if way == "records" else "those of all annotations"
    assert f"Their emotions are {counted}." in (tmp_path / "prepare_report.md").read_text(encoding="utf-8")
    assert {p: {i: sorted_(r) for i, r in part.items()} for p, part in theirs.items()} == {
        p: {i: sorted_(r) for i, r in part.items()} for p, part in ours.items()
    }


def test_kept_rows_alone_have_no_full_histogram(handed, made, tmp_path):
    given = inputs_of(handed, artemis=None, preprocessed=made[0] / "v1" / "deep_nets" / "artemis_preprocessed.csv")
    with pytest.raises(ConfigError, match="leave histogram out"):
        inputs_of(
            handed, artemis=None, records=made[0] / "v1", histogram=made[0] / "v1" / "image-emotion-histogram.csv"
        )
    with pytest.raises(ConfigError, match="histogram kept"):
        prepare(given, tmp_path, progress=False)
    assert prepare(given, tmp_path, Choices(histogram="kept"), progress=False)["v1"]["paintings"]


@pytest.mark.parametrize(
    "what, words",
    [
        (dict(artemis="scores.csv"), ("scores.csv", "expected")),
        (dict(artemis="Contrastive.csv"), ("v2", "--contrastive")),
        (dict(contrastive="mini/artemis_dataset_release_v0.csv"), ("--artemis",)),
        (dict(wikiart="mini"), ("too high", "mini/wikiart")),
        (dict(wikiart="mini/wikiart/STYLE"), ("too deep", "mini/wikiart")),
        (dict(wikiart="nowhere"), ("no folder", "nowhere")),
        (dict(wikiart="holiday"), ("no folder of a style",)),
        (dict(lexicon="percent.txt"), ("percent.txt", "0..100")),
        (dict(lexicon="Contrastive.csv"), ("Contrastive.csv",)),
        (dict(known_words=("percent.txt",)), ("percent.txt", "one word per line")),
        (dict(tables="known.txt"), ("not JSON",)),
    ],
)
def test_wrong_input_is_told_as_what_it_is(handed, tmp_path, what, words):
    (handed / "scores.csv").write_text("id,score\n1,0.5\n", encoding="utf-8")
    (handed / "percent.txt").write_text("happy\t90\t60\t70\nsad\t10\t30\t20\n", encoding="utf-8")
    (handed / "holiday" / "beach").mkdir(parents=True, exist_ok=True)
    style = next(p.name for p in sorted((handed / "mini" / "wikiart").iterdir()))
    paths = {
        k: tuple(handed / f for f in v) if isinstance(v, tuple) else handed / v.replace("STYLE", style)
        for k, v in what.items()
    }
    with pytest.raises((ConfigError, DataError, LexiconError)) as e:
        prepare(inputs_of(handed, **paths), tmp_path / "out", progress=False)
    for w in words:
        assert w in str(e.value), str(e.value)
    assert not (tmp_path / "out" / "v1").exists() and not (tmp_path / "out" / "v2").exists()


def test_an_empty_picture_folder_is_no_mistake_but_told(handed, tmp_path):
    (tmp_path / "empty").mkdir()
    done = prepare(inputs_of(handed, wikiart=tmp_path / "empty"), tmp_path / "out", progress=False)["v1"]
    pictures = done["reports"][-1]
    assert pictures["kept"] == 0 and pictures["dropped"] == {"no picture": 109}


@pytest.mark.parametrize("how, accepted", [("names", (1, 1, 1, 1)), ("quick", (1, 0, 0, 1)), ("full", (1, 0, 0, 1))])
def test_how_carefully_pictures_are_looked_at(tmp_path, how, accepted):
    from PIL import Image

    from sevlm.errors import ImageError

    picture = Image.effect_noise((64, 64), 40).convert("RGB")
    picture.save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-400])
    (tmp_path / "text.jpg").write_text("no picture", encoding="utf-8")
    (tmp_path / "padded.jpg").write_bytes(
        (tmp_path / "whole.jpg").read_bytes() + bytes(ENDING + 9)
    )  # odd, but whole: Pillow decides

    def ok(name):
        try:
            check_picture(tmp_path / name, how)
        except ImageError:
            return 0
        return 1

    assert tuple(ok(f"{n}.jpg") for n in ("whole", "cut", "text", "padded")) == accepted


def test_digests_know_borders_and_changes(tmp_path):
    assert digest_of("ab", "c") != digest_of("a", "bc") and digest_of("a", b"b") == digest_of("a", "b")
    (tmp_path / "Cubism").mkdir()
    (tmp_path / "Cubism" / "a.jpg").write_text("1", encoding="utf-8")
    first = listing_digest(tmp_path)
    assert listing_digest(tmp_path) == first
    (tmp_path / "Cubism" / "b.jpg").write_text("1", encoding="utf-8")
    assert listing_digest(tmp_path) != first


def test_one_door_for_training_and_judging(handed, made):
    from sevlm.training.inputs import load_training_data

    out, done = made
    corpus = load_training_data(out / "v1", SEVLMConfig.preset("tiny", max_tokens=40), progress=False)
    assert {k: len(v) for k, v in corpus.parts.items()} == {
        **done["v1"]["paintings"],
        **{p: done["v1"]["paintings"][p] - n for p, n in _lost(out, done).items()},
    }
    assert corpus.truth and all(
        p.key in corpus.truth and p.image.is_file() for part in corpus.parts.values() for p in part
    )
    p = corpus.parts["train"][0]
    assert sum(p.votes) >= len(p.explanations) > 0 and p.explanations[0] == p.explanations[0].lower()
    paintings, training, _ = paintings_of(open_data(out / "v2"), "test_all")
    assert paintings and training and provenance(out / "v2") == {"data": "synthetic mini-ArtEmis", "synthetic": True}
    assert truth_of(handed) is None and isinstance(open_data(out / "v1"), Prepared)


def _lost(out, done):
    missing = set((out / "v1" / "missing_pictures.txt").read_text(encoding="utf-8").split())
    return {
        part: sum(
            r["image_name"].removesuffix(".jpg") in missing
            for r in load_records(out / "v1" / f"artEmisX_{part}.json").values()
        )
        for part in done["v1"]["paintings"]
    }


def test_the_command(handed, tmp_path, capsys):
    data = handed / "mini"
    assert main(prepare_argv(data, tmp_path / "out")) == 0
    out, err = capsys.readouterr()
    assert (
        "What was prepared" in out
        and "next:    sevlm train" in out
        and "v1: 1 of 109 paintings have no usable picture (1 no picture)" in err
    )
    assert main(["inspect", str(tmp_path / "out")]) == 1  # since a picture is missing
    out = capsys.readouterr().out
    assert "data sets made by" in out and "1 paintings are left out, no picture: " in out
    assert main(["prepare", "--wikiart", str(data / "wikiart"), "--out", str(tmp_path / "other")]) == 2
    assert "no annotations" in capsys.readouterr().err
    assert (
        main(["lexicon", str(data / "mini-vad-lexicon.txt"), "--data", str(tmp_path / "out" / "v1")]) == 0
        and "sadness" in capsys.readouterr().out
    )


def test_pictures_are_checked_against_the_styles(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        check_wikiart(tmp_path / "x", {"Cubism"})
    (tmp_path / "Cubism").mkdir()
    check_wikiart(tmp_path, {"Cubism", "Realism"})
    found, report, checks, _ = find_pictures(tmp_path, [("Cubism", "a")], progress=False)
    assert not found and not checks and report.dropped == {"no picture": 1}

"""Not found, but near: pictures spelled otherwise, lexicons as they are handed out, files that are something else."""

import csv
import gzip
import json
import os
import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sevlm.app.inspect import inspect_path
from sevlm.artemis.prepare import PICTURE_NAMES, Inputs, checksums, find_pictures, prepare
from sevlm.artemis.protocol import read_preprocessed, read_rows
from sevlm.artemis.records import RecordFolder, read_histograms, read_records
from sevlm.artemis.utterances import read_known_words, read_tables
from sevlm.cli import main
from sevlm.config import EMOTIONS, RELEASE_COLUMNS
from sevlm.data import paintings as paintings_module
from sevlm.data.paintings import NO_PICTURE, UNSURE, Release, find_image, find_images, read_artemis
from sevlm.errors import DataError, LexiconError
from sevlm.lexicon.files import find_lexicon, is_lexicon, read_lexicon_file
from sevlm.lexicon.lexicon import Lexicon
from sevlm.near import (
    decode_text,
    is_file_name,
    match_names,
    near_files,
    near_names,
    plain_name,
    read_text,
    repaired_name,
    same_text,
    shown,
    what_is,
)
from sevlm.studies.evaluate import read_predictions
from sevlm.studies.text_emotion import read_glove
from sevlm.synthetic.dataset import make_mini
from sevlm.training.run import _sources

CASES = Path(__file__).parent / "cases"
STYLE = "Art_Nouveau_Modern"


def csv_of(path, names, style=STYLE):
    "A release with two annotations for each painting."
    rows = [(style, name, emotion, "The sea, so wide.", 2) for name in names for emotion in ("awe", "fear")]
    with open(path, "w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows([RELEASE_COLUMNS, *rows])
    return path


def records_of(path, names, style=STYLE, first=1):
    "The same as records."
    shares = [0.0] * 9
    shares[EMOTIONS.index("awe")] = shares[EMOTIONS.index("fear")] = 0.5
    record = dict(emotions=["awe", "fear"], explanations=["so wide", "so deep"], origin_emotion_distribution=shares)
    found = {str(first + k): {**record, "image_name": f"{style}/{name}.jpg"} for k, name in enumerate(names)}
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


def pictures(folder, *files):
    "Small pictures, whatever their names say."
    for file in files:
        place = folder / file
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(place, "wb") as f:
            Image.new("RGB", (8, 8), (90, 120, 60)).save(f, "JPEG")
    return folder


def everywhere(tmp_path, names, files, style=STYLE):
    "What each of the four readers finds: name -> file below the folder of pictures; they must agree."
    images = pictures(tmp_path / "wikiart", *files)
    relative = lambda path: path.relative_to(images).as_posix()
    search = find_images(images, [(style, n) for n in names])
    found = {n: relative(p) for (_, n), p in search.paths.items()}
    listed, *_ = find_pictures(images, [(style, n) for n in names], "names", progress=False)
    assert listed == {f"{style}/{n}": file for n, file in found.items()}
    if found:
        by_csv, _ = read_artemis(csv_of(tmp_path / "a.csv", names, style), images)
        by_records, _ = read_records(records_of(tmp_path / "r.json", names, style), images)
        assert {p.name: relative(p.image) for p in by_csv} == {p.name: relative(p.image) for p in by_records} == found
    return found, search


GOOD = "rené-dupont_la-mer"
OTHER_SPELLINGS = [  # name in the annotations, file
    (GOOD, f"{GOOD}.JPG"),
    (GOOD, f"{GOOD}.webp"),
    (GOOD, f"{GOOD}.png"),
    (GOOD, f"{GOOD}.jpeg"),
    (GOOD, f"{GOOD}.tif"),
    (GOOD, f"{GOOD}.jpg.jpg"),
    (GOOD, f"{unicodedata.normalize('NFD', GOOD)}.jpg"),
    (unicodedata.normalize("NFD", GOOD), f"{GOOD}.jpg"),
    (GOOD, "René-Dupont_La-Mer.jpg"),
    (GOOD, "ren├⌐-dupont_la-mer.jpg"),
    ("ren├⌐-dupont_la-mer", f"{GOOD}.jpg"),
    (GOOD, "ren├®-dupont_la-mer.jpg"),
    (GOOD, "renÃ©-dupont_la-mer.jpg"),
    (GOOD, "renÃƒÂ©-dupont_la-mer.jpg"),
    ("renã©-dupont_la-mer", f"{GOOD}.jpg"),
    ("renã©-dupont_la-mer", "renÃ©-dupont_la-mer.jpg"),
    (unicodedata.normalize("NFD", "renã©-dupont_la-mer"), f"{GOOD}.jpg"),
    (GOOD, "rene-dupont_la-mer.jpg"),
    ("rene-dupont_la-mer", f"{GOOD}.jpg"),
    (GOOD, "ren-dupont_la-mer.jpg"),
    (GOOD, "ren_-dupont_la-mer.jpg"),
    (GOOD, "ren?-dupont_la-mer.jpg"),
    (GOOD, "ren??-dupont_la-mer.jpg"),
    (GOOD, "ren\ufffd-dupont_la-mer.jpg"),
    ("ren?-dupont_la-mer", f"{GOOD}.jpg"),
    (GOOD, "ren#U00e9-dupont_la-mer.jpg"),
    (GOOD, "ren#U00C3#U00A9-dupont_la-mer.jpg"),
    (GOOD, "ren\\u00e9-dupont_la-mer.jpg"),
    (GOOD, "ren&#233;-dupont_la-mer.jpg"),
    (GOOD, "ren&eacute;-dupont_la-mer.jpg"),
    (GOOD, "ren%C3%A9-dupont_la-mer.jpg"),
    (GOOD, "ren%E9-dupont_la-mer.jpg"),
    (GOOD, "rené-dupont-la-mer.jpg"),
    (GOOD, "rené dupont_la mer.jpg"),
    ("a_x_not-detected-1901", "a_x_not_detected-1901.jpg"),
    ("vincent_st.-remy-1889", "vincent_st-remy-1889.jpg"),
    ("vincent_st-remy-1889", "vincent_st.-remy-1889.jpg"),
    ("j.m.w.-turner_rain", "jmw-turner_rain.jpg"),
    ("mother-&-child-1905", "mother-&amp;-child-1905.jpg"),
    ("mother-&amp;-child-1905", "mother-&-child-1905.jpg"),
    ("søren_brücke-straße", "soren_brucke-strasse.jpg"),
    ("čapek_ž-1912", "čapek_ž-1912.jpg".encode().decode("cp437")),
    ("репин_волга", "репин_волга.jpg".encode().decode("cp866")),
    ("two-jugs-1912", "two-jugs-1912.JPEG"),
    ("two-jugs-1905-1906", "two jugs 1905_1906.jpg"),
    ("two-jugs(1)", "Two-Jugs(1).jpg"),
    ("n" * 300, "n" * 200 + ".jpg"),
]


@pytest.mark.parametrize("name, file", OTHER_SPELLINGS)
def test_a_picture_under_another_spelling_is_used_and_counted(tmp_path, name, file):
    found, search = everywhere(tmp_path, [name, "harbour"], [f"{STYLE}/{file}", f"{STYLE}/harbour.jpg"])
    assert found == {name: f"{STYLE}/{file}", "harbour": f"{STYLE}/harbour.jpg"}
    notes = search.notes()
    assert notes["pictures under another spelling"] == 1 and not search.ambiguous and not search.near
    assert shown(f"{STYLE}/{file}") in notes["other spellings, for instance"]
    assert find_image(tmp_path / "wikiart", STYLE, name) == tmp_path / "wikiart" / STYLE / file


@pytest.mark.parametrize(
    "folder",
    ["art_nouveau_modern", "Art-Nouveau-Modern", "art nouveau modern", "ArtNouveauModern", "Art%20Nouveau%20Modern"],
)
def test_a_style_folder_under_another_spelling(tmp_path, folder):
    found, search = everywhere(tmp_path, ["lamp"], [f"{folder}/lamp.jpg"])
    assert found == {"lamp": f"{folder}/lamp.jpg"} and len(search.respelled) == 1


DIFFERENT = [  # neither of these is the other
    ("the-stairs-1", "the-stairs(1).jpg"),
    ("no-1-11", "no-11-1.jpg"),
    ("study-12", "study-1-2.jpg"),
    ("harbour-1888", "harbour-1889.jpg"),
    ("harbour", "harbour.txt"),
    ("harbour", "._harbour.jpg"),
    ("Ш", "1.jpg"),
    ("рука-1", "1.jpg"),
    ("café", "cafä.jpg"),
    ("???", "___.jpg"),
    ("harbour", "harbours-at-night.jpg"),
    ("n" * 99, "n" * 60 + ".jpg"),
]


@pytest.mark.parametrize("name, file", DIFFERENT)
def test_another_picture_is_not_taken(tmp_path, name, file):
    found, search = everywhere(tmp_path, [name], [f"{STYLE}/{file}"])
    assert found == {} and not search.ambiguous


AMBIGUOUS = [  # names, files, what is found
    (["old.mill"], ["old_mill.jpg", "Old-Mill.jpg"], {}),
    (["old.mill", "old-mill"], ["old_mill.jpg"], {}),
    (["old-mill", "Old_Mill"], ["old-mill.jpg"], {"old-mill": "old-mill.jpg"}),
    (
        ["old-mill", "Old_Mill"],
        ["old-mill.jpg", "OLD_MILL.png"],
        {"old-mill": "old-mill.jpg", "Old_Mill": "OLD_MILL.png"},
    ),
    (["old-mill"], ["old-mill.png", "old-mill.webp"], {}),
    (["old-mill"], ["old-mill.jpg", "old-mill.webp", "Old-Mill.jpg"], {"old-mill": "old-mill.jpg"}),
    ([GOOD, "ren-dupont_la-mer"], ["ren-dupont_la-mer.jpg"], {"ren-dupont_la-mer": "ren-dupont_la-mer.jpg"}),
    ([GOOD, "renè-dupont_la-mer"], ["ren-dupont_la-mer.jpg"], {}),
    ([GOOD], ["ren├⌐-dupont_la-mer.jpg", "renÃ©-dupont_la-mer.jpg"], {}),
    (["n" * 300, "n" * 310], ["n" * 200 + ".jpg"], {}),
]


@pytest.mark.parametrize("names, files, expected", AMBIGUOUS)
def test_what_is_not_the_only_one_is_listed_and_never_guessed(tmp_path, names, files, expected):
    found, search = everywhere(tmp_path, names, [f"{STYLE}/{f}" for f in files])
    assert found == {n: f"{STYLE}/{f}" for n, f in expected.items()}
    left = [n for n in names if n not in expected]
    if len(names[0]) < 300:
        assert sorted(n for _, n in search.ambiguous) == sorted(left)
    for name in left:
        reason, example = search.fault(STYLE, name)
        assert reason in (UNSURE, NO_PICTURE) and name in example
        assert reason == NO_PICTURE or any(f in example for f in files)


def test_spellings_of_one_name_share_its_picture(tmp_path):
    "The same letters, composed or not, are one painting; other names are not."
    decomposed = unicodedata.normalize("NFD", GOOD)
    found, _ = everywhere(tmp_path, [GOOD], [f"{STYLE}/{GOOD}.jpg"])
    search = find_images(tmp_path / "wikiart", [(STYLE, GOOD), (STYLE, decomposed)])
    assert len(search.paths) == 2 and len(set(search.paths.values())) == 1 and found


def test_a_picture_of_one_split_is_not_taken_for_a_painting_of_another(tmp_path):
    images = pictures(tmp_path / "wikiart", *(f"{STYLE}/{n}.jpg" for n in ("old_mill", "lamp", "boat")))
    for k, (part, names) in enumerate(dict(train=["old-mill", "boat"], val=["old_mill"], test=["lamp"]).items()):
        records_of(tmp_path / f"artEmisX_{part}.json", names, first=1 + 10 * k)
    parts, reports = RecordFolder(tmp_path).parts(images)
    assert {part: [p.name for p in found] for part, found in parts.items()} == dict(
        train=["boat"], val=["old_mill"], test=["lamp"]
    )
    assert reports[0].dropped == {UNSURE: 2} and "old_mill.jpg?" in str(reports[0])


def test_near_names_are_told_and_not_used(tmp_path):
    found, search = everywhere(tmp_path, ["harbor-at-dusk", "zebra"], [f"{STYLE}/harbour-at-dusk.jpg"])
    assert found == {} and search.near == {(STYLE, "harbor-at-dusk"): [f"{STYLE}/harbour-at-dusk.jpg"]}
    with pytest.raises(DataError, match="near names.*harbor-at-dusk: .*harbour-at-dusk.jpg"):
        read_artemis(csv_of(tmp_path / "m.csv", ["harbor-at-dusk"]), tmp_path / "wikiart")


def test_names_of_raw_bytes(tmp_path):
    "A zip program may leave bytes that are no UTF-8; such a name is read, and can be printed and stored."
    for page in ("cp1252", "cp437", "latin-1"):
        images = tmp_path / page
        (images / STYLE).mkdir(parents=True)
        raw = os.fsencode(str(images / STYLE)) + b"/" + GOOD.encode(page) + b".jpg"
        try:
            with open(raw, "wb") as f:
                f.write(b"x")
        except OSError:
            pytest.skip("this file system takes no names that are not UTF-8")
        search = find_images(images, [(STYLE, GOOD)])
        assert len(search.paths) == 1, page
        str(search.notes()).encode("utf-8")


def test_each_style_folder_is_listed_once(tmp_path, monkeypatch):
    "However many paintings there are, and however many of them have another spelling."
    names = [f"painter-{k}_title-{k}" for k in range(300)]
    images = pictures(tmp_path, *(f"{STYLE}/{n.replace('_', '-') if k % 2 else n}.jpg" for k, n in enumerate(names)))
    listed = []
    monkeypatch.setattr(paintings_module.os, "listdir", lambda p, real=os.listdir: listed.append(p) or real(p))
    search = find_images(images, [(STYLE, n) for n in names])
    assert len(search.paths) == 300 and len(search.respelled) == 150 and listed == [images / STYLE]


def test_prediction_keys_can_be_matched():
    keys = [f"{STYLE}/{GOOD}", f"{STYLE}/lamp"]
    there = [f"{STYLE}/ren├⌐-dupont_la-mer.jpg", f"{STYLE}/Lamp.jpg", f"{STYLE}/boat"]
    assert match_names(keys, there).found == dict(zip(keys, there))


# --- whatever the names are

letters = st.text(st.sampled_from("abcdeé ü_-.(1)2ß&%#├⌐Ã©я'"), max_size=10)
names = st.lists(letters | st.text(max_size=6), max_size=8)


@settings(max_examples=300, deadline=None)
@given(names, names)
def test_no_name_is_given_twice_and_nothing_is_lost(wanted, there):
    result = match_names(wanted, there)
    assert set(result.found) | set(result.ambiguous) | set(result.missing) == set(wanted)
    assert len(result.found) + len(result.ambiguous) + len(result.missing) == len(set(wanted))
    assert set(result.found.values()) <= set(there)
    for name in set(wanted) & set(there):
        assert name in result.found and result.found[name] == name or not name
    users = {}
    for name, other in result.found.items():
        users.setdefault(other, set()).add(same_text(name))
    assert all(len(texts) == 1 for texts in users.values())


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=20))
def test_any_name_has_its_forms(name):
    assert all(isinstance(form(name), str) for form in (same_text, repaired_name, plain_name))
    assert shown(name).encode("utf-8").decode().isprintable()
    assert near_names(name, ["harbour", name])[:1] in ([], [name], ["harbour"])
    if plain_name(name):
        assert match_names([name], [name.replace("_", "-")]).found == {name: name.replace("_", "-")}


@settings(max_examples=200, deadline=None)
@given(
    st.text("abcdefgéèüößñçøåí-_", min_size=3, max_size=20),
    st.sampled_from(["cp437", "cp850", "latin-1", "cp1252+latin-1"]),
    st.integers(1, 2),
)
def test_garbling_is_undone(name, page, times):
    garbled = unicodedata.normalize("NFC", name)
    wanted = garbled
    for _ in range(times):
        garbled = "".join(
            bytes([b]).decode(
                "cp1252"
                if page.startswith("cp1252") and b not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
                else page.split("+")[-1]
            )
            for b in garbled.encode()
        )
    assert repaired_name(garbled) == wanted


# --- lexicons as they are handed out

FOLDER = CASES / "lexicons" / "NRC-VAD-Lexicon-like-release"
WORDS = read_lexicon_file(FOLDER / "NRC-VAD-Lexicon.txt").entries


def zip_of(path, folder, inside="", macos=True):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{inside}{file.relative_to(folder.parent).as_posix()}")
        if macos:
            archive.writestr("__MACOSX/._NRC-VAD-Lexicon.txt", b"\0\5\x16\7")
    return path


def nrc_like(folder):
    "Folders like those of the published archive, with lists on two scales and one file per dimension."
    (folder / "BipolarScale" / "OneFilePerDimension").mkdir(parents=True)
    (folder / "NRC-VAD-Lexicon.txt").write_bytes((FOLDER / "NRC-VAD-Lexicon.txt").read_bytes())
    (folder / "BipolarScale" / "NRC-VAD-Lexicon.txt").write_text(
        "calm\t.75\t-.8\t.4\nstorm\t-.4\t.7\t.2\n", encoding="utf-8"
    )
    (folder / "BipolarScale" / "OneFilePerDimension" / "v.txt").write_text("calm\t.75\nstorm\t-.4\n", encoding="utf-8")
    (folder / "NRC-VAD-Lexicon-ForVariousLanguages.txt").write_text(
        "English Word\tValence\tArousal\tDominance\tBasque\ncalm\t0.875\t0.1\t0.7\tlasai\n",
        encoding="utf-8",
    )
    (folder / "Paper.pdf").write_bytes(b"%PDF-1.5\n\xff")
    (folder / "README.txt").write_text("invented\n", encoding="utf-8")
    return folder


def test_a_lexicon_in_a_folder_or_zip_is_found_and_named(tmp_path):
    assert find_lexicon(FOLDER) == FOLDER / "NRC-VAD-Lexicon.txt"
    archive = zip_of(tmp_path / "NRC-VAD-Lexicon.zip", FOLDER)
    for path in (FOLDER, archive):
        read = read_lexicon_file(path)
        assert read.entries == WORDS and read.name == "NRC-VAD-Lexicon.txt" and read.published.name == "NRC VAD v1"
        assert any("NRC-VAD-Lexicon.txt, found in" in note and path.name in note for note in read.notes)
        assert any("found in" in note for note in inspect_path(path)["notes"])
    whole = nrc_like(tmp_path / "whole")
    for path in (whole, zip_of(tmp_path / "whole.zip", whole)):
        read = read_lexicon_file(path)
        assert (
            read.entries == WORDS and "beside it" in " ".join(read.notes) and "BipolarScale/NRC" in " ".join(read.notes)
        )
    assert read_lexicon_file(whole / "BipolarScale").entries["calm"] == (0.75, -0.8, 0.4)


def test_a_lexicon_of_a_release_may_be_a_folder_a_zip_or_in_capitals(tmp_path):
    csv_of(tmp_path / "ARTEMIS.CSV", ["lamp"])
    pictures(tmp_path / "WikiArt", f"{STYLE}/lamp.jpg")
    assert Release(tmp_path).csv.name == "ARTEMIS.CSV" and Release(tmp_path).lexicon is None
    (tmp_path / "lexicon notes").mkdir()
    assert Release(tmp_path).lexicon is None
    zip_of(tmp_path / "nrc-vad-lexicon.zip", FOLDER)
    assert Lexicon.read(Release(tmp_path).lexicon).file.entries == WORDS
    (tmp_path / "nrc-vad-lexicon.zip").unlink()
    nrc_like(tmp_path / "NRC-VAD-Lexicon")
    assert Release(tmp_path).lexicon == tmp_path / "NRC-VAD-Lexicon" / "NRC-VAD-Lexicon.txt"
    (tmp_path / "NRC-VAD-LEXICON.CSV").write_bytes((CASES / "lexicons" / "commas.csv").read_bytes())
    release = Release(tmp_path)
    assert release.lexicon.name == "NRC-VAD-LEXICON.CSV" and release.csv.name == "ARTEMIS.CSV"
    assert len(release.paintings()[0]) == 1
    upper = tmp_path / "NRC-VAD-LEXICON.TXT"
    upper.write_bytes((FOLDER / "NRC-VAD-Lexicon.txt").read_bytes())
    assert Release(tmp_path).lexicon == upper and read_lexicon_file(upper).published.name == "NRC VAD v1"


def test_no_lexicon_or_several_in_a_folder(tmp_path):
    with pytest.raises(LexiconError, match="it holds none. Found a-scores.txt, d-scores.txt, v-scores.txt"):
        find_lexicon(FOLDER / "OneFilePerDimension")
    for name in ("mine.txt", "yours.txt"):
        (tmp_path / name).write_text("calm\t.5\t.5\t.5\n", encoding="utf-8")
    with pytest.raises(LexiconError, match="several lexicons: mine.txt, yours.txt. Give one"):
        Lexicon.read(tmp_path)
    with pytest.raises(LexiconError, match="several lexicons"):
        Lexicon.read(zip_of(tmp_path / "two.zip", tmp_path))


def test_utf16_by_its_mark_is_read_and_told():
    read = read_lexicon_file(CASES / "lexicons" / "utf16.txt")
    assert read.entries == WORDS and any("UTF-16" in note for note in read.notes)
    assert is_lexicon(CASES / "lexicons" / "utf16.txt")


def test_lexicons_that_were_good_stay_good():
    for name in ("bom_crlf_header.txt", "commas.csv"):
        assert read_lexicon_file(CASES / "lexicons" / name).entries == WORDS
    with pytest.raises(LexiconError, match="line 9: 'calm' was listed on line 1 with other values"):
        read_lexicon_file(CASES / "lexicons" / "twice.txt")


@pytest.mark.parametrize("how", ["folder", "zip", "utf16"])
def test_prepare_takes_a_lexicon_as_it_is_handed_out(tmp_path, how):
    data = make_mini(tmp_path / "mini", n=40, seed=2, workers=1, progress=False)
    lexicon = {
        "folder": FOLDER,
        "zip": zip_of(tmp_path / "NRC.zip", FOLDER),
        "utf16": CASES / "lexicons" / "utf16.txt",
    }[how]
    inputs = Inputs(data / "wikiart", data / "artemis_dataset_release_v0.csv", lexicon=lexicon)
    done = prepare(inputs, tmp_path / "out", progress=False)
    copied = tmp_path / "out" / "v1" / done["v1"]["lexicon"]
    assert Lexicon.read(copied).file.entries == WORDS
    page = (tmp_path / "out" / "prepare_report.md").read_text(encoding="utf-8")
    assert ("UTF-16" in page) if how == "utf16" else ("found in" in page)


def test_a_training_run_knows_a_lexicon_by_its_content(tmp_path):
    data = make_mini(tmp_path / "mini", n=20, seed=2, workers=1, progress=False)
    of = lambda lexicon: _sources(data, lexicon, None)["lexicon"]
    assert of(FOLDER) == of(FOLDER / "NRC-VAD-Lexicon.txt") != of(None)


# --- something else than text

INSTEAD = {
    "gzip archive": gzip.compress(b"art_style,painting"),
    "Excel workbook": {"[Content_Types].xml": "x", "xl/workbook.xml": "x"},
    "OpenDocument": {"mimetype": "x", "content.xml": "x"},
    "Word document": {"word/document.xml": "x"},
    "old Microsoft Office": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "page of the web": b"\xef\xbb\xbf \n<!DOCTYPE html>\n<html><body>log in</body></html>",
    "holds data/release.csv": {"data/release.csv": "a,b"},
    "cut short or damaged": b"PK\x03\x04" + bytes(40),
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "Parquet": b"PAR1" + bytes(20),
    "7-Zip": b"7z\xbc\xaf\x27\x1c" + bytes(20),
    "tar archive": b"release.csv" + bytes(246) + b"ustar  \0" + bytes(200),
    "iconv -f UTF-16LE": "art_style,painting\n".encode("utf-16-le"),
    "iconv -f UTF-16BE": "art_style,painting\n".encode("utf-16-be"),
    "Windows-1252": "art_style,painting\nRealism,rené\n".encode("cp1252"),
    "middle of a letter": "art_style,painting\nRealism,rené".encode()[:-1],
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(30),
    "picture (GIF)": b"GIF89a" + bytes(20),
    "media file (RIFF)": b"RIFF\x24\0\0\0WEBPVP8 " + bytes(20),
    "Arrow": b"ARROW1\0\0" + bytes(20),
    "pickle": b"\x80\x04\x95",
    "binary file": b"\1\2\0\3" * 50,
}
EMPTY_VOCABULARY = type("V", (), {"words": ["<pad>"]})()
READERS = {
    "artemis": read_artemis,
    "rows": read_rows,
    "lexicon": read_lexicon_file,
    "known words": read_known_words,
    "tables": read_tables,
    "records": read_records,
    "histogram": read_histograms,
    "preprocessed": read_preprocessed,
    "glove": lambda path: read_glove(path, EMPTY_VOCABULARY),
    "predictions": read_predictions,
}


def put_instead(path, content):
    if isinstance(content, dict):
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in content.items():
                archive.writestr(name, text)
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("what", INSTEAD)
def test_what_a_file_is(what, tmp_path):
    path = put_instead(tmp_path / "given.csv", INSTEAD[what])
    assert what in what_is(path)
    with pytest.raises(DataError, match="Expected a table") as e:
        read_text(path, "a table")
    assert what in str(e.value) and str(path) in str(e.value)


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_says_what_it_was_given(reader, tmp_path):
    binary = [
        w for w, data in INSTEAD.items() if isinstance(data, dict) or w in ("gzip archive", "Windows-1252", "PDF")
    ]
    for what in binary:
        path = put_instead(tmp_path / "given.csv", INSTEAD[what])
        with pytest.raises((DataError, LexiconError)) as e:
            READERS[reader](path)
        assert what in str(e.value), (what, str(e.value))
    (tmp_path / "given_release.csv").write_text("x", encoding="utf-8")
    with pytest.raises((DataError, LexiconError), match="Near it: .*given_release.csv"):
        READERS[reader](tmp_path / "givn_relaese.csv")
    with pytest.raises((DataError, LexiconError)):
        READERS[reader](tmp_path)


def test_text_is_no_archive(tmp_path):
    starts = ("PK is no zip", "RIFFRAFF, she said", "GIF89 or GIF87", "ARROW1,ARROW2\n")
    for k, text in enumerate(("calm\t0.5", "\ufeffcalm", "# a < b\n", *starts)):
        (path := tmp_path / f"{k}.txt").write_text(text, encoding="utf-8")
        assert what_is(path) is None, text
    assert what_is(tmp_path / "none") is None and "empty" in what_is(put_instead(tmp_path / "e", b""))
    assert "folder that holds 0.txt, 1.txt" in what_is(tmp_path)


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=300), st.sampled_from([b"", b"PK\x03\x04", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"<html"])
)
def test_any_bytes_are_text_or_named(data, start):
    try:
        text = decode_text(start + data, "given.csv", "a table")
    except DataError as e:
        assert "given.csv" in str(e) and "Expected a table" in str(e)
    else:
        assert isinstance(text, str) and what_is("given.csv", start + data or b"x") is None


def test_utf16_annotations_are_read(tmp_path):
    content = csv_of(tmp_path / "a.csv", ["lamp"]).read_text(encoding="utf-8")
    (tmp_path / "b.csv").write_text(content, encoding="utf-16")
    rows, report = read_rows(tmp_path / "b.csv")
    assert len(rows) == 2 and "UTF-16" in str(report)
    assert len(read_artemis(tmp_path / "b.csv")[0]) == 1


@pytest.mark.parametrize("name", ["quoted_newlines", "bom_crlf", "pandas_index"])
def test_csv_files_that_were_good_stay_good(name):
    path = CASES / "csv" / f"{name}.csv"
    paintings, report = read_artemis(path)
    rows, _ = read_rows(path)
    assert report.kept == report.read == len(rows) > 0 and paintings[0].key == "Cubism/jane-doe_two-jugs-1912"


# --- folders


def test_what_lies_near_a_missing_file(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "artemis_dataset_release_v0.csv").write_text("x", encoding="utf-8")
    assert "artemis_dataset_release_v0.csv" in near_files(tmp_path / "data" / "artemis_datset.csv")
    assert "no folder" in (told := near_files(tmp_path / "dat" / "x.csv")) and str(tmp_path / "data") in told
    assert near_files(tmp_path / "data" / "zebra") == ""


def test_a_release_that_was_not_unpacked_or_lies_deeper(tmp_path):
    inner = tmp_path / "outer" / "official_data"
    inner.mkdir(parents=True)
    csv_of(inner / "artemis_dataset_release_v0.csv", ["lamp"])
    with pytest.raises(DataError, match="official_data in it holds artemis_dataset_release_v0.csv: is .*official_data"):
        Release(tmp_path / "outer")
    zip_of(inner / "wikiart.zip", pictures(tmp_path / "wikiart", f"{STYLE}/lamp.jpg"), macos=False)
    with pytest.raises(DataError, match="wikiart.zip is a zip archive that holds .*lamp.jpg. Unpack it: unzip"):
        Release(inner)
    packed = tmp_path / "packed"
    packed.mkdir()
    zip_of(packed / "artemis_official_data.zip", inner)
    with pytest.raises(DataError, match="artemis_official_data.zip is a zip .*artemis_dataset_release_v0.csv.*unzip"):
        Release(packed)
    with pytest.raises(DataError, match="Near it: .*outer"):
        Release(tmp_path / "outre")
    (inner / "wikiart" / "wikiart").mkdir(parents=True)
    pictures(inner / "wikiart" / "wikiart", f"{STYLE}/lamp.jpg")
    with pytest.raises(DataError, match="one level down; give .*wikiart.wikiart"):
        Release(inner).paintings()


def test_the_command_line_tells_it(tmp_path, capsys):
    data = make_mini(tmp_path / "mini", n=40, seed=3, workers=1, progress=False)
    files = sorted(p for p in (data / "wikiart").rglob("*.jpg"))
    files[0].rename(files[0].with_name(files[0].name.replace("-", "_").upper()))
    files[1].rename(files[1].with_suffix(".webp"))
    files[2].rename(files[2].with_name(f"x{files[2].name}"))
    release = data / "artemis_dataset_release_v0.csv"
    argv = ["prepare", "--wikiart", str(data / "wikiart"), "--out", str(tmp_path / "out"), "--quiet", "--artemis"]
    assert main([*argv, str(release.with_name("artemis_datset.csv"))]) == 2
    assert f"Near it: {release}" in capsys.readouterr().err
    assert main([*argv, str(release)]) == 0
    out = capsys.readouterr().out
    assert "pictures under another spelling: 2" in out and f"{files[1].stem}.webp' for " in out
    with open(tmp_path / "out" / "v1" / PICTURE_NAMES, encoding="utf-8", newline="") as f:
        listed = list(csv.DictReader(f))
    assert [r["what"] for r in listed] == ["taken", "taken", "near"] and files[2].name in listed[2]["files"]
    missing = (tmp_path / "out" / "v1" / "missing_pictures.txt").read_text(encoding="utf-8").splitlines()
    assert missing == [f"{files[2].parent.name}/{files[2].stem}"]
    assert main(["evaluate", str(tmp_path / "out" / "v1"), "--part", "all", "--no-meteor", "--quiet"]) == 0
    assert "pictures under another spelling: 2" in capsys.readouterr().out


def test_checksums_name_what_is_near(tmp_path):
    (tmp_path / "wikiart" / STYLE).mkdir(parents=True)
    csv_of(tmp_path / "release.csv", ["lamp"])
    with pytest.raises(DataError, match="Near it: .*release.csv"):
        checksums(Inputs(tmp_path / "wikiart", tmp_path / "relase.csv"))
    assert checksums(Inputs(tmp_path / "wikiart", tmp_path / "release.csv"))["artemis"]["sha256"]


def test_emotions_in_another_spelling_are_read_and_counted(tmp_path):
    rows = [("Cubism", "a", e, "it is a fine one", "3") for e in ("AWE", " Something-Else", "awe")]
    text = "\n".join(",".join(row) for row in [RELEASE_COLUMNS, *rows]) + "\n"
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    (painting,), report = read_artemis(tmp_path / "a.csv")
    frame, same = read_rows(tmp_path / "a.csv")
    assert painting.emotions == tuple(frame.emotion) == ("awe", "something else", "awe")
    assert all(r.notes["emotions read under another spelling"] == 2 and not r.dropped for r in (report, same))


def test_names_that_could_leave_a_folder_are_no_file_names():
    assert all(map(is_file_name, ("a", "a.jpg", "..a", "a b", "\u00fc", "-")))
    assert not any(map(is_file_name, ("", " ", ".", "..", " .. ", "a/b", "/a", "a\\b", "a\0", None, 3)))

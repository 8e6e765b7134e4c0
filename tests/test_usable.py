"""Which pictures can be used is found once and known by every step: a made-up release, of which some pictures are
damaged in eight ways, before and after it is prepared, and during a run."""

import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import prepare_argv
from matplotlib.figure import Figure

from sevlm.artemis.folder import Prepared, open_data, paintings_of
from sevlm.artemis.prepare import MISSING_PICTURES, PICTURES_RECORD, Inputs, find_pictures, prepare
from sevlm.cli import main
from sevlm.config import SEVLMConfig, TrainConfig
from sevlm.data import pictures
from sevlm.data.paintings import Release, split_paintings
from sevlm.data.pictures import (
    CHECKS,
    MISSING,
    UNREADABLE,
    Checked,
    check_file,
    check_pictures,
    read_checks,
    write_checks,
)
from sevlm.errors import DataError, ImageError
from sevlm.images import JPEG_END
from sevlm.studies.ablation import RUN_COLUMNS, read_grid
from sevlm.synthetic.dataset import make_mini
from sevlm.training.inputs import load_training_data
from sevlm.training.learner import CB
from sevlm.training.run import start_run
from sevlm.training.validation import _save_quietly

PAINTINGS = 300
CASES = Path(__file__).parent / "cases" / "images"
TINY = ("epochs=1", "batch_size=64", "val_paintings=6", "device=cpu")


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_and_closed(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] + JPEG_END)


def garbled(path):
    "200 bytes in the middle are others; a stored case, since which bytes libjpeg stumbles over depends on the picture."
    shutil.copyfile(CASES / "middle_garbled.jpg", path)


def replaced_by_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = {  # what is done to a picture -> what the check calls it
    "emptied": (lambda path: path.write_bytes(b""), "empty file"),
    "cut off": (cut_off, "picture cut off"),
    "cut and closed": (cut_and_closed, "damaged pixels"),
    "garbled": (garbled, "damaged pixels"),
    "a page": (
        lambda path: path.write_text("<!DOCTYPE html><title>404 Not Found</title>", encoding="utf-8"),
        "not a picture",
    ),
    "deleted": (lambda path: path.unlink(), MISSING),
    "a text": (lambda path: path.write_text("no picture", encoding="utf-8"), "not a picture"),
    "a folder": (replaced_by_folder, "not a file"),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEVLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SEVLM_THREADS", "1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A synthetic release without a fault."
    return make_mini(tmp_path_factory.mktemp("whole") / "mini", n=PAINTINGS, seed=3, size=96, workers=1, progress=False)


@pytest.fixture
def spoilt(whole, tmp_path):
    "A copy; every damage in the training part, two in each of the others: 4 % of the pictures."
    folder = Path(shutil.copytree(whole, tmp_path / "spoilt"))
    parts = Release(folder).parts(images=False)[0]
    hit = [*parts["train"][5 :: len(parts["train"]) // len(DAMAGES)][: len(DAMAGES)]]
    jobs = [
        *zip(hit, DAMAGES),
        *zip(parts["val"][3:5], ("cut off", "garbled")),
        *zip(parts["test"][7:9], ("deleted", "cut and closed")),
    ]
    for p, what in jobs:
        DAMAGES[what][0](folder / "wikiart" / p.style / f"{p.name}.jpg")
    return SimpleNamespace(
        folder=folder,
        lost={p.key: DAMAGES[what][1] for p, what in jobs},
        parts={name: [p.key for p in part] for name, part in parts.items()},
    )


@pytest.fixture
def command(capsys, caplog):
    "Runs a command: exit code, output, errors with what was logged (which pytest catches)."

    def run(*argv):
        capsys.readouterr()
        caplog.clear()
        code = main([str(a) for a in argv])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err + caplog.text

    return run


def counts_in(text):
    "Read, kept, dropped, and the reasons, of the report about pictures in a text."
    found = re.search(r"^\*{0,2}pictures\*{0,2}: ([\d,]+) paintings read, ([\d,]+) kept, ([\d,]+) dropped", text, re.M)
    reasons = re.findall(r"^ +(\d+)  (.*?): ", text[found.start() :], re.M) or [
        (n, why) for why, n in re.findall(r"^- dropped, (.*?): (\d+)", text[found.start() :], re.M)
    ]
    return tuple(map(int, found.groups())), {
        why: int(n) for n, why in reasons if why in {w for _, w in DAMAGES.values()}
    }


def test_every_step_counts_the_same(spoilt, command, tmp_path):
    "prepare, train, evaluate and explain on a release of which 4 % of the pictures are damaged, each in turn."
    lost, data = spoilt.lost, tmp_path / "prepared" / "v1"
    expected = (PAINTINGS, PAINTINGS - len(lost), len(lost)), dict(Counter(lost.values()))
    code, out, err = command(*prepare_argv(spoilt.folder, tmp_path / "prepared"))
    assert code == 0 and counts_in(out) == expected
    assert f"{len(lost)} of {PAINTINGS} paintings have no usable picture (" in err and "2 picture cut off" in err
    assert set((data / MISSING_PICTURES).read_text(encoding="utf-8").split()) == set(lost)

    opened = []
    with pytest.MonkeyPatch.context() as m:
        m.setattr(pictures, "check_picture", lambda *a: opened.append(a))
        code, out, err = command(
            "train", data, "--out", tmp_path / "run", "--preset", "tiny", "--quiet", "--set", *TINY
        )
        assert code == 0 and counts_in(out) == expected
        code, out, err = command(
            "evaluate",
            data,
            "--checkpoint",
            tmp_path / "run",
            "--no-meteor",
            "--quiet",
            "--out",
            tmp_path / "scores",
            "--new-tokens",
            "3",
        )
        assert code == 0 and counts_in(out) == expected
    assert not opened  # what prepare has found, they know
    test = [key for key in spoilt.parts["test"] if key not in lost]
    answers = [
        json.loads(line)["painting"]
        for line in (tmp_path / "scores" / "predictions.jsonl").read_text(encoding="utf-8").split("\n")
        if line
    ]
    assert answers == test and len(test) == len(spoilt.parts["test"]) - 2

    code, out, err = command(
        "explain", spoilt.folder / "wikiart", "--checkpoint", tmp_path / "run", "--json", "--new-tokens", "1"
    )
    there = {key for key, why in lost.items() if why not in (MISSING, "not a file")}
    named = {key for key in lost if f"{key}.jpg" in err}
    assert code == 1 and named == there
    code, out, err = command("inspect", data)
    assert code == 1 and f"{PAINTINGS - len(lost)} of {PAINTINGS}" in out
    assert all(f"{n} paintings are left out, {why}: " in out for why, n in Counter(lost.values()).items())


@pytest.mark.parametrize("features", ["off", "kept"])
def test_a_raw_release_trains_without_its_damaged_pictures(spoilt, command, tmp_path, features):
    where = tmp_path / "kept" if features == "kept" else features
    argv = (
        "train",
        spoilt.folder,
        "--out",
        tmp_path / "run",
        "--preset",
        "tiny",
        "--quiet",
        "--features",
        where,
        "--set",
        *TINY,
    )
    code, out, err = command(*argv)
    assert code == 0 and counts_in(out)[0] == (PAINTINGS, PAINTINGS - len(spoilt.lost), len(spoilt.lost))
    assert "have no usable picture (" in err and "are left out" in err


def test_no_lost_picture_moves_another_painting(spoilt, whole):
    "What was for the test before a picture broke is for the test afterwards."
    assert split_paintings(Release(whole).paintings()[0]) == Release(whole).parts()[0]
    for name, part in Release(spoilt.folder).parts()[0].items():
        assert [p.key for p in part] == [key for key in spoilt.parts[name] if key not in spoilt.lost]


@pytest.fixture
def prepared(whole, tmp_path):
    "A copy of the whole release, prepared: its folder and a function from a painting's key to its picture."
    data = Path(shutil.copytree(whole, tmp_path / "mini"))
    inputs = Inputs(data / "wikiart", data / "artemis_dataset_release_v0.csv", lexicon=data / "mini-vad-lexicon.txt")
    prepare(inputs, tmp_path / "out", progress=False)
    parts = {
        name: [p.key for p in part] for name, part in open_data(tmp_path / "out" / "v1").parts(images=False)[0].items()
    }
    return SimpleNamespace(
        folder=tmp_path / "out" / "v1", parts=parts, picture=lambda key: data / "wikiart" / f"{key}.jpg"
    )


def test_changes_after_preparing_are_found_before_the_first_step(prepared, command, tmp_path):
    keys = prepared.parts["train"][10:17]
    for key, what in zip(keys, ("emptied", "deleted", "deleted", "garbled", "a page")):
        DAMAGES[what][0](prepared.picture(key))
    shutil.copy(prepared.picture(keys[6]), prepared.picture(keys[5]))  # another whole picture
    argv = ("train", prepared.folder, "--out", tmp_path / "run", "--preset", "tiny", "--quiet", "--set", *TINY)
    code, out, err = command(*argv)
    assert code == 0 and counts_in(out)[0] == (PAINTINGS, PAINTINGS - 5, 5)
    changes = "2 no picture, 1 empty file, 1 damaged pixels, 1 not a picture, 1 usable"
    changed = re.search(r"changed since .* was prepared: (.*)\)", err)[1]
    assert sorted(changed.split(", ")) == sorted(changes.split(", "))
    assert f"{len(prepared.parts['train']) - 5} train" in out
    code, out, _ = command("inspect", prepared.folder)
    assert code == 1 and "2 paintings are left out, no picture: " in out
    assert "changed since the folder was prepared" in out
    argv = [sys.executable, "-m", "sevlm", "inspect", str(prepared.folder), "--json"]  # what is logged is on the screen
    shown = subprocess.run(argv, capture_output=True, text=True)
    assert json.loads(shown.stdout) and f"5 of {PAINTINGS} paintings have no usable picture (" in shown.stderr


def test_a_picture_that_comes_back_is_used(prepared):
    key = prepared.parts["val"][0]
    content = prepared.picture(key).read_bytes()
    prepared.picture(key).unlink()
    parts, reports = open_data(prepared.folder).parts()
    assert key not in {p.key for p in parts["val"]} and reports[-1].dropped == {MISSING: 1}
    prepared.picture(key).write_bytes(content)
    parts, reports = open_data(prepared.folder).parts()
    assert key in {p.key for p in parts["val"]} and not reports[-1].dropped
    assert list(reports[-1].notes.values()) == ["1 usable"]  # not the file that was checked, but a whole one


def test_what_was_not_decoded_when_preparing_is_decoded_once(prepared, monkeypatch):
    opened = []
    check = pictures.check_picture
    monkeypatch.setattr(pictures, "check_picture", lambda path, how: opened.append(path.stem) or check(path, how))
    assert len(open_data(prepared.folder).checked()[0]) == PAINTINGS and not opened
    shutil.rmtree(pictures.cache_folder())
    (prepared.folder / PICTURES_RECORD).unlink()  # a folder of an earlier version
    broken = prepared.picture(prepared.parts["test"][0])
    garbled(broken)
    for _ in range(2):  # the second time from the cache
        paintings, reports = open_data(prepared.folder).checked()
        assert len(paintings) == PAINTINGS - 1 and reports[-1].dropped == {"damaged pixels": 1}
    assert len(opened) == PAINTINGS
    for how in CHECKS[:2]:
        style, name = prepared.parts["test"][0].split("/")
        _, report, checks, _ = find_pictures(Prepared(prepared.folder).images, [(style, name)], how, progress=False)
        assert len(checks) == 1 and report.kept == (how == "names")  # the cache knows better than a quick look


def test_parts_that_become_empty(prepared, command, tmp_path):
    for key in prepared.parts["val"]:
        prepared.picture(key).unlink()
    argv = ("train", prepared.folder, "--out", tmp_path / "run", "--preset", "tiny", "--quiet")
    code, _, err = command(*argv)
    assert code == 2 and "the part 'val' of" in err and "holds no painting with a usable picture" in err
    for key in prepared.parts["train"]:
        prepared.picture(key).write_bytes(b"")
    code, _, err = command(*argv)
    assert code == 2 and "the part 'train' of" in err and f"{len(prepared.parts['train'])}  empty file" in err
    for key in prepared.parts["test"]:
        prepared.picture(key).write_bytes(b"")
    for step in (argv, ("evaluate", prepared.folder)):
        code, _, err = command(*step)
        assert code == 2 and f"none of the {PAINTINGS} paintings has a usable picture in" in err
    with pytest.raises(DataError, match="none of the"):
        open_data(prepared.folder).checked()
    assert len(open_data(prepared.folder).parts(images=False)[0]["train"]) == len(prepared.parts["train"])
    assert command("lexicon", Prepared(prepared.folder).lexicon, "--data", prepared.folder)[0] == 0  # needs no picture


def test_saved_answers_are_scored_without_pictures(prepared, command, tmp_path):
    (tmp_path / "answers.jsonl").write_text(
        "".join(
            json.dumps(dict(painting=key, emotion="awe", explanation="it is wide")) + "\n"
            for key in prepared.parts["test"]
        ),
        encoding="utf-8",
    )
    prepared.picture(prepared.parts["test"][0]).unlink()
    paintings, _, reports = paintings_of(open_data(prepared.folder))
    assert len(paintings) == len(prepared.parts["test"]) - 1 and reports[-1].dropped == {MISSING: 1}
    code, out, _ = command(
        "evaluate", prepared.folder, "--predictions", tmp_path / "answers.jsonl", "--no-meteor", "--json"
    )
    about = json.loads(out)["about"]
    assert code == 0 and about["paintings"] == len(prepared.parts["test"]) and about["without an answer"] == 0


# during a run


class Spoil(CB):
    "Deletes a picture after some steps."

    def __init__(self, steps, path):
        self.steps, self.path = steps, path

    def after_step(self, learner):
        if learner.step == self.steps:
            self.path.unlink()


SMALL = TrainConfig.preset("tiny", epochs=1, batch_size=16, val_paintings=6, device="cpu", workers=1)


def test_a_picture_lost_during_a_run_stops_it_with_its_state_saved(prepared, tmp_path, capsys):
    config, how = SEVLMConfig.preset("tiny"), dict(features="off", progress=False)
    data = load_training_data(prepared.folder, config, progress=False)
    with pytest.raises(ImageError) as stopped:
        start_run(prepared.folder, tmp_path / "run", config, SMALL, callbacks=[SpoilLast(data)], **how)
    message = str(stopped.value)
    assert "its state is saved" in message and "resume=True" in message and ".jpg" in message
    assert (tmp_path / "run" / "state" / "state.pt").is_file()
    capsys.readouterr()
    run = start_run(prepared.folder, tmp_path / "run", config, SMALL, resume=True, **how)
    out = capsys.readouterr().out
    n = len(data.parts["train"])
    assert run.learner.epoch == 1 and run.learner.step == -(-len(run.learner.batches.usable) // 16)
    assert (
        f"the part 'train' has {n - 1:,} usable paintings, and {n:,} so far: the rest of this epoch is drawn anew"
        in out
    )
    assert "the part 'val'" not in out
    again = start_run(prepared.folder, tmp_path / "run", config, SMALL, resume=True, **how)
    assert again.learner.step == run.learner.step and "drawn anew" not in capsys.readouterr().out


class SpoilLast(CB):
    "After the first step deletes the picture that the last batch of the epoch needs."

    def __init__(self, data):
        self.data = data

    def after_step(self, learner):
        if learner.step == 1:
            pairs, _ = learner.batches.plan()[-1]
            self.data.parts["train"][pairs[0][0]].image.unlink()


def test_a_picture_lost_before_the_validation(prepared, tmp_path, capsys):
    config, how = SEVLMConfig.preset("tiny"), dict(features="off", progress=False)
    lost = prepared.picture(prepared.parts["val"][1])
    with pytest.raises(ImageError, match=f"{lost.name}.*its state is saved"):
        start_run(prepared.folder, tmp_path / "run", config, SMALL, callbacks=[Spoil(2, lost)], **how)
    capsys.readouterr()
    run = start_run(prepared.folder, tmp_path / "run", config, SMALL, resume=True, **how)
    assert (
        run.learner.metrics and "validations before and after are over different paintings" in capsys.readouterr().out
    )


def test_letters_without_a_glyph_make_no_warnings(tmp_path):
    "Other warnings pass."
    for text, missing in (("calm", False), ("静かな水", True)):
        figure = Figure()
        figure.suptitle(text)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert _save_quietly(figure, tmp_path / "sheet.png") == missing


def test_kept_patch_tokens_need_no_picture_any_more(prepared, tmp_path):
    "Neither steps nor validation; the sheet of samples shows that a picture was lost."
    config, lost = SEVLMConfig.preset("tiny"), prepared.picture(prepared.parts["val"][1])
    run = start_run(prepared.folder, tmp_path / "run", config, SMALL, callbacks=[Spoil(2, lost)], progress=False)
    assert run.learner.epoch == 1 and (tmp_path / "run" / "samples.png").is_file() and not lost.exists()


# one file, and the record


def test_what_is_remembered_and_what_is_not(whole, tmp_path, monkeypatch):
    path = Path(shutil.copy(next((whole / "wikiart").rglob("*.jpg")), tmp_path / "a.jpg"))
    assert check_pictures([path, None, tmp_path / "b.jpg"])[1:] == [Checked(-1, 0, "names", MISSING)] * 2
    real = pictures.check_picture
    no_access = lambda path, how: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    monkeypatch.setattr(pictures, "check_picture", no_access)
    assert check_pictures([path])[0].fault == ""  # remembered
    path.write_bytes(path.read_bytes() + b"\0")
    assert check_pictures([path])[0].fault == UNREADABLE
    monkeypatch.setattr(pictures, "check_picture", real)
    assert check_pictures([path])[0].fault == ""  # the system's refusal was not
    assert {c.fault for c in check_pictures([path], known={path: Checked(1, 1, "full", "empty file")})} == {""}


def test_an_interrupted_check_keeps_what_it_has(whole, monkeypatch):
    paths = sorted((whole / "wikiart").rglob("*.jpg"))[:40]
    opened, number, real = [], itertools.count(1), pictures.check_picture

    def stop(path, how):
        opened.append(path)
        if next(number) == 30:  # threads share the list, and none may see this number twice or never
            raise KeyboardInterrupt
        return real(path, how)

    monkeypatch.setattr(pictures, "check_picture", stop)
    with pytest.raises(KeyboardInterrupt):
        check_pictures(paths)
    first = len(opened)
    check_pictures(paths)
    assert 30 <= first and 40 <= len(opened) < first + 40 - 10


def test_a_cache_that_cannot_be_written_costs_only_time(whole, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEVLM_CACHE", str(tmp_path / "file" / "cache"))
    paths = sorted((whole / "wikiart").rglob("*.jpg"))[:3]
    assert [c.fault for c in check_pictures(paths)] == [""] * 3 and "SEVLM_CACHE" in caplog.text


def test_records_are_written_and_read(tmp_path):
    checks = {'a "b", c\n.jpg': Checked(5, 7, "full", ""), "ü.png": Checked(0, -3, "quick", "empty file")}
    write_checks(tmp_path / "record.csv", checks)
    assert read_checks(tmp_path / "record.csv") == checks
    for hostile in (
        b"\xff\xfe\0",
        b'"',
        b"a,b\n",
        b"x,1,2,full\n",
        b"x,1,2,never,\n",
        b"x,-1,2,full,\n",
        b"x,1e3,2,full,\n",
        b"x," + 5000 * b"7" + b",2,full,\n",
        b"x,1,-" + 5000 * b"7" + b",full,\n",
        b"\0,1,2\n",
    ):
        (tmp_path / "hostile.csv").write_bytes(hostile)
        assert read_checks(tmp_path / "hostile.csv") == {}
    assert read_checks(tmp_path) == read_checks(tmp_path / "none") == {}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_has_its_name(whole, tmp_path, name):
    for i, path in enumerate(sorted((whole / "wikiart").rglob("*.jpg"))[:20]):
        copy = Path(shutil.copy(path, tmp_path / f"{i}.jpg"))
        damage, fault = DAMAGES[name]
        assert check_file(copy).fault == ""
        damage(copy)
        assert check_file(copy).fault == fault


def test_most_pictures_with_altered_bytes_are_found(whole, tmp_path):
    "Not all: a decoder may find its way again after exactly as many blocks as there should have been."
    found, rng = Counter(), random.Random(0)
    for path in sorted((whole / "wikiart").rglob("*.jpg"))[:40]:
        data, middle = path.read_bytes(), path.stat().st_size // 2
        (tmp_path / "a.jpg").write_bytes(data[:middle] + rng.randbytes(200) + data[middle + 200 :])
        found[check_file(tmp_path / "a.jpg").fault] += 1
    assert found["damaged pixels"] >= 30 and set(found) <= {"damaged pixels", ""}


@pytest.mark.parametrize("name", ["cut_at_half_then_end_mark", "middle_garbled"])
def test_pictures_from_real_life(name):
    path = CASES / f"{name}.jpg"
    assert check_file(path, "quick").fault == "" and check_file(path).fault == "damaged pixels"


def test_a_grid_is_compared_over_the_paintings_of_all_its_runs(tmp_path, caplog):
    columns = dict.fromkeys(RUN_COLUMNS, 1.0)
    for seed, answered in enumerate((["a", "b", "c"], ["a", "c", "d"])):
        folder = tmp_path / "paper" / f"seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text(json.dumps(columns), encoding="utf-8")
        (folder / "paintings.csv").write_text(
            "painting,right,grounded\n" + "".join(f"{key},1,\n" for key in answered), encoding="utf-8"
        )
    assert list(read_grid(tmp_path, ["paper"], 2).painting) == ["a", "c"] * 2
    assert "2 of 4 test paintings were not answered in every run" in caplog.text

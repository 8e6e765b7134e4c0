"""The command line: every way of being wrong has a message and an exit code; train, evaluate, explain, interrupt and
resume, end to end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sevlm
from sevlm.cli import COMMANDS, main
from sevlm.config import EMOTIONS, SEVLMConfig
from sevlm.data.features import RECORD, digest_file
from sevlm.errors import DataError
from sevlm.synthetic.dataset import make_mini
from sevlm.training.inputs import load_training_data
from sevlm.utils import asset

FAST = ["layers=1", "epochs=2", "batch_size=16", "device=cpu"]
CSV = "artemis_dataset_release_v0.csv"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    "A small synthetic set, a random tower, and a run trained by the command itself."
    from sevlm.models.vision import ImageEncoder

    folder = tmp_path_factory.mktemp("cli")
    torch.manual_seed(0)
    tower = ImageEncoder(SEVLMConfig.preset("mini")).visual.state_dict()
    save_file({k: v.contiguous() for k, v in tower.items()}, folder / "tower.safetensors")
    data = make_mini(folder / "mini", n=50, seed=0, workers=1, progress=False)
    fast = [*FAST, f"tower_pretrained={folder / 'tower.safetensors'}"]
    assert main(["train", str(data), "--out", str(folder / "run"), "--set", *fast, "--quiet"]) == 0
    return SimpleNamespace(
        folder=folder, data=data, run=folder / "run", fast=fast, picture=sorted((data / "wikiart").rglob("*.jpg"))[0]
    )


@pytest.fixture
def sevlm_(capsys):
    "Runs a command: exit code, output, errors."

    def run(*argv):
        capsys.readouterr()
        code = main([str(a) for a in argv])
        out, err = capsys.readouterr()
        assert type(code) is int and "Traceback" not in err
        return code, out, err

    return run


@pytest.fixture
def data(base, tmp_path):
    return Path(shutil.copytree(base.data, tmp_path / "data"))


def process(*argv, **kw):
    "A real process, whose Ctrl-C works even where the tests are run in the background."
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(sevlm.__file__).parent.parent)}
    return subprocess.Popen(
        [sys.executable, "-m", "sevlm", *map(str, argv)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **kw,
    )


# ---- help and slips of the finger


def test_help_is_quick_because_nothing_large_is_loaded():
    large = "torch torchvision numpy pandas PIL matplotlib transformers tokenizers open_clip sklearn nltk tqdm".split()
    probe = f'import sys; from sevlm.cli import main; print(main(["--help"]), [m for m in {large} if m in sys.modules])'
    ended = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert ended.returncode == 0 and "exit codes" in ended.stdout and ended.stdout.splitlines()[-1] == "0 []"


def test_version(sevlm_):
    assert sevlm_("--version")[:2] == (0, f"sevlm {sevlm.__version__}\n")


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_command_has_help_with_examples(name, sevlm_):
    code, out, _ = sevlm_(name, "--help")
    assert code == 0 and "examples:" in out and f"sevlm {name}" in out
    if name in ("demo", "mini", "explain", "evaluate"):
        assert "synthetic" in out
    if name in ("demo", "mini"):
        assert "(default: 4000)" in out


@pytest.mark.parametrize(
    "argv, words",
    [
        ([], ["no command"]),
        (["explian", "x.jpg"], ["Did you mean 'explain'?"]),
        (["explain"], ["IMAGE"]),
        (["explain", "x.jpg", "--emotoin", "awe"], ["'--emotoin'", "Did you mean '--emotion'?"]),
        (["train", "d", "--out", "o", "--epoch=3"], ["'--epoch=3'"]),
        (["train", "d"], ["--out"]),
        (["demo", "extra"], ["'extra'"]),
        (["demo", "--paintings", "many"], ["--paintings", "'many'"]),
        (["evaluate", "d", "--part", "tset"], ["Did you mean 'test'?"]),
        (["train", "d", "--out", "o", "--preset", "minni"], ["Did you mean 'mini'?"]),
        (["mini"], ["FOLDER", "--remake"]),
        (["mini", "x", "--remake"], ["FOLDER", "--remake"]),
        (["mini", "x", "--paintings", "0"], ["(--paintings) is 0"]),
        (["train", "d", "--out", "./d"], ["--out ./d is the data folder"]),
        (["evaluate", "d", "--out", "d/"], ["is the data folder"]),
        (["explain", "x.jpg", "--beams", "3", "--seed", "1"], ["(--beams)", "--seed"]),
        (["explain", "x.jpg", "--length-penalty", "2"], ["(--length-penalty)", "--beams 4"]),
    ],
)
def test_slips(argv, words, sevlm_):
    code, out, err = sevlm_(*argv)
    assert code == 2 and out == "" and err.startswith("sevlm: ") and all(w in err for w in words), err


@pytest.mark.parametrize(
    "pair, words",
    [
        ("epoch=3", ["Did you mean 'epochs'?"]),
        ("epochs=three", ["'three' is not a whole number"]),
        ("epochs=0", ["must be positive"]),
        ("use_fusion=maybe", ["true, yes, on, 1, false, no, off, 0"]),
        ("lr_heads=fast", ["not a number"]),
        ("epochs", ['found no "="']),
        ("heads=5", ["must divide"]),
        ("schedule=cosine", ["linear, constant"]),
        ("lr_heads=nan", ["finite"]),
        ("device=gpu", ["gpu"]),
    ],
)
def test_set_with_bad_values(pair, words, base, tmp_path, sevlm_):
    code, _, err = sevlm_("train", base.data, "--out", tmp_path / "run", "--quiet", "--set", pair)
    assert code == 2 and err.startswith("sevlm: ") and all(w in err for w in words), err


@pytest.mark.parametrize(
    "text, value",
    [
        ("true", True),
        ("YES", True),
        ("on", True),
        ("1", True),
        ("False", False),
        ("no", False),
        ("off", False),
        ("0", False),
    ],
)
def test_booleans_can_be_switched_both_ways(text, value):
    from sevlm.cli import parse_settings

    assert parse_settings([f"use_vad_head={text}"]) == ({"use_vad_head": value}, {})


# ---- annotations, pictures, lexica


def changed_csv(data, change):
    text = (data / CSV).read_text(encoding="utf-8")
    (data / CSV).write_text(change(text), encoding="utf-8")
    return data / CSV


def test_missing_column(data, sevlm_):
    csv = changed_csv(data, lambda t: t.replace("utterance", "comment", 1))
    for argv in (["inspect", csv], ["evaluate", data], ["train", data, "--out", data / "run", "--quiet"]):
        code, out, err = sevlm_(*argv)
        assert code == 2 and "Missing or repeated: utterance" in err, argv


def test_extra_column_is_ignored_and_told(data, sevlm_):
    csv = changed_csv(
        data, lambda t: "\n".join(f"{line},{'mood' if k == 0 else k}" for k, line in enumerate(t.splitlines()))
    )
    code, out, err = sevlm_("inspect", csv)
    assert code == 0 and "columns ignored: mood" in out and err == ""


@pytest.mark.parametrize(
    "emotion, utterance, why",
    [("joy", "nice", "unknown emotion"), ("awe", "...", "empty utterance"), ("awe", "", "empty utterance")],
)
def test_bad_rows_are_counted_with_their_line(emotion, utterance, why, data, sevlm_):
    n = len((data / CSV).read_text(encoding="utf-8").splitlines())
    csv = changed_csv(data, lambda t: t + f"Cubism,somebody_thing-1900,{emotion},{utterance},1\n")
    code, out, _ = sevlm_("inspect", csv)
    assert code == 1 and f"1 rows dropped, {why}: line {n + 1}" in out
    code, out, _ = sevlm_("inspect", csv, "--json")
    (found,) = json.loads(out)
    assert (
        code == 1
        and found["dropped"] == {why: 1}
        and found["rows"] == n
        and found["kept"] == n - 1
        and sum(found["emotions"].values()) == n - 1
    )


def test_painting_without_picture_and_picture_cut_short(data, base, sevlm_):
    changed_csv(data, lambda t: t + "Cubism,nobody_nothing-1900,awe,it is grand,1\n")
    picture = sorted((data / "wikiart").rglob("*.jpg"))[0]
    picture.write_bytes(picture.read_bytes()[:600])
    code, out, _ = sevlm_("inspect", data)
    assert code == 1 and "Cubism/nobody_nothing-1900" in out and "cannot be opened" in out and picture.name in out
    code, out, _ = sevlm_("evaluate", data, "--checkpoint", base.run, "--part", "all", "--no-meteor", "--quiet")
    assert (
        code == 0
        and "no picture: Cubism/nobody_nothing-1900" in out
        and "picture cut off" in out
        and "51 paintings read, 49 kept, 2 dropped" in out
    )


@pytest.mark.parametrize(
    "text, words",
    [
        ("", ["holds no entries"]),
        ("calm\t0.5\t0.1\n", ["line 1", "3 tab-separated fields"]),
        ("calm 0.5 0.1 0.2\n", ["1 tab-separated"]),
        ("calm\t0.5\t0.1\t0.2\nwild\t0.5\t77\t0.2\n", ["line 2", "'wild'", "off the scale"]),
        ("calm\t0.5\tmuch\t0.2\n", ["'much' is not a number"]),
    ],
)
def test_bad_lexicon(text, words, data, tmp_path, sevlm_):
    (tmp_path / "lexicon.txt").write_text(text, encoding="utf-8")
    for argv in (
        ["inspect", tmp_path / "lexicon.txt"],
        ["train", data, "--out", tmp_path / "run", "--lexicon", tmp_path / "lexicon.txt", "--quiet"],
    ):
        code, _, err = sevlm_(*argv)
        assert code == 2 and all(w in err for w in words), err


def test_lexicon_that_is_not_there(data, tmp_path, sevlm_):
    code, _, err = sevlm_("train", data, "--out", tmp_path / "run", "--lexicon", tmp_path / "nothing.txt")
    assert code == 2 and "nothing.txt" in err
    next(data.glob("*lexicon*")).unlink()
    code, _, err = sevlm_("train", data, "--out", tmp_path / "run", "--quiet")
    assert code == 2 and "--lexicon" in err


@pytest.mark.parametrize("mode", ["RGBA", "L", "CMYK", "P", "I;16"])
def test_pictures_of_any_mode_are_explained(mode, base, tmp_path, sevlm_):
    im = Image.open(base.picture)
    im = (
        Image.fromarray(np.arange(64 * 64, dtype="uint16").reshape(64, 64) * 16) if mode == "I;16" else im.convert(mode)
    )
    im.save(file := tmp_path / f"picture.{'jpg' if mode == 'CMYK' else 'png'}")
    code, out, err = sevlm_("explain", file, "--checkpoint", base.run, "--json")
    assert code == 0 and err == "" and len(json.loads(out)) == 1
    code, out, _ = sevlm_("inspect", file)
    assert code == 0 and mode in out


def test_rotation_in_exif_is_obeyed(base, tmp_path, sevlm_):
    "A picture turned by its note equals one turned by hand, up to rounding; one left as it lies is per cents off."
    (exif := Image.Exif())[0x0112] = 6
    Image.open(base.picture).save(tmp_path / "noted.jpg", exif=exif, quality=95)
    Image.open(tmp_path / "noted.jpg").transpose(Image.Transpose.ROTATE_270).save(tmp_path / "turned.png")
    Image.open(tmp_path / "noted.jpg").save(tmp_path / "left.png")
    found = {}
    for name in ("noted.jpg", "turned.png", "left.png"):
        code, out, _ = sevlm_("explain", tmp_path / name, "--checkpoint", base.run, "--json")
        found[name] = json.loads(out)[0]["probabilities"]
        assert code == 0
    assert found["noted.jpg"] == pytest.approx(found["turned.png"], rel=1e-3) != found["left.png"]


def test_explain_in_part_and_not_at_all(base, tmp_path, sevlm_):
    (tmp_path / "cut.jpg").write_bytes(base.picture.read_bytes()[:600])
    (tmp_path / "text.png").write_text("not a picture", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    code, out, err = sevlm_(
        "explain",
        tmp_path / "cut.jpg",
        base.picture,
        tmp_path / "text.png",
        tmp_path / "empty",
        "--checkpoint",
        base.run,
    )
    assert (
        code == 1
        and out.splitlines()[0] == str(base.picture)
        and "cut.jpg" in err
        and "is not a picture" in err
        and "3 of 4" in err
    )
    for what in (tmp_path / "cut.jpg", tmp_path / "nothing.jpg", tmp_path / "empty"):
        code, out, err = sevlm_("explain", what, "--checkpoint", base.run, "--json")
        assert code == 2 and json.loads(out) == [] and what.name in err


def test_unknown_emotion(base, sevlm_):
    code, out, err = sevlm_("explain", base.picture, "--checkpoint", base.run, "--emotion", "fera")
    assert code == 2 and out == "" and "Did you mean 'fear'?" in err


@pytest.mark.parametrize("emotion", [None, "something else"])
def test_explain_a_folder(emotion, base, sevlm_):
    argv = ["explain", base.data / "wikiart", "--checkpoint", base.run / "last", "--json"] + (
        ["--emotion", emotion] if emotion else []
    )
    code, out, err = sevlm_(*argv)
    answers = json.loads(out)
    assert (
        code == 0
        and err == ""
        and len(answers) == 50
        and all(set(a) == {"image", "emotion", "explanation", "probabilities"} for a in answers)
    )
    assert all(
        tuple(a["probabilities"]) == EMOTIONS and abs(sum(a["probabilities"].values()) - 1) < 1e-4 for a in answers
    )
    if emotion:
        assert all(a["emotion"] == emotion for a in answers)


def test_the_shipped_model_says_what_it_was_trained_on(base, sevlm_):
    code, out, err = sevlm_("explain", base.picture)
    assert code == 0 and "because" in out and "synthetic" in err and out.count("%") == 3


# ---- checkpoints and folders


@pytest.fixture
def checkpoint(base, tmp_path):
    return Path(shutil.copytree(base.run / "last", tmp_path / "checkpoint"))


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(layers=2), "another configuration"),
        (dict(vad_hidden=64), "another configuration"),
        (dict(wings=2), "unknown setting 'wings'"),
        (dict(tower_pretrained="gone.safetensors"), "no tower weights"),
    ],
)
def test_checkpoint_of_another_configuration(change, words, base, checkpoint, sevlm_):
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    (checkpoint / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    for argv in (["explain", base.picture], ["evaluate", base.data, "--quiet"]):
        code, _, err = sevlm_(*argv, "--checkpoint", checkpoint)
        assert code == 2 and words in err, err
    code, out, _ = sevlm_("inspect", checkpoint)
    assert (code, words in out) == ((0, False) if "tower_pretrained" in change else (1, True))


def test_damaged_checkpoints(base, checkpoint, sevlm_):
    weights = load_file(checkpoint / "model.safetensors")
    name = next(k for k in weights if k.startswith("fusion."))
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, checkpoint / "model.safetensors")
    assert sevlm_("explain", base.picture, "--checkpoint", checkpoint)[0] == 2
    code, out, _ = sevlm_("inspect", checkpoint)
    assert code == 1 and f"{name} holds values that are not finite" in out
    code, out, _ = sevlm_("inspect", checkpoint / "model.safetensors")
    assert code == 1 and "not finite" in out
    (checkpoint / "vad_table.safetensors").unlink()
    assert "vad_table.safetensors" in sevlm_("inspect", checkpoint)[1]
    (checkpoint / "model.safetensors").write_bytes((base.run / "last" / "model.safetensors").read_bytes()[:1000])
    code, _, err = sevlm_("inspect", checkpoint)
    assert code == 2 and "cut off" in err
    code, _, err = sevlm_("evaluate", base.data, "--checkpoint", checkpoint / "nowhere")
    assert code == 2 and "nowhere" in err


def test_output_folder_not_writable_is_told_before_any_work(base, tmp_path, sevlm_):
    (file := tmp_path / "file").write_text("a regular file", encoding="utf-8")
    for argv in (
        ["train", base.data, "--out", file / "run"],
        ["demo", "--out", file / "run", "--data", tmp_path / "data"],
        ["mini", file / "data"],
        ["demo", "--out", tmp_path / "run", "--data", tmp_path / "data", "--figures", file / "figures"],
        ["evaluate", base.data, "--out", file / "scores"],
        ["mini", "--remake", "--out", file / "parts", "--work", tmp_path / "work"],
    ):
        code, out, err = sevlm_(*argv)
        assert code == 2 and out == "" and "cannot write" in err, argv
    assert not any(tmp_path.rglob("*.csv")) and not any(tmp_path.rglob("*.jpg"))


def test_mini(tmp_path, sevlm_):
    argv = ["mini", tmp_path / "set", "--paintings", 8, "--seed", 3, "--size", 64, "--workers", 1, "--quiet"]
    code, out, _ = sevlm_(*argv)
    assert code == 0 and "synthetic" in out and "Unique paintings: 8" in out
    assert sevlm_(*argv)[0] == 0  # the same set: reused
    argv[3] = 9
    code, _, err = sevlm_(*argv)
    assert code == 2 and "not empty" in err and "another mini-ArtEmis (n 8 instead of 9)" in err
    (tmp_path / "full").mkdir(), (tmp_path / "full" / "letter.txt").write_text("dear", encoding="utf-8")
    code, _, err = sevlm_("mini", tmp_path / "full")
    assert code == 2 and "not empty" in err and os.listdir(tmp_path / "full") == ["letter.txt"]
    assert sevlm_("mini", tmp_path / "none", "--paintings", 0)[0] == 2


def test_remake_leaves_the_installed_parts_alone(tmp_path, monkeypatch, sevlm_):
    from sevlm.app import remake as remaking

    called = {}

    def remake(out, work, **kw):
        called.update(out=out, work=work, **kw)
        return SimpleNamespace(scores={"mean length": dict(value=9.0, n=14, note="")})

    monkeypatch.setattr(remaking, "remake", remake)
    monkeypatch.chdir(tmp_path)
    code, out, _ = sevlm_("mini", "--remake")
    assert (
        code == 0
        and called
        == dict(out="runs/remake", work="runs/remake-work", progress=True)  # the recipe's own sizes and seeds
        and "diff -rq" in out
        and "mean length" in out
    )
    called.clear()
    assert sevlm_("mini", "--remake", "--paintings", 60, "--seed", 3, "--quiet")[0] == 0
    assert (called["paintings"], called["seed"], called["progress"]) == (60, 3, False)


def test_a_remake_that_was_broken_off_makes_what_is_missing(tmp_path, monkeypatch):
    "A run that was killed while it wrote the captioner has left a folder with nothing in it."
    from sevlm.app import remake as remaking

    out = tmp_path / "parts"
    (out / "captioner").mkdir(parents=True)
    (out / "tokenizer.json").touch(), (out / "tower.safetensors").touch()
    monkeypatch.setattr(remaking, "make_captioner", lambda *args: (_ for _ in ()).throw(DataError("it is made")))
    with pytest.raises(DataError, match="it is made"):
        remaking.remake(out, tmp_path / "work", progress=False)


def test_inspect_says_what_it_expected(tmp_path, base, sevlm_):
    (tmp_path / "notes.xyz").write_text("?", encoding="utf-8")
    (tmp_path / "void").mkdir()
    for path in (tmp_path / "notes.xyz", tmp_path / "void", tmp_path / "nothing"):
        code, _, err = sevlm_("inspect", path)
        assert code == 2 and path.name in err
    assert "Expected" in sevlm_("inspect", tmp_path / "notes.xyz")[2]
    assert sevlm_("inspect", tmp_path / "void", base.picture)[0] == 1


def test_inspect_knows_everything_that_is_whole(base, sevlm_):
    code, out, err = sevlm_(
        "inspect",
        base.data,
        base.data / CSV,
        base.data / "mini-vad-lexicon.txt",
        base.picture,
        base.data / "wikiart",
        base.run,
        base.run / "last",
        base.folder / "tower.safetensors",
        "--json",
    )
    found = json.loads(out)
    assert (
        code == 0
        and err == ""
        and [f["kind"] for f in found]
        == [
            "synthetic mini-ArtEmis",
            "annotations in the format of ArtEmis",
            "VAD lexicon",
            "pictures",
            "pictures",
            "training run",
            "checkpoint of a SEVLM",
            "weights (safetensors)",
        ]
    )
    assert (
        found[0]["pictures"]["files"] == 50 and found[6]["weights fit it"] and found[6]["configuration"]["layers"] == 1
    )


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.float16])
def test_inspect_finds_numbers_that_are_none_of_every_type(kind, tmp_path, sevlm_):
    numbers = torch.ones(4).to(kind)
    try:
        save_file({"a": numbers, "b": torch.arange(3)}, tmp_path / "good.safetensors")
    except KeyError:
        if not kind.is_complex:  # which the oldest safetensors does not have
            raise
        pytest.skip(f"this safetensors does not write {kind}")
    assert sevlm_("inspect", tmp_path / "good.safetensors")[0] == 0
    save_file({"a": torch.tensor([1, float("nan")]).to(kind)}, tmp_path / "bad.safetensors")
    code, out, _ = sevlm_("inspect", tmp_path / "bad.safetensors")
    assert code == 1 and "a holds values that are not finite" in out


def test_a_checkpoint_with_numbers_of_8_bits_is_read(tmp_path, sevlm_):
    folder = shutil.copytree(asset("mini"), tmp_path / "m")
    with safe_open(folder / "model.safetensors", "pt") as file:
        notes, weights = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}
    name = next(k for k, t in weights.items() if t.ndim == 2)
    weights[name] = weights[name].to(torch.float8_e4m3fn)
    save_file(weights, folder / "model.safetensors", notes)
    assert sevlm_("inspect", folder)[0] == 0


def test_notes_in_a_file_of_weights_are_only_shown(tmp_path, sevlm_):
    notes = {"emotions": '{"awe": "x"}', "more": '{"emotions": {"awe": -3, "b": 3.5}}', "problems": '{"none": 1}'}
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", metadata=notes)
    code, out, _ = sevlm_("inspect", tmp_path / "x.safetensors")
    assert code == 0 and "awe: x" in out and "awe: -3" in out and "b: 3.5" in out and "%" not in out


# ---- training, end to end


def test_the_trained_run_is_evaluated(base, tmp_path, sevlm_):
    code, out, err = sevlm_(
        "evaluate",
        base.data,
        "--checkpoint",
        base.run,
        "--part",
        "all",
        "--no-meteor",
        "--quiet",
        "--out",
        tmp_path / "scores",
    )
    assert (
        code == 0
        and all(line.startswith("sevlm: note: ") for line in err.splitlines())
        and "Bayes ceiling" in out
        and "grounding, shuffled" in out
        and "the accuracy of one who knows" in out
    )
    assert len((tmp_path / "scores" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 50
    code, out, _ = sevlm_(
        "evaluate", base.data, "--checkpoint", base.run, "--part", "all", "--no-meteor", "--quiet", "--json"
    )
    assert code == 0 and json.loads(out) == json.loads(
        (tmp_path / "scores" / "metrics.json").read_text(encoding="utf-8")
    )


def test_curves_for_tensorboard(base, tmp_path, sevlm_):
    argv = ["train", base.data, "--out", tmp_path / "run", "--quiet", "--set", *base.fast]
    code, out, _ = sevlm_(*argv, "--track", "tensorboard")
    assert code == 0 and [*(tmp_path / "run").rglob("events.out.tfevents.*")]
    code, _, err = sevlm_(*argv, "--resume", "--track", "tensorbord")
    assert code == 2 and "Did you mean 'tensorboard'" in err


def test_a_run_is_not_overwritten(base, sevlm_):
    before = (base.run / "last" / "model.safetensors").read_bytes()
    code, _, err = sevlm_("train", base.data, "--out", base.run, "--quiet", "--set", *base.fast)
    assert code == 2 and "--resume" in err
    for more in (["seed=4"], ["use_contrast=off"]):
        code, _, err = sevlm_("train", base.data, "--out", base.run, "--quiet", "--resume", "--set", *base.fast, *more)
        assert code == 2 and "holds another run" in err and more[0].split("=")[0] in err
    assert (base.run / "last" / "model.safetensors").read_bytes() == before


def test_interrupted_and_resumed_equals_unbroken(base, tmp_path, monkeypatch, sevlm_):
    from sevlm.training import run as train

    def stop(learner):
        if learner.step == 4:
            raise KeyboardInterrupt

    whole = train.start_run

    def broken(*args, callbacks=(), **kw):
        return whole(*args, callbacks=[*callbacks, SimpleNamespace(keeps=(), before_batch=stop)], **kw)

    argv = ["train", base.data, "--out", tmp_path / "run", "--quiet", "--set", *base.fast]
    with monkeypatch.context() as m:
        m.setattr(train, "start_run", broken)
        code, out, err = sevlm_(*argv)
    assert code == 130 and "--resume" in err and (tmp_path / "run" / "state" / "state.pt").is_file()
    assert sevlm_(*argv)[0] == 2
    code, out, _ = sevlm_(*argv, "--resume")
    assert code == 0 and "going on with the unfinished run" in out
    mine, unbroken = (load_file(run / "last" / "model.safetensors") for run in (tmp_path / "run", base.run))
    assert all(torch.equal(mine[k], unbroken[k]) for k in unbroken)
    code, out, _ = sevlm_(*argv[: -len(base.fast)], *base.fast, "epochs=3", "--resume")
    assert code == 0 and "3 epochs" in out


def test_ctrl_c_in_a_real_process(base, tmp_path, sevlm_):
    argv = ["train", base.data, "--out", tmp_path / "run", "--quiet", "--set", *base.fast]
    p = process(*argv, "epochs=500", "patience=500")
    while not (tmp_path / "run" / "state" / "state.pt").is_file() and p.poll() is None:  # a busy machine takes minutes
        time.sleep(0.1)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130 and "--resume" in err and "Traceback" not in err, err[-2000:]
    code, out, _ = sevlm_(
        *argv, "epochs=1", "patience=500", "--resume"
    )  # fewer epochs than done: nothing to do, and whole
    assert code == 0 and "going on" in out and (tmp_path / "run" / "last" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "argv, module, said",
    [
        (["mini", "set"], "sevlm.synthetic.dataset.make_mini", "interrupted. Of a synthetic set nothing is kept: "),
        (["inspect", "set"], "sevlm.cli.inspect_path", "interrupted.\n"),
    ],
)
def test_an_interrupt_says_how_to_go_on(argv, module, said, monkeypatch, tmp_path, sevlm_):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, stop)
    code, _, err = sevlm_(*argv)
    assert code == 130 and said in err


def test_summaries_keep_their_capitals(sevlm_):
    assert "The files of ArtEmis, WikiArt and a lexicon" in " ".join(sevlm_("prepare", "--help")[1].split())


def test_a_closed_pipe_is_no_error(base):
    p = process("inspect", base.data / "mini-vad-lexicon.txt")
    p.stdout.close()
    err = p.stderr.read()
    assert p.wait(60) == 141 and err == ""


def test_a_real_process_fails_cleanly(tmp_path):
    p = process("inspect", tmp_path / "nothing")
    out, err = p.communicate(timeout=60)
    assert p.returncode == 2 and out == "" and err.startswith("sevlm: nothing at")


def test_demo(tmp_path, monkeypatch, sevlm_):
    monkeypatch.chdir(tmp_path)
    argv = ["demo", "--paintings", 60, "--epochs", 1, "--quiet"]
    code, out, _ = sevlm_(*argv)
    assert (
        out.index("explained by the shipped model") < out.index("because") < out.index("[1/5]")
        and not (tmp_path / "figures").exists()
    )
    assert (
        code == 0
        and all(f"[{k}/5]" in out for k in range(1, 6))
        and "Bayes ceiling" in out
        and "make lab" in out
        and "synthetic" in out
    )
    for name in (
        "data/mini-0-60/mini.json",
        "runs/demo/first-1.png",
        "runs/demo/demo_explanations.png",
        "runs/demo/demo_losses.png",
        "runs/demo/metrics.json",
        "runs/demo/predictions.jsonl",
    ):
        assert (tmp_path / name).is_file(), name
    scores = json.loads((tmp_path / "runs/demo/metrics.json").read_text(encoding="utf-8"))
    code, out, _ = sevlm_(*argv)
    assert (
        code == 0
        and "reused" in out
        and "going on" in out
        and json.loads((tmp_path / "runs/demo/metrics.json").read_text(encoding="utf-8")) == scores
    )
    argv[4] = 2
    code, _, err = sevlm_(*argv)
    assert code == 2 and "epochs is 1 there and 2 now" in err


def test_demo_interrupted_before_training(tmp_path, monkeypatch, sevlm_):
    from sevlm.synthetic import dataset

    def interrupted(*args, **kw):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "make_mini", interrupted)
    monkeypatch.chdir(tmp_path)
    code, _, err = sevlm_("demo")
    assert code == 130 and "same command" in err


# how a step is computed, and where patch tokens are kept


def test_a_budget_is_for_cards(base, tmp_path, sevlm_):
    code, out, err = sevlm_(
        "train", base.data, "--out", tmp_path / "run", "--set", *base.fast, "device=cpu", "--budget", "2GB", "--quiet"
    )
    assert code == 0 and "budget of 2 GB: not used, since memory is measured on CUDA devices only" in out
    chosen = json.loads((tmp_path / "run" / "train.json").read_text(encoding="utf-8"))["chosen"]
    assert (chosen["parts"], chosen["checkpointing"]) == (1, False) and "not used" in chosen["why"][-1]
    code, out, err = sevlm_(
        "train", base.data, "--out", tmp_path / "slip", "--set", *base.fast, "--budget", "11 gigs", "--quiet"
    )
    assert code == 2 and "11GB" in err


def test_the_card_has_a_preset(base, tmp_path, sevlm_):
    code, out, err = sevlm_(
        "train",
        base.data,
        "--out",
        tmp_path / "run",
        "--preset",
        "rtx2080ti",
        "--tokenizer",
        Path(__file__).parent / "gpt2_bpe",
        "--quiet",
        "--set",
        "tower=mini",
        "device=cpu",
    )
    assert code == 2 and "patches" in err  # the corrected model's sizes, of which this tower is not


def test_the_preset_is_chosen_by_the_data(base, tmp_path, sevlm_):
    "Synthetic paintings get the small model, and it is told; for real ones a preset has to be named."
    from sevlm.cli import preset_for

    assert preset_for(base.data) == "mini"
    with pytest.raises(DataError):
        preset_for(tmp_path / "nowhere")
    code, _, err = sevlm_("train", base.data, "--out", tmp_path / "run", "--set", *base.fast, "patches=63", "--quiet")
    assert code == 2 and "preset: mini" in err and "patches = 63" in err
    shutil.copytree(base.data, real := tmp_path / "real", ignore=shutil.ignore_patterns("mini_truth.csv"))
    for command in ("train", "ablate"):
        code, _, err = sevlm_(command, real, "--out", tmp_path / "run", "--quiet")
        assert code == 2 and all(name in err for name in ("--preset", "corrected", "rtx2080ti", "paper", "baseline")), (
            err
        )
        code, _, err = sevlm_(command, real, "--out", tmp_path / "run", "--preset", "mini", "--set", "patches=63")
        assert code == 2 and "patches = 63" in err and "preset:" not in err
    assert not (tmp_path / "run").exists()


def kept_options(folder):
    return ["--features", folder, "--features-dtype", "float32", "--quiet"]


def files_of(folder):
    return list(folder.rglob("rows.bin"))


def weights_of(run):
    return load_file(run / "last" / "model.safetensors")


def line_of(part, out):
    "The line about the kept patch tokens of a part."
    (line,) = (line for line in out.splitlines() if line.startswith(f"{part} part: features "))
    return line


@pytest.fixture(scope="module")
def kept_run(base, tmp_path_factory):
    "A run that keeps its patch tokens on disk: the command's exit code is 0, and the folder of the patch tokens."
    folder = tmp_path_factory.mktemp("kept")
    keep = map(str, kept_options(folder / "features"))
    assert main(["train", str(base.data), "--out", str(folder / "run"), "--set", *base.fast, *keep]) == 0
    return SimpleNamespace(features=folder / "features", run=folder / "run")


def test_patch_tokens_are_kept_and_found_again(base, kept_run, tmp_path, sevlm_):
    written = lambda: {p: p.stat().st_mtime_ns for p in files_of(kept_run.features)}
    before, keep = written(), kept_options(kept_run.features)
    code, out, err = sevlm_("train", base.data, "--out", tmp_path / "run", "--set", *base.fast, *keep)
    assert code == 0 and before and written() == before  # read, not made
    for part in ("training", "validation"):
        assert ", 0 encoded; " in line_of(part, out)
    first, again = weights_of(kept_run.run), weights_of(tmp_path / "run")
    assert all(torch.equal(first[k], again[k]) for k in first)


@pytest.mark.parametrize("part, other, name", [("training", "validation", "train"), ("validation", "training", "val")])
def test_damage_to_kept_patch_tokens_is_reported_and_mended(part, other, name, base, kept_run, tmp_path, sevlm_):
    paintings = load_training_data(base.data, SEVLMConfig.preset("mini"), progress=False).parts[name]
    digests = {digest_file(p.image) for p in paintings}
    features = Path(shutil.copytree(kept_run.features, tmp_path / "features"))
    (file,) = files_of(features)
    records = list(RECORD.iter_unpack(file.with_name("index.bin").read_bytes()))
    row = next(n for n, (digest, *_) in enumerate(records) if digest in digests)
    data = bytearray(file.read_bytes())
    data[row * len(data) // len(records) + 100] ^= 1
    file.write_bytes(data)
    code, out, err = sevlm_("train", base.data, "--out", tmp_path / "run", "--set", *base.fast, *kept_options(features))
    n = len(digests)
    line = line_of(part, out)
    assert code == 0 and f"{n} pictures, {n - 1} kept, 1 encoded; " in line and "1 damaged" in line
    assert ", 0 encoded; " in line_of(other, out) and "damaged" not in line_of(other, out)
    first, mended = weights_of(kept_run.run), weights_of(tmp_path / "run")
    assert all(torch.allclose(first[k], mended[k], atol=1e-3) for k in first)


def test_a_step_in_parts_goes_on_as_a_whole(base, tmp_path, sevlm_):
    "Accumulation may change when a run is resumed; the batch may not."
    assert sevlm_("train", base.data, "--out", tmp_path / "run", "--set", *base.fast, "accumulate=2", "--quiet")[0] == 0
    code, out, err = sevlm_(
        "train",
        base.data,
        "--out",
        tmp_path / "run",
        "--resume",
        "--set",
        *base.fast,
        "accumulate=1",
        "epochs=3",
        "--quiet",
    )
    assert code == 0 and "going on" in out
    code, out, err = sevlm_(
        "train", base.data, "--out", tmp_path / "run", "--resume", "--set", *base.fast, "batch_size=8", "--quiet"
    )
    assert code == 2 and "batch_size" in err


def test_explain_by_beams(base, sevlm_):
    code, out, err = sevlm_("explain", base.picture, "--checkpoint", base.run, "--beams", 3, "--json")
    assert code == 0 and len(json.loads(out)) == 1
    code, out, err = sevlm_("explain", base.picture, "--checkpoint", base.run, "--beams", 0)
    assert code == 2 and "at least 1" in err

"""Idle threads sleep, their number is asked for, measured and kept with a run; and a command imports only what it
needs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import sevlm
from sevlm.cli import main
from sevlm.config import SEVLMConfig, TrainConfig
from sevlm.errors import ConfigError
from sevlm.models.explainer import Explainer
from sevlm.synthetic.dataset import make_mini
from sevlm.training.run import chosen_before, start_run, threads_of_run
from sevlm.utils import OPENMP_SETTINGS, SMALL_WIDTH, choose_threads, requested_threads, time_threads, using_threads

CONFIG = SEVLMConfig.preset("mini", layers=1, tower_pretrained="")
SETTINGS = TrainConfig.preset("mini", epochs=2, batch_size=16, device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_mini(tmp_path_factory.mktemp("threads") / "mini", n=50, seed=0, workers=1, progress=False)


@pytest.fixture
def picture(data):
    return str(sorted((data / "wikiart").rglob("*.jpg"))[0])


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch):
    monkeypatch.delenv("SEVLM_THREADS", raising=False)


@pytest.fixture
def two_threads():
    with using_threads(2):
        yield


def in_a_process(code: str, **env) -> dict:
    "What a fresh process prints as JSON; of OpenMP's settings it has only those given."
    kept = {k: v for k, v in os.environ.items() if k not in OPENMP_SETTINGS}
    kept["PYTHONPATH"] = str(Path(sevlm.__file__).parent.parent)
    ran = subprocess.run([sys.executable, "-c", code], env={**kept, **env}, capture_output=True, text=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


# ---- waiting

PROBE = (
    f"import json, os, sys, sevlm; waiting = {{k: os.environ.get(k) for k in {list(OPENMP_SETTINGS)!r}}};"
    "print(json.dumps([waiting, 'torch' in sys.modules]))"
)


def test_idle_threads_sleep_and_torch_is_not_yet_loaded():
    assert in_a_process(PROBE) == [OPENMP_SETTINGS, False]


@pytest.mark.parametrize(
    "name, value", [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "5"), ("KMP_BLOCKTIME", "200")]
)
def test_what_the_user_has_set_stays(name, value):
    assert in_a_process(PROBE, **{name: value}) == [{**dict.fromkeys(OPENMP_SETTINGS), name: value}, False]


# ---- their number


def test_few_for_nothing_and_all_for_a_large_model(two_threads):
    seconds = time_threads(lambda: None, 2)
    assert set(seconds) == {1, 2} and min(seconds.values()) > 0 and torch.get_num_threads() == 2
    assert choose_threads(SMALL_WIDTH + 1, 1) == 2


def test_the_quickest_wins_and_a_tie_goes_to_the_fewest(two_threads, monkeypatch):
    for seconds, best in (({1: 2.0, 2: 1.0}, 2), ({1: 1.0, 2: 5.0}, 1), ({1: 1.05, 2: 1.0}, 1)):
        monkeypatch.setattr("sevlm.utils.time_threads", lambda work, most, found=seconds: found)
        assert choose_threads(128, 64) == best


@pytest.mark.parametrize("most, tried", [(1, {1}), (2, {1, 2}), (6, {1, 2, 4, 6}), (8, {1, 2, 4, 8})])
def test_numbers_that_are_tried(most, tried):
    assert set(time_threads(lambda: None, most)) == tried


def test_asked_for_by_hand(two_threads, monkeypatch):
    assert requested_threads() is None
    monkeypatch.setenv("SEVLM_THREADS", "3")
    assert choose_threads(128, 64) == choose_threads(768, 64) == 3


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "9999999999", "9" * 5000])
def test_no_number(text, monkeypatch, capsys, picture):
    monkeypatch.setenv("SEVLM_THREADS", text)
    with pytest.raises(ConfigError, match="whole number"):
        requested_threads()
    monkeypatch.delenv("SEVLM_THREADS")
    assert main(["explain", picture, f"--threads={text}"]) == 2
    assert "whole number" in capsys.readouterr().err and "SEVLM_THREADS" not in os.environ


def test_explain_takes_the_number_and_gives_it_back(two_threads, monkeypatch, picture, capsys):
    during, answer = [], Explainer.explain_patches

    def answering(*args, **settings):
        during.append(torch.get_num_threads())
        return answer(*args, **settings)

    monkeypatch.setattr(Explainer, "explain_patches", answering)
    assert main(["explain", picture, "--threads", "1"]) == 0
    assert during == [1] and torch.get_num_threads() == 2 and "SEVLM_THREADS" not in os.environ


# ---- a run


def listener(found: list):
    return SimpleNamespace(keeps=(), after_step=lambda learner: found.append(torch.get_num_threads()))


def test_a_resumed_run_takes_the_threads_it_had(data, tmp_path, two_threads, monkeypatch, capsys):
    first, second, third = [], [], []
    monkeypatch.setenv("SEVLM_THREADS", "1")
    start_run(data, tmp_path, CONFIG, SETTINGS, progress=False, callbacks=[listener(first)])
    assert chosen_before(tmp_path)["threads"] == 1 and torch.get_num_threads() == 2
    monkeypatch.delenv("SEVLM_THREADS")
    may = ("epochs", "threads")
    start_run(
        data,
        tmp_path,
        CONFIG,
        SETTINGS.replace(epochs=3),
        resume=True,
        progress=False,
        may_change=may,
        callbacks=[listener(second)],
    )
    assert set(first) == set(second) == {1}
    capsys.readouterr()
    start_run(
        data,
        tmp_path,
        CONFIG,
        SETTINGS.replace(epochs=4, threads=2),
        resume=True,
        progress=False,
        may_change=may,
        callbacks=[listener(third)],
    )
    assert set(third) == {2} and chosen_before(tmp_path)["threads"] == 2
    assert "2 threads from now on, 1 so far" in capsys.readouterr().out


def test_one_of_several_processes_keeps_what_its_launcher_gave(two_threads):
    lines = []
    processes = SimpleNamespace(count=2, log=lines.append)
    assert threads_of_run(SETTINGS, CONFIG, 0, processes) == 2 and not lines


# ---- what a command imports

HEAVY = (
    "torch",
    "torchvision",
    "transformers",
    "open_clip",
    "timm",
    "pandas",
    "scipy",
    "sklearn",
    "matplotlib",
    "nltk",
)


def loaded_by(*argv) -> set:
    code = (
        f"import json, sys; from sevlm.cli import main; assert main({list(map(str, argv))!r}) in (0, 1); print(); "
        f"print(json.dumps(sorted({HEAVY!r} & sys.modules.keys())))"
    )
    return set(in_a_process(code.replace(repr(HEAVY), f"set({HEAVY!r})")))


def test_a_sentence_needs_pytorch_alone(picture):
    assert loaded_by("explain", picture) == {"torch"}


def test_looking_at_annotations_needs_none_of_them(data):
    assert loaded_by("inspect", data / "artemis_dataset_release_v0.csv") == set()
    assert loaded_by("inspect", data / "mini-vad-lexicon.txt") == set()


def test_the_module_is_the_command():
    ran = subprocess.run([sys.executable, "-m", "sevlm", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"sevlm {sevlm.__version__}\n"
    ran = subprocess.run([sys.executable, "-m", "sevlm", "explain", "nowhere.jpg"], capture_output=True, text=True)
    assert ran.returncode == 2 and "nowhere.jpg" in ran.stderr

"""A run that is killed, anywhere, goes on to the last bit; what was saved before a failed save stays whole.

As a program, this file trains the tiny model: `test_kill.py DATA OUT EPOCHS [WRITE [BYTES]]`. It kills itself in the
middle of the file number WRITE that it writes, or has only so many BYTES of disk for each file from that one on.
"""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from sevlm import utils
from sevlm.config import SEVLMConfig, TrainConfig
from sevlm.errors import ConfigError
from sevlm.models.explainer import load
from sevlm.synthetic.dataset import make_mini
from sevlm.training import inputs, learner, run
from sevlm.training.run import start_run

EPOCHS = 3
KILLS = int(os.environ.get("SEVLM_KILLS", 2))  # random moments; 20 for the record
MANY = KILLS >= 20
CONFIG = SEVLMConfig.preset("tiny")
SETTINGS = TrainConfig.preset("tiny", validate_every=4, threads=1)


def program(data, out, epochs, write=0, room=0):
    "Train, and resume if there is a state."
    if write:
        whole, count = utils.write_atomic, [0]

        def broken(path):
            count[0] += 1
            if count[0] == write and not room:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).with_name(".half").write_bytes(b"half a file")
                os.kill(os.getpid(), signal.SIGKILL)
            if count[0] == write:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            return whole(path)

        for module in (utils, learner, run, inputs):
            if hasattr(module, "write_atomic"):
                module.write_atomic = broken
    settings = SETTINGS.replace(epochs=epochs)
    start_run(data, out, CONFIG, settings, resume=True, progress=False, gpt2=None, features="memory")


def launch(*args):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "SEVLM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, args)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(*args):
    p = launch(*args)
    _, err = p.communicate(timeout=300)
    return p.returncode, err


def same_run(one, other):
    "Final weights, optimiser and tables, bit for bit."
    a, b = (load_file(folder / "last" / "model.safetensors") for folder in (one, other))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    a, b = (torch.load(folder / "state" / "state.pt", weights_only=True) for folder in (one, other))
    for x, y in zip(a["optimiser"]["state"].values(), b["optimiser"]["state"].values()):
        assert all(torch.equal(x[k], y[k]) for k in ("exp_avg", "exp_avg_sq"))
    for table in ("steps", "epochs", "validations"):
        assert (one / f"{table}.csv").read_bytes() == (other / f"{table}.csv").read_bytes()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_mini(tmp_path_factory.mktemp("data") / "mini", n=60, seed=3, workers=1, progress=False)


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    begin = time.monotonic()
    code, err = finish(data, out, EPOCHS)
    assert code == 0, err[-2000:]
    return out, time.monotonic() - begin


def test_killed_at_random_moments(data, unbroken, tmp_path):
    "Where a kill falls is chance; the outcome is not."
    whole, seconds = unbroken
    draw, kills = np.random.default_rng(KILLS), 0
    for number in range(5 * KILLS):
        out, waits = tmp_path / f"run-{number}", draw.uniform(0.3, 0.95, 2) * seconds  # up to two kills of one run
        for wait in waits:
            p = launch(data, out, EPOCHS)
            time.sleep(wait)
            kills += p.poll() is None
            p.kill()
            p.communicate()
        code, err = finish(data, out, EPOCHS)
        assert code == 0, f"killed after {waits} s: {err[-2000:]}"
        same_run(out, whole)
        if kills >= KILLS:
            return
    pytest.fail(f"{kills} kills in {5 * KILLS} runs of {seconds:.1f} s: the others had ended before")


@pytest.mark.parametrize("write", range(3, 20) if MANY else (5, 8, 14))
def test_killed_inside_a_save(data, unbroken, tmp_path, write):
    code, _ = finish(data, tmp_path, EPOCHS, write)
    assert code == -signal.SIGKILL
    code, err = finish(data, tmp_path, EPOCHS)
    assert code == 0, err[-2000:]
    same_run(tmp_path, unbroken[0])


@pytest.mark.parametrize("write", (9, 12, 15) if MANY else (12,))
def test_a_full_disk_leaves_the_last_checkpoint(data, unbroken, tmp_path, write):
    "From some file on, no file may grow beyond 50 kB."
    code, err = finish(data, tmp_path, EPOCHS, write, 50_000)
    # of a checkpoint, or of the samples: which file comes first depends on which validation was the best so far
    assert code != 0 and re.search("(Checkpoint|Write)Error: cannot write", err), err[-2000:]
    assert "What was saved before is whole" in err
    saved, whole = (load(run, device="cpu").model.config for run in (tmp_path, unbroken[0]))
    assert saved.replace(tower_pretrained="") == whole.replace(tower_pretrained="")  # each has its tower beside it
    code, err = finish(data, tmp_path, EPOCHS)
    assert code == 0, err[-2000:]
    same_run(tmp_path, unbroken[0])


def test_a_folder_that_cannot_be_written(data, tmp_path):
    "A file stands where the folder would be; a folder of another's is refused in the same way."
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot write to"):
        start_run(data, tmp_path / "file" / "run", CONFIG, SETTINGS, progress=False)


def test_a_checkpoint_stays_when_the_folder_turns_read_only(data, unbroken, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    how = dict(progress=False, gpt2=None, features="memory")
    start_run(data, tmp_path, CONFIG, SETTINGS.replace(epochs=1), **how)
    before = (tmp_path / "last" / "model.safetensors").read_bytes()
    with monkeypatch.context() as m:
        m.setattr(os, "replace", refuse)
        with pytest.raises(ConfigError, match="Read-only file system"):
            start_run(data, tmp_path, CONFIG, SETTINGS.replace(epochs=2), resume=True, may_change=("epochs",), **how)
    assert (tmp_path / "last" / "model.safetensors").read_bytes() == before


def test_two_runs_in_one_folder(data, tmp_path):
    "The second is refused while the first works, and the folder is free again when the first was killed."
    p = launch(data, tmp_path, 200)
    try:
        until = time.monotonic() + 120
        while not (tmp_path / "steps.csv").is_file() and p.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        code, err = finish(data, tmp_path, 200)
        assert code != 0 and f"another run is working in {tmp_path}" in err and p.poll() is None
    finally:
        p.kill()
        p.communicate()
    assert finish(data, tmp_path, 200, 4)[0] == -signal.SIGKILL  # it began


def test_tables_grow_as_the_run_goes(data, tmp_path):
    seen = []

    class Look(learner.CB):
        def between_steps(self, learner):
            if learner.step:
                seen.append(len(pd.read_csv(tmp_path / "steps.csv")) - learner.step)

    settings = SETTINGS.replace(epochs=1)
    start_run(data, tmp_path, CONFIG, settings, progress=False, gpt2=None, features="memory", callbacks=[Look()])
    assert len(seen) > 5 and set(seen) == {0}


if __name__ == "__main__":
    program(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))

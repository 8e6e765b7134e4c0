"""The loop and its callbacks: real signals, broken files, other precisions, full memory, every event."""

import io
import os
import signal
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from tqdm import tqdm

from sevlm.errors import CheckpointError, ConfigError, SevlmError
from sevlm.training.distributed import Processes, defer_interrupts, resolve_precision, rng_state, set_rng_state
from sevlm.training.learner import (
    CB,
    EVENTS,
    BestCB,
    CheckpointCB,
    ClipCB,
    EarlyStopCB,
    Learner,
    MeterCB,
    ProgressCB,
    RecorderCB,
    SampleCB,
    TrackCB,
    ValidateCB,
    evaluating,
    linear_schedule,
    param_groups,
)
from sevlm.utils import seed_everything


class Toy(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.table = nn.Embedding(10, width)
        self.drop, self.norm, self.out = nn.Dropout(0.2), nn.LayerNorm(width), nn.Linear(width, 10, bias=False)
        self.out.weight = self.table.weight  # tied, as in the decoder
        self.register_buffer("scale", torch.ones(1))

    def forward(self, ids):
        lm = nn.functional.cross_entropy(
            self.out(self.norm(self.drop(self.table(ids) * self.scale))).float(), (ids + 1) % 10
        )
        return SimpleNamespace(losses=dict(lm=lm, total=lm), counts=dict(lm=len(ids)))


class Batches:
    def __init__(self, n=5, sizes=(7, 3)):
        self.n, self.sizes, self.epoch, self.start = n, sizes, 0, 0

    def __len__(self):
        return self.n

    def set_epoch(self, epoch, start=0):
        self.epoch, self.start = epoch, start

    def __iter__(self):
        g = torch.Generator().manual_seed(self.epoch)
        for i in range(self.n):
            ids = torch.randint(0, 10, (self.sizes[i % len(self.sizes)],), generator=g)
            if i >= self.start:
                yield ids


def make(*callbacks, seed=0, epochs=3, width=8, n=5, **kw):
    seed_everything(seed)
    model = Toy(width)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Learner(model, Batches(n), opt, linear_schedule(opt, epochs * n, 2), callbacks=callbacks, **kw)


def watched():
    return [
        MeterCB(),
        RecorderCB(),
        ValidateCB(lambda m: dict(accuracy=np.float64(torch.rand(()))), 2),
        EarlyStopCB(["accuracy"], 50),
    ]


def history(learner):
    return [getattr(learner.callbacks[1], k) for k in RecorderCB.keeps]


class Strike(CB):
    def __init__(self, event, step):
        self.step = step
        setattr(self, event, self.strike)

    def strike(self, learner):
        if learner.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "event", [e for e in EVENTS if e not in ("on_interrupt", "on_error", "after_fit", "before_fit")]
)
@pytest.mark.parametrize("step", [4, 5, 10])
def test_interrupt_anywhere(event, step, tmp_path, capsys):
    whole = make(*watched()).fit(3)
    first = make(*watched(), Strike(event, step), CheckpointCB(tmp_path, every=3)).fit(3)
    if not first.interrupted:  # the event does not happen at this step
        assert event in ("before_epoch", "after_epoch", "after_validate") and history(first) == history(whole)
        return
    assert "resume" in capsys.readouterr().out and first.step == step
    second = make(*watched(), CheckpointCB(tmp_path), seed=7).resume(tmp_path)
    torch.rand(5)  # whatever is drawn before fit does not matter
    second.fit(3)
    assert history(second) == history(whole) and (second.step, second.epoch, second.done) == (15, 3, 0)
    for a, b in zip(whole.model.state_dict().values(), second.model.state_dict().values()):
        assert torch.equal(a, b)


SCRIPT = """
import sys; sys.path.insert(0, {tests!r})
from test_learner import *
from types import SimpleNamespace
# slow, so that it cannot be done before the signal comes
slow = SimpleNamespace(keeps=(), after_step=lambda learner: threading.Event().wait(.02))
seconds = make(*watched(), CheckpointCB({folder!r}), slow, epochs=400).fit(400)
print('interrupted' if seconds.interrupted else 'finished', seconds.step, flush=True)
"""


def test_a_real_ctrl_c(tmp_path):
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    heard = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests do not hear it
    p = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, preexec_fn=heard)
    try:
        while p.poll() is None and not (tmp_path / "state.pt").exists():  # however long a busy machine takes to import
            threading.Event().wait(0.05)
        p.send_signal(signal.SIGINT)
        out, _ = p.communicate(timeout=60)
    finally:
        p.kill()
    assert p.returncode == 0 and "Interrupted after step" in out
    step = int(out.split()[-1])
    second = make(*watched(), epochs=400).resume(tmp_path)
    assert second.step == step < 2000 and len(second.callbacks[1].steps) == step
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")] and len(list(tmp_path.iterdir())) == 2


def test_deferred_interrupts_elsewhere_and_with_errors():
    seen = []

    def work():
        with defer_interrupts():
            seen.append(1)

    t = threading.Thread(target=work)
    t.start()
    t.join()
    assert seen == [1]
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError):
        with defer_interrupts():
            raise ValueError
    assert signal.getsignal(signal.SIGINT) is before


def test_meters_weigh_by_count():
    meter, recorder = MeterCB(), RecorderCB()
    make(meter, recorder, epochs=1).fit(1)
    rows = recorder.frame()
    weights = np.array([7, 3, 7, 3, 7])
    assert np.isclose(recorder.epochs[0]["lm"], (rows.lm * weights).sum() / weights.sum()) and np.isclose(
        recorder.epochs[0]["total"], rows.total.mean()
    )
    assert {"step", "epoch", "lm", "total", "lr_0"} == set(rows.columns)
    with pytest.raises(ConfigError, match="'steps'"):
        recorder.frame("step")


def test_param_groups_freeze_and_refuse_twins():
    toy = Toy()
    assert [g["name"] for g in param_groups(dict(table=(toy.table, 1e-3), norm=(toy.norm, 0.0)))] == ["table"]
    assert not toy.norm.weight.requires_grad and toy.table.weight.requires_grad
    with pytest.raises(ConfigError, match="share a parameter"):
        param_groups(dict(table=(toy.table, 1e-3), out=(toy.out, 1e-3)))
    with pytest.raises(ConfigError, match="lacks"):
        Learner(Toy(), Batches(), torch.optim.SGD(toy.parameters()))


def test_frozen_parts_are_not_written(tmp_path):
    from safetensors.torch import load_file

    seed_everything(0)
    toy = Toy()
    opt = torch.optim.AdamW(param_groups(dict(table=(toy.table, 1e-2), norm=(toy.norm, 0.0))))
    Learner(toy, Batches(), opt, callbacks=[CheckpointCB(tmp_path)]).fit(1)
    names = load_file(next(tmp_path.glob("*.safetensors"))).keys()
    assert "table.weight" in names and "norm.weight" not in names and "scale" in names


def test_resume_refuses(tmp_path):
    make(CheckpointCB(tmp_path)).fit(1)
    with pytest.raises(CheckpointError, match="does not fit"):
        make(width=9).resume(tmp_path)
    with pytest.raises(CheckpointError, match="no usable state"):
        make().resume(tmp_path / "none")
    with pytest.warns(UserWarning, match="RecorderCB"):
        make(RecorderCB()).resume(tmp_path)
    state = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(state[: len(state) // 2])
    with pytest.raises(CheckpointError, match="no usable state"):
        make().resume(tmp_path)

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "evil"),))

    torch.save({"weights": Evil()}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError):
        make().resume(tmp_path)
    assert not (tmp_path / "evil").exists()


def test_a_refused_state_leaves_the_model_as_it_is(tmp_path):
    make(CheckpointCB(tmp_path)).fit(1)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.save({**state, "optimiser": {"state": {}, "param_groups": []}}, tmp_path / "state.pt")
    learner = make(seed=7)
    before = {k: v.clone() for k, v in learner.model.state_dict().items()}
    with pytest.raises(CheckpointError, match="no usable state"):
        learner.resume(tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in learner.model.state_dict().items())


def test_rows_of_any_terms_stay_in_their_columns(tmp_path):
    "Also those that lack a term, twice in a row; and a table that was empty in the state has no file afterwards."
    recorder = RecorderCB(tmp_path)
    rows = [dict(step=1, a=1, b=2, c=3), dict(step=2, a=1, c=3), dict(step=3, a=1, c=3), dict(step=4, d=5)]
    for n, row in enumerate(rows, 1):
        recorder.add("steps", row)
        names = list(dict.fromkeys(name for r in rows[:n] for name in r))
        lines = (tmp_path / "steps.csv").read_text(encoding="utf-8").splitlines()
        assert lines == [",".join(names), *(",".join(str(r.get(name, "")) for name in names) for r in rows[:n])]
    other = RecorderCB(tmp_path)
    other.load(dict(steps=rows[:2], epochs=[], validations=[]))
    assert len((tmp_path / "steps.csv").read_text(encoding="utf-8").splitlines()) == 3
    other.load(dict(steps=[], epochs=[], validations=[]))
    assert not (tmp_path / "steps.csv").exists()


def test_more_epochs_later_equal_one_run():
    one = make(*watched()).fit(3)
    two = make(*watched()).fit(1).fit(3)
    assert history(one) == history(two)


def test_loss_not_finite_stops(tmp_path):
    "What was opened for the run is closed, and no state is written."
    show = ProgressCB(lambda **kw: tqdm(file=io.StringIO(), **kw))
    learner = make(show, CheckpointCB(tmp_path), epochs=1)
    with torch.no_grad():
        learner.model.table.weight.fill_(float("nan"))
    with pytest.raises(SevlmError, match="lower the learning rate"):
        learner.fit(1)
    assert show.bar.disable and not (tmp_path / "state.pt").exists()  # closed
    assert TrackCB.on_error is TrackCB.after_fit


def test_bfloat16_runs_and_differs():
    a = make(RecorderCB(), epochs=1).fit(1)
    b = make(RecorderCB(), epochs=1, precision="bfloat16").fit(1)
    x, y = (np.array([r["lm"] for r in learner.callbacks[0].steps]) for learner in (a, b))
    assert np.isfinite(y).all() and 0 < np.abs(x - y).max() < 0.5


# parts, precision, memory


@dataclass
class Rows:
    "A batch that can be split."

    ids: torch.Tensor
    whole: dict = None

    def __len__(self):
        return len(self.ids)

    def to(self, device):
        return self

    @property
    def counts(self):
        return dict(lm=len(self.ids))

    def split(self, n):
        return [replace(self, ids=x) for x in self.ids.tensor_split(min(n, len(self.ids)))]


class Splitting(Batches):
    def __iter__(self):
        yield from map(Rows, super().__iter__())


class Parted(Toy):
    "Runs out of memory above `room` rows, in the forward or in the backward pass."

    room, where, seen = 99, "forward", ()

    def forward(self, batch):
        out = super().forward(batch.ids)
        lm = out.losses["lm"] * (len(batch) / batch.whole["lm"] if batch.whole else 1.0)
        self.seen += (len(batch),)
        self.graph = weakref.ref(lm)
        if len(batch) > self.room:
            lm = self.full(lm)
        return SimpleNamespace(losses=dict(lm=lm, total=lm), counts=batch.counts)

    def full(self, lm):
        if self.where == "forward":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        lm.register_hook(self.complain)
        return lm

    def complain(self, grad):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        )


def parted(*callbacks, room=99, where="forward", dropout=0.2, sizes=(7, 3), epochs=3, **given):
    learner = make(*callbacks, epochs=epochs)
    model = Parted()
    model.load_state_dict(learner.model.state_dict())
    model.room, model.where, model.drop.p = room, where, dropout
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Learner(
        model, Splitting(sizes=sizes), opt, linear_schedule(opt, epochs * 5, 2), callbacks=callbacks, **given
    )


def test_parts_are_the_whole():
    a, b = (parted(MeterCB(), RecorderCB(), dropout=0.0, accumulate=n).fit(3) for n in (1, 3))
    for table in ("steps", "epochs"):
        for x, y in zip(getattr(a.callbacks[1], table), getattr(b.callbacks[1], table)):
            assert np.allclose(list(x.values()), list(y.values()), atol=1e-5)
    assert b.out.counts == dict(lm=7) and b.model.seen[:5] == (3, 2, 2, 1, 1) and a.model.seen == (7, 3, 7, 3, 7) * 3
    assert all(torch.allclose(x, y, atol=1e-4) for x, y in zip(a.model.parameters(), b.model.parameters()))


def test_one_part_changes_not_a_bit():
    plain, one = make(RecorderCB()).fit(3), parted(RecorderCB(), accumulate=1)
    seed_everything(0)
    Toy(8)  # the random numbers that `make` has used up
    assert one.fit(3).callbacks[0].steps == plain.callbacks[0].steps


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_out_of_memory_is_taken_back(where, tmp_path, capsys):
    def run(**given):
        learner = parted(*watched(), CheckpointCB(tmp_path), **given)
        seed_everything(5)
        return learner.fit(2)

    met = run(room=3, where=where)
    said = capsys.readouterr().out
    assert (
        met.model.seen[:7] == (7, 4, 2, 2, 2, 1, 1)
        and met.accumulate == 4
        and said.count("Out of memory at step 1") == 2
        and "in 4 parts" in said
    )
    known = run(accumulate=4)  # the same run, had it known from the start
    assert history(met) == history(known) and all(
        torch.equal(x, y) for x, y in zip(met.model.parameters(), known.model.parameters())
    )
    assert (
        parted(*watched()).resume(tmp_path).accumulate == 4
        and parted(*watched(), accumulate=6).resume(tmp_path).accumulate == 6
    )


def test_the_failed_graph_is_gone_before_the_second_attempt():
    learner, alive = parted(room=3, where="backward"), []
    first = learner.model.forward

    def watch(batch):
        if learner.model.seen:
            alive.append(learner.model.graph() is not None)
        return first(batch)

    learner.model.forward = watch
    learner.fit(1)
    assert alive and not any(alive)
    assert set(vars(learner.out)) == {"losses", "counts"} and not any(
        isinstance(v, torch.Tensor) for v in learner.out.losses.values()
    )


def test_out_of_memory_without_a_way_out():
    with pytest.raises(SevlmError, match=r"more than 7 part.*smaller batch_size"):
        parted(room=0).fit(1)
    with pytest.raises(ValueError, match="mine"):  # other errors are not touched
        learner = parted()
        learner.model.full = lambda lm: (_ for _ in ()).throw(ValueError("mine"))
        learner.model.room = 0
        learner.fit(1)
    whole = make()
    whole.model.forward = lambda ids: (_ for _ in ()).throw(torch.OutOfMemoryError("no"))
    with pytest.raises(SevlmError, match=r"more than 1 part"):
        whole.fit(1)
    with pytest.raises(ConfigError, match="accumulate=1"):
        make(accumulate=2).fit(1)


def test_an_interrupt_between_parts_drops_the_step(tmp_path):
    class BetweenParts(Parted):
        def forward(self, batch):
            if len(self.seen) == 22:
                raise KeyboardInterrupt  # the second of three parts of the eighth step
            return super().forward(batch)

    whole = parted(*watched(), accumulate=3)
    seed_everything(5)
    whole.fit(3)
    first = parted(*watched(), CheckpointCB(tmp_path), accumulate=3)
    first.model.__class__ = BetweenParts
    seed_everything(5)
    first.fit(3)
    assert first.interrupted and first.step == 7
    assert history(parted(*watched(), accumulate=3).resume(tmp_path).fit(3)) == history(whole)


class HalfProcesses(Processes):
    "A processor that computes in float16 as a GPU does: accelerate gives float16 and its scaler to GPUs only."

    scale = 2.0**16

    def accelerator_of(self, precision, **how):
        if precision != "float16":
            return super().accelerator_of(precision, **how)
        accelerator = super().accelerator_of("float32", **how)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=self.scale, growth_interval=4)
        accelerator.autocast = lambda: torch.autocast("cpu", torch.float16)
        return accelerator


def scaled(scale, *callbacks, **given):
    processes = HalfProcesses()
    processes.scale = scale
    return make(*callbacks, precision="float16", processes=processes, **given)


def test_float16_skips_and_counts(tmp_path, capsys):
    class Weights(CB):
        "Which steps moved the weights and the schedule."

        def __init__(self):
            self.moved, self.rates, self.norms = [], [], []

        def before_batch(self, learner):
            self.old = [p.detach().clone() for p in learner.model.parameters()]

        def after_step(self, learner):
            self.moved.append(any(not torch.equal(a, b) for a, b in zip(self.old, learner.model.parameters())))
            self.rates.append(learner.scheduler.last_epoch)
            self.norms.append(learner.grad_norm)

    learner = scaled(2.0**22, ClipCB(0.0), seen := Weights()).fit(3)
    assert 0 < learner.skipped < 15 and learner.step == 15
    assert (
        learner.scheduler.last_epoch == 15 - learner.skipped
        and f"{learner.skipped} of 15 steps were skipped" in capsys.readouterr().out
    )
    finite = np.isfinite(seen.norms)
    assert (~finite).sum() == learner.skipped and max(
        np.array(seen.norms)[finite]
    ) < 50  # clipping sees gradients in their true scale
    assert not any(np.array(seen.moved)[~finite]) and scaled(2.0**8).fit(3).skipped == 0


def test_the_scale_survives_an_interrupt(tmp_path):
    whole = scaled(2.0**22, *watched()).fit(3)
    first = scaled(2.0**22, *watched(), Strike("after_backward", 9), CheckpointCB(tmp_path)).fit(3)
    assert first.interrupted and 0 < first.skipped
    exact = make(*watched()).resume(tmp_path)  # in another precision there is no scale to take up
    assert exact.step == 9 and not exact.fit(3).scaler.is_enabled()
    again = scaled(2.0**4, *watched(), seed=3).resume(tmp_path).fit(3)
    del first.callbacks[4]  # no second strike
    again_here = first.fit(3)  # the same learner goes on, in spite of the half-done step in its scaler
    assert (again.skipped, again.scaler.get_scale()) == (
        whole.skipped,
        whole.scaler.get_scale(),
    ) and again_here.skipped == whole.skipped
    for k in ("lm", "total"):
        assert [r[k] for r in history(again)[0]] == [r[k] for r in history(whole)[0]]


def test_a_state_without_the_new_names_still_loads(tmp_path):
    make(*watched(), CheckpointCB(tmp_path)).fit(1)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    for k in ("scale", "skipped", "accumulate", "base"):
        del state[k]
    torch.save(state, tmp_path / "state.pt")
    old = make(*watched()).resume(tmp_path)
    assert (old.step, old.skipped, old.accumulate, old.base) == (5, 0, 1, None) and history(old.fit(3)) == history(
        make(*watched()).fit(3)
    )


def test_overflow_without_end_stops():
    class Burst(CB):
        def after_loss(self, learner):
            learner.model.table.weight.grad.fill_(float("inf"))

    learner = scaled(2.0**16, Burst(), epochs=20)
    with pytest.raises(SevlmError, match="overflow at every scale"):
        learner.fit(20)
    assert learner.skipped > 20


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_loss_that_is_no_number_stops_in_half_precision(precision):
    learner = make(epochs=1, precision=precision, processes=HalfProcesses())
    with torch.no_grad():
        learner.model.table.weight.fill_(float("nan"))
    with pytest.raises(SevlmError, match="the loss became nan"):
        learner.fit(1)


def test_precision_is_checked_and_chosen():
    assert make(precision="auto").precision == resolve_precision("auto", "cpu")
    with pytest.raises(ConfigError, match="Did you mean 'float16'"):
        make(precision="float61")


def test_losses_are_asked_for_once_a_step(monkeypatch):
    "Each number asked of a device waits for it: not one wait a term, but one a step."
    asked, item, tolist = [], torch.Tensor.item, torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "item", lambda t: asked.append("item") or item(t))
    monkeypatch.setattr(torch.Tensor, "tolist", lambda t: asked.append("tolist") or tolist(t))
    learner = parted(accumulate=3)
    learner.optimiser = torch.optim.SGD(learner.model.parameters(), lr=1e-3)  # AdamW asks for its own step counts
    learner.scheduler = None
    learner.fit(1)
    assert asked == ["tolist"] * 5


def test_progress_shows_skipped_steps():
    from functools import partial

    screen = io.StringIO()
    scaled(2.0**22, MeterCB(), ProgressCB(partial(tqdm, file=screen, mininterval=0))).fit(1)
    assert "skipped=" in screen.getvalue()


def test_validation_and_samples_leave_no_trace():
    noisy = lambda model: {"accuracy": float(model(torch.randint(0, 10, (4,))).losses["lm"]) + np.random.rand()}
    quiet = make(RecorderCB()).fit(3)
    loud = make(RecorderCB(), ValidateCB(noisy, 1), SampleCB(noisy)).fit(3)
    assert quiet.callbacks[0].steps == loud.callbacks[0].steps and len(loud.callbacks[0].validations) == 15
    assert loud.model.training and set(loud.metrics) == {"accuracy"}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_validation_runs_in_the_precision_of_the_run(precision):
    seen = []

    def look(model):
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(), model.training))
        return dict(score=1.0)

    make(ValidateCB(look), SampleCB(look), precision=precision, epochs=1).fit(1)
    assert seen == [(precision == "bfloat16", False, False)] * 2


def test_best_and_early_stop(tmp_path, capsys):
    values = iter([0.2, 0.5, 0.4, float("nan"), 0.5, 0.9])
    saved, recorder = [], RecorderCB()
    best, stop = BestCB("accuracy", tmp_path / "best", lambda m, f: saved.append(f)), EarlyStopCB(["accuracy"], 3)
    learner = make(
        ValidateCB(lambda m: dict(accuracy=next(values)), 1),
        recorder,
        best,
        stop,
        CheckpointCB(tmp_path / "run"),
        epochs=9,
    ).fit(9)
    assert learner.stopped and learner.step == 5 and len(saved) == 2 and (best.best, best.best_step) == (0.5, 2)
    assert "stopped: no gain in accuracy for 3 validations (patience 3)" in capsys.readouterr().out
    again = (
        make(
            ValidateCB(lambda m: {}, 1),
            RecorderCB(),
            BestCB("accuracy", tmp_path, None),
            EarlyStopCB(["accuracy"], 3),
            epochs=9,
        )
        .resume(tmp_path / "run")
        .fit(9)
    )
    assert again.stopped and again.step == 5  # a run that was stopped stays stopped
    with pytest.raises(ConfigError, match="Did you mean 'accuracy'"):
        make(ValidateCB(lambda m: dict(accuracy=1.0), 1), EarlyStopCB(["acuracy"], 3)).fit(1)


def test_clip_and_progress():
    from functools import partial

    screen = io.StringIO()
    learner = make(MeterCB(), ClipCB(0.01), ProgressCB(partial(tqdm, file=screen)), epochs=2).fit(2)
    assert learner.grad_norm > 0.01 and np.isclose(
        torch.stack([p.grad.norm() for p in learner.model.parameters()]).norm().item(), 0.01, rtol=1e-3
    )
    assert "10/10" in screen.getvalue() and "lm=" in screen.getvalue()


def test_schedule_and_random_state():
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, seen = linear_schedule(opt, 4), []
    for _ in range(5):
        seen.append(opt.param_groups[0]["lr"])
        opt.step()
        schedule.step()
    assert seen == [1.0, 0.75, 0.5, 0.25, 0.0] and opt.param_groups[0]["lr"] == 0.0
    state, a = rng_state(), (np.random.rand(), torch.rand(()).item())
    set_rng_state(state)
    assert (np.random.rand(), torch.rand(()).item()) == a
    toy = Toy()
    with pytest.raises(ValueError):
        with evaluating(toy):
            raise ValueError
    assert toy.training


def test_a_tracker_gets_every_number(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track = TrackCB(["tensorboard"], tmp_path, dict(lr=1e-2, name="toy"))
    recorder, scores = RecorderCB(), iter([0.5, 0.75, 1.0])
    learner = make(track, recorder, ValidateCB(lambda model: dict(score=next(scores)))).fit(3)
    events = EventAccumulator(str(next(tmp_path.rglob("events.out.tfevents.*")).parent))
    events.Reload()
    assert {"train/lm", "train/total", "validation/score"} <= set(events.Tags()["scalars"])
    written = [(e.step, e.value) for e in events.Scalars("train/lm")]
    assert [step for step, _ in written] == list(range(1, 16))
    assert np.allclose([x for _, x in written], recorder.frame().lm)
    assert [(e.step, e.value) for e in events.Scalars("validation/score")] == [(5, 0.5), (10, 0.75), (15, 1.0)]
    assert learner.fit(3).step == 15  # begun again, nothing to do


@pytest.mark.parametrize(
    "name, said", [("tensorbord", "Did you mean 'tensorboard'"), ("dvclive", "pip install dvclive")]
)
def test_a_tracker_that_is_not_there_is_refused(tmp_path, name, said):
    with pytest.raises(ConfigError, match=said):
        TrackCB([name], tmp_path, {})


def test_a_misspelt_event_is_refused():
    with pytest.raises(ConfigError, match="Did you mean 'before_batch'"):
        type("BadCB", (CB,), {"before_batches": lambda self, learner: None})


def test_learner_never_imports_the_model():
    code = (
        "import sys, sevlm.training.learner; print([m for m in sys.modules "
        "if m in ('sevlm.models.sevlm', 'transformers', 'open_clip', 'nbdev', 'fastcore')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"

"""The loop and its callbacks where a page cannot look: real signals, broken files, other precisions, every event."""
import io, os, signal, subprocess, sys, threading, warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sevlm.callbacks import BestCB, CheckpointCB, ClipCB, EarlyStopCB, MeterCB, ProgressCB, RecorderCB, SampleCB, ValidateCB
from sevlm.core import CheckpointError, ConfigError, SevlmError, seed_everything
from sevlm.learner import CB, EVENTS, Learner, evaluating, held_interrupts, linear_schedule, param_groups, rng_state, set_rng_state


class Toy(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.table = nn.Embedding(10, width)
        self.drop, self.norm, self.out = nn.Dropout(.2), nn.LayerNorm(width), nn.Linear(width, 10, bias=False)
        self.out.weight = self.table.weight             # tied, as in the decoder
        self.register_buffer('scale', torch.ones(1))
    def forward(self, ids):
        lm = nn.functional.cross_entropy(self.out(self.norm(self.drop(self.table(ids)*self.scale))).float(), (ids + 1) % 10)
        return SimpleNamespace(losses=dict(lm=lm, total=lm), counts=dict(lm=len(ids)))


class Batches:
    def __init__(self, n=5, sizes=(7, 3)): self.n, self.sizes, self.epoch = n, sizes, 0
    def __len__(self): return self.n
    def set_epoch(self, epoch): self.epoch = epoch
    def __iter__(self):
        g = torch.Generator().manual_seed(self.epoch)
        for i in range(self.n): yield torch.randint(0, 10, (self.sizes[i % len(self.sizes)],), generator=g)


def make(*callbacks, seed=0, epochs=3, width=8, n=5, **kw):
    seed_everything(seed)
    model = Toy(width)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Learner(model, Batches(n), opt, linear_schedule(opt, epochs*n, 2), callbacks=callbacks, **kw)


def watched(): return [MeterCB(), RecorderCB(), ValidateCB(lambda m: dict(accuracy=np.float64(torch.rand(()))), 2), EarlyStopCB(['accuracy'], 50)]
def history(learner): return [getattr(learner.callbacks[1], k) for k in RecorderCB.keeps]


class Strike(CB):
    def __init__(self, event, step): self.step = step; setattr(self, event, self.strike)
    def strike(self, learner):
        if learner.step == self.step: raise KeyboardInterrupt


@pytest.mark.parametrize('event', [e for e in EVENTS if e not in ('on_interrupt', 'after_fit', 'before_fit')])
@pytest.mark.parametrize('step', [4, 5, 10])
def test_interrupt_anywhere(event, step, tmp_path, capsys):
    whole = make(*watched()).fit(3)
    first = make(*watched(), Strike(event, step), CheckpointCB(tmp_path, every=3)).fit(3)
    if not first.interrupted:                                   # the event does not happen at this step
        assert event in ('before_epoch', 'after_epoch', 'after_validate') and history(first) == history(whole)
        return
    assert 'resume' in capsys.readouterr().out and first.step == step
    second = make(*watched(), CheckpointCB(tmp_path), seed=7).resume(tmp_path)
    torch.rand(5)                                               # whatever is drawn before fit does not matter
    second.fit(3)
    assert history(second) == history(whole) and (second.step, second.epoch, second.done) == (15, 3, 0)
    for a, b in zip(whole.model.state_dict().values(), second.model.state_dict().values()): assert torch.equal(a, b)


SCRIPT = '''
import sys; sys.path.insert(0, {tests!r})
from test_learner import *
from types import SimpleNamespace
slow = SimpleNamespace(keeps=(), after_step=lambda learner: threading.Event().wait(.02))     # so that it cannot be done before the signal comes
seconds = make(*watched(), CheckpointCB({folder!r}), slow, epochs=400).fit(400)
print('interrupted' if seconds.interrupted else 'finished', seconds.step, flush=True)
'''


def test_a_real_ctrl_c(tmp_path):
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    p = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(1200):
            if (tmp_path/'state.pt').exists(): break
            threading.Event().wait(.05)
        p.send_signal(signal.SIGINT)
        out, _ = p.communicate(timeout=60)
    finally: p.kill()
    assert p.returncode == 0 and 'Interrupted after step' in out
    step = int(out.split()[-1])
    second = make(*watched(), epochs=400).resume(tmp_path)
    assert second.step == step < 2000 and len(second.callbacks[1].steps) == step
    assert not [f for f in tmp_path.iterdir() if f.name.startswith('.')] and len(list(tmp_path.iterdir())) == 2


def test_held_interrupts_elsewhere_and_with_errors():
    seen = []
    def work():
        with held_interrupts(): seen.append(1)
    t = threading.Thread(target=work); t.start(); t.join()
    assert seen == [1]
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError):
        with held_interrupts(): raise ValueError
    assert signal.getsignal(signal.SIGINT) is before


def test_meters_weigh_by_count():
    meter, recorder = MeterCB(), RecorderCB()
    make(meter, recorder, epochs=1).fit(1)
    rows = recorder.frame()
    weights = np.array([7, 3, 7, 3, 7])
    assert np.isclose(recorder.epochs[0]['lm'], (rows.lm*weights).sum()/weights.sum()) and np.isclose(recorder.epochs[0]['total'], rows.total.mean())
    assert {'step', 'epoch', 'lm', 'total', 'lr_0'} == set(rows.columns)
    with pytest.raises(ConfigError, match="'steps'"): recorder.frame('step')


def test_param_groups_freeze_and_refuse_twins():
    toy = Toy()
    assert [g['name'] for g in param_groups(dict(table=(toy.table, 1e-3), norm=(toy.norm, 0.)))] == ['table']
    assert not toy.norm.weight.requires_grad and toy.table.weight.requires_grad
    with pytest.raises(ConfigError, match='share a parameter'): param_groups(dict(table=(toy.table, 1e-3), out=(toy.out, 1e-3)))
    with pytest.raises(ConfigError, match='lacks'): Learner(Toy(), Batches(), torch.optim.SGD(toy.parameters()))


def test_frozen_parts_are_not_written(tmp_path):
    from safetensors.torch import load_file
    seed_everything(0)
    toy = Toy()
    opt = torch.optim.AdamW(param_groups(dict(table=(toy.table, 1e-2), norm=(toy.norm, 0.))))
    Learner(toy, Batches(), opt, callbacks=[CheckpointCB(tmp_path)]).fit(1)
    names = load_file(next(tmp_path.glob('*.safetensors'))).keys()
    assert 'table.weight' in names and 'norm.weight' not in names and 'scale' in names


def test_resume_refuses(tmp_path):
    make(CheckpointCB(tmp_path)).fit(1)
    with pytest.raises(CheckpointError, match='does not fit'): make(width=9).resume(tmp_path)
    with pytest.raises(CheckpointError, match='no usable state'): make().resume(tmp_path/'none')
    with pytest.warns(UserWarning, match='RecorderCB'): make(RecorderCB()).resume(tmp_path)
    state = (tmp_path/'state.pt').read_bytes()
    (tmp_path/'state.pt').write_bytes(state[:len(state)//2])
    with pytest.raises(CheckpointError, match='no usable state'): make().resume(tmp_path)
    class Evil:
        def __reduce__(self): return (os.mkdir, (str(tmp_path/'evil'),))
    torch.save({'weights': Evil()}, tmp_path/'state.pt')
    with pytest.raises(CheckpointError): make().resume(tmp_path)
    assert not (tmp_path/'evil').exists()


def test_more_epochs_later_equal_one_run():
    one = make(*watched()).fit(3)
    two = make(*watched()).fit(1).fit(3)
    assert history(one) == history(two)


def test_loss_not_finite_stops():
    learner = make(epochs=1)
    with torch.no_grad(): learner.model.table.weight.fill_(float('nan'))
    with pytest.raises(SevlmError, match='lower the learning rate'): learner.fit(1)


def test_bfloat16_runs_and_differs():
    a = make(RecorderCB(), epochs=1).fit(1)
    b = make(RecorderCB(), epochs=1, precision='bfloat16').fit(1)
    x, y = (np.array([r['lm'] for r in l.callbacks[0].steps]) for l in (a, b))
    assert np.isfinite(y).all() and 0 < np.abs(x - y).max() < .5


def test_validation_and_samples_leave_no_trace():
    noisy = lambda model: {'accuracy': float(model(torch.randint(0, 10, (4,))).losses['lm']) + np.random.rand()}
    quiet = make(RecorderCB()).fit(3)
    loud = make(RecorderCB(), ValidateCB(noisy, 1), SampleCB(noisy)).fit(3)
    assert quiet.callbacks[0].steps == loud.callbacks[0].steps and len(loud.callbacks[0].validations) == 15
    assert loud.model.training and set(loud.metrics) == {'accuracy'}


def test_best_and_early_stop(tmp_path):
    values = iter([.2, .5, .4, float('nan'), .5, .9])
    saved, recorder = [], RecorderCB()
    best, stop = BestCB('accuracy', tmp_path/'best', lambda m, f: saved.append(f)), EarlyStopCB(['accuracy'], 3)
    learner = make(ValidateCB(lambda m: dict(accuracy=next(values)), 1), recorder, best, stop, CheckpointCB(tmp_path/'run'), epochs=9).fit(9)
    assert learner.stopped and learner.step == 5 and len(saved) == 2 and (best.best, best.best_step) == (.5, 2)
    again = make(ValidateCB(lambda m: {}, 1), RecorderCB(), BestCB('accuracy', tmp_path, None), EarlyStopCB(['accuracy'], 3), epochs=9).resume(tmp_path/'run').fit(9)
    assert again.stopped and again.step == 5                    # a run that was stopped stays stopped
    with pytest.raises(ConfigError, match="Did you mean 'accuracy'"):
        make(ValidateCB(lambda m: dict(accuracy=1.), 1), EarlyStopCB(['acuracy'], 3)).fit(1)


def test_clip_and_progress():
    from functools import partial
    from tqdm import tqdm
    screen = io.StringIO()
    learner = make(MeterCB(), ClipCB(.01), ProgressCB(partial(tqdm, file=screen)), epochs=2).fit(2)
    assert learner.grad_norm > .01 and np.isclose(torch.stack([p.grad.norm() for p in learner.model.parameters()]).norm().item(), .01, rtol=1e-3)
    assert '10/10' in screen.getvalue() and 'lm=' in screen.getvalue()


def test_schedule_and_random_state():
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.)
    schedule, seen = linear_schedule(opt, 4), []
    for _ in range(5): seen.append(opt.param_groups[0]['lr']); opt.step(); schedule.step()
    assert seen == [1., .75, .5, .25, 0.] and opt.param_groups[0]['lr'] == 0.
    state, a = rng_state(), (np.random.rand(), torch.rand(()).item())
    set_rng_state(state)
    assert (np.random.rand(), torch.rand(()).item()) == a
    toy = Toy()
    with pytest.raises(ValueError):
        with evaluating(toy): raise ValueError
    assert toy.training


def test_a_misspelt_event_is_refused():
    with pytest.raises(ConfigError, match="Did you mean 'before_batch'"): type('BadCB', (CB,), {'before_batches': lambda self, learner: None})


def test_learner_never_imports_the_model():
    code = "import sys, sevlm.callbacks; print([m for m in sys.modules if m in ('sevlm.model', 'transformers', 'open_clip', 'nbdev', 'fastcore')])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'

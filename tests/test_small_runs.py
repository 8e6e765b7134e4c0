"""Small runs by the learner's loop: batches, interrupts at any place, best epoch, patience, threads, and what is
refused."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import nn

from sevlm.config import Settings, SEVLMConfig
from sevlm.errors import CheckpointError, ConfigError, DataError
from sevlm.models.tokenizer import load_tokenizer
from sevlm.training.classifier import fit_classifier
from sevlm.training.clip import LARGEST_SCALE, augment, train_clip
from sevlm.training.pretraining import pretrain
from sevlm.training.small_runs import OneLoss, Pair, ShuffledBatches, seeded, train_one_cycle
from sevlm.utils import asset

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(41, 3, generator=GENERATOR)
Y = (X[:, 0] > 0).long()
STEPS = 5  # batches of eight in an epoch: the last example is joined to the batch before


@dataclass(frozen=True)
class Tiny(Settings):
    lr: float = 0.05
    epochs: int = 4
    seed: int = 0


class Net(nn.Module):
    "BatchNorm and dropout: a forward pass changes what the next one computes."

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, x):
        return self.net(x)


def batches(seed=0):
    return ShuffledBatches(len(X), 8, lambda index: Pair(X[index], Y[index]), seed)


def classify(folder=None, values=None, during=None, settings=None, **given):
    "A run; `values` are the metrics of its validations, `during` is called in each forward pass after it is computed."
    with seeded(0):
        model = Net()
    script = iter(values or ())

    def loss_of(pair):
        loss = nn.functional.cross_entropy(model(pair.inputs), pair.targets)
        if during is not None:
            during()
        return loss

    def validate():
        metric = next(script) if values else nn.functional.cross_entropy(model(X), Y).item()
        return {"x": metric, "norm": float(sum(p.sum() for p in model.parameters()))}

    return fit_classifier(
        model, settings or Tiny(), batches(), loss_of, validate, "x", folder=folder, progress=False, **given
    )


def equal(a, b):
    return all(map(torch.equal, a.model.state_dict().values(), b.model.state_dict().values()))


def ctrl_c(at):
    calls = []

    def during():
        calls.append(None)
        if len(calls) == at:
            raise KeyboardInterrupt

    return during


@pytest.mark.parametrize(("n", "size"), [(1, 4), (2, 4), (8, 4), (9, 4), (10, 4), (5, 1), (3, 8)])
@pytest.mark.parametrize("lengths", [False, True])
def test_batches_are_a_partition_without_a_single_example(n, size, lengths):
    given = dict(lengths=list(range(n))) if lengths else {}
    source = ShuffledBatches(n, size, torch.Tensor.tolist, seed=3, **given)
    source.set_epoch(2)
    found = list(source)
    assert sorted(sum(found, [])) == list(range(n)) and len(found) == len(source)
    assert size == 1 or n == 1 or min(map(len, found)) > 1
    for start in range(len(found) + 1):
        source.set_epoch(2, start)
        assert list(source) == found[start:]
    if lengths:  # neighbours in length: no two batches overlap
        spans = sorted((min(batch), max(batch)) for batch in found)
        assert all(a[1] < b[0] for a, b in zip(spans, spans[1:]))


def test_batches_before_the_start_are_not_made():
    made = []
    source = ShuffledBatches(20, 4, made.append)
    source.set_epoch(0, 3)
    assert len(list(source)) == 2 == len(made)


def test_seeded_leaves_every_generator_as_it_was():
    torch.manual_seed(5)
    np.random.seed(5)
    want = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    with pytest.raises(ZeroDivisionError), seeded(1):
        torch.rand(3), np.random.rand(3), 1 / 0
    assert (torch.rand(1), np.random.rand()) == want


def test_one_cycle_is_repeatable_and_an_interrupt_is_raised():
    def run(during=None):
        with seeded(0):
            net = Net()

            def loss_of(pair):
                during and during()
                return nn.functional.cross_entropy(net(pair.inputs), pair.targets)

            return net, train_one_cycle(OneLoss(net, loss_of), batches(), 3, 0.01, 0.2, 0.01, progress=False)

    (one, losses), (two, same) = run(), run()
    assert losses == same and len(losses) == 3 * STEPS
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))
    with pytest.raises(KeyboardInterrupt):
        run(ctrl_c(at=4))


def test_language_model_is_repeatable_and_leaves_the_generators_alone():
    rows, config = [[i % 7, (i + 1) % 7, (i + 2) % 7][: 2 + i % 2] for i in range(40)], SEVLMConfig.preset("tiny")
    before = torch.get_rng_state()
    lm, losses = pretrain(rows, 9, config, epochs=2, batch_size=8, progress=False)
    again, same = pretrain(rows, 9, config, epochs=2, batch_size=8, progress=False)
    other = pretrain(rows, 9, config, epochs=2, batch_size=8, seed=1, progress=False)[1]
    assert torch.equal(before, torch.get_rng_state()) and losses == same != other and len(losses) == 2 * 5
    assert all(map(torch.equal, lm.state_dict().values(), again.state_dict().values())) and not lm.training


def test_clip_is_repeatable_and_its_scale_is_bounded():
    "Pictures of one colour each, named by their captions; a rate that would carry the scale far above its bound."
    pytest.importorskip("open_clip")
    colours = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    pixels = colours[:, :, None, None].expand(-1, -1, 96, 96)
    captions, tokenizer = [[f"painting {i}", f"the number {i}"] for i in range(6)], load_tokenizer(asset("mini"))
    train = lambda **how: train_clip(pixels, captions, tokenizer, epochs=2, batch_size=3, progress=False, **how)
    before = torch.get_rng_state()
    (clip, losses), (again, same) = train(lr=5.0), train(lr=5.0)
    assert torch.equal(before, torch.get_rng_state()) and losses == same and len(losses) == 2 * 2
    assert all(map(torch.equal, clip.state_dict().values(), again.state_dict().values())) and not clip.training
    assert clip.logit_scale.exp().item() <= LARGEST_SCALE * 1.0001
    with pytest.raises(DataError, match="6 pictures and 5 lists of captions"):
        train_clip(pixels, captions[1:], tokenizer, progress=False)
    with pytest.raises(DataError, match="1 of them empty"):
        train_clip(pixels, [*captions[1:], []], tokenizer, progress=False)


def test_augmenting_keeps_size_and_colour_of_a_plain_picture():
    plain = torch.full((8, 3, 20, 20), 0.25)
    edge = plain.clone()
    edge[..., :10] = 0.75
    assert torch.allclose(augment(plain), plain, atol=1e-6)
    with seeded(0):
        moved, other = augment(edge), augment(edge)
    assert moved.shape == edge.shape and not torch.equal(moved, other)


@pytest.mark.parametrize("at", range(1, 4 * STEPS + 1))
def test_an_interrupt_in_any_step_changes_nothing(tmp_path, at):
    whole = classify(lowest=True)
    epochs = (at - 1) // STEPS
    if epochs:
        cut = classify(tmp_path, during=ctrl_c(at), lowest=True)
        assert cut.interrupted and cut.history == whole.history[:epochs]
    else:
        with pytest.raises(KeyboardInterrupt):
            classify(tmp_path, during=ctrl_c(at), lowest=True)
    resumed = classify(tmp_path, lowest=True)
    assert resumed.history == whole.history and equal(resumed, whole) and not resumed.interrupted


def test_an_interrupt_in_validation_changes_nothing(tmp_path):
    class Interrupting(list):
        def __iter__(self):
            yield from (0.5, 0.6)
            raise KeyboardInterrupt

    whole = classify(values=[0.5, 0.6, 0.7, 0.4])
    cut = classify(tmp_path, values=Interrupting([1]))
    assert cut.interrupted and cut.history == whole.history[:2]
    resumed = classify(tmp_path, values=[0.7, 0.4])
    assert resumed.history == whole.history and equal(resumed, whole)


@pytest.mark.parametrize(
    ("values", "lowest", "patience", "epochs", "kept"),
    [
        ((0.1, 0.4, 0.2, 0.3), False, None, 4, 2),
        ((0.1, 0.4, 0.4, 0.3), False, 2, 4, 2),  # a tie is no gain: the earlier epoch stays
        ((0.4, 0.1, 0.2, 0.3), False, 2, 3, 1),
        ((0.4, 0.1, 0.2, 0.3), True, 2, 4, 2),
        ((0.4, 0.5, 0.6, 0.3), True, 2, 3, 1),
        ((0.4, 0.5, 0.6, 0.3), True, None, 4, 4),
    ],
)
def test_the_best_epoch_is_kept_and_patience_ends_a_run(values, lowest, patience, epochs, kept):
    trained = classify(values=values, lowest=lowest, patience=patience)
    assert [h["x"] for h in trained.history] == list(values[:epochs])
    assert [h["epoch"] for h in trained.history] == list(range(1, epochs + 1))
    norm = float(sum(p.detach().sum() for p in trained.model.parameters()))
    assert norm == trained.history[kept - 1]["norm"] and not trained.model.training


def test_more_epochs_later_equal_one_run(tmp_path):
    rate = lambda epoch: 0.05 * 0.5**epoch
    whole = classify(lowest=True, rate=rate)
    classify(tmp_path, settings=Tiny(epochs=2), lowest=True, rate=rate)
    later = classify(tmp_path, lowest=True, rate=rate)
    assert later.history == whole.history and equal(later, whole)
    again = classify(tmp_path, lowest=True, rate=rate)  # nothing is left to do
    assert again.history == whole.history and equal(again, whole)


def test_the_rate_is_that_of_the_epoch(tmp_path):
    rates = [0.05, 0.04, 0.01, 0.02]
    classify(tmp_path, lowest=True, rate=rates.__getitem__, settings=Tiny(epochs=3))
    lines = (tmp_path / "steps.csv").read_text(encoding="utf-8").splitlines()
    column = [float(line.split(",")[lines[0].split(",").index("lr_0")]) for line in lines[1:]]  # of the next step
    assert column == pytest.approx([rates[(k + 1) // STEPS] for k in range(3 * STEPS)])


def test_a_resumed_run_keeps_its_number_of_threads(tmp_path, monkeypatch):
    monkeypatch.delenv("SEVLM_THREADS", raising=False)
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        classify(tmp_path, settings=Tiny(epochs=1), lowest=True)
        torch.set_num_threads(1)
        classify(tmp_path, during=lambda: seen.append(torch.get_num_threads()), lowest=True)
        assert set(seen) == {2} and torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))["chosen"] == {"threads": 2}


def test_what_a_folder_refuses(tmp_path):
    given = dict(lowest=True, about={"data": 1})
    classify(tmp_path, settings=Tiny(epochs=1), **given)
    for message, other in (("seed is 0", dict(settings=Tiny(seed=1))), ("data is 1", dict(about={"data": 2}))):
        with pytest.raises(ConfigError, match=f"another run: {message} there"):
            classify(tmp_path, **{**given, **other})
    with FileLock(tmp_path / ".lock"), pytest.raises(ConfigError, match="another run is working in"):
        classify(tmp_path, **given)
    state = tmp_path / "state" / "state.pt"
    whole = state.read_bytes()
    state.write_bytes(whole[:200])
    with pytest.raises(CheckpointError, match="no usable state"):
        classify(tmp_path, **given)
    state.write_bytes(whole)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        classify(tmp_path, settings=Tiny(epochs=1), **given)

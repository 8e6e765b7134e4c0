"""The image-to-emotion baseline: what learns, what is lost, what counts, and what is refused."""

import math
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from sevlm.config import EMOTIONS
from sevlm.data.paintings import Painting
from sevlm.errors import CheckpointError, ConfigError, DataError, SevlmError
from sevlm.studies import image_emotion as ie
from sevlm.training.small_runs import OneLoss

MINI = ie.ImageEmotionConfig.preset("mini", device="cpu", epochs=8, batch_size=8, lr=5e-3)
RESNET = ie.ImageEmotionConfig.preset("published", image_size=32, batch_size=4, epochs=1, device="cpu")


def voted(*emotions, name="jug", image=None, votes=None):
    return Painting("Cubism", name, emotions, ("x",) * len(emotions), ("X",) * len(emotions), image, votes)


@pytest.fixture(scope="module")
def paintings(tmp_path_factory):
    "Red pictures frighten, blue ones are looked at in awe."
    folder, rng, out = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for i in range(24):
        colour = ((200, 30, 30), (30, 30, 200))[i % 2]
        pixels = np.clip(np.array(colour) + rng.normal(0, 25, (40, 50, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        out.append(
            voted(
                *(("fear", "fear", "fear", "anger"), ("awe", "awe", "contentment"))[i % 2],
                name=f"p{i}",
                image=folder / f"{i}.png",
            )
        )
    return out


def test_only_the_last_block_and_the_head_learn():
    torch.manual_seed(0)
    model = ie.ImageEmotion(RESNET).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    log_q = model(torch.randn(4, 3, 32, 32))
    assert log_q.shape == (4, 9) and torch.allclose(log_q.exp().sum(1), torch.ones(4), atol=1e-5)
    ie.divergence(log_q, torch.eye(9)[:4]).backward()
    optimiser.step()
    mine = ("backbone.net.layer4", "head")
    assert all(
        (p.grad is not None and p.grad.abs().sum() > 0) == n.startswith(mine) for n, p in model.named_parameters()
    )
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(k.startswith(mine) for k in moved)  # no running mean of the fixed part either
    assert "backbone.net.layer4.0.bn1.running_mean" in moved and "head.1.running_mean" in moved
    assert (
        model.head[0].weight.shape == (100, 512) and model.head[4].weight.shape == (9, 100) and model.head[3].p == 0.3
    )


def test_one_epoch_of_resnet_on_files(paintings):
    trained = ie.train_image_emotion(
        paintings[:5], paintings[5:8], RESNET, imagenet=False, progress=False
    )  # 4 and 1: no batch of one
    assert len(trained.history) == 1 and trained.model.probabilities(
        Image.open(p.image) for p in paintings[:2]
    ).shape == (2, 9)


def test_another_file_of_start_weights_is_another_run(paintings, tmp_path, monkeypatch):
    monkeypatch.setattr(ie, "load_imagenet", lambda model, path: torch.nn.init.constant_(model.head[0].bias, path))
    train = lambda path: ie.train_image_emotion(
        paintings[:5], paintings[5:8], RESNET, imagenet=path, folder=tmp_path, progress=False
    )
    train(0.25)
    train(0.25)
    with pytest.raises(ConfigError, match="another run: weights is"):
        train(0.5)


def test_preprocessing_is_lanczos_to_a_square():
    model = ie.ImageEmotion(RESNET)
    im = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 40, 3), dtype=np.uint8))
    got = model.backbone.preprocess(im)
    want = np.asarray(im.resize((32, 32), Image.Resampling.LANCZOS)) / 255
    want = (want - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert got.dtype == torch.float32 and np.allclose(got.permute(1, 2, 0).numpy(), want, atol=1e-5)


def test_histograms_and_divergence_by_hand():
    h = ie.vote_shares([voted("awe", "awe", "fear", "awe"), voted("anger", votes=(0, 0.25, 0, 0, 0.75, 0, 0, 0, 0))])
    assert h[0, 1] == 0.75 and h[0, 6] == 0.25 and h[1, 4] == 0.75 and torch.allclose(h.sum(1), torch.ones(2))
    q = torch.full((2, 9), 0.05)
    q[:, 1] = 0.6
    by_hand = (
        0.75 * math.log(0.75 / 0.6)
        + 0.25 * math.log(0.25 / 0.05)
        + 0.25 * math.log(0.25 / 0.6)
        + 0.75 * math.log(0.75 / 0.05)
    ) / 2
    assert abs(ie.divergence(q.log(), h).item() - by_hand) < 1e-6
    with pytest.raises(DataError, match="Cubism/jug has no votes"):
        ie.vote_shares([voted()])


def test_two_rules():
    cases = [
        voted("fear", "fear", "awe"),
        voted("fear", "fear", "awe", "awe"),
        voted("fear", "fear", "awe", "anger"),
        voted("fear", "awe", "anger"),
    ]
    h, says = ie.vote_shares(cases), lambda e: np.tile(np.eye(9)[EMOTIONS.index(e)], (4, 1))
    assert ie.majority_accuracy(says("fear"), h) == (1.0, 1) and ie.majority_accuracy(says("awe"), h) == (0.0, 1)
    assert ie.majority_accuracy(says("fear"), h, "half") == (2 / 3, 3) and ie.majority_accuracy(
        says("awe"), h, "half"
    ) == (1 / 3, 3)
    assert ie.majority_accuracy(says("fear"), np.array([c.counts for c in cases])) == (1.0, 1)  # votes or shares
    assert math.isnan(ie.majority_accuracy(says("fear")[:1], h[3:])[0])
    with pytest.raises(ConfigError, match="not known"):
        ie.majority_accuracy(says("fear"), h, "most")
    with pytest.raises(DataError, match="a row per painting and a column per emotion"):
        ie.majority_accuracy(says("fear"), h[:2])


def test_tower_learns_an_easy_rule(paintings):
    "Of eight seeds each names all four, with odds 0.2 apart or more, and the divergence falls from about 1.3 to 0.02."
    before = torch.get_rng_state()
    trained = ie.train_image_emotion(paintings[:16], paintings[16:20], MINI, progress=False)
    assert torch.equal(before, torch.get_rng_state())
    p = trained.model.probabilities(Image.open(q.image) for q in paintings[20:])
    assert ie.majority_accuracy(p, ie.vote_shares(paintings[20:])) == (1.0, 4)
    assert min(h["val divergence"] for h in trained.history) < trained.history[0]["val divergence"] / 2
    assert all(not w.requires_grad for w in trained.model.backbone.parameters())
    seen = trained.model.encode_images(Image.open(q.image) for q in paintings[20:])
    assert seen.shape == (4, trained.model.backbone.width) and np.allclose(
        trained.model.probabilities(seen), p, atol=1e-6
    )
    assert trained.model.encode_images([]).shape[0] == 0


def test_skipped_pictures_are_told(paintings, tmp_path):
    (tmp_path / "broken.png").write_bytes(paintings[0].image.read_bytes()[:99])
    broken, none = (
        voted("awe", name="broken", image=tmp_path / "broken.png"),
        voted("awe", name="none", image=tmp_path / "none.png"),
    )
    trained = ie.train_image_emotion(
        [*paintings[:8], broken, none], paintings[8:12], MINI.replace(epochs=1), progress=False
    )
    assert (
        trained.reports[0].kept == 8
        and "Cubism/broken" in str(trained.reports[0])
        and "Cubism/none" in str(trained.reports[0])
        and trained.reports[1].kept == 4
    )
    with pytest.raises(DataError, match="no picture can be used"):
        ie.train_image_emotion(paintings[:4], [broken], MINI, progress=False)
    with pytest.raises(DataError, match="at least 2"):
        ie.train_image_emotion([paintings[0], broken], paintings[1:3], MINI, progress=False)


def test_interrupt_then_resume_equals_unbroken(paintings, tmp_path, monkeypatch):
    train, val, s = paintings[:12], paintings[12:16], MINI.replace(epochs=4)
    whole = ie.train_image_emotion(train, val, s, progress=False)
    forward, calls = OneLoss.forward, []

    def broken(self, batch):
        out = forward(self, batch)
        calls.append(batch)
        if len(calls) == 2 * 2 + 1:  # the first of two batches of the third epoch
            raise KeyboardInterrupt
        return out

    monkeypatch.setattr(OneLoss, "forward", broken)
    cut = ie.train_image_emotion(train, val, s, folder=tmp_path, progress=False)
    assert cut.interrupted and cut.history == whole.history[:2]
    assert all(
        torch.equal(a, b)
        for a, b in zip(ie.load_image_emotion(tmp_path).state_dict().values(), cut.model.state_dict().values())
    )
    resumed = ie.train_image_emotion(train, val, s, folder=tmp_path, progress=False)
    assert resumed.history == whole.history and not resumed.interrupted
    assert all(
        torch.equal(a, b) for a, b in zip(resumed.model.state_dict().values(), whole.model.state_dict().values())
    )
    with pytest.raises(ConfigError, match="another run: lr is"):
        ie.train_image_emotion(train, val, s.replace(lr=0.1), folder=tmp_path, progress=False)
    with pytest.raises(ConfigError, match="another run: paintings is"):
        ie.train_image_emotion(train[:9], val, s, folder=tmp_path, progress=False)


def test_a_loss_that_is_not_finite(paintings, monkeypatch):
    monkeypatch.setattr(ie, "divergence", lambda log_q, h: log_q.sum() * torch.nan)
    with pytest.raises(SevlmError, match="the loss became nan at step 1"):
        ie.train_image_emotion(paintings[:6], paintings[12:16], MINI, progress=False)


def test_imagenet_weights(tmp_path, monkeypatch):
    torch.manual_seed(0)
    source = ie.ImageEmotion(RESNET).backbone.net.state_dict()
    file = {
        **{k: v for k, v in source.items() if not k.endswith("num_batches_tracked")},
        "fc.weight": torch.zeros(1000, 512),
        "fc.bias": torch.zeros(1000),
    }
    torch.save(file, tmp_path / "resnet34.pth")
    model = ie.load_imagenet(ie.ImageEmotion(RESNET), tmp_path / "resnet34.pth")
    assert all(torch.equal(v, source[k]) for k, v in model.backbone.net.state_dict().items())
    torch.save({k: v for k, v in file.items() if k != "layer2.0.bn1.bias"}, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match=r"layer2\.0\.bn1\.bias"):
        ie.load_imagenet(model, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match="no file at"):
        ie.load_imagenet(model, tmp_path / "none.pth")
    torch.save(model, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="code"):
        ie.load_imagenet(model, tmp_path / "code.pth")
    with pytest.raises(ConfigError, match="resnet34"):
        ie.load_imagenet(ie.ImageEmotion(MINI), tmp_path / "resnet34.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def nobody(request, timeout):
        raise URLError("no route to host")

    monkeypatch.setattr(ie, "urlopen", nobody)
    with pytest.raises(
        CheckpointError,
        match=r"Fetch https://download\.pytorch\.org/models/resnet34-\w+\.pth .*put it at .*checkpoints",
    ):
        ie.load_imagenet(model)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "resnet34.pth").rename(
        tmp_path / "hub" / "checkpoints" / "resnet34-b627a593.pth"
    )  # where the message says
    assert ie.load_imagenet(ie.ImageEmotion(RESNET))


def test_save_and_load(tmp_path):
    model = ie.ImageEmotion(RESNET).eval()
    ie.save_image_emotion(model, tmp_path)
    again = ie.load_image_emotion(tmp_path)
    im = Image.new("RGB", (20, 30), "teal")
    assert again.settings == RESNET and np.array_equal(again.probabilities([im]), model.probabilities([im]))
    RESNET.replace(head=7).save(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"'head\.0\.bias' is \(100,\), the image classifier expects \(7,\)"):
        ie.load_image_emotion(tmp_path)
    with pytest.raises(CheckpointError):
        ie.load_image_emotion(tmp_path / "nowhere")


def test_settings():
    with pytest.raises(ConfigError, match="Did you mean 'resnet34'"):
        ie.ImageEmotionConfig(backbone="resnet43")
    for bad in (dict(epochs=0), dict(dropout=1.0), dict(seed=-1)):
        with pytest.raises(ConfigError):
            ie.ImageEmotionConfig(**bad)
    with pytest.raises(ConfigError, match="image_size=96"):
        ie.ImageEmotion(MINI.replace(image_size=224))

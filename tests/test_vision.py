"""Pictures and towers against the libraries they replace: torchvision's preprocessing bit for bit, open_clip's
vision transformer."""

import json
import pickle

import pytest
import torch
from PIL import Image
from torch import nn

from sevlm.config import SEVLMConfig
from sevlm.data.features import describe_encoder
from sevlm.errors import ConfigError
from sevlm.models.hub import fingerprint, read_tensors
from sevlm.models.vision import (  # fmt: skip
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageEncoder,
    VisionTransformer,
    build_tower,
    create_clip,
    image_stats,
    load_tower,
    make_preprocess,
)
from sevlm.utils import asset


def noise(size):
    return Image.merge("RGB", [Image.effect_noise(size, spread) for spread in (30, 60, 90)])


@pytest.mark.parametrize("resize", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    "stats",
    [(CLIP_MEAN, CLIP_STD), (IMAGENET_MEAN, IMAGENET_STD), ([0.5] * 3, [0.25] * 3)],
    ids=["clip", "imagenet", "lists"],
)
@pytest.mark.parametrize("side", [32, 64, 224])
def test_preprocessing_is_torchvisions_bit_for_bit(side, stats, resize):
    from torchvision.transforms import v2

    theirs = v2.Compose([v2.Resize((side, side), interpolation=v2.InterpolationMode(resize), antialias=True),
                         v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*stats)])  # fmt: skip
    ours = make_preprocess(side, *stats, resize)
    for size in ((90, 70), (side, side), (1, 300), (513, 257), (31, 33)):
        picture = noise(size)
        img, expected = ours(picture), theirs(picture)
        assert img.dtype == torch.float32 and img.shape == (3, side, side) and torch.equal(img, expected), size
    grey = noise((50, 40)).convert("L")
    assert torch.equal(ours(grey), theirs(grey.convert("RGB")))


def test_every_grey_level_bit_for_bit():
    from torchvision.transforms.v2 import functional as F

    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).repeat(3, 1, 1)
    picture = Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
    for stats in ((CLIP_MEAN, CLIP_STD), (IMAGENET_MEAN, IMAGENET_STD)):
        assert torch.equal(
            make_preprocess(16, *stats)(picture),
            F.normalize(F.to_dtype(levels, torch.float32, scale=True), *map(list, stats)),
        )


def test_published_statistics():
    from open_clip import constants

    assert (CLIP_MEAN, CLIP_STD) == (constants.OPENAI_DATASET_MEAN, constants.OPENAI_DATASET_STD)
    assert image_stats("imagenet", CLIP_MEAN, CLIP_STD) == (constants.IMAGENET_MEAN, constants.IMAGENET_STD)
    with pytest.raises(ConfigError, match="image_stats is 'imagnet'.*Did you mean 'imagenet'"):
        image_stats("imagnet", CLIP_MEAN, CLIP_STD)


def test_preprocessing_travels_and_describes_itself():
    ours, picture = make_preprocess(32, CLIP_MEAN, CLIP_STD), noise((40, 40))
    assert torch.equal(pickle.loads(pickle.dumps(ours))(picture), ours(picture))
    assert (
        len({repr(make_preprocess(*way)) for way in ((32, CLIP_MEAN, CLIP_STD), (32, list(CLIP_MEAN), CLIP_STD))}) == 1
    )
    assert (
        len(
            {
                repr(make_preprocess(*way))
                for way in (
                    (32, CLIP_MEAN, CLIP_STD),
                    (64, CLIP_MEAN, CLIP_STD),
                    (32, IMAGENET_MEAN, CLIP_STD),
                    (32, CLIP_MEAN, CLIP_STD, "bilinear"),
                )
            }
        )
        == 4
    )
    with pytest.raises(ConfigError, match="resize is 'bicubik'.*Did you mean 'bicubic'"):
        make_preprocess(32, CLIP_MEAN, CLIP_STD, "bicubik")


def begun(name, seed=0):
    "The tower by hand and the library's, begun from the same seed."
    out = []
    for make in (build_tower, lambda name: create_clip(name).visual):
        torch.manual_seed(seed)
        out.append(make(name).eval())
    return out


@pytest.mark.parametrize("name", ["mini", "tiny"])
@pytest.mark.parametrize("batch", [1, 5])
def test_a_tower_by_hand_equals_the_librarys(name, batch):
    "Names, shapes, beginning, tokens and summary; with and without gradients, on PyTorch's fast path and off it."
    ours, theirs = begun(name)
    assert isinstance(ours, VisionTransformer) and type(theirs).__module__ == "open_clip.transformer"
    assert list(ours.state_dict()) == list(theirs.state_dict()) and fingerprint(ours) == fingerprint(theirs)
    assert ours.image_size == theirs.image_size and ours.grid_size == theirs.grid_size
    assert all(tuple(theirs.preprocess_cfg[k]) == ours.preprocess_cfg[k] for k in ("mean", "std"))
    if name == "mini":
        weights, _ = read_tensors(asset("mini/tower.safetensors"))
        for tower in (ours, theirs):
            tower.load_state_dict(weights)
    img = torch.randn(batch, 3, *ours.image_size, generator=torch.Generator().manual_seed(1))
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        for gradients, path in ((False, True), (False, False), (True, True)):
            torch.backends.mha.set_fastpath_enabled(path)
            with torch.set_grad_enabled(gradients):
                out = theirs.forward_intermediates(
                    img, indices=1, normalize_intermediates=True, output_fmt="NLC", output_extra_tokens=True
                )
                tokens = torch.cat([out["image_intermediates_prefix"][-1], out["image_intermediates"][-1]], 1)
                torch.testing.assert_close(ours.tokens(img), tokens, rtol=0, atol=1e-6)
                torch.testing.assert_close(ours(img), theirs(img), rtol=0, atol=1e-6)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def test_the_encoder_hands_on_the_same_through_either_tower():
    config = SEVLMConfig.preset("mini")
    by_hand, library = (load_tower(ImageEncoder(config), "mini") for _ in range(2))
    library.visual = create_clip("mini").visual.requires_grad_(False).eval()
    load_tower(library, "mini")
    img = torch.stack([by_hand.preprocess(noise((90, 70))) for _ in range(3)])
    for a, b in zip(by_hand(img), library(img)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    open_image = Image.open
    assert describe_encoder(by_hand, open_image) == describe_encoder(
        library, open_image
    )  # what was kept through one serves the other


def test_half_precision_on_a_cpu_is_the_same_encoder():
    "The weights are converted for the call: what comes out is the float32 result but for rounding, and they stay."
    torch.manual_seed(0)
    encoder = ImageEncoder(SEVLMConfig.preset("mini"))
    before, img = {k: v.clone() for k, v in encoder.state_dict().items()}, torch.randn(2, 3, *[encoder.image_size] * 2)
    whole = encoder(img)
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(img)
        assert torch.is_autocast_enabled("cpu")
    for a, b in zip(whole, half):
        assert b.dtype == torch.bfloat16 and torch.allclose(a, b.float(), atol=0.1, rtol=0.1)
        assert not torch.equal(a, b.float())  # it did compute in half precision
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in encoder.state_dict().items())


def test_gradients_equal_the_librarys():
    ours, theirs = begun("tiny")
    img = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for tower in (ours, theirs):
        tower(img).square().sum().backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=lambda m: f"{name}: {m}")


def test_weights_move_between_a_whole_clip_and_the_tower():
    clip, tower = create_clip("tiny"), build_tower("tiny")
    tower.load_state_dict(clip.visual.state_dict())
    assert fingerprint(tower) == fingerprint(clip.visual)
    nn.init.zeros_(tower.proj)
    clip.visual.load_state_dict(tower.state_dict())
    assert fingerprint(tower) == fingerprint(clip.visual)


def test_towers_by_name():
    shipped = sorted(p.stem for p in asset("towers").glob("*.json"))
    assert shipped == ["mini", "tiny"] and all(
        "vision_cfg" in json.loads(asset(f"towers/{name}.json").read_text(encoding="utf-8")) for name in shipped
    )
    with pytest.raises(ConfigError, match="'minni' is not a model of open_clip. Did you mean 'mini'"):
        build_tower("minni")
    with pytest.raises(ConfigError, match="pool_type is 'max'"):
        VisionTransformer(32, 8, 16, 1, 8, 4, pool_type="max")

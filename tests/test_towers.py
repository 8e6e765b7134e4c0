"""Weights and what they need travel together: activation, statistics, interpolation, size; and the checkpoint that was
trained with them. And the network as the user set it: proxies, mirrors, certificates, patience, refusals."""

import json
import logging
import os
import re
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from localhub import Hub, serve, tunnel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sevlm
from sevlm.app.inspect import inspect_path
from sevlm.config import SEVLMConfig
from sevlm.errors import CheckpointError, ConfigError
from sevlm.models.hub import ask_hub, fetch
from sevlm.models.sevlm import SEVLM, load_model, save_model
from sevlm.models.vision import (
    CLIP_MEAN,
    IMAGENET_MEAN,
    NOTE,
    ImageEncoder,
    describe_tower,
    encode_images,
    export_tower,
    load_tower,
    save_tower,
    tower_differences,
    tower_facts,
)

open_clip = pytest.importorskip("open_clip")

HALF = (0.5, 0.5, 0.5)
VISION = dict(image_size=32, layers=2, width=48, head_width=24, patch_size=8)
TEXT = dict(context_length=8, vocab_size=16, width=16, heads=2, layers=1)
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small architecture 'small' of open_clip, with either activation, and its published weights: 'openai' and
    'dfn2b' with QuickGELU, 'laion2b' with GELU, 'squashed' with other statistics."""
    folder = tmp_path_factory.mktemp("registry")
    for name, quick in (("small", False), ("small-quickgelu", True)):
        about = dict(embed_dim=24, quick_gelu=quick, vision_cfg=VISION, text_cfg=TEXT)
        (folder / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    weights = open_clip.create_model("small").state_dict()
    file = folder / "weights" / "clip.safetensors"
    file.parent.mkdir()
    save_file({k: v.contiguous() for k, v in weights.items()}, file)
    clip = dict(file=str(file), mean=CLIP_MEAN, std=HALF, interpolation="bicubic", resize_mode="shortest")
    quick = {**clip, "quick_gelu": True}
    tags = dict(openai=quick, dfn2b=quick, laion2b=clip, squashed={**clip, "mean": HALF, "interpolation": "bilinear"})
    with pytest.MonkeyPatch.context() as patch:
        known = open_clip.pretrained._PRETRAINED
        patch.setitem(known, "small", tags)
        patch.setitem(known, "small-quickgelu", {k: v for k, v in tags.items() if v.get("quick_gelu")})
        yield SimpleNamespace(folder=folder, file=file, weights=load_file(file))


def config_of(tower="small", pretrained="", **changes):
    sizes = dict(patches=16, image_size=32, width=48) | changes
    return SEVLMConfig.preset("tiny", tower=tower, tower_pretrained=pretrained, **sizes)


def encoder_of(tower="small", pretrained="", **changes):
    return ImageEncoder(config_of(tower, pretrained, **changes))


def refusal(of, *how, **more):
    with pytest.raises(CheckpointError) as caught:
        of(*how, **more)
    return str(caught.value)


# ---- activation, by tag


def test_a_tag_in_a_tower_with_the_other_activation_is_refused_before_anything_is_fetched(published, monkeypatch):
    monkeypatch.setattr("sevlm.models.vision.fetch", lambda *_: pytest.fail("fetched"))
    for tag in ("openai", "dfn2b", "OpenAI"):
        message = refusal(load_tower, encoder_of(), tag)
        assert f"the weights {tag!r} were trained with QuickGELU" in message and "'small' computes GELU" in message
        assert message.endswith("Set tower=small-quickgelu.")
    message = refusal(load_tower, encoder_of("small-quickgelu"), "laion2b")
    assert "were trained with GELU" in message and message.endswith("Set tower=small.")


def test_the_published_ones():
    encoder = encoder_of("ViT-B-16", "openai", patches=196, image_size=224)
    for tag in ("openai", "dfn2b", "metaclip_400m"):
        assert "Set tower=ViT-B-16-quickgelu" in refusal(load_tower, encoder, tag)


def test_a_tag_in_its_tower(published):
    quick = load_tower(encoder_of("small-quickgelu", "openai"), "openai")
    plain = load_tower(encoder_of("small", "laion2b"), "laion2b")
    same = quick.visual.state_dict()
    assert all(torch.equal(v, same[k]) for k, v in plain.visual.state_dict().items())  # only the activation differs
    difference = (quick(PIXELS)[0] - plain(PIXELS)[0]).abs().max()
    assert difference > 1e-4
    assert tower_differences(describe_tower(quick), describe_tower(plain)) == ["quick_gelu was True and is False"]


def test_an_unknown_tag_and_a_misspelt_one(published):
    assert "Did you mean 'openai'" in refusal(load_tower, encoder_of(), "opnai")
    assert "give a file" in refusal(load_tower, ImageEncoder(SEVLMConfig.preset("tiny")), "openai")


def test_any_architecture_can_have_the_activation_by_its_name(published, tmp_path):
    (tmp_path / "alone.json").write_text(
        json.dumps(dict(embed_dim=24, vision_cfg=VISION, text_cfg=TEXT)), encoding="utf-8"
    )
    open_clip.add_model_config(tmp_path)
    one, two = encoder_of("alone"), encoder_of("alone-quickgelu")
    two.load_state_dict(one.state_dict())
    assert describe_tower(one)["quick_gelu"] is False and describe_tower(two)["quick_gelu"] is True
    assert not torch.allclose(one(PIXELS)[0], two(PIXELS)[0], atol=1e-5)


def test_only_the_vision_part_is_built(published):
    "The same random weights as in the whole CLIP, but no text tower, and none from the hub."
    torch.manual_seed(3)
    alone = encoder_of().visual
    torch.manual_seed(3)
    whole = open_clip.create_model("small").visual
    assert all(torch.equal(v, alone.state_dict()[k]) for k, v in whole.state_dict().items())
    encoder = encoder_of("roberta-ViT-B-32", patches=49, image_size=224)  # its text model would be fetched
    assert encoder.width == 768


# ---- activation, by file


def open_clips(published, folder, quick):
    save_file(published.weights, folder / "open_clip_model.safetensors")
    about = dict(model_cfg=dict(quick_gelu=quick, vision_cfg=VISION), preprocess_cfg=dict(mean=CLIP_MEAN, std=HALF))
    (folder / "open_clip_config.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def entries(published, folder, quick):
    numbers = dict(input_resolution=torch.tensor(32), context_length=torch.tensor(8), vocab_size=torch.tensor(16))
    save_file(published.weights | numbers, folder / "clip.safetensors")
    return folder / "clip.safetensors"


def named(published, folder, quick):
    file = folder / f"ViT-small_{'openai' if quick else 'laion2b'}.safetensors"
    save_file(published.weights, file)
    return file


def in_a_named_folder(published, folder, quick):
    place = folder / f"vit_small_clip.{'dfn2b' if quick else 'laion2b'}"
    place.mkdir()
    save_file(published.weights, place / "open_clip_model.safetensors")
    return place / "open_clip_model.safetensors"


def ours(published, folder, quick):
    encoder = encoder_of("small-quickgelu" if quick else "small")
    load_tower(encoder, "openai" if quick else "laion2b")
    return save_tower(encoder, folder / "tower.safetensors")


def while_training(published, folder, quick):
    weights = {f"module.{k}": v for k, v in published.weights.items()}
    file = folder / f"epoch_{'openai' if quick else 'laion2b'}.pt"
    torch.save(dict(epoch=3, name="small", state_dict=weights, optimizer={"state": {}}), file)
    return file


FORMS = [open_clips, named, in_a_named_folder, ours, while_training]


@pytest.mark.parametrize("form, quick", [*((f, q) for f in FORMS for q in (True, False)), (entries, True)])
def test_a_file_that_says_what_it_needs(published, tmp_path, caplog, form, quick):
    path = str(form(published, tmp_path, quick))
    right, wrong = ("small-quickgelu", "small") if quick else ("small", "small-quickgelu")
    encoder = load_tower(encoder_of(right, path), path)
    expected = load_tower(encoder_of(right), "openai" if quick else "laion2b")
    assert torch.equal(encoder(PIXELS)[0], expected(PIXELS)[0]) and not caplog.records
    message = refusal(load_tower, encoder_of(wrong, path), path)
    assert f"were trained with {'QuickGELU' if quick else 'GELU'}" in message and f"Set tower={right}." in message


def test_a_file_that_says_nothing(published, tmp_path, caplog):
    "Nobody can know: the name of the tower decides, and where it does not say the activation, a warning does."
    file = tmp_path / "clip.safetensors"
    save_file(published.weights, file)
    load_tower(encoder_of("small-quickgelu", image_stats="imagenet"), str(file))
    assert not caplog.records
    load_tower(encoder_of("small", image_stats="imagenet"), str(file))
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert re.search(r"GELU is computed.*OpenAI's.*tower=small-quickgelu", caplog.text)


def test_statistics_that_nothing_says(published, tmp_path, caplog):
    file = tmp_path / "clip.safetensors"
    save_file(published.weights, file)
    encoder = load_tower(encoder_of("small-quickgelu"), str(file))
    assert encoder.preprocess.mean == CLIP_MEAN and "how their pictures were prepared" in caplog.text
    assert "Preprocess(size=32" in caplog.text


def test_torchscript_is_not_run_and_the_advice_works(published, tmp_path, monkeypatch):
    class Clip(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = encoder_of().visual
            self.register_buffer("input_resolution", torch.tensor(32))
            self.register_buffer("context_length", torch.tensor(8))
            self.register_buffer("vocab_size", torch.tensor(16))

        def forward(self, img):
            return img + self.visual.class_embedding.sum()

    clip = Clip()
    torch.jit.save(torch.jit.trace(clip, PIXELS), tmp_path / "ViT-small.pt")
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the archive was run"))
    message = refusal(load_tower, encoder_of("small-quickgelu"), str(tmp_path / "ViT-small.pt"))
    assert "TorchScript archive" in message and "It was not run" in message
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    exec(re.search(r'python -c "(.*?)"', message)[1], {})
    encoder = load_tower(encoder_of("small-quickgelu"), "ViT-small.safetensors")
    assert all(torch.equal(v, clip.visual.state_dict()[k]) for k, v in encoder.visual.state_dict().items())
    assert "only OpenAI's files have" in refusal(load_tower, encoder_of("small"), "ViT-small.safetensors")


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_clip_as_transformers_writes_it(published, tmp_path, whole, act):
    "Names are converted; what is handed on equals what transformers computes."
    transformers = pytest.importorskip("transformers")
    vision = dict(hidden_size=48, intermediate_size=192, num_hidden_layers=2, num_attention_heads=2, image_size=32)
    vision |= dict(patch_size=8, hidden_act=act)
    text = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=16)
    text |= dict(bos_token_id=0, eos_token_id=1)
    about = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)
    torch.manual_seed(5)
    model = (transformers.CLIPModel(about) if whole else transformers.CLIPVisionModel(about.vision_config)).eval()
    model.save_pretrained(tmp_path)
    prepare = dict(image_mean=HALF, image_std=[0.25] * 3, resample=2, size={"shortest_edge": 32})
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(prepare), encoding="utf-8")
    right, wrong = ("small-quickgelu", "small") if act == "quick_gelu" else ("small", "small-quickgelu")
    encoder = load_tower(encoder_of(right, str(tmp_path)), str(tmp_path))
    assert encoder.preprocess.mean == HALF and encoder.preprocess.resize == "bilinear"
    tower = model.vision_model if whole else model
    with torch.no_grad():
        inner = getattr(tower, "vision_model", tower)  # transformers had one more level
        tokens = inner.post_layernorm(tower(PIXELS).last_hidden_state)
    torch.testing.assert_close(encoder(PIXELS)[0], tokens[:, 1:], rtol=0, atol=1e-5)
    assert f"Set tower={right}." in refusal(load_tower, encoder_of(wrong), str(tmp_path / "model.safetensors"))


def test_another_model_of_transformers(published, tmp_path):
    save_file({"vision_model.embeddings.patch_embedding.weight": torch.zeros(4, 3, 8, 8)}, tmp_path / "m.safetensors")
    message = refusal(load_tower, encoder_of(), str(tmp_path / "m.safetensors"))
    assert "is no CLIP" in message and "open_clip_model.safetensors" in message


def test_files_that_are_none(published, tmp_path):
    assert "no tower weights at" in refusal(load_tower, encoder_of(), str(tmp_path / "gone.safetensors"))
    assert "no tower weights at" in refusal(load_tower, encoder_of(), str(tmp_path / "gone.pt"))
    assert "no weights in the folder" in refusal(load_tower, encoder_of(), str(tmp_path))
    torch.save([1], tmp_path / "list.pt")
    assert "holds a list" in refusal(load_tower, encoder_of(), str(tmp_path / "list.pt"))
    cut = {k: v for k, v in published.weights.items() if k != "visual.proj"}
    save_file(cut, tmp_path / "cut.safetensors")
    assert "'proj' is missing" in refusal(load_tower, encoder_of(), str(tmp_path / "cut.safetensors"))


@pytest.mark.parametrize(
    "note, words",
    [
        ("{", "not readable"),
        ("[1]", "a list"),
        ({"mean": [0.5]}, "mean"),
        ({"mean": 3}, "mean"),
        ({"mean": [1, 2, "x"]}, "mean"),
        ({"std": [1, 0, 1]}, "std"),
        ({"interpolation": "nearest"}, "interpolation"),
        ({"interpolation": ["bicubic"]}, "interpolation"),
        ({"quick_gelu": "yes"}, "quick_gelu"),
        ({"size": []}, "size"),
        ({"tower": 3}, "tower"),
        ({"size": 64}, "pictures of 64 pixels"),
        ({"tower": "ViT-L-14"}, "belong to the tower 'ViT-L-14'"),
    ],
)
def test_notes_that_cannot_be(published, tmp_path, note, words):
    text = note if isinstance(note, str) else json.dumps(note)
    save_file(published.weights, tmp_path / "clip.safetensors", metadata={NOTE: text})
    assert words in refusal(load_tower, encoder_of(), str(tmp_path / "clip.safetensors"))


@pytest.mark.parametrize(
    "name, text",
    [
        ("open_clip_config.json", '{"model_cfg": [1], "preprocess_cfg": {"mean": "x"}}'),
        ("open_clip_config.json", "[]"),
        ("open_clip_config.json", '{"model_cfg": {"vision_cfg": {"image_size": "big"}}}'),
        ("config.json", '{"model_type": "clip", "vision_config": {"image_size": -1}}'),
        ("config.json", "{"),
    ],
)
def test_descriptions_that_cannot_be(published, tmp_path, name, text):
    save_file(published.weights, tmp_path / "clip.safetensors")
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert name in refusal(load_tower, encoder_of(), str(tmp_path / "clip.safetensors"))


# ---- statistics, interpolation, size


def test_siglip_has_its_own_statistics():
    "By tag, and from what all its published weights have in common; and its patch tokens are timm's."
    assert tower_facts("ViT-B-16-SigLIP").mean == tower_facts("ViT-SO400M-14-SigLIP-384").std == HALF
    encoder = encoder_of("ViT-B-16-SigLIP", "webli", patches=196, image_size=224)
    assert (encoder.preprocess.mean, encoder.preprocess.std, encoder.preprocess.resize) == (HALF, HALF, "bicubic")
    img = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    grid, summary = encoder(img)
    with torch.no_grad():
        torch.testing.assert_close(grid, encoder.visual.trunk.forward_features(img), rtol=0, atol=1e-5)
    assert torch.equal(summary, grid.mean(1))  # it has no class token
    encoder.image_stats = "imagenet"
    encoder.use(encoder.facts)
    assert encoder.preprocess.mean == IMAGENET_MEAN


def test_statistics_of_a_tag_and_of_a_file(published, tmp_path):
    encoder = load_tower(encoder_of("small", "squashed"), "squashed")
    assert (encoder.preprocess.mean, encoder.preprocess.std, encoder.preprocess.resize) == (HALF, HALF, "bilinear")
    path = str(save_tower(encoder, tmp_path / "tower.safetensors"))
    again = load_tower(encoder_of("small", path), path)
    assert describe_tower(again) == describe_tower(encoder) and again.facts.resize_mode == "shortest"
    fixed = load_tower(encoder_of("small", path, resize="bicubic", image_stats="imagenet"), path)
    assert fixed.preprocess.resize == "bicubic" and fixed.preprocess.mean != HALF


def test_clipa_is_bilinear():
    facts = sevlm.models.vision.published_facts("ViT-L-14-CLIPA", "datacomp1b")
    assert facts.interpolation == "bilinear" and facts.resize_mode == "squash" and facts.mean != CLIP_MEAN


def test_the_size_is_checked():
    with pytest.raises(ConfigError, match=r"16 patches of a picture of 32 pixels.*Set patches=16, image_size=32"):
        ImageEncoder(SEVLMConfig.preset("tiny", image_size=64))
    with pytest.raises(ConfigError, match="patches = 9"):
        ImageEncoder(SEVLMConfig.preset("tiny", image_size=33, patches=9))
    SEVLMConfig.preset("corrected", tower="ViT-SO400M-14-SigLIP-384", image_size=384, patches=729)  # 384 = 27 * 14 + 6


@pytest.mark.parametrize(
    "tower, patches, size",
    [("PE-Core-T-16-384", 576, 384), ("convnext_tiny", 49, 224), ("RN50", 49, 224), ("MobileCLIP2-S0", 64, 256)],
)
def test_other_kinds_of_towers(tower, patches, size):
    "With and without class token, in rows and columns."
    encoder = encoder_of(tower, patches=patches, image_size=size)
    grid, summary = encoder(torch.randn(1, 3, size, size))
    assert grid.shape == (1, patches, encoder.width) and summary.shape == (1, encoder.width)
    assert torch.isfinite(grid).all()


def test_a_tower_without_patch_tokens():
    with pytest.raises(ConfigError, match="'coca_ViT-B-32' does not hand on patch tokens"):
        encoder_of("coca_ViT-B-32", patches=49, image_size=224)


def test_no_pictures_have_no_patch_tokens():
    encoder = ImageEncoder(SEVLMConfig.preset("tiny"))
    assert encode_images(encoder, [], 0, progress=False).shape == (0, encoder.patches, encoder.width)


# ---- published weights as a file


def test_published_weights_go_into_a_file(published, tmp_path):
    "The one command of the message, for a machine without network."
    path = export_tower("small", "openai", tmp_path / "tower.safetensors")
    with safe_open(path, "pt") as f:
        note = json.loads(f.metadata()[NOTE])
    assert note["tower"] == "small-quickgelu" and note["weights"] == "openai" and note["quick_gelu"] is True
    encoder = load_tower(encoder_of("small-quickgelu", str(path)), str(path))
    assert torch.equal(encoder(PIXELS)[0], load_tower(encoder_of("small-quickgelu"), "openai")(PIXELS)[0])
    assert "Set tower=small-quickgelu" in refusal(load_tower, encoder_of("small"), str(path))
    assert "Did you mean 'openai'" in refusal(export_tower, "small", "opnai", path)
    assert export_tower("small", "OpenAI", tmp_path / "spelled.safetensors").is_file()  # as everywhere


def test_without_a_network_the_message_has_the_command(published, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    nowhere = dict(open_clip.pretrained._PRETRAINED["small"]["laion2b"], hf_hub="nobody/nothing/")
    nowhere.pop("file")
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED["small"], "laion2b", nowhere)
    message = refusal(load_tower, encoder_of(), "laion2b")
    assert "export_tower('small', 'laion2b', 'tower.safetensors')" in message
    assert "--set tower_pretrained=tower.safetensors" in message and "--tower" in message


# ---- checkpoints


@pytest.fixture
def trained(published, tmp_path):
    "A checkpoint whose image encoder has weights from a file, and the folder of both."
    path = save_tower(load_tower(encoder_of("small-quickgelu"), "openai"), tmp_path / "tower.safetensors")
    config = config_of("small-quickgelu", str(path))
    torch.manual_seed(0)
    model = SEVLM(config).eval()
    load_tower(model.encoder, str(path))
    save_model(model, tmp_path / "checkpoint")
    return SimpleNamespace(model=model, folder=tmp_path, checkpoint=tmp_path / "checkpoint", tower=path)


def notes_of(checkpoint):
    with safe_open(checkpoint / "model.safetensors", "pt") as f:
        return f.metadata()


def set_notes(checkpoint, notes):
    weights = load_file(checkpoint / "model.safetensors")
    save_file(weights, checkpoint / "model.safetensors", metadata=notes)


def test_a_checkpoint_notes_its_image_encoder(trained):
    note = json.loads(notes_of(trained.checkpoint)[NOTE])
    assert note == describe_tower(trained.model.encoder)
    assert note["tower"] == "small-quickgelu" and note["weights"] == "openai" and note["quick_gelu"] is True
    assert note["preprocess"]["mean"] == list(CLIP_MEAN) and len(note["fingerprint"]) == 16
    again = load_model(trained.checkpoint)
    assert torch.equal(again.encoder(PIXELS)[0], trained.model.encoder(PIXELS)[0])
    found = inspect_path(trained.checkpoint)
    assert found["image encoder it was trained with"] == note
    assert inspect_path(trained.tower)["metadata"][NOTE]["tower"] == "small-quickgelu"


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(image_stats="imagenet"), "mean was"),
        (dict(resize="bilinear"), "resize was 'bicubic' and is 'bilinear'"),
        (dict(pool=2, patches=4), "pool was 1 and is 2"),
    ],
)
def test_another_preprocessing_is_refused(trained, change, words):
    trained.model.config.replace(**change).save(trained.checkpoint / "config.json")
    message = refusal(load_model, trained.checkpoint)
    assert "trained with another image tower" in message and words in message


def test_other_weights_are_refused(trained):
    other = encoder_of("small-quickgelu")  # random weights
    path = save_tower(other, trained.folder / "other.safetensors")
    message = refusal(load_model, trained.checkpoint, path)
    assert "fingerprint was" in message and "with weights 'openai'" in message and "other.safetensors" in message
    assert "fingerprint was" in refusal(load_model, trained.checkpoint, other)
    save_tower(other, trained.tower)  # replaced in place
    assert "fingerprint was" in refusal(load_model, trained.checkpoint)


def test_another_activation_is_refused(trained, caplog):
    save_file(load_file(trained.tower), trained.folder / "plain.safetensors")  # says nothing
    changed = trained.model.config.replace(tower="small", tower_pretrained=str(trained.folder / "plain.safetensors"))
    changed.save(trained.checkpoint / "config.json")
    assert "quick_gelu was True and is False" in refusal(load_model, trained.checkpoint)


def test_a_tower_that_has_moved(trained, monkeypatch, capsys, tmp_path):
    moved = trained.tower.rename(trained.folder / "moved.safetensors")
    assert "no tower weights at" in refusal(load_model, trained.checkpoint)
    again = load_model(trained.checkpoint, moved)
    assert torch.equal(again.encoder(PIXELS)[0], trained.model.encoder(PIXELS)[0])
    with pytest.raises(CheckpointError):
        load_model(trained.checkpoint, trained.folder / "nowhere.safetensors")


def test_checkpoints_of_earlier_versions(published, tmp_path, caplog):
    """They have a fingerprint or nothing. They were trained with CLIP's statistics whatever the tower, and with the
    activation of the tower whatever the weights; so it stays, and is told."""
    config = config_of("small", "squashed", resize="bicubic")
    torch.manual_seed(0)
    model = SEVLM(config).eval()
    load_tower(model.encoder, "squashed")
    save_model(model, tmp_path)
    note = json.loads(notes_of(tmp_path)[NOTE])
    for notes in ({"tower": note["fingerprint"]}, None):
        set_notes(tmp_path, notes)
        caplog.clear()
        again = load_model(tmp_path)
        assert again.encoder.preprocess.mean == CLIP_MEAN and "earlier version" in caplog.text
    assert "earlier version" in inspect_path(tmp_path)["image encoder it was trained with"]
    set_notes(tmp_path, {"tower": "0" * 16})
    assert "fingerprint was" in refusal(load_model, tmp_path)
    config.replace(tower_pretrained="openai").save(tmp_path / "config.json")
    set_notes(tmp_path, {"tower": note["fingerprint"]})  # all tags of the fixture are the same tensors
    caplog.clear()
    assert load_model(tmp_path).encoder.name == "small"
    assert "trained that way" in caplog.text


def test_the_shipped_checkpoint_notes_its_image_encoder(caplog):
    with caplog.at_level(logging.DEBUG, "sevlm"):
        model = sevlm.load(device="cpu").model
    assert not [r for r in caplog.records if "does not note" in r.message or r.levelno >= logging.WARNING]
    assert model.encoder.preprocess.mean == CLIP_MEAN and model.encoder.preprocess.resize == "bicubic"


@pytest.mark.parametrize("note", ["{", "3", '{"preprocess": 3}'])
def test_a_note_that_cannot_be_read(trained, note):
    set_notes(trained.checkpoint, {NOTE: note})
    assert "note on its image encoder" in refusal(load_model, trained.checkpoint)


def test_a_published_folder_takes_its_tower_along(trained):
    one, two = trained.folder / "one", trained.folder / "two"
    load_model(trained.checkpoint).save_pretrained(one)
    trained.tower.unlink()
    SEVLM.from_pretrained(one).save_pretrained(two)  # read from a folder, whose tower has a relative name
    for name in ("config.json", "model.safetensors", "tower.safetensors"):
        (one / name).unlink()
    again = SEVLM.from_pretrained(two)
    assert torch.equal(again.encoder(PIXELS)[0], trained.model.encoder(PIXELS)[0])


def test_a_resumed_run_has_the_same_tower(published, tmp_path):
    from sevlm.config import TrainConfig
    from sevlm.synthetic.dataset import make_mini
    from sevlm.training.run import start_run

    tower = save_tower(encoder_of("small", image_stats="tower"), tmp_path / "tower.safetensors")
    data = make_mini(tmp_path / "data", n=24, seed=1, workers=1, progress=False)
    config = config_of("small", str(tower), vocab_size=1504)
    settings = TrainConfig.preset("tiny", epochs=1, threads=1)
    tokenizer = Path(sevlm.__file__).parent / "assets" / "mini"
    run = dict(tokenizer=tokenizer, gpt2=None, progress=False)
    start_run(data, tmp_path / "run", config, settings, **run)
    chosen = json.loads((tmp_path / "run" / "train.json").read_text(encoding="utf-8"))["chosen"]
    assert chosen["image_encoder"]["tower"] == "small"
    save_tower(encoder_of("small"), tower)
    message = refusal(start_run, data, tmp_path / "run", config, settings, resume=True, **run)
    assert "fingerprint was" in message


def test_the_released_layout_notes_it_too(published, tmp_path):
    from sevlm.models.released import Released, read_released, write_released
    from sevlm.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(Path(sevlm.__file__).parent / "assets" / "mini")
    tower = save_tower(load_tower(encoder_of("small-quickgelu"), "openai"), tmp_path / "tower.safetensors")
    model = SEVLM(config_of("small-quickgelu", str(tower), vocab_size=len(tokenizer))).eval()
    load_tower(model.encoder, str(tower))
    write_released(Released(model, tokenizer), tmp_path / "hub")
    read_released(tmp_path / "hub")
    assert "mean was" in refusal(read_released, tmp_path / "hub", image_stats="imagenet")
    other = save_tower(encoder_of("small-quickgelu"), tmp_path / "other.safetensors")
    assert "fingerprint was" in refusal(read_released, tmp_path / "hub", tower_pretrained=str(other))
    plain = tmp_path / "openai.safetensors"
    save_file(load_file(tower), plain)
    message = refusal(read_released, tmp_path / "hub", tower="small", tower_pretrained=str(plain))
    assert "Set tower=small-quickgelu" in message


# ---- the network


RESOLVE = "/{repo_id}/resolve/{revision}/{filename}"  # below the address of a hub


class Answers(BaseHTTPRequestHandler):
    "Answers as `server.answer` says: (seconds to wait, status, headers); also as a proxy. `server.asked` is kept."

    def do_HEAD(self):
        self.server.asked.append(f"{self.command} {self.path}")
        if self.path == "/" and self.server.root_answers:
            return self.reply(200, {})
        seconds, status, headers = self.server.answer
        self.server.ended.wait(seconds)
        return self.reply(status, headers)

    def reply(self, status, headers):
        self.send_response(status)
        given = {"X-Repo-Commit": "c" * 40, "ETag": '"e"', "Content-Length": "5" if status == 200 else "0", **headers}
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET" and status == 200:
            self.wfile.write(b"hello")

    do_GET = do_CONNECT = do_HEAD

    def log_message(self, *_):
        pass


@contextmanager
def hub_that(answer=(0, 200, {}), root_answers=True):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads, server.block_on_close = True, False
    server.asked, server.answer, server.root_answers = [], answer, root_answers
    server.ended = threading.Event()
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def network(monkeypatch, tmp_path):
    "A fetch of one file by the hub's library, whose settings the test changes; nothing set by the machine is left."
    import huggingface_hub
    from huggingface_hub import constants

    for name in [name for name in os.environ if re.search("proxy|^HF_|^SSL_CERT", name, re.I)]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 10)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the hub's library tries five times, and waits between
    huggingface_hub.close_session()

    def get(endpoint, **settings):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + RESOLVE)
        for name, value in settings.items():
            if hasattr(constants, name):
                monkeypatch.setattr(constants, name, value)
            else:
                monkeypatch.setenv(name, value)
        huggingface_hub.close_session()  # its client reads proxies and certificates when it is made
        load = lambda: huggingface_hub.hf_hub_download(
            "a/b",
            "f.txt",
            cache_dir=tmp_path,
            etag_timeout=constants.HF_HUB_ETAG_TIMEOUT,
            token=False,
        )
        return Path(fetch(load, "the file", "bring it.")).read_text(encoding="utf-8")

    yield get
    huggingface_hub.close_session()


@pytest.mark.parametrize(
    "status, code, words",
    [
        (404, "RepoNotFound", "has no such repository, or hides it. Check the name"),
        (401, "", "refused it \\(HTTP 401\\): log in"),
        (403, "GatedRepo", "accepted its terms"),
        (404, "EntryNotFound", "not this file or revision"),
        (404, "RevisionNotFound", "not this file or revision"),
        (403, "", "refused it \\(HTTP 403\\): log in"),
        (429, "", "too much was asked \\(HTTP 429\\)"),
        (500, "", "an error of its own \\(HTTP 500\\)"),
        (503, "", "an error of its own \\(HTTP 503\\)"),
    ],
)
def test_what_the_hub_refuses_is_said(network, status, code, words):
    headers = {"X-Error-Code": code} if code else {}
    with hub_that((0, status, headers)) as hub, pytest.raises(CheckpointError, match=f"{words}.*bring it"):
        network(hub.address)


def test_a_mirror_and_a_proxy(network):
    with hub_that() as hub:
        assert network(hub.address) == "hello"
        assert any(line.startswith("GET /a/b/resolve/main/f.txt") for line in hub.asked)


def test_a_proxy_is_asked_where_no_proxy_does_not_forbid_it(network):
    with hub_that() as hub, hub_that() as proxy:
        with pytest.raises(CheckpointError, match="was not reached by way of the proxy that is set"):
            network(hub.address, HTTP_PROXY="http://127.0.0.1:9")
        assert network(hub.address, HTTP_PROXY=proxy.address) == "hello"
        assert proxy.asked and not hub.asked


def test_no_proxy(network):
    with hub_that() as hub:
        assert network(hub.address, HTTP_PROXY="http://127.0.0.1:9", NO_PROXY="127.0.0.1") == "hello"


def test_a_proxy_that_refuses(network):
    with hub_that((0, 407, {}), root_answers=False) as proxy:
        with pytest.raises(CheckpointError, match="the proxy refused .*407.*Check HTTPS_PROXY"):
            network("https://hub.invalid", HTTPS_PROXY=proxy.address)
        assert proxy.asked == ["CONNECT hub.invalid:443"]


def test_a_slow_hub_is_waited_for_as_the_user_set_it(network, monkeypatch):
    "Longer than for a connection, unless the user says how long."
    from huggingface_hub import constants

    with hub_that((1.5, 200, {}), root_answers=False) as hub:
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.5")
        with pytest.raises(CheckpointError, match=r"did not answer in time: HF_HUB_ETAG_TIMEOUT \(0.5 s\)"):
            network(hub.address, HF_HUB_ETAG_TIMEOUT=0.5)
        monkeypatch.delenv("HF_HUB_ETAG_TIMEOUT")
        assert ask_hub() is None
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "60")
        assert network(hub.address, HF_HUB_ETAG_TIMEOUT=60) == "hello"
        assert constants.HF_HUB_ETAG_TIMEOUT == 60


def test_a_hub_that_hangs_ends_by_its_timeout(network, monkeypatch):
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.5")
    with hub_that((3600, 200, {}), root_answers=False) as hub:
        with pytest.raises(CheckpointError, match=r"did not answer in time.*bring it"):
            network(hub.address, HF_HUB_ETAG_TIMEOUT=0.5)
        assert len(hub.asked) == 1


def test_offline_mode_asks_nobody(network):
    with hub_that() as hub:
        with pytest.raises(CheckpointError, match=r"was not asked, since offline mode is set.*bring it"):
            network(hub.address, HF_HUB_OFFLINE=True)
        assert not hub.asked


def test_a_certificate_that_is_not_trusted_and_one_that_is(network, tmp_path):
    own = Path(__file__).parent / "localhub.pem"
    with hub_that() as hub:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(own)
        hub.socket = context.wrap_socket(hub.socket, server_side=True)
        address = hub.address.replace("http:", "https:")
        with pytest.raises(CheckpointError, match=r"certificate that is not trusted.*SSL_CERT_FILE"):
            network(address)
        assert network(address, SSL_CERT_FILE=str(own)) == "hello"


def test_the_command_line_through_a_proxy(tmp_path):
    """`explain --weights owner/tiny`, where only the proxy can reach the hub: by CONNECT, with a certificate that the
    user trusts. The address of the hub exists nowhere."""
    own = Path(__file__).parent / "localhub.pem"
    sevlm.load(device="cpu").save_pretrained(tmp_path / "repo")
    Image.new("RGB", (64, 64), "navy").save(tmp_path / "blue.png")
    with serve(tmp_path / "repo", tmp_path / "home", certificate=own) as (server, _):
        with tunnel(server.server_address) as proxy:
            env = {k: v for k, v in os.environ.items() if not re.search("proxy|^HF_", k, re.I)}
            env |= dict(HF_ENDPOINT="https://hub.invalid", HF_HOME=str(tmp_path / "home"), HF_HUB_DISABLE_XET="1")
            env |= dict(HTTPS_PROXY=f"http://127.0.0.1:{proxy.server_port}", SSL_CERT_FILE=str(own))
            env |= dict(PYTHONPATH=str(Path(sevlm.__file__).parents[1]))
            command = [sys.executable, "-m", "sevlm", "explain", "blue.png", "--weights", "owner/tiny"]
            ran = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert ran.returncode == 0, ran.stderr
        assert "because" in ran.stdout and set(proxy.asked) == {"CONNECT hub.invalid:443"}
        assert any("model.safetensors" in line for line in server.asked)


def test_a_tag_comes_through_a_mirror(published, network, monkeypatch, tmp_path):
    "open_clip's downloads go where the hub's library is told to go."
    import huggingface_hub
    from huggingface_hub import constants

    whole = tmp_path / "owner"
    whole.mkdir()
    save_file(published.weights, whole / "open_clip_model.safetensors")
    tag = dict(open_clip.pretrained._PRETRAINED["small"]["openai"], hf_hub="owner/tiny/")
    tag.pop("file")
    for name in ("small", "small-quickgelu"):
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED[name], "openai", tag)
    with serve(whole, tmp_path / "home") as (server, _):
        here = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", here)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", here + RESOLVE)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        huggingface_hub.close_session()
        encoder = load_tower(encoder_of("small-quickgelu", "openai"), "openai")
        assert isinstance(server.RequestHandlerClass, type) and issubclass(server.RequestHandlerClass, Hub)
        assert any("open_clip_model.safetensors" in line for line in server.asked)
    mine = {k.removeprefix("visual."): v for k, v in published.weights.items() if k.startswith("visual.")}
    assert all(torch.equal(v, mine[k]) for k, v in encoder.visual.state_dict().items())

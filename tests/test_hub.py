"""Without a network and with an empty cache, everything that is fetched fails fast and says what to bring."""

import pytest

from sevlm.config import SEVLMConfig
from sevlm.errors import CheckpointError
from sevlm.models import hub
from sevlm.models.decoder import Decoder, load_gpt2
from sevlm.models.vision import ImageEncoder, load_tower
from sevlm.training.inputs import tokenizer_of


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(hub, "reachable", lambda *_: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def test_tower_weights():
    encoder = ImageEncoder(SEVLMConfig.preset("tiny", tower="ViT-S-32-alt", patches=49, image_size=224))
    with pytest.raises(
        CheckpointError, match=r"could not get the weights 'openai' of the tower 'ViT-S-32-alt'.*copy its cache folder"
    ):
        load_tower(encoder, "openai")


def test_language_model(tmp_path):
    with pytest.raises(CheckpointError, match=r"language model 'distilgpt2'.*model\.safetensors.*give its path"):
        load_gpt2(Decoder(SEVLMConfig.preset("tiny")), "distilgpt2")
    with pytest.raises(CheckpointError, match="could not get"):
        load_gpt2(Decoder(SEVLMConfig.preset("tiny")), str(tmp_path / "no such folder"))
    with pytest.raises(CheckpointError, match=r"no model.safetensors or pytorch_model.bin in"):
        load_gpt2(Decoder(SEVLMConfig.preset("tiny")), tmp_path)


def test_tokenizer():
    with pytest.raises(CheckpointError, match=r"GPT-2's tokenizer.*vocab\.json and merges\.txt.*--tokenizer"):
        tokenizer_of(SEVLMConfig.preset("paper"))


def test_paper_preset_takes_a_local_tokenizer():
    from pathlib import Path

    tokenizer = tokenizer_of(SEVLMConfig.preset("paper"), Path(__file__).parent / "gpt2_bpe")
    assert len(tokenizer) == SEVLMConfig.preset("paper").vocab_size


def test_a_tower_from_a_whole_clip(tmp_path):
    "As open_clip publishes it: one file for both towers; the text tower is not needed, and a missing tensor is named."
    import torch
    from safetensors.torch import save_file

    from sevlm.models.vision import create_clip

    torch.manual_seed(1)
    clip = {k: v.contiguous() for k, v in create_clip("tiny").state_dict().items()}
    save_file(clip, tmp_path / "open_clip_model.safetensors")
    encoder = load_tower(ImageEncoder(SEVLMConfig.preset("tiny")), str(tmp_path / "open_clip_model.safetensors"))
    assert any(k.startswith("transformer.") for k in clip)
    assert all(torch.equal(v, clip[f"visual.{k}"]) for k, v in encoder.visual.state_dict().items())
    save_file({k: v for k, v in clip.items() if k != "visual.conv1.weight"}, tmp_path / "cut.safetensors")
    with pytest.raises(
        CheckpointError, match=r"cut\.safetensors: tensor 'conv1\.weight' is missing, the tower 'tiny' expects"
    ):
        load_tower(ImageEncoder(SEVLMConfig.preset("tiny")), str(tmp_path / "cut.safetensors"))


def test_a_mirror_is_asked(monkeypatch):
    from huggingface_hub import constants

    for endpoint, address in (
        ("https://huggingface.co", ("huggingface.co", 443)),
        ("http://127.0.0.1:8081", ("127.0.0.1", 8081)),
        ("http://mirror.example", ("mirror.example", 80)),
    ):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        assert hub.hub_address() == address

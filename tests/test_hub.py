"""Without a network and with an empty cache, everything that is fetched fails fast and says what to bring."""

import pytest

import sevlm.hub
from sevlm.core import CheckpointError, SEVLMConfig
from sevlm.decoder import Decoder, load_gpt2
from sevlm.train import tokenizer_of
from sevlm.vision import ImageEncoder, load_tower


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(sevlm.hub, "reachable", lambda *_: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def test_tower_weights():
    encoder = ImageEncoder(SEVLMConfig.preset("tiny", tower="ViT-S-32-alt", patches=49, image_size=224))
    with pytest.raises(CheckpointError, match=r"could not get the weights 'openai' of the tower 'ViT-S-32-alt'.*copy its cache folder"):
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

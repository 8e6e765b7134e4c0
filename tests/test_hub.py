"""Without a network and with an empty cache, everything that is fetched fails fast and says what to bring."""

import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sevlm.config import SEVLMConfig
from sevlm.errors import CheckpointError
from sevlm.models.decoder import Decoder, load_gpt2
from sevlm.models.vision import ImageEncoder, load_tower
from sevlm.training.inputs import tokenizer_of


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def test_tower_weights():
    encoder = ImageEncoder(SEVLMConfig.preset("tiny", tower="ViT-B-32-quickgelu", patches=49, image_size=224))
    with pytest.raises(
        CheckpointError,
        match=r"could not get the weights 'openai' of the tower 'ViT-B-32-quickgelu'.*copy its cache folder",
    ):
        load_tower(encoder, "openai")


def test_offline_mode_ends_with_two_threads(monkeypatch):
    from huggingface_hub import constants

    from sevlm.models import hub

    monkeypatch.setattr(hub, "ask_hub", lambda: ConnectionError("no network"))
    before, inside, go_on = constants.HF_HUB_OFFLINE, threading.Event(), threading.Event()

    def first():
        with hub.offline_unless_reachable():
            inside.set()
            go_on.wait(60)

    def second():  # ends after the first
        with hub.offline_unless_reachable():
            threads[0].join(60)

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    inside.wait(60)
    threads[1].start()
    threads[1].join(0.2)
    go_on.set()
    for thread in threads:
        thread.join()
    assert constants.HF_HUB_OFFLINE == before


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


class Hub(BaseHTTPRequestHandler):
    "A hub with one file in every repository, also as a proxy before any address; keeps what it was asked."

    def do_HEAD(self):
        self.server.asked.append(f"{self.command} {self.path}")
        self.send_response(200)
        for name, value in {"X-Repo-Commit": "c" * 40, "ETag": '"e"', "Content-Length": "5"}.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(b"hello")

    def do_CONNECT(self):
        self.server.asked.append(f"CONNECT {self.path}")
        self.send_error(502)

    def log_message(self, *what):
        pass


class Silent(Hub):
    "Takes a request and closes the connection without an answer."

    def do_HEAD(self):
        self.server.asked.append(f"{self.command} {self.path}")
        self.close_connection = True


def fetch_from(handler, tmp_path, **env):
    "What `fetch` gives in a process of its own, whose variables may name a server of ours; what the server was asked."
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        code = (
            "from pathlib import Path; from huggingface_hub import hf_hub_download; from sevlm.models.hub import fetch;"
            "print(Path(fetch(lambda: hf_hub_download('a/b', 'f.txt'), 'the file', 'bring it.')).read_text())"
        )
        plain = {k: v for k, v in os.environ.items() if not re.search("proxy|^HF_", k, re.I)}
        given = {k: v.format(here=here) for k, v in env.items()}
        given = {"HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", **given}
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**plain, **given})
        server.shutdown()
    return ran, server.asked


def test_a_mirror_then_the_cache(tmp_path):
    ran, asked = fetch_from(Hub, tmp_path, HF_ENDPOINT="{here}")
    assert ran.stdout == "hello\n", ran.stderr
    assert any(line.startswith("GET /a/b/resolve/main/f.txt") for line in asked)
    for dead in (dict(HF_ENDPOINT="http://127.0.0.1:9"), dict(HF_ENDPOINT="{here}", HF_HUB_OFFLINE="1")):
        ran, asked = fetch_from(Hub, tmp_path, **dead)
        assert ran.stdout == "hello\n" and not asked, ran.stderr


def test_a_proxy(tmp_path):
    "The address has no host of its own: only the proxy that the environment names can have given the file."
    ran, asked = fetch_from(Hub, tmp_path, HF_ENDPOINT="http://hub.invalid", HTTP_PROXY="{here}")
    assert ran.stdout == "hello\n", ran.stderr
    assert any(line.startswith("GET http://hub.invalid/a/b/resolve/main/f.txt") for line in asked)


def test_a_proxy_that_reaches_nothing(tmp_path):
    ran, asked = fetch_from(Hub, tmp_path, HF_ENDPOINT="https://hub.invalid", HTTPS_PROXY="{here}")
    assert asked == ["CONNECT hub.invalid:443"], "asked once, and not again by each file"
    assert ran.returncode == 1 and "could not get the file" in ran.stderr and "bring it." in ran.stderr


def test_a_dead_hub_is_asked_once(tmp_path):
    ran, asked = fetch_from(Silent, tmp_path, HF_ENDPOINT="{here}")
    assert len(asked) == 1 and "could not get the file" in ran.stderr and str(tmp_path) in ran.stderr

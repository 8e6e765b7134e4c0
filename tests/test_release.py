"""The released layout from a folder and from a hub; the visitor's sentence, `sevlm explain --weights ...`, in a
process of its own."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from localhub import serve
from safetensors.torch import save_file

import sevlm
from sevlm.cli import main
from sevlm.config import SEVLMConfig
from sevlm.errors import CheckpointError, DataError
from sevlm.lexicon.lexicon import Lexicon
from sevlm.models.released import Released, find_released, from_hub, read_released, write_released
from sevlm.models.sevlm import SEVLM, own_weights
from sevlm.models.tokenizer import load_tokenizer
from sevlm.models.vision import ImageEncoder
from sevlm.synthetic.dataset import make_mini
from sevlm.synthetic.words import mini_lexicon
from sevlm.utils import asset


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A small model of random weights, as published, in the released layout below a folder of its own, with its
    tower and a lexicon."""
    folder = tmp_path_factory.mktemp("release")
    torch.manual_seed(0)
    tower = ImageEncoder(SEVLMConfig.preset("tiny")).visual.state_dict()
    save_file({k: v.contiguous() for k, v in tower.items()}, folder / "tower.safetensors")
    tokenizer = load_tokenizer(asset("mini"))
    config = SEVLMConfig.preset(
        "tiny",
        causal_vad=False,
        boundary="fixed",
        pad_in_span=True,
        image_stats="imagenet",
        resize="bilinear",
        lookup="piece",
        vocab_size=len(tokenizer),
        tower_pretrained=str(folder / "tower.safetensors"),
        max_tokens=40,
        new_tokens=8,
    )
    write_released(Released(SEVLM(config).eval(), tokenizer), folder / "hub" / "SELVM_on_artEmis-V2")
    write_released(Released(SEVLM(config).eval(), tokenizer, tag="best-acc"), folder / "hub" / "SELVM_on_artEmis-V2")
    Lexicon(mini_lexicon()).write(folder / "lexicon.txt")
    make_mini(folder / "data", n=40, seed=4, workers=1, progress=False)
    return folder


def test_both_tags_are_found(place):
    assert (
        find_released(place / "hub")[1] == "best-res"
        and find_released(place / "hub" / "SELVM_on_artEmis-V2", "best-acc")[1] == "best-acc"
    )
    with pytest.raises(CheckpointError, match="Did you mean 'best-acc'"):
        find_released(place / "hub", "best-ac")
    with pytest.raises(CheckpointError, match="no folder nle_model_<tag>"):
        find_released(place / "data")
    a, b = (own_weights(read_released(place / "hub", tag).model) for tag in ("best-res", "best-acc"))
    assert not torch.equal(a["vad_head.weight"], b["vad_head.weight"])


def test_two_checkpoints_in_a_folder_must_be_told_apart(place, tmp_path):
    for name in ("v1", "v2"):
        (tmp_path / name / "nle_model_best-res").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="several checkpoints: v1, v2"):
        find_released(tmp_path)


def test_a_model_without_the_three_ideas(place, tmp_path):
    """The baseline has no VAD encoder in its .tar and no heads; the fusion layer that the reference stores all the
    same is kept aside."""
    config = SEVLMConfig.preset("tiny", vocab_size=1504, use_fusion=False, use_vad_head=False, use_contrast=False)
    released = Released(
        SEVLM(config),
        load_tokenizer(asset("mini")),
        unused={
            "decoder": {
                "transformer.VAD_linear.weight": torch.randn(48, 51),
                "transformer.VAD_linear.bias": torch.randn(48),
            }
        },
    )
    again = read_released(write_released(released, tmp_path))
    assert (
        again.unused["decoder"].keys() == {"transformer.VAD_linear.weight", "transformer.VAD_linear.bias"}
        and again.model.config == config
    )
    assert all(
        torch.equal(a, b) for a, b in zip(own_weights(again.model).values(), own_weights(released.model).values())
    )


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("len_prefix", 4, "len_prefix = 4, expected 0"),
        ("activation_function", "relu", "not the architecture"),
        ("n_layer", None, "'n_layer' is missing"),
        ("vocab_size", 9, "the tokenizer in .* has 1504 entries"),
    ],
)
def test_a_config_that_does_not_fit(place, tmp_path, key, value, words):
    root = write_released(
        Released(SEVLM(SEVLMConfig.preset("tiny", vocab_size=1504)), load_tokenizer(asset("mini"))), tmp_path
    )
    file = root / "nle_model_best-res" / "config.json"
    settings = {k: v for k, v in json.loads(file.read_text(encoding="utf-8")).items() if k != "sevlm"}
    file.write_text(json.dumps({**settings, key: value}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=words):
        read_released(root, tower="tiny", tower_pretrained="", patches=16)


def test_parts_that_are_missing(place, tmp_path):
    released = Released(SEVLM(SEVLMConfig.preset("tiny", vocab_size=1504)), load_tokenizer(asset("mini")))
    for name, error, words in (
        ("ckpt_stats_best-res.tar", CheckpointError, "no file at .*ckpt_stats_best-res.tar"),
        ("nle_model_best-res/pytorch_model.bin", CheckpointError, "no model.safetensors or"),
        ("nle_gpt2_tokenizer_0/vocab.json", DataError, "no tokenizer in"),
        ("nle_model_best-res/config.json", CheckpointError, "cannot read .*config.json"),
    ):
        root = write_released(released, tmp_path / name.split("/")[-1])
        (root / name).unlink()
        with pytest.raises(error, match=words):
            read_released(root)


# ---- the command line


def run(capsys, *argv):
    capsys.readouterr()
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_explain_and_evaluate_with_a_local_folder(place, capsys, tmp_path):
    picture = next((place / "data" / "wikiart").rglob("*.jpg"))
    given = ("--weights", place / "hub", "--lexicon", place / "lexicon.txt", "--device", "cpu", "--json")
    code, out, _ = run(capsys, "explain", picture, *given)
    (answer,) = json.loads(out)
    assert code == 0 and sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    code, out, _ = run(
        capsys, "evaluate", place / "data", *given, "--part", "all", "--no-meteor", "--quiet", "--out", tmp_path
    )
    assert code == 0 and json.loads(out)["scores"]["BLEU-4"]["n"] == 40
    assert json.loads((tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])["painting"]


def test_the_released_way_of_finding_lemmas(place, capsys, monkeypatch):
    """The tagger sees each text as a whole, and what it and the lemmatiser say reaches the model; without their data
    the message says what to fetch."""
    from sevlm.lexicon import coverage as lexicons

    picture = next((place / "data" / "wikiart").rglob("*.jpg"))
    given = (
        "explain",
        picture,
        "--weights",
        place / "hub",
        "--lexicon",
        place / "lexicon.txt",
        "--device",
        "cpu",
        "--lemmas",
        "nltk",
        "--json",
    )
    seen = []

    def tag(pieces):
        seen.append(len(pieces))
        return [(p, "NN") for p in pieces]

    monkeypatch.setattr(lexicons, "nltk_tools", lambda: (tag, lambda piece, pos: piece))
    code, out, _ = run(capsys, *given)
    (answer,) = json.loads(out)
    assert code == 0 and len(set(seen)) > 3 and sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)

    def absent():
        raise DataError("NLTK found no data for wordnet")

    monkeypatch.setattr(lexicons, "nltk_tools", absent)
    code, _, err = run(capsys, *given)
    assert code == 2 and "no data for wordnet" in err


@pytest.mark.parametrize(
    "given, words",
    [
        (("--weights", "hub"), "the released weights need the lexicon"),
        (("--weights", "nowhere", "--lexicon", "lexicon.txt"), "neither a folder nor the id"),
        (("--weights", "hub", "--checkpoint", "hub"), "either --checkpoint or --weights"),
        (("--lexicon", "nowhere.txt"), "nowhere.txt"),
        (("--lemmas", "nltk"), "--lemmas belongs to --weights"),
        (("--tower", "tower.safetensors"), "--tower belongs to --weights or --checkpoint"),
        (("--weights", "hub", "--lexicon", "lexicon.txt", "--tower", "nowhere.safetensors"), "no tower weights at"),
    ],
)
def test_wrong_combinations(place, capsys, monkeypatch, given, words):
    monkeypatch.chdir(place)
    code, _, err = run(capsys, "explain", next((place / "data" / "wikiart").rglob("*.jpg")), *given)
    assert code == 2 and words in err


def test_a_checkpoint_without_a_table_takes_the_lexicon(place, capsys, tmp_path):
    "As a published model whose lexicon may not be passed on: the message names the option, and the option works."
    published = Path(shutil.copytree(asset("mini"), tmp_path / "published"))
    (published / "vad_table.safetensors").unlink()
    picture = next((place / "data" / "wikiart").rglob("*.jpg"))
    for command in (("explain", picture), ("evaluate", place / "data", "--no-meteor", "--quiet")):
        argv = (*command, "--checkpoint", published, "--json")
        code, _, err = run(capsys, *argv)
        assert code == 2 and "(--lexicon)" in err
        code, out, _ = run(capsys, *argv, "--lexicon", place / "lexicon.txt")
        assert code == 0 and json.loads(out)


def test_ablate_command(place, capsys, tmp_path):
    "A grid of one seed; broken off and taken up it would do the same: finished runs are not made again."
    argv = (
        "ablate",
        place / "data",
        "--out",
        tmp_path / "grid",
        "--grid",
        "ideas",
        "--preset",
        "tiny",
        "--seeds",
        1,
        "--test",
        place / "data",
        "--quiet",
        "--set",
        "epochs=1",
        "max_tokens=40",
        "new_tokens=4",
        "vocab_size=1504",
    )
    code, out, _ = run(capsys, *argv)
    assert (
        code == 0
        and "5 arms x 1 seeds = 5 runs" in out
        and "none, fusion, VAD head, contrast, all" in out
        and (tmp_path / "grid" / "differences.csv").is_file()
    )
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "grid").rglob("scores.json")}
    assert len(made) == 5 and run(capsys, *argv)[0] == 0 and all(p.stat().st_mtime_ns == t for p, t in made.items())
    code, _, err = run(capsys, *argv[:4], "--grid", "idea")
    assert code == 2 and "Did you mean 'ideas'" in err


# ---- a hub of our own, on this machine


@pytest.fixture
def hub(place, tmp_path):
    "A server on this machine, and the environment of a process that takes it for the hub."
    with serve(place / "hub", tmp_path / "home") as found:
        yield found


def test_the_visitors_sentence(place, hub):
    "Downloaded with a bar, explained; a second time from the cache, with the hub gone; then a damaged cache."
    server, process = hub
    picture = next((place / "data" / "wikiart").rglob("*.jpg"))
    command = [
        sys.executable,
        "-m",
        "sevlm",
        "explain",
        str(picture),
        "--weights",
        "owner/tiny",
        "--lexicon",
        str(place / "lexicon.txt"),
        "--device",
        "cpu",
        "--json",
    ]
    first = process(command)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)[0]["emotion"] is not None and "%" in first.stderr
    assert any("ckpt_stats_best-res.tar" in a for a in server.asked) and not any(
        "best-acc" in a for a in server.asked if "/resolve/" in a
    )
    server.shutdown()
    server.server_close()
    second = process(command)
    assert second.returncode == 0 and json.loads(second.stdout) == json.loads(first.stdout), second.stderr


def test_a_file_damaged_on_the_way(place, hub):
    server, process = hub
    server.spoiled = True
    probe = "from sevlm.models.released import from_hub; from_hub('owner/tiny')"
    done = process([sys.executable, "-c", probe])
    assert done.returncode == 1 and "ckpt_stats_best-res.tar is not what the hub announced" in done.stderr


def test_without_a_network_the_message_says_what_to_bring(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(sevlm.models.hub, "ask_hub", lambda: ConnectionError("no network"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        CheckpointError,
        match=r"could not get the released weights 'jing5566/SEVLM'.*ckpt_stats_best-res\.tar.*put them into one "
        r"folder",
    ):
        from_hub("jing5566/SEVLM")


def test_inspect_knows_the_layout(place, capsys, tmp_path):
    code, out, _ = run(
        capsys,
        "inspect",
        place / "hub",
        place / "hub" / "SELVM_on_artEmis-V2" / "nle_model_best-res" / "pytorch_model.bin",
        "--json",
    )
    released, weights = json.loads(out)
    assert (
        code == 0
        and released["kind"] == "released checkpoint of a SEVLM"
        and released["every tensor fits"]["configuration"]["causal_vad"] is False
    )
    assert weights["kind"] == "weights (bin)" and weights["by part"].keys() == {
        "transformer",
        "sim_mlp",
        "VAD_head",
        "lm_head",
    }
    root = write_released(
        Released(SEVLM(SEVLMConfig.preset("tiny", vocab_size=1504)), load_tokenizer(asset("mini"))), tmp_path
    )
    (root / "ckpt_stats_best-res.tar").write_bytes(b"PK\x03\x04 cut")
    code, out, _ = run(capsys, "inspect", root)
    assert code == 1 and "ckpt_stats_best-res.tar is not a readable PyTorch file" in out


# ---- what is refused, and who is named


class Mischief:
    "Would make a file when unpickled in the ordinary way."

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


BIAS = "transformer.VAD_linear.bias"
NUMBERS = {
    "missing": ({BIAS: None}, BIAS),
    "extra": ({"transformer.more.weight": torch.zeros(2)}, "transformer.more.weight"),
    "misshapen": ({BIAS: torch.zeros(3)}, BIAS),
    "not finite": ({BIAS: torch.full((48,), torch.nan)}, BIAS),
    "untied head": ({"lm_head.weight": torch.zeros(1504, 48)}, "lm_head.weight"),
}


@pytest.fixture
def spoiled(tmp_path):
    "A whole checkpoint, to be damaged."
    return write_released(
        Released(SEVLM(SEVLMConfig.preset("tiny", vocab_size=1504)), load_tokenizer(asset("mini"))),
        tmp_path / "checkpoint",
    )


@pytest.mark.parametrize(
    "what, where",
    [*((what, "decoder") for what in NUMBERS), *((what, "VAD encoder") for what in NUMBERS if what != "untied head")],
)
def test_wrong_tensors(spoiled, what, where):
    change, culprit = NUMBERS[what]
    if where == "decoder":
        file = spoiled / "nle_model_best-res" / "pytorch_model.bin"
        state = torch.load(file, weights_only=True)
        inner = state
    else:
        file, culprit = spoiled / "ckpt_stats_best-res.tar", "more" if what == "extra" else "norm.weight"
        state = torch.load(file, weights_only=True)
        inner, change = (
            state["emo_encoder_state_dict"],
            {
                culprit: None
                if what == "missing"
                else torch.full((2 if what == "misshapen" else 3,), torch.nan if what == "not finite" else 1.0)
            },
        )
    for key, value in change.items():
        inner.pop(key) if value is None else inner.update({key: value})
    torch.save(state, file)
    with pytest.raises(CheckpointError, match=f"{file.name}: tensor '{culprit}'".replace(".", r"\.")):
        read_released(spoiled)


@pytest.mark.parametrize(
    "key, value",
    [
        ("emo_encoder_state_dict", 3),
        ("emo_encoder_state_dict", {1: torch.zeros(1)}),
        ("encoder_state_dict", [1]),
        ("encoder_state_dict", {"proj": 3}),
    ],
)
def test_parts_that_are_no_tensors(spoiled, key, value):
    file = spoiled / "ckpt_stats_best-res.tar"
    torch.save({**torch.load(file, weights_only=True), key: value}, file)
    with pytest.raises(CheckpointError, match=f"{key} is not names with tensors"):
        read_released(spoiled)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(sevlm=[1]), "must be a JSON object"),
        (dict(sevlm={"layers": -1}), "must be positive"),
        (dict(img_size="224"), "'img_size' is missing or no whole number"),
        (dict(n_layer=-1), "must be positive"),
        (dict(n_layer=10**9), "asks for at least"),
        (dict(max_seq_len="30"), "expected a whole number"),
    ],
)
def test_settings_that_cannot_be(spoiled, changes, words):
    file = spoiled / "nle_model_best-res" / "config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings = settings if "sevlm" in changes else {k: v for k, v in settings.items() if k != "sevlm"}
    file.write_text(json.dumps({**settings, **changes}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=words):
        read_released(spoiled)


def test_a_trained_image_encoder_comes_out_as_it_was_read(spoiled, tmp_path):
    tar = spoiled / "ckpt_stats_best-res.tar"
    tower = ImageEncoder(SEVLMConfig.preset("tiny")).visual.state_dict()
    theirs = {f"visual.{k}": v for k, v in tower.items()}
    torch.save({**torch.load(tar, weights_only=True), "encoder_state_dict": theirs}, tar)
    read = read_released(spoiled)
    assert all(torch.equal(v, tower[k]) for k, v in read.model.encoder.visual.state_dict().items())
    again = torch.load(write_released(read, tmp_path / "again") / tar.name, weights_only=True)["encoder_state_dict"]
    assert again.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in again.items())


@pytest.mark.parametrize("name", ["nle_model_best-res/pytorch_model.bin", "ckpt_stats_best-res.tar"])
def test_code_in_a_pickle_is_named_and_not_run(spoiled, tmp_path, name):
    torch.save({"epoch": 1, "more": Mischief(tmp_path / "was here")}, spoiled / name)
    with pytest.raises(CheckpointError, match=r"asks for '\w*\.mkdir', which is code; it was not run"):
        read_released(spoiled)
    assert not (tmp_path / "was here").exists()


def test_a_tokenizer_without_the_added_tokens(spoiled):
    (spoiled / "nle_gpt2_tokenizer_0" / "added_tokens.json").unlink()
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        (spoiled / "nle_gpt2_tokenizer_0" / name).write_text(
            json.dumps({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}),
            encoding="utf-8",
        )
    with pytest.raises(DataError, match="lacks <pad>, <prefix>, <emotion>, <explanation>"):
        read_released(spoiled)


def test_ids_of_added_tokens_are_those_of_the_checkpoint(spoiled):
    "In another order they keep their ids; with ids that do not follow the vocabulary they are refused."
    file = spoiled / "nle_gpt2_tokenizer_0" / "added_tokens.json"
    ids = json.loads(file.read_text(encoding="utf-8"))
    turned = dict(zip(ids, [*list(ids.values())[1:], list(ids.values())[0]]))
    file.write_text(json.dumps(turned), encoding="utf-8")
    tokenizer = read_released(spoiled).tokenizer
    assert {t: tokenizer.convert_tokens_to_ids(t) for t in turned} == turned
    file.write_text(json.dumps({**ids, "<pad>": 5000}), encoding="utf-8")
    with pytest.raises((CheckpointError, DataError), match="pad|5000|entries"):
        read_released(spoiled)

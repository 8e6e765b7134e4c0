"""What the pages errors, utils and config cannot check themselves: light imports, every setting both ways, files
under stress."""

import json
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sevlm.config import EMOTIONS, POLARITY, TEXTS, SEVLMConfig, TrainConfig, emotion_id
from sevlm.errors import ConfigError, DataError, SevlmError, did_you_mean
from sevlm.utils import asset, check_writable, format_bytes, resolve_device, seed_everything, write_atomic

CONFIGS = [(c, p) for c in (SEVLMConfig, TrainConfig) for p in c.presets]


def test_import_is_light():
    heavy = ("torch", "numpy", "pandas", "matplotlib", "fastcore", "nbdev")
    code = f"import sys, sevlm.config, sevlm.errors, sevlm.utils; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("cls,preset", CONFIGS)
def test_round_trip(cls, preset, tmp_path):
    config = cls.preset(preset)
    config.save(tmp_path / "deep" / "config.json")
    assert (
        cls.load(tmp_path / "deep" / "config.json") == config == cls.from_dict(config.to_dict())
        and config.name == preset
    )
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["config.json"]


@pytest.mark.parametrize("cls", [SEVLMConfig, TrainConfig])
def test_every_setting_refuses_the_wrong_type(cls):
    wrong = {
        int: [1.5, "3", True, None, 3.0, np.float64(3), np.bool_(True), np.str_("3"), np.array([3]), [3]],
        float: ["1", None, True, float("nan"), float("inf"), 10**400, np.float32("inf"), np.bool_(True), np.ones(1)],
        bool: ["False", 0, 1, None, np.int64(1), np.float64(0), np.str_("True"), np.array([True])],
        str: [3, None, True, np.int64(3), np.bytes_(b"mini"), np.array(["mini"])],
        TEXTS: [3, None, "awe", ["awe", 3], {"awe": 1}, np.array(["awe", "fear"])],
    }
    for f in fields(cls):
        for value in wrong[f.type]:
            with pytest.raises(ConfigError, match=f.name):
                cls.from_dict({f.name: value})


@pytest.mark.parametrize("cls", [SEVLMConfig, TrainConfig])
def test_every_setting_takes_numpy(cls, tmp_path):
    "As a scalar, an array or a tensor without dimensions; what is kept is Python's own, and goes through a file."
    kinds = {
        int: [np.int64, np.int32, np.uint8, np.array, torch.tensor],
        float: [np.float64, np.float32, np.float16, np.array, torch.tensor],
        bool: [np.bool_, np.array, torch.tensor],
        str: [np.str_, np.array],
        TEXTS: [list],
    }
    for f in fields(cls):
        plain = getattr(cls(), f.name)
        for kind in kinds[f.type]:
            if f.type is int and kind is np.uint8 and plain > 255:
                continue
            value = kind(plain)
            config, expected = cls().replace(**{f.name: value}), f.type(value)
            assert config == cls.from_dict({f.name: value})
            assert type(getattr(config, f.name)) is type(plain) and getattr(config, f.name) == expected
            config.save(tmp_path / "config.json")
            assert cls.load(tmp_path / "config.json") == config == cls().replace(**{f.name: expected})
    assert TrainConfig(budget=np.int32(11)).budget == 11.0 and type(TrainConfig(budget=np.int32(11)).budget) is float


def test_retired_settings(tmp_path, caplog):
    "A file of an earlier version is read without them, and the log says so; a call that asks for one is refused."
    assert not set(TrainConfig.retired) & {f.name for f in fields(TrainConfig)}
    (tmp_path / "train.json").write_text(
        json.dumps({**TrainConfig().to_dict(), "global_negatives": True}), encoding="utf-8"
    )
    assert TrainConfig.load(tmp_path / "train.json") == TrainConfig()
    assert "global_negatives" in caplog.text and "whole batch" in caplog.text
    for call in (TrainConfig.preset, lambda _, **s: TrainConfig().replace(**s)):
        with pytest.raises(ConfigError, match="unknown setting 'global_negatives'.*whole batch"):
            call("mini", global_negatives=False)
    with pytest.raises(ConfigError, match="unknown setting"):
        SEVLMConfig.from_dict({"global_negatives": True})  # a setting of another class


def test_every_switch_both_ways():
    switches = [f.name for f in fields(SEVLMConfig) if f.type is bool]
    assert len(switches) >= 6
    for k in switches:
        for v in (True, False):
            assert getattr(SEVLMConfig.preset("tiny", **{k: v}), k) is v
    for k, options in SEVLMConfig.choices.items():
        for v in options:
            assert getattr(SEVLMConfig.preset("tiny", **{k: v}), k) == v


@pytest.mark.parametrize(
    "bad",
    [
        dict(heads=5),
        dict(vad_heads=2),
        dict(patches=195),
        dict(image_size=13),
        dict(layers=0),
        dict(dropout=1.0),
        dict(max_tokens=2000),
        dict(vad_positions=8),
        dict(vad_weight=-1),
        dict(boundary="six"),
        dict(layers=2**63),
    ],
)
def test_impossible_models(bad):
    with pytest.raises(ConfigError):
        SEVLMConfig.preset("paper", **bad)
    with pytest.raises(ConfigError):
        SEVLMConfig().replace(**bad)


@pytest.mark.parametrize(
    "bad",
    [
        dict(epochs=0),
        dict(lr_vad=-1e-5),
        dict(schedule="cosine"),
        dict(precision="float8"),
        dict(accumulate=0),
        dict(budget=-1.0),
        dict(warmup_steps=-1),
        dict(seed=99999999999999999999),
        dict(batch_size=2**63),
        dict(threads=9999999999),
    ],
)
def test_impossible_runs(bad):
    with pytest.raises(ConfigError):
        TrainConfig.preset("mini", **bad)


def test_frozen_and_hashable():
    with pytest.raises(AttributeError):
        SEVLMConfig().width = 3
    assert len({SEVLMConfig(), SEVLMConfig.preset("corrected"), SEVLMConfig.preset("paper")}) == 2


def test_unknown_names():
    with pytest.raises(ConfigError, match="Did you mean 'vad_weight'"):
        SEVLMConfig.from_dict({"vad_wieght": 1.0})
    with pytest.raises(ConfigError, match="Did you mean 'mini'"):
        TrainConfig.preset("mni")
    with pytest.raises(DataError, match="Did you mean 'sadness'"):
        emotion_id("sadnes")
    with pytest.raises(DataError):
        asset("../sevlm.pyc")
    assert issubclass(DataError, SevlmError) and len(POLARITY) == len(EMOTIONS) == 9


@given(st.text(max_size=20))
@settings(max_examples=50, deadline=None)
def test_did_you_mean_takes_anything(name):
    assert did_you_mean(name, EMOTIONS).endswith("Valid: " + ", ".join(EMOTIONS) + ".")


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "3", '{"heads": 5}', '{"a": 1}', "nonsense", '{"layers": NaN}', '{"dropout": Infinity}'),
        *('{"dropout": 1%s}' % ("0" * 400), '{"dropout": 1%s}' % ("0" * 5000), "[" * 100_000),
    ],
    ids=lambda text: text[:30],
)
def test_bad_files(tmp_path, text):
    (tmp_path / "c.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        SEVLMConfig.load(tmp_path / "c.json")


def test_binary_file(tmp_path):
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError):
        TrainConfig.load(tmp_path / "c.json")
    with pytest.raises(ConfigError):
        TrainConfig.load(tmp_path)


def test_write_atomic_keeps_the_old_file(tmp_path):
    (tmp_path / "f.bin").write_bytes(b"old")
    with pytest.raises(ValueError):
        with write_atomic(tmp_path / "f.bin") as tmp:
            assert tmp.parent == tmp_path and tmp.suffix == ".bin"
            tmp.write_bytes(b"ne")
            raise ValueError
    assert (tmp_path / "f.bin").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_check_writable(tmp_path):
    assert check_writable(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="Choose another folder"):
        check_writable(tmp_path / "file" / "x")


@pytest.mark.parametrize(
    "n, said",
    [(0, "0 B"), (999, "999 B"), (52_200, "52.2 kB"), (999_600, "1 MB"), (4.2e9, "4.2 GB"), (3e15, "3e+03 TB")],
)
def test_bytes_in_words(n, said):
    assert format_bytes(n) == said


def test_devices_and_seeds():
    assert resolve_device("cpu") == torch.device("cpu")
    for name in ("gpu", "", "cuda:99", "meta"):
        with pytest.raises(ConfigError):
            resolve_device(name)
    seed_everything(2**32 + 1)
    a = torch.rand(3)
    seed_everything(2**32 + 1)
    assert torch.equal(a, torch.rand(3))

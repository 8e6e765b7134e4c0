"""A few hundred generated inputs of each kind; `make fuzz` runs them in full. What was found stands below as tests."""

import io
import json
import os
import pickle
import struct
import zlib
from pathlib import Path

import pytest
import torch
from fuzz.campaign import CASES, run_kind
from fuzz.kinds import inside, seeds_of
from fuzz.mutations import harm
from PIL import Image
from safetensors.torch import save_file

from sevlm.app.inspect import inspect_path
from sevlm.artemis.folder import truth_of
from sevlm.artemis.pickles import read_untrusted
from sevlm.artemis.protocol import Vocabulary, read_preprocessed
from sevlm.artemis.records import read_grouped, read_histograms, read_records
from sevlm.artemis.utterances import read_tables
from sevlm.data.paintings import read_artemis
from sevlm.errors import CheckpointError, DataError, ImageError, LexiconError, SevlmError
from sevlm.images import open_image
from sevlm.lexicon.files import is_lexicon, read_lexicon_file
from sevlm.lexicon.token_table import VADTable
from sevlm.models.hub import read_tensors
from sevlm.models.sevlm import load_model
from sevlm.studies.evaluate import read_predictions, read_scores
from sevlm.studies.text_emotion import load_text_emotion

FEW = {name: n // 50 for name, n in CASES.items()}  # 340 cases together
ENDLESS = "[" * 100_000
DIGITS = "9" * 5_000


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    return seeds_of(tmp_path_factory)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # of PyTorch, on files that are none
@pytest.mark.parametrize("kind", CASES)
def test_a_few_cases(kind, seeds):
    "Only our errors, in time; the limit of memory needs a process of its own and is left to `make fuzz`."
    found = run_kind(kind, FEW[kind], seed=1, seeds=seeds, limit=False)
    assert found["cases"] == FEW[kind] and not found["findings"], json.dumps(found["findings"], indent=1)[:3000]


def test_the_campaign_is_large_and_finds_faults(seeds, monkeypatch):
    "At least 10,000 cases; a reader that lets a foreign error out is a finding, with the case that shows it."
    assert sum(CASES.values()) >= 10_000 and len(CASES) == 10

    def broken(path):
        return json.loads(Path(path).read_text(encoding="utf-8"))["tokens"]

    monkeypatch.setattr("fuzz.kinds.read_tables", broken)
    findings = run_kind("json", 30, seed=1, seeds=seeds, limit=False)["findings"]
    assert findings and all(f["case"] and f["times"] for f in findings.values())
    assert {key.split()[0] for key in findings} & {"KeyError", "JSONDecodeError", "TypeError"}


# ---- what was found


def put(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("text", [ENDLESS, f"[{DIGITS}]", f'{{"utterances": {ENDLESS}', f'{{"a": {DIGITS}}}'])
def test_json_without_end(tmp_path, text):
    "Brackets deeper than the interpreter goes, and numbers it refuses to read."
    path = put(tmp_path / "a.json", text)
    for read in (read_tables, Vocabulary.load, read_scores, read_predictions, read_grouped, read_records):
        with pytest.raises(DataError, match="a.json"):
            read(path)
    put(tmp_path / "a.jsonl", text)
    with pytest.raises(DataError, match="a.jsonl"):
        read_predictions(tmp_path / "a.jsonl")


def test_a_list_without_end_in_a_table(tmp_path):
    path = put(tmp_path / "a.csv", f"art_style,painting,emotion_histogram\nCubism,x,{ENDLESS}\n")
    with pytest.raises(DataError, match="row 1"):
        read_histograms(path)


def test_rows_longer_than_the_header(tmp_path):
    "No columns are shifted, and nobody waits for minutes."
    path = put(tmp_path / "a.csv", "art_style,painting,emotion_histogram\n" + "a,b,c," * 999 + "d\n")
    with pytest.raises(DataError, match="a.csv"):
        read_histograms(path)
    with pytest.raises(DataError, match="the header has 3 fields, the first row 2998"):
        read_preprocessed(path)


def test_columns_without_end(tmp_path):
    path = put(tmp_path / "a.csv", "art_style,painting,emotion_histogram," * 300_000 + "\na,b,c\n")
    with pytest.raises(DataError, match="a.csv: more than 1000 columns"):
        read_histograms(path)


def test_a_classifier_that_asks_for_more_than_is_there(seeds, tmp_path):
    config = json.loads((seeds / "listener" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "model.safetensors").symlink_to(seeds / "listener" / "model.safetensors")
    for name in ("width", "hidden", "head", "embed"):
        put(tmp_path / "config.json", json.dumps({**config, "settings": {**config["settings"], name: 2**31}}))
        with pytest.raises(CheckpointError, match="more numbers than"):
            load_text_emotion(tmp_path)
    put(tmp_path / "config.json", json.dumps(config))
    load_text_emotion(tmp_path)


def test_half_letters_in_records(seeds, tmp_path):
    "An escape of half a letter is no text that a file or a tokenizer takes."
    grouped = json.loads((seeds / "data/v1/deep_nets/artemis_gt_references_grouped.json").read_text(encoding="utf-8"))
    grouped["train"][0]["painting"] = "\ud800"
    with pytest.raises(DataError, match="surrogates"):
        read_grouped(put(tmp_path / "a.json", json.dumps(grouped)))
    records = json.loads((seeds / "data/v1/artEmisX_val.json").read_text(encoding="utf-8"))
    next(iter(records.values()))["explanations"][0] = "half \ud800"
    with pytest.raises(DataError, match="surrogates"):
        read_records(put(tmp_path / "b.json", json.dumps(records)))


@pytest.mark.parametrize(
    "answer",
    [
        {"painting": ["a"]},
        {"painting": {}},
        {"emotion": 3},
        {"emotion": ["awe"]},
        {"probabilities": [0.5]},
        {"probabilities": {"awe": "much"}},
    ],
)
def test_answers_of_wrong_types(tmp_path, answer):
    whole = {"painting": "a/b", "emotion": "awe", "explanation": "it is", **answer}
    with pytest.raises(DataError, match="answer 1"):
        read_predictions(put(tmp_path / "predictions.jsonl", json.dumps(whole) + "\n"))


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "art_style,painting,subjects\nx,y\n", '"', "\0\0", "x" * 200_000 + ",y\nz,u"]
)
def test_a_truth_file_of_another_kind(tmp_path, text):
    put(tmp_path / "mini_truth.csv", text)
    with pytest.raises(DataError, match="mini_truth.csv"):
        truth_of(tmp_path)


def test_a_field_that_is_too_long(tmp_path):
    path = put(tmp_path / "a.csv", "word," + "a" * 200_000 + "\nsea,1\n")
    assert not is_lexicon(path)
    with pytest.raises(LexiconError, match="a.csv"):
        read_lexicon_file(path)


def test_a_name_that_no_file_can_have(seeds, tmp_path):
    config = json.loads((seeds / "run/last/config.json").read_text(encoding="utf-8"))
    for name in ("model.safetensors",):
        (tmp_path / name).symlink_to(seeds / "run" / "last" / name)
    for source in ("a" * 5_000, "a\0b", "../../nothing", "/etc/passwd"):
        put(tmp_path / "config.json", json.dumps({**config, "tower_pretrained": source}))
        with pytest.raises(SevlmError):
            load_model(tmp_path)


# ---- bounds


def test_paths_stay_in_their_folder(seeds, tmp_path):
    images = tmp_path / "wikiart"
    (images / "Cubism").mkdir(parents=True)
    picture = next((seeds / "mini" / "wikiart").rglob("*.jpg")).read_bytes()
    for place in (tmp_path / "secret.jpg", images / "Cubism" / "x.jpg", images / "secret.jpg"):
        place.write_bytes(picture)
    names = ["../secret", "..", "../../secret", f"{tmp_path}/secret", "C:\\secret", "..\\..\\secret", "x"]
    rows = "".join(f'Cubism,"{name}",awe,it is,1\n..,"{name}",awe,it is,1\n' for name in names)
    paintings, report = read_artemis(
        put(tmp_path / "a.csv", f"art_style,painting,emotion,utterance,repetition\n{rows}"), images
    )
    inside(paintings, images)
    assert [p.name for p in paintings] == ["x"] and report.dropped["name that could leave the image folder"] >= 12
    records = json.loads((seeds / "data/v1/artEmisX_val.json").read_text(encoding="utf-8"))
    for name in (
        "../secret.jpg",
        "../../secret.jpg",
        f"{tmp_path}/secret.jpg",
        "Cubism/../../secret.jpg",
        "Cubism\\..\\x.jpg",
    ):
        next(iter(records.values()))["image_name"] = name
        with pytest.raises(DataError, match="image_name"):
            read_records(put(tmp_path / "b.json", json.dumps(records)), images)


def test_small_files_that_claim_to_be_large(tmp_path):
    "Nothing is taken for what a header claims."
    for size in (2**31, 2**60, 2**64 - 1):
        (tmp_path / "a.safetensors").write_bytes(size.to_bytes(8, "little") + b"{}")
        with pytest.raises(CheckpointError, match="a.safetensors"):
            read_tensors(tmp_path / "a.safetensors")
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="a.safetensors"):
        read_tensors(tmp_path / "a.safetensors")
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    claim = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + claim + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )
    with pytest.raises(ImageError, match="a.png"):
        open_image(tmp_path / "a.png")
    for code in (
        b"\x8b\xff\xff\xff\x7f.",
        b"\x8d" + b"\xff" * 7 + b"\x0f.",
        b"\x96" + b"\xff" * 7 + b"\x0f.",
        b"N\x95" + b"\xff" * 8 + b".",
    ):
        (tmp_path / "a.pkl").write_bytes(b"\x80\x05" + code)
        with pytest.raises(DataError, match="a.pkl"):
            read_untrusted(tmp_path / "a.pkl")


def test_harm_would_be_noticed(tmp_path):
    "The pickles of the campaign leave a trace where they are opened the usual way."
    for thing in harm(str(tmp_path / "canary"))[:5]:
        data = pickle.dumps(thing)
        (tmp_path / "a.pkl").write_bytes(data)
        read_untrusted(tmp_path / "a.pkl")
        assert not (tmp_path / "canary").exists()
        pickle.loads(data)
        assert (tmp_path / "canary").exists()
        (os.rmdir if (tmp_path / "canary").is_dir() else os.unlink)(tmp_path / "canary")


def test_a_table_of_another_type_is_refused(tmp_path):
    known = torch.ones(4, dtype=torch.bool)
    for vad in (torch.zeros(4, 3).to(torch.float8_e5m2), torch.zeros(4, 3, dtype=torch.float64)):
        save_file({"vad": vad, "known": known}, tmp_path / "table.safetensors")
        with pytest.raises(CheckpointError, match="expected vad .* \\(float32\\)"):
            VADTable.load(tmp_path / "table.safetensors")


def test_a_picture_that_only_its_pixels_save_is_inspected(tmp_path):
    "The checksum of its EXIF is wrong, so that Pillow alone cannot tell what it is."
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    header, rest = buffer.getvalue()[:33], buffer.getvalue()[33:]
    (tmp_path / "a.png").write_bytes(header + b"\0\0\0\x04eXIfMM\0*\0\0\0\0" + rest)
    found = inspect_path(tmp_path / "a.png")
    assert found["readable"] == 1 and sum(found["colour modes"].values()) == 1

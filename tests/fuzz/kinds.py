"""The kinds of input, each with the files it starts from and the public functions that read it."""

import contextlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from commands import prepare_argv
from fuzz.mutations import ESCAPES, NUMBERS, TEXTS, binary, jsons, pickles, tables, tensors
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of

from sevlm.app.inspect import inspect_path
from sevlm.artemis.folder import open_data, paintings_of, provenance, truth_of
from sevlm.artemis.pickles import module_tensors, read_untrusted, read_untrusted_torch, to_array, to_dataframe
from sevlm.artemis.prepare import up_to_date
from sevlm.artemis.protocol import Vocabulary, read_preprocessed, read_rows
from sevlm.artemis.records import load_records, read_grouped, read_histograms, read_records
from sevlm.artemis.utterances import read_known_words, read_tables
from sevlm.cli import main, make_parser
from sevlm.config import EMOTIONS, SEVLMConfig, TrainConfig
from sevlm.data.imagefolder import make_imagefolder
from sevlm.data.paintings import read_artemis
from sevlm.errors import SevlmError
from sevlm.images import check_picture, open_image
from sevlm.lexicon.files import read_lexicon_file
from sevlm.lexicon.lexicon import Lexicon
from sevlm.lexicon.token_table import VADTable
from sevlm.models.explainer import load
from sevlm.models.hub import read_pickle, read_tensors
from sevlm.models.sevlm import load_model
from sevlm.models.tokenizer import load_tokenizer
from sevlm.models.vision import ImageEncoder, load_tower, read_tower, save_tower
from sevlm.studies.evaluate import read_predictions, read_scores
from sevlm.studies.text_emotion import (
    TextEmotion,
    TextEmotionConfig,
    load_text_emotion,
    read_glove,
    read_vocabulary,
    save_text_emotion,
)
from sevlm.synthetic.dataset import make_mini
from sevlm.training.run import chosen_before, claim_folder
from sevlm.utils import read_object


@dataclass
class Kind:
    "How cases are made, and what is done with one."

    cases: st.SearchStrategy
    run: Callable[[object], None]


def make_seeds(place: Path) -> Path:
    "A synthetic set, prepared, and the tiny model trained on it for one epoch, by the commands themselves."
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        data = make_mini(place / "mini", n=20, size=32, workers=1, progress=False)
        train = ["train", str(place / "data" / "v1"), "--out", str(place / "run"), "--preset", "tiny"]
        train += ["--set", "epochs=1", "--features", "memory", "--threads", "1", "--quiet"]
        for argv in (prepare_argv(data, place / "data"), train):
            if code := main(argv):
                raise RuntimeError(f"no seeds, exit code {code}: {quiet.getvalue()}")
    vocabulary = Vocabulary([*Vocabulary.specials, "the", "sea"])
    save_text_emotion(TextEmotion(TextEmotionConfig.preset("mini"), vocabulary), place / "listener")
    return place


def seeds_of(tmp_path_factory) -> Path:
    "The seeds, made once for all tests of a session."
    place = tmp_path_factory.getbasetemp() / "seeds"
    if not place.is_dir():
        make_seeds(place)
    return place


def inside(paintings, images: Path) -> None:
    "No picture is taken from outside of its folder."
    for p in paintings:
        if p.image is not None:
            assert Path(os.path.abspath(p.image)).is_relative_to(os.path.abspath(images)), f"{p.image} is outside"


def short(path: Path, lines: int = 8) -> bytes:
    return b"".join(path.read_bytes().splitlines(keepends=True)[:lines])


def pick(value: dict, n: int = 2) -> dict:
    return dict(list(value.items())[:n])


def tolerant(*calls: Callable[[], object]) -> None:
    "Each is called, whatever becomes of the others; only the project's own errors are as it should be."
    foreign: list[Exception] = []
    for call in calls:
        try:
            call()
        except SevlmError:
            pass
        except ExceptionGroup as e:
            foreign += e.exceptions
        except Exception as e:
            foreign.append(e)
    if foreign:
        raise ExceptionGroup("foreign errors", foreign)


def pictures() -> list[bytes]:
    "Small pictures of many forms."
    found, image = [], Image.fromarray(np.arange(24 * 16 * 3, dtype=np.uint8).reshape(24, 16, 3))
    for form, mode in (
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("JPEG", "L"),
        ("PNG", "RGB"),
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("PNG", "1"),
        ("PNG", "I;16"),
        ("WEBP", "RGB"),
        ("GIF", "P"),
        ("TIFF", "RGB"),
        ("TIFF", "F"),
        ("BMP", "RGB"),
        ("PPM", "RGB"),
        ("ICO", "RGBA"),
        ("TGA", "RGB"),
    ):
        out, exif = io.BytesIO(), Image.Exif()
        exif[0x0112], exif[0x011A] = 6, 72.0
        picture = Image.new("I;16", (16, 24), 999) if mode == "I;16" else image.convert(mode)
        picture.save(out, form, **({"exif": exif} if form in ("JPEG", "PNG", "WEBP", "TIFF") else {}))
        found.append(out.getvalue())
    out = io.BytesIO()
    image.save(out, "GIF", save_all=True, append_images=[image.rotate(k) for k in (90, 180)])
    return [*found, out.getvalue()]


PICTURE_SUFFIX = {
    b"\xff\xd8": ".jpg",
    b"\x89P": ".png",
    b"RI": ".webp",
    b"GI": ".gif",
    b"II": ".tif",
    b"MM": ".tif",
    b"BM": ".bmp",
}


def make_kinds(seeds: Path, place: Path) -> dict[str, Kind]:
    "All kinds; files are written below `place`."
    v1, images, checkpoint = seeds / "data" / "v1", seeds / "mini" / "wikiart", seeds / "run" / "last"
    canary = str(place / "canary")
    vocabulary = Vocabulary([*Vocabulary.specials, "the", "sea"])

    def put(name: str, data: bytes) -> Path:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    # ---- tables

    def csv_case(data: bytes) -> None:
        path = put("a.csv", data)

        def release():
            inside(read_artemis(path, images)[0], images)

        def truth():
            put("truth/mini_truth.csv", data)
            truth_of(place / "truth")

        tolerant(
            release,
            truth,
            *(lambda f=f: f(path) for f in (read_histograms, read_preprocessed, read_rows, inspect_path)),
        )
        tolerant(lambda: read_preprocessed(path, lists=True), lambda: read_rows(path, "v2"))

    csvs = [short(seeds / "mini" / name) for name in ("artemis_dataset_release_v0.csv", "mini_truth.csv")]
    csvs += [short(v1 / name) for name in ("deep_nets/artemis_preprocessed.csv", "image-emotion-histogram.csv")]

    # ---- JSON

    grouped = v1 / "deep_nets" / "artemis_gt_references_grouped.json"
    score_of = {"value": 0.5, "n": 3, "interval": [0.1, 0.9], "note": ""}
    plain = {
        "records": pick(read_object(v1 / "artEmisX_val.json")),
        "grouped": {k: v[:1] for k, v in read_object(grouped).items()},
        "tables": {"utterances": {"a b": "c"}, "tokens": {"colours": "colors"}},
        "words": list(vocabulary.words),
        "model": SEVLMConfig.preset("tiny").to_dict(),
        "training": TrainConfig.preset("tiny").to_dict(),
        "metrics": {"about": {"part": "test"}, "scores": {"macro F1": score_of}, "tables": {}},
        "mini": read_object(seeds / "mini" / "mini.json"),
        "run": read_object(seeds / "run" / "run.json"),
        "train": read_object(seeds / "run" / "train.json"),
        "prepared": read_object(v1 / "prepared.json"),
        "coco": [{"image_id": 1, "caption": "i feel awe because it is"}],
    }
    prepared = place / "prepared"
    shutil.copytree(v1, prepared)
    (place / "claimed" / "state").mkdir(parents=True)
    (place / "claimed" / "state" / "state.pt").write_bytes(b"")

    def json_case(data: bytes) -> None:
        path = put("a.json", data)

        def prepared_folder():
            put("prepared/prepared.json", data)
            folder = open_data(prepared)
            assert folder.lexicon is None or Path(os.path.abspath(folder.lexicon)).is_relative_to(prepared), (
                folder.lexicon
            )
            inside(folder.checked()[0], folder.images)

        def run_folder():
            put("claimed/run.json", data)
            claim_folder(place / "claimed", plain["run"], True)

        def chosen():
            put("claimed/train.json", data)
            chosen_before(place / "claimed")

        def mini():
            put("made/mini.json", data)
            put("made/artemis_dataset_release_v0.csv", csvs[0])
            tolerant(lambda: inspect_path(place / "made"))
            make_mini(place / "made", n=1, progress=False)

        tolerant(
            prepared_folder,
            run_folder,
            chosen,
            mini,
            lambda: load_records(path),
            lambda: inside(read_records(path, images)[0], images),
            lambda: read_grouped(path),
            lambda: read_tables(path),
            lambda: Vocabulary.load(path),
            lambda: read_vocabulary(path),
            lambda: SEVLMConfig.load(path),
            lambda: TrainConfig.load(path),
            lambda: read_scores(path),
            lambda: read_predictions(path, {"1": "a/b"}),
            lambda: inspect_path(prepared),
            lambda: provenance(prepared),
            lambda: up_to_date(prepared, {}),
            lambda: paintings_of(open_data(prepared)),
        )

    answer = dict(painting="a/b", emotion="awe", explanation="it is", probabilities=dict.fromkeys(EMOTIONS, 1 / 9))
    answers = [
        [answer, {**answer, "painting": "a/c", "emotion": "fear"}],
        [{k: answer[k] for k in ("painting", "emotion", "explanation")}],
    ]

    def jsonl_case(data: bytes) -> None:
        from sevlm.data.paintings import Painting
        from sevlm.studies.evaluate import score

        path = put("predictions.jsonl", data)
        paintings = [Painting("a", name, ("awe", "awe", "fear"), ("it is",) * 3, ("It is",) * 3, None) for name in "bc"]
        tolerant(lambda: read_predictions(path), lambda: score(path, paintings, meteor="off"))

    # ---- lexicons and lists of words

    lexicons = [
        short(seeds / "mini" / "mini-vad-lexicon.txt"),
        b"Word\tValence\tArousal\tDominance\nsea\t0.8\t0.4\t0.5\nwar\t0.1\t0.9\t0.6\n",
        b"Word,V.Mean.Sum,A.Mean.Sum,D.Mean.Sum\nsea,6.2,3.1,5.0\nwar,1.8,7.2,3.9\n",
    ]

    def lexicon_case(data: bytes) -> None:
        path = put("a.txt", data)
        glove = put("glove.txt", data.replace(b"\t", b" "))
        tolerant(
            lambda: read_lexicon_file(path),
            lambda: Lexicon.read(path).facts(),
            lambda: inspect_path(path),
            lambda: read_known_words(path),
            lambda: read_glove(glove, vocabulary, 3),
            lambda: main_quietly(["lexicon", str(path)]),
        )

    # ---- pictures

    def image_case(data: bytes) -> None:
        path = put(f"pictures/a{PICTURE_SUFFIX.get(data[:2], '.jpg')}", data)
        try:
            tolerant(
                lambda: open_image(path),
                lambda: open_image(io.BytesIO(data)),
                lambda: check_picture(path, "quick"),
                lambda: check_picture(path, "full"),
                lambda: inspect_path(path),
            )
        finally:
            path.unlink()

    # ---- checkpoints

    files = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "vad_table.safetensors")
    originals = {name: (checkpoint / name).read_bytes() for name in files}
    originals["lexicon.json"] = json.dumps({"lexicon": "x", "may_be_shared": False, "digest": "0" * 16}).encode()
    mine = Path(shutil.copytree(checkpoint, place / "checkpoint"))
    listener = Path(shutil.copytree(seeds / "listener", place / "listener"))
    listener_config = read_object(listener / "config.json")
    tokenizer = json.loads(originals["tokenizer.json"])
    tokenizer["model"]["vocab"] = dict(list(tokenizer["model"]["vocab"].items())[:300])
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:20]
    cases = {
        "config.json": jsons([json.loads(originals["config.json"])]),
        "tokenizer.json": jsons([tokenizer]),
        "tokenizer_config.json": jsons([json.loads(originals["tokenizer_config.json"])]),
        "lexicon.json": jsons([json.loads(originals["lexicon.json"])]),
        "model.safetensors": tensors([originals["model.safetensors"]]),
        "vad_table.safetensors": tensors([originals["vad_table.safetensors"]]),
        "listener": jsons([listener_config]),
    }

    def checkpoint_case(case: tuple[str, bytes]) -> None:
        name, data = case
        if name == "listener":
            (listener / "config.json").write_bytes(data)
            return tolerant(lambda: load_text_emotion(listener))
        path = mine / name
        path.write_bytes(data)
        if name == "lexicon.json":
            (mine / "vad_table.safetensors").unlink()
        try:
            tolerant(lambda: load(mine, device="cpu"), lambda: inspect_path(mine))
            if name.endswith(".safetensors"):
                tolerant(lambda: read_tensors(path), lambda: VADTable.load(path), lambda: inspect_path(path))
            elif name.startswith("tokenizer"):
                tolerant(lambda: load_tokenizer(mine))
            else:
                tolerant(lambda: load_model(mine))
        finally:
            path.unlink()
            for name in files:
                if not (mine / name).is_file() or name == path.name:
                    (mine / name).write_bytes(originals[name])

    # ---- pickles

    frame = read_grouped(grouped)["train"].iloc[:3]
    things = [
        {"train": frame.to_dict("list")},
        [1, {"a": "b"}],
        {"<pad>": 0, "the": 1},
        {"idx_to_word": {"0": "<pad>"}},
    ]
    stored = [pickle.dumps(x, p) for x in (2, {"train": frame}, things[0], np.arange(4)) for p in (2, 4)]
    weights = {"a": torch.ones(2, 2), "b": torch.zeros(3, dtype=torch.int64)}
    for new in (True, False):
        out = io.BytesIO()
        torch.save(weights, out, _use_new_zipfile_serialization=new)
        stored.append(out.getvalue())

    def pickle_case(data: bytes) -> None:
        path, pt = put("a.pkl", data), put("a.pt", data)

        def objects():
            for x in read_untrusted(path):
                tolerant(lambda x=x: to_array(x), lambda x=x: to_dataframe(x), lambda x=x: module_tensors(x))
                repr(x)

        tolerant(
            objects,
            lambda: read_grouped(path),
            lambda: read_vocabulary(path),
            lambda: read_pickle(pt),
            lambda: read_tensors(pt),
            lambda: module_tensors(read_untrusted_torch(pt)),
            lambda: inspect_path(put("a.bin", data)),
        )
        assert not Path(canary).exists(), "code of a pickle was run"

    # ---- other data sets, and towers with what is written beside them

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        dict(file_name=f"{name}.png", emotion=mood, text=f"it is a {mood} place", split="train")
        for name, mood in (("a", "calm"), ("b", "gloomy"), ("c", "calm"), ("c", "gloomy"))
    ]
    parquet = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist([{**row, "image": {"bytes": pictures()[3], "path": "a.png"}} for row in rows]), parquet
    )
    as_csv = "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n"
    moods = b"emotion,polarity\ncalm,positive\ngloomy,negative\n"
    others = {
        "metadata.csv": tables([as_csv.encode()]),
        "metadata.jsonl": jsons([rows], lines=True),
        "emotions.csv": tables([moods]),
        "train.parquet": binary([parquet.getvalue()]),
    }

    def table_case(case: tuple[str, bytes]) -> None:
        name, data = case
        folder = place / "others"
        shutil.rmtree(folder, ignore_errors=True)
        for picture in "abc":
            put(f"others/{picture}.png", pictures()[3])
        put("secret.png", pictures()[3])
        if name == "emotions.csv":
            put("others/metadata.csv", as_csv.encode())
        put(f"others/{name}", data)

        def unpacked():
            shutil.rmtree(place / "unpacked", ignore_errors=True)
            made, _ = make_imagefolder(folder, place / "unpacked")
            inside(made.checked()[0], place / "unpacked")

        tolerant(lambda: inside(open_data(folder).checked()[0], folder), lambda: inspect_path(folder), unpacked)

    tower = place / "tower" / "tower.safetensors"
    tower.parent.mkdir()
    save_tower(ImageEncoder(SEVLMConfig.preset("tiny")), tower)
    stored_tower, bare_tower = tower.read_bytes(), bytes_of(tensors_of(tower.read_bytes()))
    beside = {
        "tower.safetensors": tensors([stored_tower]),
        "open_clip_config.json": jsons(
            [{"model_cfg": {"embed_dim": 64, "vision_cfg": {"width": 48}}, "preprocess_cfg": {"mean": [0.5] * 3}}]
        ),
        "preprocessor_config.json": jsons(
            [{"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "size": 32}]
        ),
        "config.json": jsons([{"model_type": "clip", "vision_config": {"hidden_act": "quick_gelu"}}]),
    }

    def tower_case(case: tuple[str, bytes]) -> None:
        name, data = case
        for old in tower.parent.iterdir():
            old.unlink()
        tower.write_bytes(bare_tower)  # without its own note, what is beside it counts
        put(f"tower/{name}", data)
        encoder = ImageEncoder(SEVLMConfig.preset("tiny"))
        tolerant(
            lambda: read_tower(tower, "tiny"), lambda: load_tower(encoder, str(tower)), lambda: inspect_path(tower)
        )

    def named(makers: dict[str, st.SearchStrategy]) -> st.SearchStrategy:
        return st.sampled_from(sorted(makers)).flatmap(lambda name: makers[name].map(lambda data: (name, data)))

    # ---- the command line

    choices = make_parser()._subparsers._group_actions[0].choices
    options = {name: [o for a in p._actions for o in a.option_strings] for name, p in choices.items()}
    names = [
        str(place / "nothing"),
        str(seeds),
        str(v1),
        str(checkpoint),
        str(seeds / "mini"),
        "a.csv",
        *ESCAPES,
        "--",
        "-",
        "-x",
        "é",
        SPACED,
    ]
    names += [str(p) for p in (seeds / "mini" / "mini-vad-lexicon.txt", v1 / "artEmisX_val.json", place / "pictures")]
    values = st.sampled_from(
        [*names, *map(str, NUMBERS), *(t for t in TEXTS if len(t) < 100), "epochs=0", "width=nan", "=", "seed=9" * 50]
    )
    (place / "pictures").mkdir(exist_ok=True)
    # commands that would work for minutes, or write, are only given what they refuse
    slow = {"demo", "mini", "train", "ablate", "listener"}

    @st.composite
    def commands(draw) -> list[str]:
        name = draw(st.sampled_from([*choices, "", "explian"]))
        argv = [name] if name else []
        for _ in range(draw(st.integers(0, 4))):
            if draw(st.booleans()):
                argv.append(draw(st.sampled_from(options.get(name, ["--help", "--version"]))))
            argv.append(draw(values))
        return argv + (["--threads", "none"] if name in slow else [])

    def command_case(argv: list[str]) -> None:
        code, err = main_quietly(argv)
        assert code in (0, 1, 2), f"exit code {code}"
        assert "Traceback" not in err and (code == 0 or err.strip()), "a failure without a word"

    return {
        "csv": Kind(tables(csvs), csv_case),
        "json": Kind(st.sampled_from(sorted(plain)).flatmap(lambda k: jsons([plain[k]])), json_case),
        "jsonl": Kind(jsons(answers, lines=True), jsonl_case),
        "lexicon": Kind(tables(lexicons, "\t") | tables(lexicons[2:]) | binary(lexicons), lexicon_case),
        "image": Kind(binary(pictures()), image_case),
        "checkpoint": Kind(named(cases), checkpoint_case),
        "table": Kind(named(others), table_case),
        "tower": Kind(named(beside), tower_case),
        "pickle": Kind(pickles(stored, things, canary), pickle_case),
        "command": Kind(commands(), command_case),
    }


SPACED = "a folder\nof two lines"


def main_quietly(argv: list[str]) -> tuple[int, str]:
    "Exit code and messages of a command."
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    return code, err.getvalue()

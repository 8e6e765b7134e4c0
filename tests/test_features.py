"""Kept features are right or refused: cut off, damaged, mixed up, filled by several at once, on a full disk."""

import errno
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import time
from types import SimpleNamespace

import filelock
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sevlm.cli import main
from sevlm.config import SEVLMConfig, TrainConfig
from sevlm.data import features as module
from sevlm.data.batches import _stack
from sevlm.data.features import (
    DTYPES,
    RECORD,
    Features,
    FeatureStore,
    describe_encoder,
    feature_bytes,
    keep_features,
    key_of,
)
from sevlm.data.paintings import read_artemis
from sevlm.errors import ConfigError, DataError, ImageError
from sevlm.images import open_image
from sevlm.models.explainer import load
from sevlm.models.vision import ImageEncoder, load_tower, make_preprocess
from sevlm.studies.evaluate import evaluate
from sevlm.synthetic.dataset import make_mini
from sevlm.training import inputs, validation
from sevlm.training.validation import make_validation
from sevlm.utils import format_bytes

P, D, N = 4, 8, 10
spawn = multiprocessing.get_context("spawn")


class Toy(nn.Module):
    "A tower of one linear map, with what `describe_encoder` asks for; in another batch, rows differ by rounding only."

    def __init__(self, seed=0, scale=1.0, size=8):
        super().__init__()
        self.name, self.image_size, self.pool = "toy", size, 1
        self.visual = nn.Linear(3 * 16, D)
        self.preprocess = make_preprocess(size, (0.5,) * 3, (0.25,) * 3)
        with torch.no_grad():
            self.visual.weight.copy_(torch.randn(D, 48, generator=torch.Generator().manual_seed(seed)) * scale)
            self.visual.bias.zero_()

    def forward(self, img):
        squares = img.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(len(img), P, 48)
        return self.visual(squares), None


def draw(path, seed):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "pictures").mkdir()
    out = [tmp_path / "pictures" / f"{i}.png" for i in range(N)]
    for i, path in enumerate(out):
        draw(path, i)
    return out


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept"


def keep(paths, folder, encoder=None, opener=open_image, **given):
    return keep_features(encoder or Toy(), paths, opener, folder, **{"batch_size": 3, "progress": False, **given})


def exact(paths, encoder=None):
    encoder = encoder or Toy()
    with torch.no_grad():
        return encoder(torch.stack([encoder.preprocess(open_image(p)) for p in paths]))[0]


def right(features, paths, tolerance=2**-10):
    return len(features) == len(paths) and torch.allclose(features[:], exact(paths), rtol=tolerance, atol=1e-4)


def files(features):
    return sorted(p for p in features.report.folder.iterdir() if p.is_file() and p.name != ".lock")


ROW = P * D * 2  # bytes


def row_at(features, i):
    "Where the row of picture i begins in rows.bin."
    return features.store.rows[features.digests[i]][0] * ROW


def spoil(path, at, by=1):
    raw = bytearray(path.read_bytes())
    raw[at] ^= by
    path.write_bytes(raw)


# ------------------------------------------------------------------ what is served


def test_rows_come_in_the_order_asked_for(paths, folder):
    asked = [paths[i] for i in (4, 1, 4, 0)]
    features = keep(asked, folder)
    assert right(features, asked) and features.report.pictures == features.report.encoded == 3
    again = keep(asked[::-1], folder)
    assert right(again, asked[::-1]) and (again.report.kept, again.report.encoded) == (3, 0)


def test_every_way_of_asking(paths, folder):
    features = keep(paths, folder)
    all_rows = features[:]
    assert features.many is True and all_rows.shape == (N, P, D) and all_rows.dtype == torch.float32
    assert (
        features[2].shape == (P, D)
        and torch.equal(features[-1], all_rows[-1])
        and torch.equal(features[np.int64(3)], all_rows[3])
    )
    for index in ([7, 0, 7], np.array([7, 0, 7]), torch.tensor([7, 0, 7])):
        assert torch.equal(features[index], all_rows[[7, 0, 7]])
    assert torch.equal(features[torch.tensor([3])], all_rows[[3]]) and torch.equal(features[2:9:3], all_rows[2:9:3])
    assert features[[]].shape == (0, P, D) and torch.equal(features[np.arange(N) == 5], all_rows[[5]])
    assert torch.equal(torch.stack(list(features)), all_rows)  # ends by IndexError, as a sequence does
    for wrong in (N, [0, N], -N - 1):
        with pytest.raises(IndexError):
            features[wrong]


def test_it_serves_as_grids_of_batches(paths, folder):
    features = keep(paths, folder)
    assert torch.equal(_stack(features, [5, 2, 5]), features[[5, 2, 5]])


def test_nothing_to_keep(folder):
    features = keep([], folder)
    assert len(features) == 0 and features[:].shape == (0, P, D) and features.report.encoded == 0


def test_equal_files_share_a_row(paths, folder):
    shutil.copy(paths[0], paths[1])
    features = keep(paths, folder)
    assert features.report.encoded == N - 1 and right(features, paths)


def test_a_changed_picture_is_not_served_stale(paths, folder):
    keep(paths, folder)
    before = paths[3].stat()
    for seed in range(100, 200):  # another picture of the same size under the same name and date
        draw(paths[3], seed)
        if paths[3].stat().st_size == before.st_size:
            break
    os.utime(paths[3], ns=(before.st_atime_ns, before.st_mtime_ns))
    after = paths[3].stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    features = keep(paths, folder)
    assert features.report.encoded == 1 and right(features, paths)


@pytest.mark.parametrize("dtype, bound", [("float32", 0), ("float16", 2**-11), ("bfloat16", 2**-8)])
def test_error_of_what_is_stored(paths, folder, dtype, bound):
    "Numbers above 1, so that what the order of 48 sums rounds away (about 1e-6) is little beside what storing does."
    features, want = keep(paths, folder, dtype=dtype)[:], exact(paths)
    large = want.abs() > 1
    error = ((features - want).abs() / want.abs())[large].max().item()
    assert large.sum() > 100 and error <= bound + 1e-5 and (error > bound / 4 or not bound)


def test_precision_of_the_tower(paths, folder):
    plain, half = keep(paths, folder, dtype="float32"), keep(paths, folder, dtype="float32", precision="bfloat16")
    assert plain.report.folder != half.report.folder and half.report.encoded == N
    assert not torch.allclose(plain[:], half[:], rtol=1e-5) and torch.allclose(plain[:], half[:], rtol=0.05, atol=0.3)


def test_numbers_that_do_not_fit_are_an_error(paths, folder):
    large = Toy(scale=1e4)
    with pytest.raises(DataError, match=r"\.png reach .*e\+0.*float16 ends at 6.55e\+04.*bfloat16"):
        keep(paths, folder, large)
    assert keep(paths, folder, large, dtype="bfloat16").report.encoded == N
    with torch.no_grad():
        large.visual.bias[0] = float("nan")
    with pytest.raises(DataError, match="reach nan"):
        keep(paths, folder, large, dtype="float32")


# ------------------------------------------------------------------ the key


def test_the_key_sees_every_ingredient():
    config = SEVLMConfig.preset("mini")

    def key(opener=open_image, given=None, **changes):
        return key_of(
            describe_encoder(load_tower(ImageEncoder(config.replace(**changes)), "mini"), opener, **(given or {}))
        )

    keys = [
        key(),
        key(image_stats="imagenet"),
        key(resize="bilinear"),
        key(pool=2, patches=16),
        key(given={"dtype": "float32"}),
        key(given={"precision": "bfloat16"}),
        key(opener=draw),
        key_of(describe_encoder(ImageEncoder(config), open_image)),
    ]
    assert len(set(keys)) == len(keys) and key() == keys[0]


@pytest.mark.parametrize("given", [{"dtype": "float8"}, {"precision": "auto"}])
def test_unknown_precisions(paths, folder, given):
    with pytest.raises(ConfigError, match="is no dtype or precision.*Valid: float16, bfloat16, float32"):
        keep(paths, folder, **given)


def test_what_has_no_description_is_refused(paths, folder):
    with pytest.raises(ConfigError, match="cannot describe test_features.*lambda"):
        keep(paths, folder, opener=lambda p: open_image(p))
    vague = Toy()
    del vague.preprocess
    vague.preprocess = lambda picture: torch.zeros(3, 8, 8)
    with pytest.raises(ConfigError, match="cannot describe <function"):
        keep(paths, folder, vague)


def test_another_tower_has_another_folder(paths, folder):
    one, two = keep(paths, folder), keep(paths, folder, Toy(seed=1))
    assert one.report.folder != two.report.folder and two.report.encoded == N
    assert torch.allclose(two[:], exact(paths, Toy(seed=1)), rtol=2**-10, atol=1e-4) and right(
        keep(paths, folder), paths
    )


def test_files_of_another_key_are_not_served(paths, folder):
    "Copied over one's own: every checksum begins with the key."
    one, two = keep(paths, folder), keep(paths, folder, Toy(seed=1))
    for name in ("rows.bin", "index.bin", "about.json"):
        shutil.copy(one.report.folder / name, two.report.folder / name)
    again = keep(paths, folder, Toy(seed=1))
    assert again.report.damaged == N and again.report.encoded == N
    assert torch.allclose(again[:], exact(paths, Toy(seed=1)), rtol=2**-10, atol=1e-4)
    shutil.copy(one.report.folder / "rows.bin", again.report.folder / "rows.bin")  # rows only
    with pytest.raises(DataError, match="not served"):
        again[0]


def test_the_description_is_only_read_by_people(paths, folder):
    features = keep(paths, folder)
    about = features.report.folder / "about.json"
    assert json.loads(about.read_text(encoding="utf-8")) == describe_encoder(Toy(), open_image)
    about.unlink()
    extra = [*paths, paths[0].with_name("new.png")]
    draw(extra[-1], 77)
    again = keep(extra, folder)
    assert again.report.encoded == 1 and json.loads(about.read_text(encoding="utf-8")) == describe_encoder(
        Toy(), open_image
    )


# ------------------------------------------------------------------ what it will take


def test_bytes_are_known_before(paths, folder):
    assert round(feature_bytes(80_031, 196, 768) / 1e9, 1) == 24.1
    encoder = load_tower(ImageEncoder(SEVLMConfig.preset("mini")), "mini")
    for dtype in DTYPES:
        features = keep_features(encoder, paths, open_image, folder, dtype=dtype, progress=False)
        assert features.report.bytes == feature_bytes(N, 64, 128, dtype)


def test_it_says_what_it_will_take(paths, folder, capsys):
    keep(paths[:1], folder)
    keep(paths, folder, progress=True)
    out = capsys.readouterr().out
    assert f"{N - 1} of {N} pictures to encode: {format_bytes(feature_bytes(N - 1, P, D))} of" in out
    keep(paths, folder, progress=True)
    assert "to encode" not in capsys.readouterr().out


def refuse(path):
    raise AssertionError("a picture was opened")


def test_too_little_room_is_said_before_the_first_picture(paths, folder, monkeypatch):
    need = feature_bytes(N, P, D)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, need - 1))
    with pytest.raises(DataError, match=r"too little room.*float16.*pool=2.*another folder"):
        keep(paths, folder, opener=refuse)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, need))
    assert keep(paths, folder).report.encoded == N


# ------------------------------------------------------------------ cut off


class Cut(BaseException):
    "Stands for Ctrl-C or a kill."


def test_an_exception_keeps_what_is_done(paths, folder):
    count = 0

    def opener(path):
        nonlocal count
        if (count := count + 1) == 8:
            raise Cut
        return open_image(path)

    with pytest.raises(Cut):
        keep(paths, folder, opener=opener, batch_size=2)
    features = keep(paths, folder, opener=opener, batch_size=2)
    assert (
        features.report.kept == 6
        and features.report.encoded == 4
        and not features.report.damaged
        and right(features, paths)
    )


@pytest.mark.parametrize("part", [0, 0.5, 0.99, 1])
def test_cut_at_any_write(paths, folder, monkeypatch, part):
    "Dies in the middle of each writing, with a part of the bytes in the file."
    for at in range(1, 9):
        here, count, real = folder / str(at), 0, module._write

        def write(path, place, data):
            nonlocal count
            count += 1
            if count == at:
                data = memoryview(data).cast("B")
                real(path, place, data[: int(len(data) * part)])
                raise Cut
            real(path, place, data)

        with monkeypatch.context() as patch:
            patch.setattr(module, "_write", write)
            with pytest.raises(Cut):
                keep(paths, here)
        features = keep(paths, here)
        assert right(features, paths) and not features.report.damaged, at
        assert features.report.kept >= 3 * ((at - 1) // 2) - 2 and right(keep(paths, here), paths)


PATIENCE = [None]  # how many pictures this process opens before it waits for its end; None: all


def slowly(path):
    if PATIENCE[0] is not None:
        if PATIENCE[0] == 0:
            time.sleep(600)
        PATIENCE[0] -= 1
    time.sleep(0.05)
    return open_image(path)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def meet(folder, n):
    "Returns when n processes are here."
    folder.mkdir(exist_ok=True)
    (folder / f"{os.getpid()}").touch()
    wait_for(lambda: len(list(folder.iterdir())) == n)


def fill(paths, folder, meeting=None, patience=None):
    torch.set_num_threads(1)
    PATIENCE[0] = patience
    if meeting:
        meet(meeting, 2)
    return keep(paths, folder, opener=slowly, batch_size=1).report


def test_killed_in_the_middle(paths, folder):
    process = spawn.Process(target=fill, args=(paths, folder, None, 3), daemon=True)
    process.start()
    wait_for(lambda: sum(p.stat().st_size for p in folder.rglob("index.bin")) == 3 * RECORD.size)
    process.kill()  # while it opens the fourth picture
    process.join()
    features = keep(paths, folder, opener=slowly, batch_size=1)
    assert features.report.kept == 3 and features.report.encoded == N - 3
    assert right(features, paths) and not features.report.damaged


# ------------------------------------------------------------------ several at once


@pytest.fixture(scope="module")
def pool():
    with spawn.Pool(2) as two:
        yield two


def read(features, meeting):
    meet(meeting, 2)
    return [
        torch.equal(features[(order := random.sample(range(N), N))], features[:][order]) for _ in range(20)
    ], features[:]


def test_two_fill_at_once(paths, folder, pool, tmp_path):
    reports = pool.starmap(fill, [(paths, folder, tmp_path / "meeting")] * 2, chunksize=1)
    assert all(r.pictures == N and not r.damaged for r in reports)
    assert N <= sum(r.encoded for r in reports) < 2 * N  # they shared the work
    features = keep(paths, folder, opener=slowly)
    assert features.report.kept == N and right(features, paths)
    assert not features.report.damaged and features.store.count >= N


def test_two_fill_different_pictures_at_once(paths, folder, pool, tmp_path):
    pool.starmap(fill, [(part, folder, tmp_path / "meeting") for part in (paths[:6], paths[4:])], chunksize=1)
    features = keep(paths, folder, opener=slowly)
    assert (features.report.kept, features.report.encoded, features.report.damaged) == (N, 0, 0) and right(
        features, paths
    )


def test_several_read_at_once(paths, folder, pool, tmp_path):
    features = keep(paths, folder)
    assert torch.equal(pickle.loads(pickle.dumps(features))[:], features[:])
    for same, rows in pool.starmap(read, [(features, tmp_path / "meeting")] * 2, chunksize=1):
        assert all(same) and torch.equal(rows, features[:])


def test_a_lock_that_stays_taken_is_reported(paths, folder, monkeypatch):
    features = keep(paths[:1], folder)
    monkeypatch.setattr(module, "LOCK_PATIENCE", 0.1)
    with (
        filelock.FileLock(features.report.folder / ".lock", is_singleton=False),
        pytest.raises(ConfigError, match="lock.*could not be acquired"),
    ):
        keep(paths, folder)
    assert right(keep(paths, folder), paths)


def test_a_complete_cache_is_read_without_writing(paths, folder, monkeypatch):
    keep(paths, folder)
    monkeypatch.setattr(FeatureStore, "add", refuse)
    monkeypatch.setattr(module, "check_writable", refuse)
    assert right(keep(paths, folder, opener=open_image), paths)


def test_a_reader_writes_nothing_and_encodes_what_is_missing(paths, folder, monkeypatch):
    keep(paths[:6], folder)
    opened = []
    toy = Toy()
    real = toy.preprocess
    toy.__dict__["preprocess"] = type(
        "P", (), {"__call__": lambda _, im: opened.append(1) or real(im), "__repr__": lambda _: repr(real)}
    )()
    monkeypatch.setattr(FeatureStore, "add", refuse)
    features = keep(paths, folder, toy, write=False)
    assert (features.report.pictures, features.report.kept, features.report.encoded) == (N, 6, 0) and not opened
    assert right(features, paths) and len(opened) == N - 6
    spoil(features.report.folder / "rows.bin", row_at(features, 2))
    assert right(features, paths) and len(opened) == 2 * (N - 6) + 1 and features.store.damaged == 1
    nothing = keep(paths, folder / "elsewhere", write=False)
    assert right(nothing, paths) and nothing.report.pictures == N and not (folder / "elsewhere").exists()


# ------------------------------------------------------------------ damage


def test_any_flipped_byte_is_found_and_mended(paths, folder, tmp_path):
    first = keep(paths, folder)
    sound, want, rng = shutil.copytree(folder, tmp_path / "sound"), first[:], random.Random(0)
    positions = [(p.name, at) for p in files(first) for at in range(p.stat().st_size)]
    for name, at in rng.sample(positions, 150) + [
        (p.name, at) for p in files(first) for at in (0, 7, 8, p.stat().st_size - 1)
    ]:
        shutil.rmtree(folder)
        shutil.copytree(sound, folder)
        reader = keep(paths, folder, verify=False)  # opened before the damage
        spoil(first.report.folder / name, at, rng.randrange(1, 256))
        for i in range(N):  # right or refused
            try:
                assert torch.equal(reader[i], want[i]), (name, at)
            except DataError as e:
                assert name == "rows.bin" and "not served" in str(e)
        again = keep(paths, folder)
        lost = int(name != "about.json")
        assert (again.report.damaged, again.report.encoded, again.report.kept) == (lost, lost, N - lost), (name, at)
        assert torch.allclose(again[:], want, rtol=2**-9, atol=1e-4)
        assert keep(paths, folder).report.encoded == 0


@pytest.mark.parametrize("name", ["rows.bin", "index.bin"])
@pytest.mark.parametrize("size", [0, 1, 39, 40, 41, 300, -1, -65, None])
def test_a_file_of_another_length(paths, folder, name, size):
    path = keep(paths, folder).report.folder / name
    path.write_bytes(path.read_bytes()[:size])
    if size is None:
        path.unlink()
    features = keep(paths, folder)
    assert features.report.encoded == N - features.report.kept > 0 and right(features, paths)
    assert features.report.damaged == (features.report.encoded if name == "rows.bin" else 0)
    assert right(keep(paths, folder), paths)


def test_bytes_at_the_end_of_a_file_do_no_harm(paths, folder):
    features = keep(paths[:4], folder)
    for name in ("rows.bin", "index.bin"):
        with open(features.report.folder / name, "ab") as f:
            f.write(b"left over")
    again = keep(paths, folder)
    assert (again.report.kept, again.report.damaged) == (4, 0) and right(again, paths)


def test_a_damaged_row_is_refused_and_others_are_served(paths, folder):
    features = keep(paths, folder)
    spoil(features.report.folder / "rows.bin", row_at(features, 4) + 5)
    for use in (features, keep(paths, folder, verify=False)):
        with pytest.raises(DataError, match="row of picture 4 .* is missing or damaged.*Call keep_features again"):
            use[4]
        assert torch.allclose(use[[0, 9]], exact([paths[0], paths[9]]), rtol=2**-10, atol=1e-4)
    mended = keep(paths, folder)
    assert "1 damaged" in str(mended.report) and right(mended, paths)
    assert not keep(paths, folder).report.damaged


def test_rows_exchanged(paths, folder):
    features = keep(paths, folder)
    path = features.report.folder / "rows.bin"
    a, b = row_at(features, 2), row_at(features, 7)
    raw = bytearray(path.read_bytes())
    raw[a : a + ROW], raw[b : b + ROW] = raw[b : b + ROW], raw[a : a + ROW]
    path.write_bytes(raw)
    with pytest.raises(DataError, match="not served"):
        features[2]
    assert right(keep(paths, folder), paths)


def test_files_deleted_while_in_use(paths, folder):
    features = keep(paths, folder)
    shutil.rmtree(features.report.folder)
    with pytest.raises(DataError, match="not served"):
        features[0]
    features.store.load()
    assert not features.store.rows and right(keep(paths, folder), paths)


def test_a_picture_that_changes_meanwhile(paths, folder):
    def opener(path):
        picture = open_image(path)
        if path == paths[5]:
            draw(path, 99)
        return picture

    with pytest.raises(DataError, match=r"5\.png changed while it was being encoded"):
        keep(paths, folder, opener=opener, batch_size=1)
    features = keep(paths, folder, opener=opener, batch_size=1)
    assert right(features, paths)


def test_a_picture_that_is_not_there(paths, folder):
    for wrong in (paths[0].with_name("none.png"), None):
        with pytest.raises(ImageError, match="cannot read the picture"):
            keep([paths[0], wrong], folder)


# ------------------------------------------------------------------ a full disk


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(paths, folder, monkeypatch, code):
    for at in range(1, 9):
        here, count, real = folder / str(at), 0, os.fsync

        def fsync(fd):
            nonlocal count
            if (count := count + 1) >= at:
                raise OSError(code, os.strerror(code))
            real(fd)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            with pytest.raises(DataError, match=r"the disk of .* is full .*goes on from here"):
                keep(paths, here)
        features = keep(paths, here)
        assert right(features, paths) and not features.report.damaged, at


def fill_limited(paths, folder, limit):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # Python ignores the signal, so writing fails
    try:
        keep(paths, folder, batch_size=N)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_limit_of_the_system(paths, folder, pool):
    keep(paths[:2], folder)
    with pytest.raises(DataError, match=r"is full \(File too large\)\. 2 pictures are kept"):
        pool.apply(fill_limited, (paths, folder, 400))
    features = keep(paths, folder)
    assert (features.report.kept, features.report.encoded, features.report.damaged) == (2, N - 2, 0) and right(
        features, paths
    )


def test_a_folder_that_cannot_be_written(paths, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot write to .*Choose another folder"):
        keep(paths, tmp_path / "file")


def test_the_reader_needs_no_tower(paths, folder):
    keep(paths, folder)
    store = FeatureStore(folder, describe_encoder(Toy(), open_image))
    assert right(Features(store, [module.digest_file(p) for p in paths]), paths)


# ------------------------------------------------------------------ validation and evaluation


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    "The shipped model and 70 synthetic paintings: more than a batch."
    folder = make_mini(tmp_path_factory.mktemp("world") / "mini", n=70, seed=3, workers=1, progress=False)
    paintings, _ = read_artemis(folder / "artemis_dataset_release_v0.csv", folder / "wikiart")
    explainer = load(device="cpu")
    explainer.model.config = explainer.model.config.replace(new_tokens=8)  # for speed
    return SimpleNamespace(explainer=explainer, paintings=paintings, folder=folder)


@pytest.fixture
def opened(monkeypatch):
    "The pictures opened, batch by batch."
    batches, real = [], module.encode_files

    def spy(encoder, paths, *rest):
        batches.append(len(paths))
        return real(encoder, paths, *rest)

    for place in (module, validation, inputs):
        monkeypatch.setattr(place, "encode_files", spy)
    return batches


def validate(world, tmp_path, **how):
    data = SimpleNamespace(
        parts={"val": world.paintings}, tokenizer=world.explainer.tokenizer, table=world.explainer.table
    )
    settings = TrainConfig.preset("mini")
    return make_validation(data, settings, tmp_path, "cpu", world.explainer.model, False, log=lambda line: None, **how)[
        0
    ]


def test_validation_without_kept_features_takes_a_batch_at_a_time(world, tmp_path, opened, monkeypatch):
    def never(*_):
        raise AssertionError("the nine probabilities were computed")

    monkeypatch.setattr("sevlm.models.explainer.emotion_probabilities", never)
    monkeypatch.setenv("SEVLM_CACHE", str(tmp_path / "cache"))
    score = validate(world, tmp_path, features="off")
    assert opened == []  # nothing is computed before it is asked for, and nothing is kept
    off = score(world.explainer.model)
    assert opened == [64, 6] and score(world.explainer.model) == off and opened == [64, 6] * 2
    opened.clear()
    for how in (
        dict(features="memory"),
        dict(dtype="float32", limit=0),
        dict(features=tmp_path / "kept", dtype="float32"),
    ):
        score = validate(world, tmp_path, **how)
        assert sum(opened) == 70 and score(world.explainer.model) == off and sum(opened) == 70  # once, beforehand
        opened.clear()
    assert (tmp_path / "cache" / "features").is_dir()  # where `auto` keeps what does not fit into memory


def test_evaluation_uses_kept_features(world, tmp_path, opened, monkeypatch):
    monkeypatch.setenv("SEVLM_CACHE", str(tmp_path / "cache"))
    paintings, how = world.paintings, dict(meteor="off", progress=False, draws=10, dtype="float32")
    ask = lambda **given: evaluate(world.explainer, paintings, **how, **given)
    off = ask()
    assert opened == [64, 6] and off.about["patch tokens"] == "computed"
    encoder = world.explainer.model.encoder
    keep_features(encoder, [p.image for p in paintings[:64]], open_image, dtype="float32", progress=False)
    before = {p: p.stat().st_size for p in (tmp_path / "cache").rglob("*.bin")}
    opened.clear()
    auto = ask(features="auto")
    assert opened == [6] and "70 pictures, 64 kept, 0 encoded" in auto.about["patch tokens"]
    assert before == {p: p.stat().st_size for p in (tmp_path / "cache").rglob("*.bin")}
    opened.clear()
    kept = ask(features=tmp_path / "mine")
    assert sum(opened) == 70 and "0 kept, 70 encoded" in kept.about["patch tokens"]  # each once, and kept
    for other in (auto, kept):
        assert [p["explanation"] for p in other.predictions] == [p["explanation"] for p in off.predictions]
        assert other.scores.keys() == off.scores.keys()
        for name, score in off.scores.items():
            assert other.scores[name]["value"] == pytest.approx(score["value"], abs=1e-5), name


def test_command_takes_features(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEVLM_CACHE", str(tmp_path / "cache"))
    scores = {}
    for where in ("auto", "off", str(tmp_path / "mine")):
        line = ["evaluate", str(world.folder), "--no-meteor", "--quiet", "--json", "--features", where]
        assert main([*line, "--features-dtype", "float32"]) == 0
        found = json.loads(capsys.readouterr().out)
        scores[where] = found["scores"]["emotion accuracy (strict)"]["value"]
        assert ("computed" in found["about"]["patch tokens"]) == (where == "off")
    assert len(set(scores.values())) == 1 and list((tmp_path / "mine").rglob("rows.bin"))

"""The benchmark measures two ways of doing the same: same losses, same tokens, same look-up; its arithmetic is that
of PyTorch's own counter."""

import copy
import json
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

REPO = Path(__file__).resolve().parent.parent
FOLDER = REPO / "benchmarks"
if not FOLDER.exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(FOLDER))

import bench  # noqa: E402
import launch  # noqa: E402
import measure  # noqa: E402
import parts  # noqa: E402
import prepare_full  # noqa: E402
import setting  # noqa: E402
from plain import LookUp, Plain  # noqa: E402
from ties import same_texts  # noqa: E402

from sevlm import processor  # noqa: E402
from sevlm.models.tokenizer import span_masks  # noqa: E402

MODES = ["corrected", "published"]
CLOSE = 1e-5


@pytest.fixture(scope="module")
def settings():
    first = setting.make_setting("corrected", quick=True, dropout=0.0)
    return {"corrected": first, "published": setting.make_setting("published", quick=True, dropout=0.0, like=first)}


def apart(mode, like, **switches):
    "Both ways on weights of their own, from the same start."
    s = setting.make_setting(mode, quick=True, dropout=0.0, like=like, **switches)
    s.model.train()
    return s, Plain(copy.deepcopy(s.model), s.tokenizer, s.lexicon).train()


def largest_difference(s, other, steps=6, B=4):
    "Of any loss, in its own size if it is above 1: rounding makes about 3e-7."
    worst, cases = 0.0, s.cases(B, (0.1, 0.5, 0.9))
    for k in range(steps):
        c = cases[k % 3]
        ours, theirs = s.step(c, cached=k % 2 == 0), other.step(c.rows, c.img, c.neg_perm)
        assert set(ours) == set(theirs)
        worst = max(worst, *(abs(ours[n] - theirs[n]) / max(1.0, abs(theirs[n])) for n in ours))
    return worst


@pytest.mark.parametrize("mode", MODES)
def test_same_losses_over_several_steps(settings, mode):
    s, other = apart(mode, settings[mode])
    before = other.words.detach().clone()
    assert largest_difference(s, other) < CLOSE
    moved = (other.words - before).abs().max()
    assert moved > 1e-6 and torch.allclose(
        other.words, s.model.decoder.wte.weight, atol=1e-5
    )  # it was trained, and to the same weights


@pytest.mark.parametrize(
    "switch",
    [
        dict(use_fusion=False),
        dict(use_vad_head=False),
        dict(use_contrast=False),
        dict(causal_vad=False),
        dict(boundary="fixed"),
        dict(pad_in_span=True),
        dict(lookup="start"),
        dict(stable_contrast=False),
        dict(vad_weight=0.3, con_weight=2.0),
        dict(pool=2, patches=4),
    ],
    ids=lambda d: next(iter(d)),
)
def test_same_losses_for_each_switch(settings, switch):
    assert largest_difference(*apart("corrected", settings["corrected"], **switch), steps=2) < CLOSE


@pytest.mark.parametrize("lone", ["none", "itself"])
def test_same_losses_for_a_batch_of_one(settings, lone):
    assert largest_difference(*apart("corrected", settings["corrected"], lone_negative=lone), steps=2, B=1) < CLOSE


def test_the_comparison_can_fail(settings):
    "A part left out of the one way shows in the losses."
    s, other = apart("corrected", settings["corrected"])
    other.look_up = lambda ids: (torch.zeros(*ids.shape, 3), torch.ones_like(ids, dtype=torch.bool))
    assert largest_difference(s, other, steps=1) > CLOSE


@pytest.mark.parametrize("mode", MODES)
def test_same_tokens(settings, mode):
    "Word for word; only between words that are equally good rounding decides."
    s = settings[mode]
    s.model.eval()
    s.plain.eval()
    grid = s.encode_images(s.cases(6)[0].img)

    @torch.no_grad()
    def scores(n, words):
        span = span_masks(words[None], s.special, s.config.boundary, include_pad=s.config.pad_in_span)[1]
        vad, _ = s.plain.look_up(words[None])
        return s.plain.states(words[None], vad, span, grid[n][None])[0, -1] @ s.plain.words.T

    ours, theirs = s.write(grid, 30), s.write_plain(grid, 30)
    same_texts(ours, theirs, s.special.pad, scores)
    assert len(ours[:, 6:].unique()) > 10  # texts that vary (about 85 words), or equality says little
    ends = torch.cat([s.ends, ours[1, 12:13]])  # now one text, at least, ends early
    ours, theirs = s.write(grid, 30, ends), s.write_plain(grid, 30, ends)
    same_texts(ours, theirs, s.special.pad, scores)
    assert (ours == s.special.pad).any()


@pytest.mark.parametrize("how", ["piece", "start", "word"])
def test_same_values_of_tokens(settings, how):
    "Token by token in Python, or one row of a table: also for texts nobody would write."
    from sevlm.lexicon.token_table import vad_table

    s = settings["corrected"]
    ids = s.batch(s.cases(6)[0], True).ids
    ids = torch.cat(
        [ids, torch.randint(len(s.tokenizer), (12, ids.shape[1]), generator=torch.Generator().manual_seed(0))]
    )
    (vad, known), (vad2, known2) = LookUp(s.tokenizer, s.lexicon, how)(ids), vad_table(s.tokenizer, s.lexicon, how)(ids)
    assert torch.equal(vad, vad2) and torch.equal(known, known2) and 0 < known.float().mean() < 1


@pytest.mark.parametrize("mode", MODES)
def test_formula_counts_what_pytorch_counts(settings, mode):
    s = settings[mode]
    s.model.train()
    s.plain.train()
    (case,) = s.cases(3)
    for way, found in parts.operations(s, case).items():
        assert found["formula"] == pytest.approx(found["counted"], rel=0.02), (
            way
        )  # the VAD encoder, three numbers wide, is left out of the formula
    assert measure.counted(lambda: s.model.encoder(case.img[:1])) == pytest.approx(
        measure.tower_operations(s.model.encoder), rel=0.01
    )


def test_bfloat16_is_measured_where_there_are_units(settings, monkeypatch):
    s = settings["corrected"]
    (case,) = s.cases(2)
    s.model.train()
    for units in (False, True):
        monkeypatch.setattr(parts, "bfloat16_units", lambda: units)
        ways = parts.ways_of(s, case)
        assert ("ours, cached, bfloat16" in ways) == units
    found = parts.operations(s, case)
    assert set(found) == set(ways)  # counted, and so warmed
    assert found["ours, cached, bfloat16"] == found["ours, cached"]


def test_products_of_onednn_are_counted(monkeypatch):
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this PyTorch comes without oneDNN")
    monkeypatch.setattr(measure, "onednn_is_faster", lambda: True)
    x, w = torch.randn(6, 5, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    multiply = processor.OneDNNProduct.apply
    assert measure.counted(lambda: multiply(x, w)) == 2 * 6 * 5 * 7
    assert measure.counted(lambda: multiply(x, w).sum().backward()) == 3 * 2 * 6 * 5 * 7


def test_ways_are_measured_in_turn():
    calls = []
    found = measure.in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warm=1)
    assert calls == list("abababab") and {k: len(v) for k, v in found.items()} == dict(a=3, b=3)


def test_ratios_are_of_pairs():
    found = measure.against(dict(slow=[10.0, 20.0, 90.0], fast=[1.0, 10.0, 10.0]), "slow")
    assert found["ratio"]["fast"]["median"] == 9 and found["ratio"]["fast"]["all"] == [
        10.0,
        2.0,
        9.0,
    ]  # not 20 / 10, the ratio of the medians
    assert found["seconds"]["slow"]["median"] == 20 and found["seconds"]["slow"]["n"] == 3
    assert measure.spread([4.0])["low"] == measure.spread([4.0])["high"] == 4.0


def test_texts_have_the_stated_length():
    words = [len(t.split()) for p in setting.made_up_paintings(400) for t in p.explanations]
    assert min(words) >= setting.SHORTEST and max(words) <= setting.LONGEST
    assert sorted(words)[len(words) // 2] == pytest.approx(setting.MEDIAN_WORDS, abs=1)
    rows = (REPO / "nbs" / "data" / "published_numbers.csv").read_text(encoding="utf-8")
    assert (
        f"Mean tokens per utterance,{setting.MEAN_WORDS!r}," in rows
        and f"Median tokens per utterance,{setting.MEDIAN_WORDS!r}," in rows
    )


def test_batches_go_from_short_to_long(settings):
    short, middle, long = settings["corrected"].cases(4, (0.0, 0.5, 0.99))
    assert short.T < middle.T <= long.T and len(short.rows) == 8 and short.img.shape[0] == 4


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "quick.json"
    bench.main(
        [
            "--quick",
            "--out",
            str(out),
            "--parts",
            "agreement",
            "step",
            "writing",
            "bound",
            "growth",
            "largest",
            "epoch",
            "table",
        ]
    )
    return json.loads(out.read_text(encoding="utf-8"))


def test_a_quick_run_writes_what_it_measured(quick_run):
    assert (
        quick_run["quick"] and not quick_run["complete"] and quick_run["machine"]["threads"] == torch.get_num_threads()
    )
    done = quick_run["parts"]
    assert {"limit", "limit after", "tokens", "cache"} <= set(done)  # needed by others, so measured too
    assert max(x["largest_difference"] for x in done["agreement"].values()) < CLOSE
    assert all(x["tokens"] > 0 for mode in MODES for x in done["writing"][mode])  # which: test_same_tokens
    for x in done["step"]["corrected"]:
        for _way, ratio in x["ratio"].items():
            assert min(ratio["all"]) <= ratio["low"] <= ratio["median"] <= ratio["high"] <= max(ratio["all"])


def test_the_epoch_is_what_its_arithmetic_says(quick_run):
    e, steps = quick_run["parts"]["epoch"], quick_run["parts"]["step"]["corrected"]
    per_batch = (
        sum(w * x["seconds"]["plain"]["median"] for w, x in zip(parts.SHARES, steps))
        * setting.BATCH
        / steps[0]["paintings"]
    )
    assert e["ways"]["plain"]["seconds_a_batch"] == pytest.approx(per_batch)
    assert e["ways"]["plain"]["run_hours"] == pytest.approx(per_batch * 2108 * 35 / 3600) and "2108" in e["arithmetic"]
    assert sum(parts.SHARES) == pytest.approx(1)


def test_a_part_of_a_run_does_not_pass_for_a_whole_one(tmp_path, capsys):
    for some in (["--quick"], ["--parts", "table"]):
        with pytest.raises(SystemExit):
            bench.main(some)
        assert "--out" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="unknown parts"):
        bench.main(["--quick", "--parts", "lunch", "--out", str(tmp_path / "x.json")])
    with pytest.raises(SystemExit, match="device"):
        bench.main(["--quick", "--device", "abacus", "--out", str(tmp_path / "x.json")])


def test_an_interrupted_run_leaves_the_file_of_results(tmp_path, monkeypatch):
    "What was measured so far stands beside it; a whole run leaves nothing beside it."

    def interrupted(run):
        raise KeyboardInterrupt

    (out := tmp_path / "bench.json").write_text("of a whole run", encoding="utf-8")
    line = ["--quick", "--out", str(out)]
    monkeypatch.setattr(bench, "wanted", lambda *_: [("table", lambda run: 3), ("step", interrupted)])
    with pytest.raises(KeyboardInterrupt):
        bench.main(line)
    assert out.read_text(encoding="utf-8") == "of a whole run"
    so_far = json.loads((tmp_path / "bench.partial.json").read_text(encoding="utf-8"))
    assert so_far["parts"] == {"table": 3} and not so_far["complete"]
    monkeypatch.setattr(bench, "wanted", lambda *_: [("table", lambda run: 3)])
    bench.main(line)
    assert json.loads(out.read_text(encoding="utf-8"))["parts"] == {"table": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["bench.json"]


def test_seconds_and_memory_are_those_of_the_command():
    "Not those of this process, which has PyTorch loaded; and a command may say much."
    python = lambda code: [sys.executable, "-c", code]
    seconds, small = launch.run_measured(python("import time; time.sleep(0.2)"))
    _, large = launch.run_measured(python("import sys; sys.stderr.write('x' * 10**6); bytearray(b'x' * 10**8)"))
    assert seconds >= 0.2 and 10**6 < small < 10**8 < large
    assert launch.run_measured(python("raise SystemExit(1)"), codes=(0, 1))
    with pytest.raises(SystemExit, match=r"(?s)exit code 1:.*ZeroDivisionError"):
        launch.run_measured(python("1 / 0"))


@pytest.mark.parametrize("rows, paintings", [(51, 3), (100, 10), (4_000, 697)])
def test_made_up_annotations_are_as_many_as_asked_for(rows, paintings):
    counts = prepare_full.votes_of(rows, paintings, np.random.default_rng(0))
    assert counts.sum() == rows and len(counts) == paintings and counts.min() >= 5


def test_a_release_is_made_in_a_folder_of_its_own(tmp_path, monkeypatch, capsys):
    "A release of an earlier call, or a half one, is not what this call would say it had measured."
    (tmp_path / "release").mkdir()
    for folder, paintings, words in ((tmp_path, "3", "is not empty"), (tmp_path / "new", "1", "3 or more")):
        monkeypatch.setattr(sys, "argv", ["prepare_full.py", str(folder), "--rows", "60", "--paintings", paintings])
        with pytest.raises(SystemExit):
            prepare_full.main()
        assert words in capsys.readouterr().err


def test_the_library_of_products_is_named(monkeypatch):
    name = lambda device: measure.product_library(torch.device(device))
    assert name("cuda") in ("cuBLAS", "hipBLAS")
    for faster, mkl, expected in ((True, True, "oneDNN"), (False, True, "MKL"), (False, False, "PyTorch's own")):
        monkeypatch.setattr(measure, "onednn_is_faster", lambda faster=faster: faster)
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda mkl=mkl: mkl)
        assert name("cpu") == expected


def test_on_a_card_each_measurement_waits(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    measure.seconds(lambda: waited.append("work"), torch.device("cuda"))
    assert waited == [torch.device("cuda"), "work", torch.device("cuda")]
    assert [name for name, _ in bench.wanted([], torch.device("cuda"))][-1] == "card" and "card" not in dict(
        bench.wanted([], torch.device("cpu"))
    )


def test_the_card_part_runs_where_there_is_none(monkeypatch):
    "Its numbers mean nothing here; that it runs, and gives back what it took, does."
    import card

    fractions = []
    for name, answer in dict(
        empty_cache=None, reset_peak_memory_stats=None, max_memory_allocated=5, max_memory_reserved=6
    ).items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, a=answer: a)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: type("Card", (), dict(total_memory=22e9)))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda f, _: fractions.append(f))
    monkeypatch.setattr(card, "precisions", lambda: ["float32", "bfloat16"])
    run, alone = parts.Run(torch.device("cpu"), quick=True, rounds=0.1), []
    other = weakref.ref(run.corrected.model)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: alone.append(other() is None))
    found = card.card(run)
    assert len(alone) == 4 and all(alone)  # no other model takes room on the card
    assert (
        fractions == [0.5, 1.0]
        and len(found["batches"]) == 4
        and all(x["ran"] for x in found["within"]["precisions"].values())
    )
    assert found["batches"]["bfloat16, cached"]["peak_bytes"] == 5 and "2108 steps" in found["arithmetic"]


RESULTS = sorted((REPO / "nbs" / "data").glob("bench_*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_results_that_come_with_the_project_are_of_a_whole_run(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    assert (
        found["kind"] == "benchmark"
        and found["complete"]
        and not found["quick"]
        and set(parts.PARTS) <= set(found["parts"])
    )
    assert max(x["largest_difference"] for x in found["parts"]["agreement"].values()) < CLOSE
    assert all(x["tokens_differing"] == 0 < x["tokens"] for xs in found["parts"]["writing"].values() for x in xs)
    assert found["texts"] == setting.TEXTS and found["machine"]["device"].split(":")[0] == path.stem.removeprefix(
        "bench_"
    )

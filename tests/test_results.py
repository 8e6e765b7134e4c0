"""Every number in a result table of README.md, docs/results.md and docs/model_card.md is one that is stored; so are
those of the prose."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from sevlm import load

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "tools" / "results.py").exists():  # e.g. when only the wheel and the tests are at hand
    pytest.skip("the tools are not beside the tests", allow_module_level=True)
spec = importlib.util.spec_from_file_location("results_tool", ROOT / "tools" / "results.py")
results = importlib.util.module_from_spec(spec)
spec.loader.exec_module(results)

PAGES = [page.as_posix() for page in results.PAGES]
STORED = results.read_stored(ROOT)


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def result_tables(text):
    "The tables of scores, each as its lines."
    tables = [m[0].rstrip("\n").split("\n") for m in results.TABLE.finditer(text)]
    return [lines for lines in tables if "(x 100)" in lines[0].split("|")[1]]


def test_there_are_three_seeds_or_more():
    seeds, shipped = STORED.seeds, STORED.shipped
    assert len(seeds) >= results.FEWEST_SEEDS and len({row["seed"] for row in seeds}) == len(seeds)
    assert all(results.ACCURACY in row and results.CEILING in row for row in (*seeds, shipped))


@pytest.mark.parametrize("page", PAGES)
def test_tables_hold_the_stored_numbers(page):
    text = text_of(page)
    assert results.renewed(text, STORED) == text, "run tools/results.py"
    rows = [row for table in result_tables(text) for row in table[2:]]
    assert len(rows) >= 5 and all(re.search(r"\d+\.\d", row) for row in rows)


@pytest.mark.parametrize("page", PAGES)
def test_each_number_of_a_table_is_guarded(page):
    "Whichever number with a decimal is changed, the table is no longer what the tool writes."
    text = text_of(page)
    for table in result_tables(text):
        for row in table[2:]:
            for number in re.finditer(r"\d+\.\d", row):
                other = row[: number.start()] + "98.7" + row[number.end() :]
                wrong = text.replace(row, other)
                assert results.renewed(wrong, STORED) == text != wrong, (row, number[0])


@pytest.mark.parametrize("page", PAGES)
def test_prose_states_what_is_stored(page):
    plain = " ".join(text_of(page).split())
    for sentence in results.statements(STORED)[page]:
        assert sentence in plain, sentence


def test_the_card_says_what_the_shipped_files_hold():
    "Sizes are read from the files themselves, and no other sentence may stand in their place."
    text = text_of("docs/model_card.md")
    assert results.SIZES.search(text)[0] == STORED.sizes
    model = load().model
    assert f"{model.config.layers} blocks of width {model.config.width}" in STORED.sizes
    frozen = sum(p.numel() for p in model.encoder.parameters())
    trained = sum(p.numel() for p in model.parameters()) - frozen
    assert f"{trained:,} that were trained, and {frozen:,} of the" in STORED.sizes
    assert results.renewed(text.replace(f"{trained:,}", "7"), STORED) == text


def test_a_score_that_is_not_stored_has_no_row():
    text = "| score (x 100) | mean ± deviation, 3 seeds |\n| --- | --- |\n| luck | 1.0 ± 0.1 |\n"
    with pytest.raises(SystemExit, match="luck: 0 of 3 runs"):
        results.renewed(text, STORED)


def test_runs_are_collected(tmp_path):
    "A row per run with every score, the new ones of a later evaluation, too."
    for seed in range(3):
        (tmp_path / str(seed)).mkdir()
        scores = {
            results.ACCURACY: dict(value=0.5 + seed / 100, n=100 + seed, note=""),
            results.CEILING: dict(value=0.8, n=100, note=""),
            "share of the ceiling": dict(value=0.9, n=400, note=""),
            "truthful similes": dict(value=None if seed else 0.5, n=0, note=""),
        }
        (tmp_path / str(seed) / "metrics.json").write_text(json.dumps({"scores": scores}), encoding="utf-8")
        train = {"settings": {"seed": 3 + seed}}
        (tmp_path / str(seed) / "train.json").write_text(json.dumps(train), encoding="utf-8")
    (tmp_path / "root" / results.SEEDS.parent).mkdir(parents=True)
    (tmp_path / "root" / results.SHIPPED.parent).mkdir(parents=True)
    for file in (results.SHIPPED, results.SAMPLED):
        (tmp_path / "root" / file).write_text(json.dumps({"scores": {}, "tables": {"recall": {}}}), encoding="utf-8")
    for place in (results.MODEL, results.REMAKE.parent):
        (tmp_path / "root" / place.parent).mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / place).symlink_to(ROOT / place)
    results.collect([tmp_path / str(seed) for seed in range(3)], tmp_path / "root" / results.SEEDS)
    seeds = results.read_stored(tmp_path / "root").seeds
    assert [row["share of the ceiling"] for row in seeds] == [0.9] * 3
    assert [row[results.WITH_MAJORITY] for row in seeds] == [100, 101, 102]
    assert "truthful similes" in seeds[0] and "truthful similes" not in seeds[1]
    assert [row["seed"] for row in seeds] == [3, 4, 5]
    with pytest.raises(SystemExit, match="metrics.json"):
        results.collect([tmp_path / "nothing"], tmp_path / "rows.csv")
    for again in ("001", "01"):
        with pytest.raises(SystemExit, match="a seed of its own"):
            results.collect([tmp_path / name for name in again], tmp_path / "rows.csv")
    assert not (tmp_path / "rows.csv").exists()


def test_a_mean_over_runs_of_which_one_has_no_such_score():
    text = "| score (x 100) | mean ± deviation, 3 seeds |\n| --- | --- |\n| METEOR | 1.0 ± 0.1 |\n"
    first, *others = STORED.seeds
    lacking = {name: value for name, value in first.items() if name != "METEOR"}
    with pytest.raises(SystemExit, match="METEOR: 2 of 3 runs"):
        results.renewed(text, STORED._replace(seeds=[lacking, *others]))

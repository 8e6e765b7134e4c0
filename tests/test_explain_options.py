"""How texts are written, asked for on the command line: the options reach the model, and wrong ones are refused."""

import json

import numpy as np
import pytest

import sevlm
from sevlm.cli import main
from sevlm.models.sampling import Generation
from sevlm.synthetic.dataset import make_mini
from sevlm.synthetic.paint import paint, random_scene


@pytest.fixture(scope="module")
def explain():
    return sevlm.load()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for n in range(3):
        paint(random_scene(np.random.default_rng(n)), np.random.default_rng(n)).save(folder / f"{n}.png")
    return folder


OPTIONS = {
    "--beams 3": dict(beams=3),
    "--beams 3 --length-penalty 0": dict(beams=3, length_penalty=0.0),
    "--seed 5": dict(sample=True, seed=5),
    "--temperature 1.4": dict(sample=True, temperature=1.4),
    "--top-k 3 --seed 1": dict(sample=True, top_k=3, seed=1),
    "--top-p 0.8 --emotion awe": dict(sample=True, top_p=0.8, emotion="awe"),
    "--repetition-penalty 1.5": dict(repetition_penalty=1.5),
    "--no-repeat-ngrams 1": dict(no_repeat_ngram_size=1),
    "--new-tokens 5": dict(new_tokens=5),
}


@pytest.mark.parametrize("line", OPTIONS)
def test_options_are_the_settings(explain, pictures, capsys, line):
    assert main(["explain", str(pictures), *line.split(), "--json"]) == 0
    found = [(a["emotion"], a["explanation"]) for a in json.loads(capsys.readouterr().out)]
    assert found == [(a.emotion, a.explanation) for a in explain(pictures, **OPTIONS[line])]


def test_a_text_is_printed_as_it_is_written(explain, pictures, capsys):
    for line, how in (("", {}), ("--seed 5 --top-p 0.9", dict(sample=True, seed=5, top_p=0.9))):
        assert main(["explain", str(pictures), *line.split(), "--stream"]) == 0
        expected = [f"{a.image}\n  {a}\n" for a in explain(pictures, **how)]
        assert capsys.readouterr().out == "".join(expected)


@pytest.mark.parametrize(
    "line, why",
    [
        ("--beams 0", "at least 1"),
        ("--beams 99999999999999999999", "at most 1000"),
        ("--beams 2 --seed 1", "exclude each other"),
        ("--length-penalty 2", "beams"),
        ("--temperature 0", "above 0"),
        ("--top-p 2", "at most 1"),
        ("--new-tokens 0", "at least 1"),
        ("--new-tokens 61", "new_tokens=60 or less (--new-tokens)"),
        ("--stream --json", "one of them"),
        ("--stream --beams 2", "without beams"),
    ],
)
def test_options_that_do_not_fit_are_refused(pictures, capsys, line, why):
    assert main(["explain", str(pictures), *line.split()]) == 2
    written = capsys.readouterr()
    assert why in written.err and not written.out


def test_evaluate_takes_them_and_records_them(explain, tmp_path, capsys):
    make_mini(tmp_path / "data", 40, 0, progress=False)
    line = ["evaluate", str(tmp_path / "data"), "--no-meteor", "--quiet", "--out", str(tmp_path / "out")]
    assert main([*line, "--seed", "3", "--top-p", "0.9", "--new-tokens", "9"]) == 0
    about = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["about"]
    how = dict(sample=True, top_p=0.9, seed=3, new_tokens=9)
    assert about["generation"] == Generation(**how).changes() == how
    answers = [
        json.loads(row) for row in (tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    files = {p.name: p for p in (tmp_path / "data").rglob("*") if p.suffix in (".jpg", ".png")}
    some = [(a, f) for a in answers for name, f in files.items() if name.rpartition(".")[0] in a["painting"]][:3]
    assert some
    for answer, file in some:
        alone = explain(file, **how)  # as in a batch of an evaluation
        assert (alone.emotion, alone.explanation) == (answer["emotion"], answer["explanation"])
    assert main([*line, "--predictions", str(tmp_path / "out"), "--beams", "2"]) == 2
    assert "answers already given" in capsys.readouterr().err

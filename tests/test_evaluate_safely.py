"""Work is not lost to a later step, and low scores are not silent: answers kept as they come, scores that fail alone,
a java that is broken, odd answers told, filtered scores."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import psutil
import pytest

import sevlm
from sevlm.cli import main
from sevlm.config import EMOTIONS, RELEASE_COLUMNS, canonical_emotion
from sevlm.data.paintings import Painting, read_artemis
from sevlm.errors import DataError, SevlmError
from sevlm.metrics import captions as C
from sevlm.studies import evaluate as E
from sevlm.studies.compare import compare, comparison_sentence
from sevlm.synthetic.dataset import ANNOTATIONS, make_mini, read_truth
from sevlm.synthetic.truth import synthetic_scores

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed")
DRAWS = 50  # of the bootstrap
SHIPPED = "this is the shipped model"  # a note of every evaluation without --checkpoint

HYP = {"a": "the dark sky makes me sad", "b": "her gentle smile is warm", "c": "the flowers look like summer"}
REF = {
    "a": ["the dark sky makes me feel lonely", "i am sad for the sky is dark"],
    "b": ["the soft smile looks warm", "her gentle smile makes me calm"],
    "c": ["the flowers remind me of summer", "a joyful scene full of light"],
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    "Some synthetic paintings, the shipped model, and what it answers without a break."
    folder = make_mini(tmp_path_factory.mktemp("world") / "mini", n=30, seed=3, workers=1, progress=False)
    paintings, _ = read_artemis(folder / ANNOTATIONS, folder / "wikiart")
    explainer = sevlm.load(device="cpu")
    with pytest.MonkeyPatch.context() as m:
        m.setattr(E, "BATCH", 8)
        how = dict(meteor="off", progress=False, draws=DRAWS)
        whole = E.evaluate(explainer, paintings, synthetic_scores(read_truth(folder)), **how)
    return SimpleNamespace(folder=folder, paintings=paintings, explainer=explainer, whole=whole)


@pytest.fixture
def run(capsys):
    "Runs a command: exit code, output, errors without the note on the shipped model."

    def call(*argv):
        capsys.readouterr()
        code = main([str(a) for a in argv])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, "".join(line for line in err.splitlines(True) if SHIPPED not in line)

    return call


def answers_of(paintings, **changes):
    "Right answers: each painting's first annotation, of its majority where there is one."
    found = []
    for p in paintings:
        k = p.emotions.index(p.majority()) if p.majority() in p.emotions else 0
        found.append(dict(painting=p.key, emotion=p.emotions[k], explanation=p.explanations[k], probabilities=None))
    return [{**a, **changes} for a in found]


def write_answers(path, answers):
    path.write_text("".join(json.dumps(a) + "\n" for a in answers), encoding="utf-8")
    return path


# ---- java


def fake_java(folder, script, mode=0o755):
    "A program named java in a folder of its own, to be put on the PATH; it counts its calls."
    folder.mkdir()
    java = folder / "java"
    java.write_text(f'#!/bin/sh\necho x >> "{folder}/calls"\n{script}\n', encoding="utf-8")
    java.chmod(mode)
    return folder


def within(seconds, reached):
    "Whether something becomes true in time."
    end = time.monotonic() + seconds
    while not reached() and time.monotonic() < end:
        time.sleep(0.02)
    return reached()


def runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def use(monkeypatch, folder):
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    if shutil.which("java", path=f"/usr/bin{os.pathsep}/bin"):  # one behind the fake would be found instead
        real = {name: shutil.which(name) for name in ("sh", "sleep", "cat", "mv", "python3")}
        for name, path in real.items():
            (folder / name).symlink_to(path)
        monkeypatch.setenv("PATH", str(folder))
    C._java_fault.cache_clear()


VERSION = 'case "$*" in *-version*) echo openjdk version 17 >&2; exit 0;; esac'
BROKEN = {
    "exits": ("echo no memory >&2; exit 1", 0o755, "exit code 1"),
    "hangs": ("sleep 600", 0o755, "had not answered"),
    "garbage": ("echo 42", 0o755, "said '42'"),
    "not executable": ("exit 0", 0o644, "was not found"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_java_costs_meteor_only(kind, tmp_path, monkeypatch, world, run):
    script, mode, why = BROKEN[kind]
    use(monkeypatch, fake_java(tmp_path / "bin", script, mode))
    if kind == "hangs":
        monkeypatch.setattr(C._run_java, "__defaults__", (b"", 2.0, None))
    file, out = write_answers(tmp_path / "a.jsonl", answers_of(world.paintings)), tmp_path / "out"
    line = ["evaluate", world.folder, "--part", "all", "--predictions", file, "--out", out, "--quiet"]
    code, said, err = run(*line)
    assert code == 0 and why in err and "METEOR is not computed, and the simple tokenizer stands in" in err
    scores = E.read_scores(out)
    assert scores["METEOR"]["value"] is None and why in scores["METEOR"]["note"]
    assert scores["BLEU-4"]["note"].startswith("simple tokens") and scores["BLEU-4"]["value"] > 0.9
    assert scores["BLEU-4, artemis"]["value"] > 0.9 and len(E.read_predictions(out)) == len(world.paintings)
    if mode == 0o755:
        assert (tmp_path / "bin" / "calls").read_text(encoding="utf-8") == "x\n"  # asked once
        run(*line)
        assert (tmp_path / "bin" / "calls").read_text(encoding="utf-8") == "x\n"


def test_a_java_of_another_machine_cannot_be_started(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").write_bytes(b"\x7fELF nothing that runs here")
    (tmp_path / "bin" / "java").chmod(0o755)
    use(monkeypatch, tmp_path / "bin")
    assert "cannot be started" in C.java_missing()


def test_a_java_that_hangs_midway_is_ended_with_its_children(tmp_path, monkeypatch):
    folder, end = tmp_path / "pids", C._end_java
    folder.mkdir()
    child = "sleep 600 < /dev/null > /dev/null 2>&1 &"  # it holds no pipe that would be waited for
    script = f'{VERSION}\n{child} echo $! > "{folder}/$$.tmp"; mv "{folder}/$$.tmp" "{folder}/$$"; wait'
    use(monkeypatch, fake_java(tmp_path / "bin", script))

    def end_when_its_child_runs(process):
        "The limit is short; a busy machine may not have started the child by then."
        within(30, (folder / str(process.pid)).exists)
        end(process)

    monkeypatch.setattr(C, "_end_java", end_when_its_child_runs)
    monkeypatch.setattr(C, "START_SECONDS", 0.5)
    monkeypatch.setattr(C, "SECONDS_PER_TEXT", 0.0)
    scores = C.caption_scores(HYP, REF)
    assert scores.tokenizer == "simple" and "had not answered" in scores.stand_in
    assert scores.skipped["METEOR"].startswith(C.FAILED) and "no end after" in scores.skipped["METEOR"]
    assert all(scores.values[name] is not None for name in ("BLEU-1", "ROUGE-L", "CIDEr"))
    started = [int(file.read_text(encoding="utf-8")) for file in folder.iterdir()]
    assert len(started) == 2  # the tokenizer and METEOR
    for pid in started:
        assert within(30, lambda pid=pid: not runs(pid)), "a child of java lives on"


def test_a_java_that_dies_midway_costs_meteor_only(tmp_path, monkeypatch, world, run):
    tokenizer = 'case "$*" in *PTBTokenizer*) exec cat;; esac'
    use(monkeypatch, fake_java(tmp_path / "bin", f"{VERSION}\n{tokenizer}\necho out of heap space >&2; exit 3"))
    file = write_answers(tmp_path / "a.jsonl", answers_of(world.paintings))
    code, out, err = run("evaluate", world.folder, "--part", "all", "--predictions", file, "--quiet", "--json")
    scores = json.loads(out)["scores"]
    assert code == 1 and "METEOR; METEOR, filtered; METEOR, artemis: failed" in err and "out of heap space" in err
    assert {name for name, s in scores.items() if s["note"].startswith(C.FAILED)} == {
        "METEOR",
        "METEOR, filtered",
        "METEOR, artemis",
    }
    assert scores["BLEU-4"]["note"].startswith("ptb tokens")


@needs_java
def test_meteor_is_the_same_in_every_language(monkeypatch):
    for name in ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS"):  # the second overrides a command line
        monkeypatch.setenv(name, "-Duser.language=it -Duser.country=IT")
    hyp = {"a": "The dark sky makes me feel sad and lonely.", "b": "The woman's gentle smile makes me feel warm."}
    ref = {
        "a": ["The dark sky makes me feel lonely and afraid.", "I feel sad because the sky is so dark."],
        "b": ["The woman's soft smile looks kind and warm.", "Her gentle smile makes me feel calm."],
    }
    C._java_fault.cache_clear()
    scores = C.caption_scores(hyp, ref, meteor="on")
    # of b as recorded in tests/test_metrics.py
    assert scores.tokenizer == "ptb" and scores.each["METEOR"][1] == pytest.approx(0.458682, abs=2e-6)
    filtered, _ = C.filtered_measures(scores, [False, True])
    assert filtered["METEOR"].value == pytest.approx(0.458682, abs=2e-6) and filtered["METEOR"].n == 1


# ---- a score that fails


def failing(error):
    def fail(*args, **how):
        raise error

    return fail


def test_each_score_fails_alone(world, monkeypatch, tmp_path, run):
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    monkeypatch.setattr(Cider, "compute_score", failing(ZeroDivisionError("float division by zero")))
    monkeypatch.setattr(Rouge, "compute_score", failing(AssertionError()))
    monkeypatch.setattr(E, "novelty", failing(MemoryError()))
    listener = SimpleNamespace(probabilities=failing(RuntimeError("CUDA error")))
    found = E.score(
        answers_of(world.paintings),
        world.paintings,
        failing(OSError(5, "Input/output error")),
        meteor="off",
        training_texts=["the sky"],
        alignment=listener,
    )
    both = {f"{name}{end}" for name in ("CIDEr", "ROUGE-L") for end in ("", ", filtered", ", artemis")}
    assert set(found.failed) == {*both, *E.NOVELTY, *E.ALIGNMENT, "scores of synthetic paintings"}
    assert "ZeroDivisionError" in found.failed["CIDEr"] and "CUDA error" in found.failed["alignment cross-entropy"]
    assert found.scores["emotion accuracy (strict)"]["value"] == 1 and found.scores["BLEU-4"]["value"] > 0.9
    kept = json.loads((found.save(tmp_path) / "metrics.json").read_text(encoding="utf-8"))
    assert kept["scores"]["CIDEr"] == dict(value=None, n=len(world.paintings), note=found.failed["CIDEr"])
    file = write_answers(tmp_path / "a.jsonl", answers_of(world.paintings))
    code, out, err = run("evaluate", world.folder, "--part", "all", "--predictions", file, "--no-meteor", "--quiet")
    assert code == 1 and "emotion accuracy (strict)" in out
    assert "CIDEr; CIDEr, filtered; CIDEr, artemis: failed: CIDEr failed (ZeroDivisionError" in err


def test_a_mistake_of_ours_is_not_hidden(world, monkeypatch):
    for name in ("novelty", "caption_scores", "emotion_measures"):
        with monkeypatch.context() as m:
            m.setattr(E, name, failing(AttributeError("a mistake")))
            with pytest.raises(AttributeError, match="a mistake"):
                E.score(answers_of(world.paintings), world.paintings, meteor="off", training_texts=["the sky"])


def test_a_painting_without_words_fails_the_captions_only():
    paintings = [Painting("s", str(i), ("awe",), (text,), ()) for i, text in enumerate(("the sky", "..."))]
    found = E.score(answers_of(paintings), paintings, meteor="off")
    assert found.scores["emotion accuracy (strict)"]["value"] == 1
    assert "no reference with a word in it" in found.failed["BLEU-1"]


# ---- answers kept as they come


class Stopped(Exception):
    "In place of a kill."


@pytest.fixture
def ask(world, monkeypatch):
    "Evaluates into a folder; counts the pictures that the model is asked about, and stops after some of them."
    monkeypatch.setattr(E, "BATCH", 8)

    def call(out, stop_after=None, paintings=world.paintings, model=world.explainer, **how):
        log, asked, explain = [], [], model.explain_patches

        def explain_patches(grid, *args, **options):
            if stop_after is not None and len(asked) >= stop_after:
                raise Stopped
            asked.extend(range(len(grid)))
            return explain(grid, *args, **options)

        with pytest.MonkeyPatch.context() as m:
            m.setattr(model, "explain_patches", explain_patches)
            try:
                scored = E.evaluate(
                    model,
                    paintings,
                    synthetic_scores(read_truth(world.folder)),
                    meteor="off",
                    progress=False,
                    draws=DRAWS,
                    out=out,
                    log=log.append,
                    **how,
                )
            except Stopped:
                scored = None
        return SimpleNamespace(asked=len(asked), log=log, found=scored)

    return call


@pytest.mark.parametrize("torn", [b"", b'{"painting": "x", "emot', b'{"painting": "of no painting"}\n', b"\xff\xfe\n"])
def test_an_interrupted_evaluation_goes_on_and_equals_the_unbroken_one(world, ask, tmp_path, torn):
    n = len(world.paintings)
    assert ask(tmp_path, stop_after=16).found is None
    assert len(E.read_predictions(tmp_path)) == 16  # whole lines, before any score
    with open(tmp_path / E.ANSWERS, "ab") as f:
        f.write(torn)  # what a kill in mid-write leaves, or worse
    second = ask(tmp_path)
    assert second.asked == n - 16 and second.log == [
        f"16 of {n} answers are in {tmp_path} already, from the same model and pictures"
    ]
    assert second.found.predictions == world.whole.predictions and second.found.scores == world.whole.scores
    assert second.found.about == world.whole.about
    second.found.save(tmp_path)
    again = ask(tmp_path)  # nothing is left to ask; the answers are scored again
    assert again.asked == 0 and again.found.predictions == world.whole.predictions
    assert again.found.scores == world.whole.scores and not (tmp_path / E.EARLIER).exists()


def test_a_batch_that_is_not_whole_is_asked_for_again(world, ask, tmp_path):
    "Its texts could be used, but in a batch of another size the last digits of probabilities may be others."
    ask(tmp_path, stop_after=16)
    lines = (tmp_path / E.ANSWERS).read_bytes().splitlines(True)
    (tmp_path / E.ANSWERS).write_bytes(b"".join(lines[:13]))
    found = ask(tmp_path)
    assert found.asked == len(world.paintings) - 8 and found.found.predictions == world.whole.predictions


def test_answers_of_another_evaluation_are_set_aside_and_told(world, ask, tmp_path):
    from sevlm.models.sampling import Generation

    first = ask(tmp_path, generation=Generation(new_tokens=3)).found.save(tmp_path)
    short = E.read_predictions(first)
    found = ask(tmp_path)
    assert found.asked == len(world.paintings) and found.found.predictions == world.whole.predictions
    assert "differ in generation" in found.log[0] and str(tmp_path / E.EARLIER) in found.log[0]
    assert E.read_predictions(tmp_path / E.EARLIER) == short and "BLEU-4" in E.read_scores(tmp_path / E.EARLIER)
    for change, word in (
        (dict(paintings=world.paintings[:20]), "paintings"),
        (dict(features=tmp_path / "kept", dtype="float32"), "features"),
    ):
        out = tmp_path / word
        ask(out, stop_after=16)
        other = ask(out, **change)
        assert other.asked == len(change.get("paintings", world.paintings)) and word in other.log[0]
    picture = Path(shutil.copytree(world.folder, tmp_path / "copy")) / "wikiart"
    paintings, _ = read_artemis(tmp_path / "copy" / ANNOTATIONS, picture)
    ask(tmp_path / "d", stop_after=16, paintings=paintings)
    shutil.copy(paintings[1].image, paintings[0].image)  # a picture is replaced
    other = ask(tmp_path / "d", paintings=paintings)
    assert other.asked == len(paintings) and "differ in pictures" in other.log[0]


def test_what_was_set_aside_is_never_replaced(world, ask, tmp_path):
    ask(tmp_path, paintings=world.paintings[:8]).found.save(tmp_path)
    first, kept = E.read_predictions(tmp_path), tmp_path / E.EARLIER
    for log in (1, 0, 0):  # stopped before the first answer, three times
        assert len(ask(tmp_path, stop_after=0).log) == log
        assert E.read_predictions(kept) == first and "BLEU-4" in E.read_scores(kept)
        assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [E.EARLIER]
    assert (
        ask(tmp_path, paintings=world.paintings[:16], stop_after=0).log == []
    )  # nothing was answered: nothing to keep
    ask(tmp_path, stop_after=8)
    other = ask(tmp_path, paintings=world.paintings[:8])
    assert E.read_predictions(kept) == first and len(E.read_predictions(tmp_path / "earlier-2")) == 8
    assert "differ in paintings" in other.log[0] and other.log[0].endswith("earlier-2")


def test_scores_of_saved_answers_do_not_cost_the_answers_of_a_model(world, ask, tmp_path, caplog, run):
    n, out, kept = len(world.paintings), tmp_path / "out", tmp_path / "out" / E.EARLIER
    other = write_answers(tmp_path / "other.jsonl", answers_of(world.paintings))
    line = ["evaluate", world.folder, "--part", "all", "--no-meteor", "--quiet", "--out", out, "--predictions"]
    ask(out, stop_after=16)
    before = (out / E.ANSWERS).read_bytes()
    for split in (
        "published",
        "first",
    ):  # the answers so far are scored; they stay, and the rest can still be asked for
        assert run(*line, out, "--split", split)[0] == 0
        assert json.loads((out / "metrics.json").read_text(encoding="utf-8"))["about"]["without an answer"] == n - 16
        assert (out / E.ANSWERS).read_bytes() == before and not kept.exists()
    assert ask(out).asked == n - 16
    assert run(*line, other)[0] == 0
    assert f"other answers of a model: they are now in {kept}" in caplog.text
    assert E.read_predictions(kept) == [{k: a[k] for k in a if k != "majority"} for a in world.whole.predictions]
    assert (kept / E.ANSWERS_OF).exists() and (kept / "scores.csv").exists() and not (out / E.ANSWERS_OF).exists()
    assert E._lines_of(E.read_predictions(out)) == E._lines_of(E.read_predictions(other))
    with open(kept / E.ANSWERS, "ab") as f:
        f.write(b'{"painting": "half')  # no longer a whole file
    world.whole.save(kept)
    assert E.read_predictions(kept) == world.whole.predictions and (kept / E.EARLIER / E.ANSWERS_OF).exists()


def test_answers_without_a_record_are_not_taken_for_the_models(world, ask, tmp_path):
    write_answers(tmp_path / E.ANSWERS, answers_of(world.paintings))
    found = ask(tmp_path)
    assert "not recorded" in found.log[0] and found.found.predictions == world.whole.predictions
    found.found.save(tmp_path)
    E.score(answers_of(world.paintings), world.paintings, meteor="off").save(tmp_path)  # over those of the model
    assert not (tmp_path / E.ANSWERS_OF).exists() and ask(tmp_path).asked == len(world.paintings)


def test_another_lexicon_is_another_model(world, ask, tmp_path):
    ask(tmp_path, stop_after=16)
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("sky\t0.9\t0.1\t0.5\nsea\t0.1\t0.9\t0.5\ndark\t0.5\t0.5\t0.1\n", encoding="utf-8")
    found = ask(tmp_path, model=world.explainer.with_lexicon(lexicon))
    assert found.asked == len(world.paintings) and "differ in lexicon" in found.log[0]


def test_a_killed_command_goes_on(world, tmp_path, run):
    "kill -9 while answers are written; then the same command."
    n, out = len(world.paintings), tmp_path / "out"
    argv = ["evaluate", str(world.folder), "--part", "all", "--no-meteor", "--quiet", "--features", "off"]
    code = (
        "import os, signal, sys\nimport sevlm\nfrom sevlm.studies import evaluate as E\nfrom sevlm.cli import main\n"
        "E.BATCH, add = 8, E._AnswerFile.add\n"
        "def add_and_die(self, rows):\n"
        "    add(self, rows)\n"
        "    if len(open(self.path).readlines()) == 24:\n"
        "        open(self.path, 'ab').write(b'{\"painting\": \"half')\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "E._AnswerFile.add = add_and_die\nmain(sys.argv[1:])"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(sevlm.__file__).parents[1])}
    ended = subprocess.run([sys.executable, "-c", code, *argv, "--out", str(out)], env=env, capture_output=True)
    assert ended.returncode == -signal.SIGKILL and not (out / "metrics.json").exists()
    with pytest.MonkeyPatch.context() as m:
        m.setattr(E, "BATCH", 8)
        code, _, err = run(*argv, "--out", out)
    assert code == 0 and f"24 of {n} answers are in {out} already" in err
    assert E.read_predictions(out) == json.loads(json.dumps(world.whole.predictions))
    values = {name: s["value"] for name, s in E.read_scores(out).items()}
    assert {name: s["value"] for name, s in world.whole.scores.items()}.items() <= values.items()


# ---- files of answers


GOOD = '{"painting": "s/a", "emotion": "awe", "explanation": "the sky"}\n'


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "holds no answer"),
        (b"\n \r\n", "holds no answer"),
        (b"[]", "holds no answer"),
        (GOOD.replace('"awe"', "3").encode(), "line 1, answer 1: the emotion is 3 \\(int\\)"),
        ((GOOD + "\n" + GOOD.replace('"awe"', '["awe"]')).encode(), r"line 3, answer 2: the emotion is \['awe'\]"),
        (GOOD.replace('"s/a"', "7").encode(), "line 1.*the painting is 7"),
        (GOOD.replace('"the sky"', "null").encode(), "explanation \\(a text\\)"),
        (GOOD.replace("}", ', "probabilities": [0.5]}').encode(), "line 1.*probabilities are \\[0.5\\]"),
        (GOOD.replace("}", ', "probabilities": {"awe": "1"}}').encode(), "line 1.*probabilities"),
        (GOOD.replace("}", ', "probabilities": {"awe": true}}').encode(), "line 1.*probabilities"),
        (GOOD.replace("}", ', "probabilities": {"awe": 1' + "0" * 400 + "}}").encode(), "line 1.*probabilities"),
        (GOOD.encode("utf-16-le"), "text in UTF-16LE without a byte-order mark.*iconv"),
        (b"\x1f\x8b\x08\x00rest", "gzip archive.*gunzip"),
        (b"PK\x03\x04rest", "archive"),
        (GOOD.encode() + b'"\xe9"\n', "line 2: found bytes that are not UTF-8"),
        (GOOD.encode() + b'{"painting": "s/b", "emo', "line 2.*interrupted evaluation is finished by the same"),
        (b"[" * 100_000, "no COCO result file"),
        (GOOD.encode() + b"{" * 100_000, "line 2.*not JSON"),
        (b'[{"image_id": 3, "caption": "the sky"}]', "image id 3"),
        (b'[{"image_id": "s/a", "caption": 4}]', "explanation"),
        (b'[{"painting": "s/a", "emotion": 4, "explanation": "x"}]', "answer 1: the emotion is 4"),
    ],
)
def test_files_that_are_no_answers_are_refused_with_place_and_reason(tmp_path, content, words):
    file = tmp_path / "predictions.jsonl"
    file.write_bytes(content)
    with pytest.raises(DataError, match=words) as e:
        E.read_predictions(tmp_path)
    assert "predictions.jsonl" in str(e.value) or "image id" in str(e.value)
    assert len(str(e.value)) < 600


def test_forms_of_a_file_of_answers(tmp_path):
    rows = [
        dict(painting=f"s/{k}", emotion="awe", explanation=text) for k, text in zip("ab", ("the sky\u2028", "a sea"))
    ]
    full = [{"probabilities": None, **r} for r in rows]
    lines = [json.dumps(r, ensure_ascii=False) for r in rows]
    for form in (
        "\n".join(lines),
        "\ufeff" + "\r\n".join(lines) + "\r\n",
        "\r".join(lines),
        json.dumps(rows, indent=1),
    ):
        (tmp_path / "f").write_bytes(form.encode())
        assert E.read_predictions(tmp_path / "f") == full, form
    (tmp_path / "f").write_text(
        json.dumps([dict(image_id=r["painting"], caption=r["explanation"]) for r in rows]), encoding="utf-8"
    )
    assert E.read_predictions(tmp_path / "f") == [{**r, "emotion": None} for r in full]


# ---- odd answers are told


def test_notes_count_what_is_odd_and_give_examples(world, tmp_path, run):
    answers = answers_of(world.paintings)
    spelt = [a["emotion"].upper() for a in answers[:5]]
    for a, emotion in zip(answers, [*spelt, "joy", "joy", None, ""]):
        a["emotion"] = emotion
    answers[9]["explanation"] = " "
    file, n = write_answers(tmp_path / "a.jsonl", answers[:-2]), len(answers) - 2
    line = ["evaluate", world.folder, "--part", "all", "--predictions", file, "--no-meteor", "--quiet"]
    code, out, err = run(*line)
    for words in (
        f"2 of {n + 2} paintings have no answer, and count as wrong in emotion and as empty explanations: ",
        f"5 of {n} answers have an emotion in another spelling, which were read as what they mean: '",
        f"4 of {n} answers name none of the 9 emotions, and count as wrong: 'joy' (2), '' (2)",
        f"1 of {n} answers have no explanation (no text after 'because'): '{answers[9]['painting']}'",
    ):
        assert f"sevlm: note: {words}" in err, words
    assert code == 0 and "note: " not in out
    code, out, err = run(*line, "--json")  # the notes are in the file, too, and the output is JSON alone
    about = json.loads(out)["about"]
    assert about["without an answer"] == 2 and all(f"note: {line}" in err for line in about["notes"])
    assert len(about["notes"]) >= 4
    _, out, err = run(*line, "--json", "--split", "published")
    assert "which the published rule counts as wrong" in err


def test_capitals_are_understood_and_the_published_rule_is_exact(world):
    answers = answers_of(world.paintings)
    loud = [a | dict(emotion=a["emotion"].upper().replace(" ", "-")) for a in answers]
    accuracy = lambda some, **how: E.score(some, world.paintings, meteor="off", draws=10, **how).scores[
        "emotion accuracy (strict)"
    ]["value"]
    assert accuracy(answers) == accuracy(loud) == accuracy(answers, split="published") == 1
    assert accuracy(loud, split="published") == 0  # letter by letter, as the released code compares


def test_answers_without_any_emotion_have_no_emotion_scores(world):
    found = E.score(answers_of(world.paintings, emotion=None), world.paintings, meteor="off", draws=10)
    for name in E.EMOTION_SCORES:
        assert found.scores[name]["value"] is None and found.scores[name]["note"] == "no answer names an emotion"
    assert found.scores["BLEU-4"]["value"] > 0.9 and found.scores["BLEU-4, filtered"]["value"] is None
    assert any("none of the 30 answers names an emotion" in note for note in found.notes) and not found.failed


@pytest.mark.parametrize(
    "odds, counted",
    [
        ({"awe": math.nan}, True),
        ({"awe": math.inf}, True),
        ({"awe": -0.5, "fear": 1.5}, True),
        ({"awe": 0.5}, True),
        ({"joy": 1.0}, True),
        ({"AWE": 0.6, "Something-Else": 0.4}, False),
        ({"awe": 0.3334, "fear": 0.3333, "anger": 0.3333}, False),
    ],
)
def test_probabilities_that_are_none_are_told(world, odds, counted):
    whole = dict.fromkeys(EMOTIONS, 1 / 9)
    answers = answers_of(world.paintings, probabilities=whole)
    answers[3] = answers[3] | dict(probabilities=odds)
    found = E.score(answers, world.paintings, meteor="off", draws=10)
    told = [n for n in found.notes if "probabilities that are not finite" in n]
    assert len(told) == counted and all(answers[3]["painting"] in n and n.startswith("1 of 30") for n in told)
    assert (found.scores["Brier score"]["value"] is None) == counted
    assert found.scores["emotion accuracy (strict)"]["value"] == 1 and not found.failed


def test_paintings_in_another_spelling():
    names = ("René_la mer", "a&b", "plain", "Straße")
    paintings = [Painting("Art Nouveau", name, ("awe",), ("the sky is wide",), ()) for name in names]
    spelt = [
        quote(unicodedata.normalize("NFD", paintings[0].key)),
        "Art Nouveau/a&amp;b",
        "Art Nouveau\\plain.jpg",
        "art nouveau/STRASSE.PNG",
    ]
    answers = [dict(painting=k, emotion="awe", explanation="the sky is wide") for k in spelt]
    found = E.score(answers, paintings, meteor="off", draws=10)
    assert found.about["without an answer"] == 0 and found.scores["emotion accuracy (strict)"]["value"] == 1
    assert found.notes[0].startswith("4 paintings are spelt otherwise in the answers, and were recognised")
    same = compare(answers, answers_of(paintings), paintings, meteor="off")
    assert same.paintings == 4
    twins = [Painting("s", name, ("awe",), ("the sky",), ()) for name in ("x", "X")]
    with pytest.raises(DataError, match="1 of 1 predictions are for none of the 2 paintings, e.g. s/x.jpg"):
        E.aligned([dict(painting="s/x.jpg", emotion="awe", explanation="")], twins)  # either: never guessed
    with pytest.raises(DataError, match="2 of 2"):
        E.aligned([dict(painting=k, emotion="awe", explanation="") for k in ("s/x.jpg", "s/x.png")], twins[:1])


def test_answers_that_do_not_fit_are_refused_with_counts(world, tmp_path, run):
    answers = answers_of(world.paintings)
    line = ["evaluate", world.folder, "--no-meteor", "--quiet", "--predictions"]
    code, _, err = run(*line, write_answers(tmp_path / "all.jsonl", answers), "--part", "test")
    assert code == 2 and "of 30 predictions are for none of the 3 paintings, e.g." in err and "--part" in err
    code, _, err = run(*line, write_answers(tmp_path / "twice.jsonl", [*answers, answers[7]]), "--part", "all")
    assert code == 2 and "31 predictions for 30 paintings" in err and answers[7]["painting"] in err
    code, _, err = run(*line, write_answers(tmp_path / "none.jsonl", []), "--part", "all")
    assert code == 2 and "none.jsonl holds no answer" in err
    for wrong in ([dict(painting="x")], [7], answers_of(world.paintings, emotion=3)):
        with pytest.raises(DataError, match="answer 1"):
            E.score(wrong, world.paintings)
    with pytest.raises(DataError, match="no answer to score for 30 paintings"):
        E.score([], world.paintings)


def test_spellings_of_emotions():
    for e in EMOTIONS:
        words = e.split()
        for text in (
            e,
            e.upper(),
            f" {e}. ",
            f'"{e}"',
            "-".join(words),
            "_".join(words),
            "".join(words),
            f"\ufeff{e}!",
        ):
            assert canonical_emotion(text, EMOTIONS) == e, text
    for text in ("", " ", "joy", "sad", "amused", "awe and fear", "awe because", "something", "a we", "."):
        assert canonical_emotion(text) is None, text
    assert canonical_emotion(None) is None and canonical_emotion("AWE", ("calm", "gay")) is None
    assert canonical_emotion("home_sick", ("home-sick", "home sick")) is None  # two fit
    assert canonical_emotion("HEUREUX", ("Heureux", "triste")) == "Heureux"


# ---- filtered scores


def test_filtered_scores_are_those_of_the_paintings_named_rightly(world, tmp_path):
    rows = world.whole.predictions
    right = [i for i, r in enumerate(rows) if r["majority"] and r["emotion"] == r["majority"]]
    assert 2 <= len(right) < len([r for r in rows if r["majority"]])
    alone = C.caption_scores(
        {world.paintings[i].key: rows[i]["explanation"] for i in right},
        {world.paintings[i].key: list(world.paintings[i].explanations) for i in right},
        "off",
    )
    scores = world.whole.scores
    for name in C.bleu_scores(HYP, REF).keys() | {"ROUGE-L", "CIDEr"}:
        mine = scores[f"{name}, filtered"]
        assert mine["value"] == pytest.approx(alone.values[name], abs=1e-9) and mine["n"] == len(right), name
        assert mine["interval"][0] <= mine["value"] <= mine["interval"][1] and scores[name]["n"] == len(rows)
    assert scores["METEOR, filtered"]["value"] is None and scores["METEOR, filtered"]["n"] == len(right)
    world.whole.save(tmp_path)
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as f:
        assert {r["score"]: int(r["n"]) for r in csv.DictReader(f)}["CIDEr, filtered"] == len(right)


def test_few_paintings_named_rightly():
    scores = C.caption_scores(HYP, REF, meteor="off", tokenizer="simple")
    nobody, why = C.filtered_measures(scores, [False] * 3)
    assert nobody == {} and set(why) == set(scores.values) and set(why.values()) == {"no painting is chosen"}
    one, why = C.filtered_measures(scores, [False, True, False])
    assert one["BLEU-1"].value == pytest.approx(C.bleu_scores({"b": HYP["b"]}, {"b": REF["b"]})["BLEU-1"])
    assert "CIDEr" not in one and why["CIDEr"].startswith("one painting")


def test_filtered_scores_are_compared_with_both_counts(world, tmp_path, run):
    right = answers_of(world.paintings)
    half = [a | dict(emotion="fear") if i % 2 else a for i, a in enumerate(right)]
    found = compare(half, right, world.paintings, meteor="off")
    n = found.table.set_index("score").n
    few, many = map(int, n["BLEU-4, filtered"].split("/"))
    assert few < many == n["emotion accuracy (strict)"] and n["BLEU-4"] == 30
    assert f"it named rightly (a/b: {few}/{many})" in comparison_sentence(found, "BLEU-4, filtered")
    for name, answers in (("a", half), ("b", [x | dict(emotion=x["emotion"].title()) for x in right])):
        (tmp_path / name).mkdir()
        write_answers(tmp_path / name / "predictions.jsonl", answers)
    code, out, err = run(
        "compare", tmp_path / "a", tmp_path / "b", "--data", world.folder, "--part", "all", "--no-meteor", "--quiet"
    )
    assert code == 0 and "BLEU-4, filtered" in out and f"{few}/{many}" in out
    assert "30 of 30 answers have an emotion in another spelling" in err and str(tmp_path / "b") in err


# ---- many annotations


def test_thousands_of_annotations_for_one_painting(world, tmp_path, run):
    data = Path(shutil.copytree(world.folder, tmp_path / "data"))
    with open(data / ANNOTATIONS, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    rng, first = np.random.default_rng(0), rows[0]
    rows += [first | dict(emotion=e) for e in rng.choice(EMOTIONS, 5000)]
    with open(data / ANNOTATIONS, "w", newline="", encoding="utf-8") as f:
        table = csv.DictWriter(f, RELEASE_COLUMNS)
        table.writeheader()
        table.writerows(rows)
    file = write_answers(tmp_path / "a.jsonl", answers_of(world.paintings))
    code, out, err = run("evaluate", data, "--part", "all", "--predictions", file, "--no-meteor", "--quiet")
    assert code == 0 and "Bayes ceiling" in out, err


def test_paintings_that_are_not_in_the_truth_file_are_named(world):
    other = [Painting("s", "p", ("awe",), ("the sky",), ())]
    found = E.score(answers_of(other), other, synthetic_scores(read_truth(world.folder)), meteor="off", draws=10)
    assert "1 of 1 paintings are not in mini_truth.csv" in found.failed["scores of synthetic paintings"]
    assert issubclass(C.ScoreError, SevlmError)

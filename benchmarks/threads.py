"""Explaining a picture and training the small model, alone on the machine and beside a busy neighbour, before and
after.

    python benchmarks/threads.py                        nbs/data/threads.json, about ten minutes on two cores
    python benchmarks/threads.py --quick --out FILE     a few steps: shows that it runs; its ratios mean nothing

"before" is PyTorch with OpenMP's defaults; "after" is what `sevlm` does: idle threads sleep soon, and the number of
threads is measured. Each figure comes from a process of its own, the ways in turn; the neighbour keeps one core busy.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
WAYS, COMPANY, TASKS = ("before", "after"), ("quiet", "busy"), ("explain", "train")
ROUNDS, STEPS, EXPLAINED, PAINTINGS = 3, 200, 20, 400


def child(way: str, task: str, data: str, count: int) -> dict:
    "Seconds of one picture, or of one step, in this process; called with OpenMP as `way` has it."
    if way == "before":
        import torch  # before sevlm: OpenMP has read its settings
    import time

    import torch

    from sevlm.config import SEVLMConfig, TrainConfig
    from sevlm.data.paintings import Release
    from sevlm.images import open_image
    from sevlm.models.explainer import load
    from sevlm.synthetic.dataset import make_mini
    from sevlm.training import run
    from sevlm.training.distributed import Processes
    from sevlm.training.inputs import load_training_data, start_model
    from sevlm.training.learner import Learner
    from sevlm.utils import choose_threads, keep_freed_memory

    config, settings = SEVLMConfig.preset("mini"), TrainConfig.preset("mini")
    if way == "after":
        tokens = 1 if task == "explain" else 2 * settings.batch_size * config.max_tokens
        torch.set_num_threads(choose_threads(config.width, tokens))
    make_mini(data, PAINTINGS, progress=False)
    if task == "explain":
        explainer = load(device="cpu")
        picture = open_image(Release(data).paintings()[0][0].image).resize((96, 96))
        work = [lambda: explainer([picture])] * (count + 1)
    else:
        keep_freed_memory()
        examples = load_training_data(data, config, progress=False)
        model = start_model(config, examples.tokenizer)
        batches = run.make_batches(model, examples, settings, Processes("cpu"), progress=False)
        learner = Learner(model, batches, *run.make_optimiser(model, settings, count))
        learner.begin(1)
        some = [batch for _, batch in zip(range(20), batches)]
        work = [lambda batch=batch: learner.one_step(batch) for batch in (some * (count // len(some) + 1))[: count + 1]]
    work[0]()  # the first call allocates
    seconds = []
    for action in work[1:]:
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return dict(median=statistics.median(seconds), mean=statistics.fmean(seconds), threads=torch.get_num_threads())


@contextlib.contextmanager
def neighbour(company: str):
    "Another program that keeps one core busy, or none."
    if company == "quiet":
        yield
        return
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


def one(way: str, company: str, task: str, data: Path, count: int) -> dict:
    "One figure, measured in a process of its own."
    free = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_", "SEVLM_THREADS"))}
    command = [sys.executable, str(Path(__file__).resolve()), "--child", way, task, str(data), str(count)]
    with neighbour(company):
        ran = subprocess.run(command, env=free, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"{way}, {task}: the measurement failed\n{ran.stderr[-2000:]}")
    return json.loads(ran.stdout.splitlines()[-1])


def measure(rounds: int, counts: dict, say=print) -> list:
    "A row for each figure: round, task, company, way, seconds, threads."
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for number in range(rounds):
            for task in TASKS:
                for company in COMPANY:
                    for way in WAYS:
                        found = one(way, company, task, Path(place) / "mini", counts[task])
                        rows.append(dict(round=number, task=task, company=company, way=way, **found))
                        say(
                            f"{number + 1}/{rounds} {task:8} {company:6} {way:7} {found['median']:.4f} s, "
                            f"{found['threads']} threads"
                        )
    return rows


def summary(rows: list) -> dict:
    "Medians over the rounds, and how many times faster `after` is than `before`."

    def middle(task, company, way):
        return statistics.median(r["mean"] for r in rows if (r["task"], r["company"], r["way"]) == (task, company, way))

    found = {
        f"{task}, {company}": {way: middle(task, company, way) for way in WAYS} for task in TASKS for company in COMPANY
    }
    return {name: dict(seconds, faster=seconds["before"] / seconds["after"]) for name, seconds in found.items()}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, help="the results file; default: nbs/data/threads.json")
    parser.add_argument("--child", nargs=4, metavar=("WAY", "TASK", "DATA", "COUNT"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        way, task, data, count = args.child
        print(json.dumps(child(way, task, data, int(count))))
        return
    if args.quick and args.out is None:
        parser.error("give --out FILE: the file of results that comes with the project holds a whole run.")
    counts = dict(explain=2, train=2) if args.quick else dict(explain=EXPLAINED, train=STEPS)
    rows = measure(1 if args.quick else args.rounds, counts)
    import torch
    from measure import machine

    from sevlm.utils import write_json

    result = dict(
        kind="benchmark of threads",
        quick=args.quick,
        counts=counts,
        machine=machine(torch.device("cpu")),
        summary=summary(rows),
        rows=rows,
    )
    out = args.out or FOLDER.parent / "nbs" / "data" / "threads.json"
    write_json(out, result)
    for name, found in result["summary"].items():
        print(
            f"{name:16} {found['before']:.4f} s before, {found['after']:.4f} s after: {found['faster']:.2f} times as "
            "fast"
        )
    print(f"written to {out}")


if __name__ == "__main__":
    main()

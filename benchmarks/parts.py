"""What is measured, part by part. Each takes a `Run` and returns plain values for the results file; times are in
seconds."""

import copy
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import setting as S
import torch
from measure import (
    against,
    counted,
    in_turn,
    memory_rate,
    product_rate,
    room_for_twice,
    seconds,
    spread,
    step_operations,
    tower_operations,
    wait,
    writing_bytes,
    writing_operations,
)
from plain import Plain

from sevlm.data.features import keep_features
from sevlm.errors import DataError
from sevlm.images import open_image
from sevlm.lexicon.coverage import NltkTable
from sevlm.lexicon.lexicon import Lexicon
from sevlm.lexicon.token_table import VADTable, vad_table
from sevlm.processor import bfloat16_units

# where in the range of lengths batches are taken, and the share of an epoch each stands for
PLACES, SHARES = (0.1, 0.5, 0.9), (0.3, 0.4, 0.3)
FULL = dict(
    step=8,
    step_rounds=3,
    published_rounds=2,
    check=2,
    write=((1, 5, 5), (8, 3, 2), (32, 2, 1)),
    tokens=(1, 8),
    token_rounds=7,
    new_tokens=60,
    length=4,
    length_rounds=2,
    grow=((2, 3), (4, 3), (8, 2), (16, 2), (32, 1)),
    limit=30.0,
    rows=(4_000, 16_000, 64_000),
    starts=3,
    pictures=32,
    tables=2,
    products=5,
)
CARD = FULL | dict(
    step=32,
    step_rounds=20,
    published_rounds=20,
    write=((1, 10, 10), (8, 10, 10), (32, 10, 10)),
    grow=((2, 20), (4, 20), (8, 20), (16, 10), (32, 10)),
    limit=2.0,
    pictures=256,
)
QUICK = FULL | dict(
    step=2,
    step_rounds=2,
    published_rounds=2,
    write=((1, 2, 2), (2, 2, 1)),
    tokens=(1,),
    token_rounds=3,
    length_rounds=1,
    length=2,
    grow=((1, 2), (2, 2)),
    limit=0.05,
    rows=(100, 200),
    starts=1,
    pictures=4,
    tables=1,
    products=1,
)


@dataclass
class Run:
    "One measurement: the machine, the sizes, and the models made on the way."

    device: torch.device
    quick: bool = False
    rounds: float = 1.0  # times as many rounds
    done: dict = field(default_factory=dict)  # parts already measured

    @property
    def sizes(self):
        return QUICK if self.quick else FULL if self.device.type == "cpu" else CARD

    def times(self, n: int) -> int:
        return max(1, round(n * self.rounds))

    @cached_property
    def corrected(self):
        return S.make_setting("corrected", self.quick, self.device)

    @cached_property
    def published(self):
        return S.make_setting("published", self.quick, self.device, like=self.corrected)

    def modes(self):
        return {"corrected": self.corrected, "published": self.published}


def product_shapes(run) -> list:
    "Squares, and the shapes of the model: feed-forward, keys and values of the patches, scores of all words."
    c, B = run.corrected.config, run.sizes["step"]
    squares = (256,) if run.quick else (1024, 2048) if run.device.type == "cpu" else (1024, 2048, 4096, 8192)
    return [
        *((n, n, n) for n in squares),
        (2 * B * c.max_tokens, c.width, 4 * c.width),
        (B * c.patches, c.width, 2 * c.width),
        (2 * B * c.max_tokens, c.width, c.vocab_size),
    ]


def limit(run) -> dict:
    "What the machine can do: measured at the beginning and again at the end."
    return dict(
        product=product_rate(product_shapes(run), run.device, run.sizes["products"]),
        memory=memory_rate(run.device, run.sizes["products"] + 2, 8 if run.quick else 256),
    )


def agreement(run) -> dict:
    "Both ways from the same weights, several steps of training without dropout: the largest difference of any loss."
    found = {}
    for mode in run.modes():
        s = S.make_setting(mode, run.quick, run.device, dropout=0.0, like=run.modes()[mode])
        other = Plain(copy.deepcopy(s.model), s.tokenizer, s.lexicon).train()
        s.model.train()
        steps = [
            (other.step(c.rows, c.img, c.neg_perm), s.step(c, cached))
            for c, cached in zip(s.cases(run.sizes["check"], PLACES), (False, True, False))
        ]
        s.drop_moments()
        found[mode] = dict(
            steps=len(steps),
            paintings=run.sizes["check"],
            largest_difference=max(abs(a[k] - b[k]) for a, b in steps for k in a),
            plain=[a for a, _ in steps],
            ours=[b for _, b in steps],
        )
    return found


def step(run) -> dict:
    """A step of training: as published, ours without cache, ours with the patches kept, and this in bfloat16 on a CPU
    that has units for it. Counting its operations has warmed each way."""
    found, B = {}, run.sizes["step"]
    for mode, s in run.modes().items():
        s.model.train()
        s.plain.train()
        places, rounds = (
            (PLACES, run.sizes["step_rounds"]) if mode == "corrected" else ((0.5,), run.sizes["published_rounds"])
        )
        found[mode] = [
            dict(
                place=q,
                paintings=B,
                longest=c.T,
                tokens=sum(map(len, c.rows)),
                padded_to=s.batch(c, True).ids.shape[1],
                row=s.batch(c, True).row_index.shape[1],
                operations=operations(s, c),
                **against(in_turn(ways_of(s, c), run.times(rounds), run.device, warm=0), "plain"),
            )
            for q, c in zip(places, s.cases(B, places))
        ]
        s.drop_moments()
    return found


def ways_of(s, case) -> dict:
    ways = {
        "plain": lambda: s.plain.step(case.rows, case.img, case.neg_perm),
        "ours": lambda: s.step(case, False),
        "ours, cached": lambda: s.step(case, True),
    }
    if s.device.type == "cpu" and bfloat16_units():  # precisions on a card: see card.py
        ways["ours, cached, bfloat16"] = lambda: s.step(case, True, "bfloat16")
    return ways


def operations(s, case) -> dict:
    "Operations of the step in each way: by formula and part, and as PyTorch counts them."
    c, B, lengths = s.config, len(case.img), list(map(len, case.rows))
    batch = s.batch(case, True)
    tower, T, row = tower_operations(s.model.encoder), batch.ids.shape[1], batch.row_index.shape[1]
    formula = {
        "plain": step_operations(
            c, tower, 2 * B, c.max_tokens, 2 * B, 2 * B, 2 * B * c.max_tokens, 2 * B * c.max_tokens
        )
    }
    for name, images in (("ours", B), ("ours, cached", 0)):
        formula[name] = step_operations(
            c, tower, 2 * B, T, images, B, sum(lengths) - 2 * B - B * (batch.alike - 1), 2 * B * T, row
        )
    ways = ways_of(s, case)
    formula |= dict.fromkeys(ways.keys() - formula.keys(), formula["ours, cached"])  # another precision
    return {
        name: dict(parts=parts, formula=sum(parts.values()), counted=counted(ways[name]))
        for name, parts in formula.items()
    }


def epoch(run) -> dict:
    "An epoch of ArtEmis from the steps measured, with its arithmetic."
    steps, B = run.done["step"]["corrected"], run.sizes["step"]
    batches = -(-S.TRAIN_PAINTINGS // S.BATCH)
    arithmetic = (
        f"{S.TRAIN_PAINTINGS} paintings of the training part (docs/facts/protocol.md 2.3; how many of them have two "
        "emotions is "
        f"not known, so this is an upper bound) make {batches} batches of {S.BATCH}; "
        f"seconds of a batch of {S.BATCH} = {S.BATCH}/{B} of the median second of a batch of {B}, at three lengths, "
        f"weighted {SHARES}; a run is {S.EPOCHS} epochs"
    )
    hours = {}
    for way in ("plain", "ours", "ours, cached"):
        per_batch = sum(w * x["seconds"][way]["median"] for w, x in zip(SHARES, steps)) * S.BATCH / B
        hours[way] = dict(
            seconds_a_batch=per_batch,
            epoch_hours=per_batch * batches / 3600,
            run_hours=per_batch * batches * S.EPOCHS / 3600,
        )
    per_picture = run.done["cache"]["seconds_a_picture"] if "cache" in run.done else None
    return dict(
        arithmetic=arithmetic, ways=hours, encoding_once_hours=per_picture and per_picture * S.TRAIN_PAINTINGS / 3600
    )


def writing(run) -> dict:
    "25 new tokens: as published, ours, and the image encoder, which both need once; the tokens of both are compared."
    found = {}
    for mode, s in run.modes().items():
        s.model.eval()
        s.plain.eval()
        found[mode] = []
        for B, *rounds in run.sizes["write"]:
            rounds = rounds[mode == "published"]
            img, said = s.cases(B)[0].img, {"plain": [], "ours": []}
            grid, steps = s.encode_images(img), s.config.new_tokens
            ways = {
                "plain": lambda: said["plain"].append(s.write_plain(grid, steps)),
                "ours": lambda: said["ours"].append(s.write(grid, steps)),
                "encoder": lambda: s.encode_images(img),
            }
            times = in_turn(ways, run.times(rounds), run.device, warm=int(B < 32))
            whole = {way: [a + b for a, b in zip(times[way], times["encoder"])] for way in ("plain", "ours")}
            a, b = said["plain"][0], said["ours"][0]
            width = max(a.shape[1], b.shape[1])
            a, b = (torch.nn.functional.pad(x, (0, width - x.shape[1]), value=s.special.pad) for x in (a, b))
            found[mode].append(
                dict(
                    paintings=B,
                    steps=steps,
                    tokens=int((a != s.special.pad).sum()),
                    ended_early=int((a == s.special.pad).any(1).sum()),
                    different_words=len(a.unique()),
                    tokens_differing=int((a != b).sum()),
                    without_encoder=against({k: times[k] for k in ("plain", "ours")}, "plain"),
                    with_encoder=against(whole, "plain"),
                    encoder=spread(times["encoder"]),
                )
            )
    return found


def ticked(write, grid, steps: int, none, device) -> list:
    "Seconds at which each new token was chosen, from the start."
    at = []

    def tick():
        wait(device)
        at.append(time.perf_counter())

    wait(device)
    began = time.perf_counter()
    write(grid, steps, none, tick)
    return [t - began for t in at]


def tokens(run) -> dict:
    "Seconds of each of 60 new tokens, ours; and of texts of growing length, both ways."
    none, found, n = torch.empty(0, dtype=torch.long, device=run.device), {}, run.sizes["new_tokens"]
    for mode, s in run.modes().items():
        s.model.eval()
        s.plain.eval()
        for B in run.sizes["tokens"]:
            grid = s.encode_images(s.cases(B)[0].img)
            rounds = run.times(run.sizes["token_rounds"]) + 1
            # the first round is not counted; token 2 is the first difference
            each = np.diff([ticked(s.write, grid, n, none, run.device) for _ in range(rounds)][1:], axis=1)
            found.setdefault(mode, []).append(
                dict(
                    paintings=B,
                    token=list(range(2, n + 1)),
                    seconds=np.median(each, 0).tolist(),
                    low=np.quantile(each, 0.25, 0).tolist(),
                    high=np.quantile(each, 0.75, 0).tolist(),
                    rounds=len(each),
                )
            )
    s, B, curves = run.corrected, run.sizes["length"], {"plain": [], "ours": []}
    grid = s.encode_images(s.cases(B)[0].img)
    for _ in range(run.times(run.sizes["length_rounds"])):
        for way, write in (("plain", s.write_plain), ("ours", s.write)):
            curves[way].append(ticked(write, grid, n, none, run.device))
    return dict(
        each=found,
        growth=dict(
            paintings=B,
            tokens=list(range(1, n + 1)),
            **{way: np.median(c, 0).tolist() for way, c in curves.items()},
            rounds=len(curves["plain"]),
        ),
    )


def growth(run) -> dict:
    "A step of training against its batch, both ways."
    s, found = run.corrected, []
    s.model.train()
    s.plain.train()
    for B, rounds in run.sizes["grow"]:
        (case,) = s.cases(B)
        found.append(
            dict(
                paintings=B,
                longest=case.T,
                **against(in_turn(ways_of(s, case), run.times(rounds), run.device, warm=int(B < 8)), "plain"),
            )
        )
    s.drop_moments()
    return dict(batches=found)


def largest(run) -> dict:
    """The largest batch, doubled from the smallest, whose step with kept patches takes less than the limit, in half of
    the memory; its operations a second."""
    s, longest, B, found = run.corrected, run.sizes["limit"], run.sizes["step"], []
    s.model.train()
    while True:
        (case,) = s.cases(B)
        try:
            work = counted(lambda: s.step(case, True))  # this warms it, too
            took = [seconds(lambda: s.step(case, True), run.device) for _ in range(2)]
        except torch.OutOfMemoryError as e:
            found.append(dict(paintings=B, out_of_memory=str(e)[:200]))
            break
        found.append(dict(paintings=B, longest=case.T, seconds=spread(took), operations=work))
        if 2 * min(took) > longest or 2 * B > len(s.paintings) or not room_for_twice():
            break  # the next would take longer, or there are no texts or no memory for it
        B *= 2
    s.drop_moments()
    return dict(limit_seconds=longest, batches=found)


def preparation(run) -> dict:
    "`sevlm prepare` of made-up releases of growing size (prepare_full.py): the first time, and again when all is done."
    found = []
    for rows in run.sizes["rows"]:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable,
                S.REPO / "benchmarks" / "prepare_full.py",
                folder,
                "--rows",
                rows,
                "--paintings",
                max(1, (rows - 40) * 80_031 // 454_684),
                "--pictures",
            ]
            subprocess.run(list(map(str, command)), check=True, capture_output=True)
            result = json.loads((Path(folder) / "benchmark.json").read_text(encoding="utf-8"))
        found.append({k: result[k] for k in ("rows", "paintings", "seconds_first", "seconds_again", "peak_memory_gb")})
    return dict(sizes=found)


def starting(run) -> dict:
    "Fresh processes: Python alone, what the library adds to it, and PyTorch for comparison."
    ways = {
        "python": "-c|pass",
        "import sevlm": "-c|import sevlm",
        "import sevlm.config": "-c|import sevlm.config",
        "sevlm --help": "-m|sevlm|--help",
        "import torch": "-c|import torch",
        "import sevlm.training.run": "-c|import sevlm.training.run",
    }
    start = partial(subprocess.run, check=True, capture_output=True, cwd=S.REPO)
    actions = {name: partial(start, [sys.executable, *words.split("|")]) for name, words in ways.items()}
    return dict(seconds={name: spread(s) for name, s in in_turn(actions, run.times(run.sizes["starts"])).items()})


def cache(run) -> dict:
    """Patch tokens of made-up pictures: encoded and kept, found again with and without reading all of it, and read
    for batches."""
    from PIL import Image

    encoder, n, rng = run.corrected.model.encoder, run.sizes["pictures"], np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.jpg" for i in range(n)]
        for path in paths:
            Image.fromarray(rng.integers(0, 255, (15, 20, 3), dtype=np.uint8)).resize((600, 450)).save(path)
        keep = lambda verify=True: keep_features(
            encoder, paths, open_image, Path(folder) / "kept", device=run.device, verify=verify, progress=False
        )
        first = seconds(keep, run.device)
        kept = keep()
        rounds = in_turn(
            {
                "found again": lambda: keep(False),
                "found again, all of it read": keep,
                "batches read": lambda: [
                    kept[part] for part in np.random.default_rng(1).permutation(n).reshape(-1, min(n, 16))
                ],
            },
            run.times(3),
            run.device,
        )
        size = kept.report.bytes
    found = {name: spread(s) for name, s in rounds.items()}
    return dict(
        pictures=n,
        pixels=[600, 450],
        first=first,
        seconds_a_picture=first / n,
        bytes=size,
        bytes_a_picture=size / n,
        **found,
        read_bytes_a_second=size / found["batches read"]["median"],
        note="a small set, read from the system's memory, not from the disk",
    )


def table(run) -> dict:
    """The VAD of all tokens: built anew for each look-up, and written and read; and what a look-up costs a token in
    each way."""
    s, entries = run.corrected, {w: run.corrected.lexicon[w] for w in run.corrected.lexicon}
    built = in_turn(
        {how: lambda how=how: vad_table(s.tokenizer, Lexicon(entries), how) for how in ("piece", "start", "word")},
        run.sizes["tables"],
        warm=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        s.table.save(path := Path(folder) / "table.safetensors")
        loaded = in_turn({"read": lambda: VADTable.load(path)}, 3)
    p, (case,) = run.published, run.published.cases(run.sizes["step"])
    ids = p.batch(case, True).ids.cpu()
    ways = {"python": lambda: p.plain.look_up(ids), "table": lambda: p.table(ids)}
    nltk = NltkTable(p.tokenizer, p.lexicon)
    try:
        nltk(ids[:1])
        ways["python, tagged with NLTK as released"] = lambda: nltk(ids)
        note = ""
    except DataError as e:
        note = f"not measured: {str(e).split('.')[0]}"
    each = {name: spread([t / ids.numel() for t in times]) for name, times in in_turn(ways, run.times(5)).items()}
    return dict(
        entries=len(s.table),
        words=len(entries),
        build={k: spread(v) for k, v in built.items()},
        read=spread(loaded["read"]),
        seconds_a_token=each,
        nltk=note,
    )


def bound(run) -> dict:
    "How near a step of writing comes to reading all weights once, and to its products: for each batch of `tokens`."
    found, rates = [], run.done["limit"]
    for x in run.done["tokens"]["each"]["corrected"]:
        B, middle = x["paintings"], len(x["token"]) // 2
        T = x["token"][middle] + 4
        size, work = writing_bytes(run.corrected.config, B, T), writing_operations(run.corrected.config, B, T)
        found.append(
            dict(
                paintings=B,
                length=T,
                bytes=size,
                operations=work,
                seconds=float(np.median(x["seconds"])),
                at_memory=size / rates["memory"]["read"],
                at_product=work / rates["product"]["best"],
            )
        )
    return dict(batches=found)


PARTS = dict(
    limit=limit,
    agreement=agreement,
    step=step,
    writing=writing,
    tokens=tokens,
    bound=bound,
    growth=growth,
    largest=largest,
    cache=cache,
    epoch=epoch,
    table=table,
    preparation=preparation,
    starting=starting,
)
NEEDS = dict(bound=("limit", "tokens"), epoch=("step", "cache"))

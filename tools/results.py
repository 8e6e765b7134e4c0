"""Write the tables of README.md, docs/results.md and docs/model_card.md anew from the stored scores (`make seeds`).

Every number of a result table stands in a file: the runs of the demo in nbs/data/demo_seeds.csv, the shipped model in
nbs/data/results, its most likely texts in one file and sampled ones in the other, and in its own folder. What the model
card says of sizes is read from the shipped files themselves. With folders of finished runs the first file is written
anew:

    python tools/results.py runs/seeds-0 runs/seeds-1 runs/seeds-2

tests/test_results.py asks that nothing would change. A new row needs the name of its score only. Run it in the root of
the repository.
"""

import ast
import csv
import io
import json
import math
import re
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

from sevlm.config import SEVLMConfig
from sevlm.models.card import model_card

SEEDS = Path("nbs") / "data" / "demo_seeds.csv"
SHIPPED = Path("nbs") / "data" / "results" / "shipped_small_model.json"
SAMPLED = Path("nbs") / "data" / "results" / "shipped_small_model_sampled.json"
MODEL = Path("sevlm") / "assets" / "mini"
REMAKE = Path("sevlm") / "app" / "remake.py"
CARD = Path("docs") / "model_card.md"
PAGES = (Path("README.md"), Path("docs") / "results.md", CARD)
ACCURACY, CEILING = "emotion accuracy (strict)", "Bayes ceiling"
WITH_MAJORITY = "paintings with a majority emotion"  # a column: those that the strict accuracy is over
TABLE = re.compile(r"^\|.*\|\n\| ---.*\n(?:\|.*\|\n)+", re.M)
SIZES = re.compile(r"(?<=<!-- written by tools/results.py -->\n).*?(?=<!-- end -->)", re.S)  # a part of the card
FEWEST_SEEDS = 3


class Stored(NamedTuple):
    "The stored scores, by name."

    seeds: list[dict[str, float]]  # a row per run of the demo
    shipped: dict[str, dict]  # of the shipped model
    sampled: dict[str, dict]  # of the same, with texts drawn token by token
    own: dict[str, dict]  # of the same, on the test part of the set that it was trained on
    recalls: dict[str, dict]  # of the shipped model, by emotion
    sizes: str  # what the model card says of the shipped files


def collect(runs: list[Path], path: Path) -> None:
    """Write the scores of some runs into a table, a row per run. Raises `SystemExit` for a run that is not finished or
    has another's seed, and for fewer than `FEWEST_SEEDS` runs; then nothing is written."""
    files = [run / name for run in runs for name in ("metrics.json", "train.json")]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise SystemExit(f"no {', '.join(missing)}; expected folders that `sevlm demo` has finished.")
    read = lambda file: json.loads(file.read_text(encoding="utf-8"))
    seeds = [read(run / "train.json")["settings"]["seed"] for run in runs]
    if len(set(seeds)) < max(len(runs), FEWEST_SEEDS):
        raise SystemExit(
            f"runs with the seeds {seeds}; expected {FEWEST_SEEDS} or more runs, each with a seed of its own."
        )
    rows = []
    for seed, run in zip(seeds, runs):
        scores = read(run / "metrics.json")["scores"]
        values = {name: s["value"] for name, s in scores.items()}
        rows.append({"seed": seed, WITH_MAJORITY: scores[ACCURACY]["n"], **values})
    table = io.StringIO()
    writer = csv.DictWriter(table, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(table.getvalue(), encoding="utf-8")


def read_stored(root: Path) -> Stored:
    "The stored scores; a score that a run does not have is left out of its row."
    with open(root / SEEDS, encoding="utf-8", newline="") as f:
        seeds = [{name: float(v) for name, v in row.items() if v} for row in csv.DictReader(f)]
    read = lambda path: json.loads((root / path).read_text(encoding="utf-8"))
    shipped = read(SHIPPED)
    own, recalls = read(MODEL / "metrics.json"), shipped["tables"]["recall"]
    return Stored(seeds, shipped["scores"], read(SAMPLED)["scores"], own, recalls, sizes_of(root))


def parameters(path: Path) -> int:
    "How many numbers a safetensors file holds, by its header."
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def sizes_of(root: Path) -> str:  # Markdown
    "What the shipped model is: as a card of any model says it, and the sizes of its files and of what it learnt from."
    config = json.loads((root / MODEL / "config.json").read_text(encoding="utf-8"))
    card = model_card("", SEVLMConfig(**{**config, "emotions": tuple(config["emotions"])}), None)
    made = next(
        node
        for node in ast.parse((root / REMAKE).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == "remake"
    )
    defaults = [*[None] * (len(made.args.args) - len(made.args.defaults)), *made.args.defaults]
    how = {a.arg: d.value for a, d in zip(made.args.args, defaults) if isinstance(d, ast.Constant)}
    files = sum(p.stat().st_size for p in (root / MODEL).rglob("*") if p.is_file())
    lines = [
        *(line for line in card.splitlines() if line.startswith("- ")),
        f"- parameters: {parameters(root / MODEL / 'model.safetensors'):,} that were trained, and "
        f"{parameters(root / MODEL / 'tower.safetensors'):,} of the frozen image encoder",
        f"- files: {files / 1e6:.1f} MB, with the language model and the captioner that training starts from",
        f"- made from synthetic paintings only: {how['tower_paintings']:,} for image encoder, tokenizer and language "
        f"model, {how['caption_paintings']:,} others for the captioner, {how['paintings']:,} others for the model",
    ]
    return "\n".join(lines) + "\n"


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _cell(column: str, score: str, stored: Stored) -> str | None:  # None: no number belongs there
    "What stands in one cell of a result table. Raises `SystemExit` for a mean over runs of which some lack the score."
    if column == "recall":
        return percent(stored.recalls[score]["value"])
    if column == "paintings":
        return str(stored.recalls[score]["n"])
    if column == "on its own test part":
        return percent(stored.own[score]["value"])
    if "mean ± deviation" in column:
        values = [row[score] for row in stored.seeds if score in row]
        if len(values) < len(stored.seeds):
            raise SystemExit(
                f"{score}: {len(values)} of {len(stored.seeds)} runs have it; METEOR needs Java in each of them."
            )
        return f"{percent(statistics.mean(values))} ± {percent(statistics.stdev(values))}"
    found = (stored.sampled if column.startswith("sampled") else stored.shipped)[score]
    value, ends = found["value"], found.get("interval")
    if value is None:
        return "-"
    between = f"{percent(ends[0])} to {percent(ends[1])}" if ends else ""
    if column.startswith(("shipped model", "sampled", "most likely")):
        return f"{percent(value)} ({between})" if between else percent(value)
    return {"value": percent(value), "95 % interval": between}.get(column)


def _renewed_table(table: str, stored: Stored) -> str:
    "A result table with the numbers that are stored; other tables as they are."
    head, line, *rows = table.rstrip("\n").split("\n")
    columns = [c.strip() for c in head.strip("|").split("|")]
    if not columns[0].endswith("(x 100)"):
        return table
    columns = [re.sub(r"\d+ seeds", f"{len(stored.seeds)} seeds", c) for c in columns]
    written = ["| " + " | ".join(columns) + " |", line]
    for row in rows:
        cells = [c.strip() for c in row.strip("|").split("|")]
        found = (_cell(column, cells[0], stored) for column in columns[1:])
        cells[1:] = [old if new is None else new for old, new in zip(cells[1:], found)]
        written.append(re.sub(" +", " ", "| " + " | ".join(cells) + " |"))
    return "\n".join(written) + "\n"


def renewed(text: str, stored: Stored) -> str:
    "A page with the stored numbers in all of its result tables, and the card's part about sizes."
    return SIZES.sub(lambda m: stored.sizes, TABLE.sub(lambda m: _renewed_table(m[0], stored), text))


def statements(stored: Stored) -> dict[str, list[str]]:  # page -> what must stand in its prose
    "Sentences with numbers of the stored scores."
    seeds, shipped, own = stored.seeds, stored.shipped, stored.own
    listed = lambda texts: ", ".join(texts[:-1]) + f" and {texts[-1]}"
    counts = [f"{row[WITH_MAJORITY]:.0f}" for row in seeds]
    shares = [row[ACCURACY] / row[CEILING] for row in seeds]
    least, most = (f(int(c) for c in counts) for f in (min, max))
    return {
        "README.md": [f"accuracy on the {least} to {most} of them with a majority emotion"],
        "docs/results.md": [
            f"{listed(counts)} of them have a majority emotion",
            f"the model reaches {listed([percent(s) for s in shares])} % of what anybody could reach, "
            f"{percent(statistics.mean(shares))} % on average",
            f"on another {shipped['grounding']['n']} synthetic paintings, of which {shipped[ACCURACY]['n']} have a "
            "majority emotion",
        ],
        "docs/model_card.md": [
            f"on {shipped['grounding']['n']} other synthetic paintings, of which {shipped[ACCURACY]['n']} have a "
            f"majority emotion; its own test part has {own['grounding']['n']:,}, {own[ACCURACY]['n']} with one",
        ],
    }


def main(folders: list[str]) -> None:
    if folders:
        collect([Path(f) for f in folders], SEEDS)
    stored = read_stored(Path())
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        page.write_text(renewed(text, stored), encoding="utf-8")
        plain = " ".join(text.split())
        for sentence in statements(stored)[page.as_posix()]:
            if sentence not in plain:
                print(f"{page}: write {sentence!r}")


if __name__ == "__main__":
    main(sys.argv[1:])

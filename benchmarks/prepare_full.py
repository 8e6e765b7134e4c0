"""Prepare a made-up release of ArtEmis's full size, and say how long it takes and how much memory.

    python benchmarks/prepare_full.py FOLDER [--rows 454684 --paintings 80031 --known-words FILE --pictures]

Every utterance is drawn by lot from English words; nothing in it comes from ArtEmis. What the real release is known
for is in it: artists' names that went
through the wrong encoding (composed, decomposed, or with #U escapes on disk), paintings with 41 annotations and more,
repeated utterances, quotes, line breaks,
utterances of one word and of two hundred. FOLDER must be new or empty: what is there already would not be measured.
The result is written to FOLDER/benchmark.json with the machine it ran on.
"""

import argparse
import csv
import io
import json
import os
import platform
import sys
import unicodedata
from importlib import resources
from pathlib import Path

import numpy as np
from launch import run_measured

EMOTIONS = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness", "something else")
STYLES = (
    "Abstract_Expressionism Action_painting Analytical_Cubism Art_Nouveau_Modern Baroque Color_Field_Painting "
    "Contemporary_Realism Cubism Early_Renaissance Expressionism "
    "Fauvism High_Renaissance Impressionism Mannerism_Late_Renaissance Minimalism Naive_Art_Primitivism New_Realism "
    "Northern_Renaissance Pointillism Pop_Art "
    "Post_Impressionism Realism Rococo Romanticism Symbolism Synthetic_Cubism Ukiyo_e"
).split()
CROWDED = 701  # paintings with 41 annotations or more, as in ArtEmis
SAYINGS = (
    "it's calming",
    "I can't say why",
    'who "knows"?',
    "the child's face",
    "they don't look happy",
    "it isn't 'real'",
    "so still - and quiet",
    "we'd stay",
    "wanna run away",
)


def votes_of(rows, paintings, rng):
    "How many annotations each painting has: at least 5, 701 of 80,031 at least 41, `rows` in all."
    crowded = max(1, round(CROWDED * paintings / 80031))
    counts = np.full(paintings, 5)
    counts[rng.choice(paintings, crowded, replace=False)] = 41
    few = np.flatnonzero(counts == 5)
    more = rows - counts.sum()
    if more < 0:
        raise SystemExit(f"{rows} rows are too few for {paintings} paintings; give at least {counts.sum()}.")
    counts[few] += rng.multinomial(more, np.full(len(few), 1 / len(few)))
    return counts


def names_of(paintings, rng):
    "Style and file stem of each painting; every twentieth artist has an accent that went through the wrong encoding."
    broken = "eugène".encode().decode("latin-1").lower()
    forms = (broken, unicodedata.normalize("NFD", broken))
    for i in range(paintings):
        artist = f"{forms[i // 20 % 2]}-{i // 40}" if i % 20 == 0 else f"artist-{i % 1119}"
        yield STYLES[int(rng.integers(len(STYLES)))], f"{artist}_work-{i}" + ("", "-1907", "(1)")[i % 3]


def utterances(n, rng):
    "Texts of made-up word order: one to two hundred words, with typing errors and sayings."
    lines = (resources.files("symspellpy") / "frequency_dictionary_en_82_765.txt").read_text("utf-8-sig").splitlines()
    words, counts = zip(*(line.split() for line in lines[:37000]))
    p = np.array(counts, float) ** 0.8
    pool, at = rng.choice(np.array(words, object), 4_000_000, p=p / p.sum()), 0
    lengths = np.clip(np.exp(rng.normal(2.6, 0.55, n)).astype(int), 1, 200)
    lengths[rng.random(n) < 0.003] = 1
    lengths[rng.choice(n, max(1, n // 5000), replace=False)] = 200
    said = []
    for i, k in enumerate(lengths.tolist()):
        at = (at + k) % (len(pool) - 200)
        w = list(pool[at : at + k])
        if i % 9 == 0:
            w[0] = w[0][:2] + w[0][1:]  # a doubled letter
        if i % 3 == 0:
            w.append(SAYINGS[i // 3 % len(SAYINGS)])
        if i % 500 == 0:
            w.insert(len(w) // 2, "\n")
        text = " ".join(w).capitalize() + (".", "!", "", " ;", "...")[i % 5]
        said.append(said[-1] if i % 700 == 1 else text)
    return said


def make(folder, rows, paintings, pictures, seed=0):
    "The CSV file, a lexicon, and style folders (with one small picture a painting, if asked for)."
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    names, counts = list(names_of(paintings, rng)), votes_of(rows, paintings, rng)
    with open(folder / "artemis_dataset_release_v0.csv", "w", encoding="utf-8", newline="") as f:
        out = csv.writer(f)
        out.writerow(["art_style", "painting", "emotion", "utterance", "repetition"])
        who = rng.permutation(np.repeat(np.arange(paintings), counts))
        felt = rng.choice(len(EMOTIONS), rows, p=np.array([9, 13, 28, 8, 2, 5, 10, 12, 13]) / 100)
        out.writerows(
            (*names[i], EMOTIONS[e], text, counts[i])
            for i, e, text in zip(who.tolist(), felt.tolist(), utterances(rows, rng))
        )
    lexicon = "happy\t0.9\t0.6\t0.7\nsad\t0.1\t0.3\t0.2\nsea\t0.7\t0.3\t0.5\n"
    (folder / "lexicon.txt").write_text(lexicon, encoding="utf-8")
    for style in STYLES:
        (folder / "wikiart" / style).mkdir(parents=True, exist_ok=True)
    if pictures:
        draw(folder / "wikiart", names)


def draw(images, names):
    """The same small JPEG under every name; every hundredth name, which has an accent, is escaped as some unzip
    tools do."""
    from PIL import Image

    Image.new("RGB", (32, 24), (90, 120, 150)).save(picture := io.BytesIO(), "JPEG")
    for i, (style, name) in enumerate(names):
        if i % 100 == 0:
            name = "".join(c if c.isascii() else f"#U{ord(c):04x}" for c in unicodedata.normalize("NFC", name))
        (images / style / f"{name}.jpg").write_bytes(picture.getvalue())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=454_684)
    parser.add_argument("--paintings", type=int, default=80_031)
    parser.add_argument("--known-words", type=Path, help="with it the spelling step runs, too")
    parser.add_argument("--pictures", action="store_true", help="a small picture for every painting")
    args = parser.parse_args()
    if args.paintings < 3:
        parser.error("--paintings must be 3 or more: train, val and test need one each.")
    if args.folder.exists() and any(args.folder.iterdir()):
        parser.error(f"{args.folder} is not empty; give a new folder: what is there already would not be measured.")
    release = args.folder / "release"
    make(release, args.rows, args.paintings, args.pictures)
    command = [
        sys.executable,
        "-m",
        "sevlm",
        "prepare",
        "--artemis",
        release / "artemis_dataset_release_v0.csv",
        "--wikiart",
        release / "wikiart",
        "--lexicon",
        release / "lexicon.txt",
        "--out",
        args.folder / "prepared",
        *(["--known-words", args.known_words] if args.known_words else []),
        "--quiet",
    ]
    seconds, peaks = zip(*(run_measured(command) for _ in range(2)))  # the second should find everything done
    found = dict(
        rows=args.rows,
        paintings=args.paintings,
        pictures=args.pictures,
        spelling=bool(args.known_words),
        seconds_first=round(seconds[0], 1),
        seconds_again=round(seconds[1], 1),
        peak_memory_gb=round(max(peaks) / 2**30, 2),
        cores=os.cpu_count(),
        machine=platform.processor() or platform.machine(),
        python=platform.python_version(),
    )
    (args.folder / "benchmark.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

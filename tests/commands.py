"Command lines that several tests give."

from pathlib import Path


def prepare_argv(data: Path, out: Path) -> list[str]:
    "`sevlm prepare` of a synthetic set, with its own lexicon."
    files = {
        "--artemis": data / "artemis_dataset_release_v0.csv",
        "--wikiart": data / "wikiart",
        "--lexicon": data / "mini-vad-lexicon.txt",
        "--out": out,
    }
    return ["prepare", *(str(word) for pair in files.items() for word in pair), "--quiet"]

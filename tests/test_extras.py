"""With the core requirements alone a picture is explained; what needs an extra names the line that installs it."""

import os
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

import sevlm

PACKAGE = Path(sevlm.__file__).resolve().parent
# all that the extras bring, by the name of the import; None in sys.modules: as if it were not installed
EXTRAS = (
    "pandas sklearn pycocoevalcap nltk symspellpy open_clip torchvision transformers seaborn ipywidgets pillow_heif "
    "pyarrow scipy"
).split()
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r})); "
UNBLOCK = "import sys; del sys.modules['pandas']; "  # an extra that is there in part


def python(code, *argv):
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code, *map(str, argv)], capture_output=True, text=True, env=env
    )


def test_the_core_explains_a_picture_and_makes_a_synthetic_set(tmp_path):
    code = (
        "import numpy, sevlm; explain = sevlm.load(device='cpu');"
        "grey = numpy.zeros((40, 40, 3), 'uint8'); print(explain(grey, attention=True));"
        "explain.save_pretrained(sys.argv[1]); explain(grey, sample=True, seed=1); explain(grey, beams=2);"
        "from sevlm.cli import main; sys.exit(main(['mini', sys.argv[2], '--paintings', '40', '--quiet']))"
    )
    ran = python(code, tmp_path / "saved", tmp_path / "mini")
    assert ran.returncode == 0 and " because " in ran.stdout, ran.stderr
    assert (tmp_path / "mini" / "mini_truth.csv").is_file()


@pytest.mark.parametrize(
    "line, package, extra",
    [
        ("evaluate DATA --no-meteor", "pandas", "metrics"),
        ("train DATA --out OUT", "pandas", "metrics"),
        ("prepare --artemis DATA --wikiart DATA --out OUT", "pandas", "prepare"),
    ],
)
def test_a_command_names_the_extra_it_needs(line, package, extra, tmp_path):
    words = line.replace("DATA", str(tmp_path)).replace("OUT", str(tmp_path / "out")).split()
    ran = python("from sevlm.cli import main; sys.exit(main(sys.argv[1:]))", *words)
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1, ran.stderr
    assert f"{package} is needed here and is not installed: pip install 'sevlm[" in ran.stderr and extra in ran.stderr


@pytest.mark.parametrize(
    "code, extra",
    [
        ("from sevlm.metrics.captions import bleu_scores; bleu_scores({'a': 'x'}, {'a': ['x']})", "metrics"),
        ("from sevlm.models.vision import create_clip; create_clip('ViT-B-32')", "clip"),
        ("from sevlm.metrics.emotions import confusion; confusion(['awe'], ['awe'])", "metrics"),
        ("import sevlm.artemis.protocol", "prepare"),
        (UNBLOCK + "from sevlm.artemis.utterances import dictionary; dictionary()", "prepare"),
        (UNBLOCK + "from sevlm.artemis.utterances import Speller; Speller(['sky'])('skye')", "prepare"),
        (UNBLOCK + "from sevlm.studies.lab_contrast import over_seeds; over_seeds([0.1, 0.2])", "metrics"),
        ("from sevlm.models.sampling import *; make_process(Generation(sample=True, top_p=0.9))", "sampling"),
        ("import sevlm.studies.compare", "metrics"),
        (
            "import pathlib, tempfile; from sevlm.data.imagefolder import columnar_facts;"
            "path = pathlib.Path(tempfile.mkdtemp(), 'a.parquet'); path.touch(); columnar_facts(path)",
            "tables",
        ),
    ],
)
def test_python_names_the_extra_it_needs(code, extra):
    ran = python(code)
    assert (
        ran.returncode == 1 and "sevlm.errors.ConfigError" in ran.stderr and f"{extra}" in ran.stderr.splitlines()[-1]
    )


@pytest.mark.skipif(not (PACKAGE.parent / "settings.ini").exists(), reason="needs the checkout")
def test_the_requirements_of_the_core_are_few():
    parser = ConfigParser(delimiters=["="])
    parser.read(PACKAGE.parent / "settings.ini", encoding="utf-8")
    core = parser["DEFAULT"]["requirements"].split()
    assert len(core) <= 13 and not {"pandas", "transformers", "nltk"} & {need.split(">")[0] for need in core}

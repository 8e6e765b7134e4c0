"""With the core requirements alone a picture is explained; what needs an extra names the line that installs it."""

import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

import sevlm

PACKAGE = Path(sevlm.__file__).resolve().parent
if not (PACKAGE.parent / "settings.ini").exists():  # e.g. when only the wheel and the tests are at hand
    pytest.skip("the settings are not beside the tests", allow_module_level=True)
parser = ConfigParser(delimiters=["="])
parser.read(PACKAGE.parent / "settings.ini", encoding="utf-8")
SETTINGS = parser["DEFAULT"]
IMPORTS = {"scikit-learn": "sklearn", "open_clip_torch": "open_clip"}  # where the import has another name
names = lambda key: {re.split("[<>=]", need)[0] for need in SETTINGS[key].split()}
# all that the extras bring (SciPy comes with scikit-learn), by the name of the import; None in sys.modules: as if it
# were not installed
EXTRAS = sorted(IMPORTS.get(n, n) for n in {"scipy"}.union(*(names(k) for k in SETTINGS if k.startswith("extra_"))))
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


def test_what_the_extras_bring_is_not_in_the_core():
    core = names("requirements")
    assert len(core) <= 13 and not {IMPORTS.get(n, n) for n in core} & set(EXTRAS)
    assert {"pandas", "sklearn", "tensorboard", "voila", "anywidget"} <= set(EXTRAS)

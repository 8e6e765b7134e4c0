"""Installs sevlm. Everything that varies is in settings.ini, the one place nbdev reads too."""

import re
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
extras = {key.removeprefix("extra_"): value.split() for key, value in cfg.items() if key.startswith("extra_")}
for name in ("notebooks", "dev"):  # pages use everything, and so do those who write them
    needed = {need for needs in extras.values() for need in needs}
    extras[name] = sorted(needed | set(cfg["dev_requirements"].split() if name == "dev" else ()))

PYTHONS = range(int(cfg["min_python"].split(".")[1]), int(cfg["max_python"].split(".")[1]) + 1)
PLACES = {picture: f"{cfg['git_url']}/{kind}/v{cfg['version']}/" for picture, kind in ((True, "raw"), (False, "blob"))}


def readme_elsewhere() -> str:  # Markdown
    "The README for a package index, which has no files of the repository: relative links and pictures get its address."
    text = (here / "README.md").read_text(encoding="utf-8")
    link = re.compile(r"(!?)(\[[^]]*\]\()(?![a-z]+:|#)([^)\s]+\))")
    return link.sub(lambda m: f"{m[1]}{m[2]}{PLACES[bool(m[1])]}{m[3]}", text)


shutil.rmtree(here / "build" / "lib", ignore_errors=True)  # setuptools would pack what an earlier build has left there

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme_elsewhere(),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"].split(),
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    project_urls={
        "Documentation": cfg["doc_host"] + cfg["doc_baseurl"],
        "Changelog": f"{PLACES[False]}CHANGELOG.md",
        "Issues": f"{cfg['git_url']}/issues",
    },
    classifiers=[
        "Development Status :: 5 - Production/Stable",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in PYTHONS),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    license_expression="Apache-2.0",
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[cfg["lib_path"], cfg["lib_path"] + ".*"]),
    package_data={cfg["lib_name"]: ["assets/**/*", "py.typed"]},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": cfg["console_scripts"].split("\n")},
    zip_safe=False,
)

"""The documentation site has every page and every public name; `./run.sh docs` builds it, and .ci/run does, too."""

import ast
import fnmatch
import pathlib
import re
import runpy
import sys
import tomllib

import pytest

import iwae_tf

CHECKOUT = pathlib.Path(__file__).parent.parent
API = CHECKOUT / "docs" / "api"
# Names of `iwae_tf.layers` that only other modules of the package need.
PLUMBING = {"PACKAGE", "check_channels", "density_dtype", "frozen_as_configured", "serialized"}


@pytest.fixture
def conf(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    return runpy.run_path(str(CHECKOUT / "docs" / "conf.py"))


def _described(*pages):
    """The names that API pages describe one by one."""
    texts = [(API / f"{page}.rst").read_text() for page in pages]
    return {name for text in texts for name in re.findall(r"^\.\. (?:auto\w+|data):: ([\w.]+)$", text, re.MULTILINE)}


def test_the_docs_extra_has_the_theme_and_the_extensions(conf):
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    needed = {re.split("[><=]", line)[0] for line in project["optional-dependencies"]["docs"]}
    own = {path.stem for path in (CHECKOUT / "docs" / "extensions").glob("*.py")}
    foreign = [name for name in conf["extensions"] if name not in own and not name.startswith("sphinx.ext.")]
    assert {name.replace("_", "-") for name in [*foreign, conf["html_theme"]]} <= needed
    pinned = {line.split("==")[0].lower() for line in (CHECKOUT / "constraints.txt").read_text().splitlines()}
    assert needed <= pinned


def test_every_page_is_in_the_contents(conf):
    entries = [re.sub(r".*<(.*)>", r"\1", page) for pages in conf["contents"].values() for page in pages]
    assert entries.count("self") == 1
    pages = {path.relative_to(CHECKOUT).with_suffix("").as_posix() for path in CHECKOUT.glob("docs/*.md")}
    pages |= {path.stem for path in CHECKOUT.glob("*.md")}
    for page in pages - {"docs/README", conf["root_doc"]}:
        assert any(fnmatch.fnmatch(page, entry) for entry in entries), page
    for entry in entries:
        is_page = any((CHECKOUT / f"{entry}{suffix}").is_file() for suffix in (".md", ".rst", ".ipynb"))
        assert entry == "self" or "*" in entry or is_page, entry


def test_every_api_page_is_in_the_contents():
    toctree = (API / "index.rst").read_text().partition(".. toctree::")[2].split()
    assert sorted(toctree) == sorted(path.stem for path in API.glob("*.rst") if path.stem != "index")


def test_every_public_name_is_described():
    pages = {path.stem for path in API.glob("*.rst")}
    assert set(iwae_tf.__all__) - _described("iwae_tf") - pages == {"__version__"}
    module = ast.parse((CHECKOUT / "iwae_tf" / "layers" / "__init__.py").read_text())
    (names,) = [ast.literal_eval(node.value) for node in module.body if isinstance(node, ast.Assign)]
    assert set(names) - _described("layers") == PLUMBING

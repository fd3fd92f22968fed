"""Which module may import what; import-linter holds the order of the packages, which pyproject.toml states."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import iwae_tf
from iwae_tf.experiment.flags import Options, fields

FOLDER = pathlib.Path(iwae_tf.__file__).parent
MODULES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.py"))
# All that may read flags: the package that defines them, and the commands.
READS_FLAGS = re.compile(r"experiment/|report/|(main|table|release|prune|ais|score|impute|gradients|__main__|api)\.py")
_FLAG = re.compile(rf"--(no)?({'|'.join(field.name for field in fields())})\b")


def _tree(module):
    return ast.parse((FOLDER / module).read_text())


def _imports(module):
    """The dotted names that a module imports, wherever in it."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_import_contracts_hold():
    lint = pathlib.Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint], capture_output=True, text=True, cwd=FOLDER.parent, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", MODULES)
def test_only_figures_imports_matplotlib_and_only_the_parser_imports_absl(module):
    packages = {name.partition(".")[0] for name in _imports(module)}
    assert "matplotlib" not in packages or module.startswith("figures/")
    assert "absl" not in packages or module == "experiment/parsing.py"
    assert "tf_keras" not in packages


@pytest.mark.parametrize("module", [module for module in MODULES if not READS_FLAGS.match(module)])
def test_only_experiment_and_commands_read_flags(module):
    """Nothing else is handed options, reads one, or speaks of a flag in a message."""
    nodes = list(ast.walk(_tree(module)))
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    arguments = {node.arg for node in nodes if isinstance(node, ast.arg)}
    assert not {"flags", "options"} & (names | arguments)
    texts = [node.value for node in nodes if isinstance(node, ast.Constant)]
    assert not [text for text in texts if isinstance(text, str) and _FLAG.search(text)]


@pytest.mark.parametrize("module", [module for module in MODULES if READS_FLAGS.match(module)])
def test_options_are_read_and_never_written(module):
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                assert not (isinstance(target, ast.Attribute) and ast.unparse(target.value).endswith("options"))
    with pytest.raises(AttributeError):
        Options().k = 5


def test_the_setup_lists_every_package():
    """setuptools cannot find them, since the flagfiles and models are outside of the package's folder."""
    packages = {"iwae_tf", "iwae_tf.flags", "iwae_tf.released_models"}
    packages |= {f"iwae_tf.{path.parent.name}" for path in FOLDER.glob("*/__init__.py")}
    settings = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())
    assert set(settings["tool"]["setuptools"]["packages"]) == packages


def test_importing_the_package_is_instant():
    code = (
        "import sys, iwae_tf; dir(iwae_tf); print(sorted({'numpy', 'absl', 'keras', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=FOLDER.parent)
    assert done.stdout == "[]\n"

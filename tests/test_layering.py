"""Packages import only what is below them; import-linter holds the order that pyproject.toml states."""

import ast
import pathlib
import subprocess
import sys

import iwae_tf

FOLDER = pathlib.Path(iwae_tf.__file__).parent


def test_the_import_contracts_hold():
    lint = pathlib.Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint], capture_output=True, text=True, cwd=FOLDER.parent, check=False)
    assert done.returncode == 0, done.stdout


def test_only_figures_imports_matplotlib_and_only_commands_read_flags():
    for path in FOLDER.rglob("*.py"):
        imported = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        text = " ".join(ast.unparse(node) for node in imported)
        module = path.relative_to(FOLDER).as_posix()
        assert "matplotlib" not in text or module.startswith("figures/"), path
        assert "absl" not in text or module in (
            "experiment/options.py",
            "gradients.py",
            "prune.py",
            "report/command.py",
        ), path
        assert "tf_keras" not in text

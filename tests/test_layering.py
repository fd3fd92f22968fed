"""Modules know only those below: the order of the house."""

import ast
import pathlib

import iwae_tf

ROWS = [
    {"main", "gradients", "report"},
    {"gallery"},
    {"records"},
    {"assessment", "experiment"},
    {"summary"},
    {"options"},
    {"training"},
    {"curves"},
    {"evaluation", "export"},
    {"models"},
    {"estimators", "networks"},
    {"layers"},
    {"datasets"},
    {"prepared", "sources", "binarization", "bounds", "schedules", "figures", "runs"},
    {"checkpoints"},
    {"files", "noise", "errors", "progress", "published", "compatibility", "interruption", "replicas", "markdown"},
]
# evaluation is below export, the other rows' modules do not know each other.
WITHIN_A_ROW = {("export", "evaluation")}
FOLDER = pathlib.Path(iwae_tf.__file__).parent


def _imports(module):
    """Names of the package's modules that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse((FOLDER / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "iwae_tf":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("iwae_tf."):
            found.add(node.module.split(".")[1])
    return found


def test_every_module_has_its_row():
    assert {path.stem for path in FOLDER.glob("*.py")} == {"__init__"}.union(*ROWS)


def test_modules_import_only_rows_below():
    row_of = {module: row for row, modules in enumerate(ROWS) for module in modules}
    wrong = [
        f"{module} imports {imported}"
        for module in row_of
        for imported in _imports(module)
        if row_of[imported] <= row_of[module] and (module, imported) not in WITHIN_A_ROW
    ]
    assert not wrong


def test_only_figures_imports_matplotlib_and_only_commands_read_flags():
    for path in FOLDER.glob("*.py"):
        imported = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        text = " ".join(ast.unparse(node) for node in imported)
        assert ("matplotlib" in text) == (path.stem == "figures"), path
        assert ("absl" in text) == (path.stem in ("options", "gradients", "report")), path
        assert "tf_keras" not in text

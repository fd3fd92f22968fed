"""The command iwae-tf and its subcommands."""

import pathlib
import subprocess
import sys

import pytest

import iwae_tf
from iwae_tf import __main__ as program

CHECKOUT = pathlib.Path(iwae_tf.__file__).parent.parent


def _run(*words):
    return subprocess.run([sys.executable, "-m", "iwae_tf", *words], capture_output=True, text=True, cwd=CHECKOUT)


def test_version():
    done = _run("--version")
    assert (done.returncode, done.stdout) == (0, f"iwae-tf {iwae_tf.__version__}\n")


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_the_help_lists_every_command(words, capsys):
    program.main(["iwae-tf", *words])
    printed = capsys.readouterr().out
    for name in ("train", "table", "report", "prune", "ais", "gradients"):
        assert f"\n  {name} " in printed


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("train", "--k="),
        ("table", "mnist_iwae_1l_k5"),
        ("report", "--out="),
        ("prune", "--threshold="),
        ("gradients", "--draws="),
    ],
)
def test_every_command_has_its_own_help(name, flag, capsys):
    with pytest.raises(SystemExit) as status:
        program.main(["iwae-tf", name, "--help"])
    assert not status.value.code
    assert flag in capsys.readouterr().out


def test_an_unknown_command_is_refused_in_one_line():
    done = _run("trian")
    assert done.returncode == 1
    assert done.stderr == (
        "iwae_tf: 'trian' is not a command; use one of train, table, models, report, prune, ais, score, impute, "
        "gradients, or --help.\n"
    )


def test_errors_of_a_command_are_one_line():
    done = _run("train", "--k=0")
    assert done.returncode == 1
    assert done.stderr.startswith("iwae_tf: --k=0 is not in the range")
    assert done.stderr.count("\n") == 1


def test_the_programs_name_is_not_a_flag(tmp_path, monkeypatch):
    """Flags and flagfiles after the subcommand are read as those of the command itself."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="'nothing' is not a flag|is not a run directory"):
        program.main(["iwae-tf", "report", "nothing"])

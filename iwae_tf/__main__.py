"""The command `iwae-tf`, or `python -m iwae_tf`: one subcommand for each command of the package."""

import importlib
import sys
from collections.abc import Sequence

from iwae_tf.version import __version__

# Subcommand -> its module, which has a function `run`, and what it does.
_COMMANDS = {
    "train": ("iwae_tf.main", "train, evaluate, draw and export one model"),
    "table": ("iwae_tf.table", "train and evaluate the published table, cell by cell"),
    "models": ("iwae_tf.release", "list, check and make released models"),
    "report": ("iwae_tf.report.command", "compare runs with each other and with the paper"),
    "prune": ("iwae_tf.prune", "remove the inactive units of a trained model"),
    "ais": ("iwae_tf.ais", "measure log p(x) by annealed importance sampling"),
    "score": ("iwae_tf.score", "compute log p(x) of each row or image of new data"),
    "impute": ("iwae_tf.impute", "fill in the missing values of a table"),
    "gradients": ("iwae_tf.gradients", "measure bias and variance of gradient estimators"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a subcommand.

    Args:
      argv: the command line, by default that of the process.
    """
    program, *words = sys.argv if argv is None else argv
    if words and words[0] in _COMMANDS:
        module, _ = _COMMANDS[words[0]]
        importlib.import_module(module).run([f"{program} {words[0]}", *words[1:]])
    elif words and words[0] in ("--version", "-version"):
        print(f"iwae-tf {__version__}")
    elif words and words[0] not in ("--help", "-help", "-h", "help"):
        sys.exit(f"iwae_tf: {words[0]!r} is not a command; use one of {', '.join(_COMMANDS)}, or --help.")
    else:
        print(_help())


def _help():
    lines = [
        "Importance weighted autoencoders (Burda et al., arXiv:1509.00519).",
        "",
        "usage: iwae-tf COMMAND [--flags]",
    ]
    lines += ["", *(f"  {name:<11}{text}" for name, (_, text) in _COMMANDS.items())]
    return "\n".join([*lines, "", "iwae-tf COMMAND --help lists its flags; iwae-tf --version prints the version."])


if __name__ == "__main__":
    main()

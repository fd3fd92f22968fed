"""The published table: trains, evaluates and reports its cells one after another.

  python -m iwae_tf.table                                  the ten cells of MNIST
  python -m iwae_tf.table mnist_iwae_1l_k5 'mnist_vae_*'   some of them, by the names of their flagfiles
  python -m iwae_tf.table --seed=2                         other flags apply to every run; here a second set of runs

The flagfiles are in flags/table/; each run goes to runs/table/CELL_seedN, and the report to runs/table/report. A cell
that starts from the weights of another one comes after it, and brings it along. The same command continues where it was
stopped, and skips finished cells.
"""

import dataclasses
import fnmatch
import pathlib
import sys
from collections.abc import Sequence

from iwae_tf import main
from iwae_tf.errors import UserError
from iwae_tf.experiment import build, finished, parsing, stored
from iwae_tf.experiment.command import run_command
from iwae_tf.experiment.flags import Options
from iwae_tf.report import command as report
from iwae_tf.runtime import console

_PACKAGE = pathlib.Path(__file__).parent
# A wheel has the flagfiles inside the package, a checkout next to it.
_FLAGFILES = (
    next((path for path in (_PACKAGE / "flags", _PACKAGE.parent / "flags") if path.is_dir()), _PACKAGE) / "table"
)
_RUNS = pathlib.Path("runs") / "table"
_REPORT = _RUNS / "report"
_DEFAULT_CELLS = "mnist_*"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of the table: its name, the command line of its run, the options that this gives, and where it starts.

    `origins` are the cells whose weights it starts from, directly or through others; the first one starts at random.
    """

    name: str
    argv: list[str]
    options: Options
    origins: tuple[str, ...] = ()

    @property
    def num_samples(self) -> int:
        """Samples per training image in the whole training run: about what it costs."""
        first = self.options.first_epochs * self.options.first_total_samples
        others = (self.options.num_epochs - self.options.first_epochs) * self.options.total_samples
        return len(self.options.latent_dims) * (first + others)

    def directory(self):
        """The `runs.RunDirectory`."""
        return build.run_directory(self.options.run_dir)


def run_table(argv: Sequence[str]) -> None:
    """Runs each cell as `iwae_tf.main` does, then writes the report."""
    cells = _cells(argv)
    console.note(f"cells: {', '.join(cell.name for cell in cells)}")
    failed: list[Cell] = []
    for number, cell in enumerate(cells, start=1):
        try:
            missing = [other.name for other in failed if other.name in cell.origins]
            if missing:
                raise UserError(f"it starts from {missing[0]}, which failed")
            _run_cell(cell, f"cell {number} of {len(cells)}, {cell.name}")
        except UserError as error:
            failed.append(cell)
            console.warn(f"{cell.name}: {error}")
    started = [cell.options.run_dir for cell in cells if cell not in failed and cell.directory().flags.exists()]
    # Those of earlier commands, so that a report of some cells does not replace one of all.
    broken = [pathlib.Path(cell.options.run_dir) for cell in failed]
    finished_runs = [results.parent for results in sorted(_RUNS.glob("*/results.json"))]
    earlier = [str(path) for path in finished_runs if path not in broken]
    if started or earlier:
        report.main(["report", *started, *earlier, f"--out={_REPORT}", "--json"])
    if failed:
        names = ", ".join(cell.name for cell in failed)
        raise UserError(f"{names} failed, see above; the same command tries again.")


def _run_cell(cell, title):
    """Trains and evaluates a cell, unless that is done."""
    if finished.finished_results(cell.options, cell.directory()):
        console.note(f"{title}, is finished")
        return
    console.note(f"\n{title}")
    main.main(cell.argv)


def _cells(argv):
    """The cells that a command line asks for and those that they start from, the shortest training first.

    Raises:
      UserError: unknown cells, flags that a run refuses, or run directories that hold something else.
    """
    if parsing.asks_for_help(argv):
        print(f"{__doc__}\nThe flags of the runs: python -m iwae_tf.main --help")
        sys.exit(0)
    words = [word for word in argv[1:] if word != "--"]
    flags = [word for word in words if word.startswith("-")]
    run_dirs = [flag for flag in flags if flag.lstrip("-").split("=")[0] == "run_dir"]
    if run_dirs:
        raise UserError(f"{run_dirs[0]} cannot be used for a whole table: each cell has its own folder in {_RUNS}/.")
    names = _names([word for word in words if not word.startswith("-")] or [_DEFAULT_CELLS])
    with_origins = dict.fromkeys(each for name in names for each in (*_origins(name), name))
    cells = [_cell(name, flags) for name in with_origins]
    return sorted(cells, key=lambda cell: (len(cell.origins), cell.num_samples))


def _origins(name):
    """The cells whose weights a cell starts from, the first of them first."""
    origin = _flagfile_options(name).init_from
    return (*_origins(origin), origin) if origin in _known() else ()


def _flagfile_options(name, flags=()):
    return parsing.parse(["main", f"--flagfile={_FLAGFILES / name}.flags", *flags])


def _known():
    return sorted(path.stem for path in _FLAGFILES.glob("*.flags"))


def _names(patterns):
    """The cells whose names match."""
    known = _known()
    if not known:
        raise UserError(f"There are no flagfiles in {_FLAGFILES}; install iwae_tf again.")
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            raise UserError(
                f"{pattern!r} is not a cell; give some of {', '.join(known)}, or patterns such as 'mnist_*', and flags "
                "as --name=value."
            )
    return [name for name in known if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def _cell(name, flags):
    options, origins = _flagfile_options(name, flags), _origins(name)
    argv = ["main", f"--flagfile={_FLAGFILES / name}.flags", *flags]
    argv.append(f"--run_dir={_run_dir(name, options.seed)}")
    if origins and options.init_from == origins[-1]:
        # Not the released model of this name: the table is trained from the beginning, with a seed of its own.
        argv.append(f"--init_from={_run_dir(origins[-1], options.seed)}")
    cell = Cell(name, argv, parsing.parse(argv), origins)
    if cell.options.overwrite:
        raise UserError(f"--overwrite cannot be used for a whole table; remove the folders in {_RUNS}/ instead.")
    if cell.options.strategy == "multi_worker":
        raise UserError("--strategy=multi_worker is for single runs: workers would not agree on finished cells.")
    # Refuse now what would be refused hours later.
    cell.directory().check(stored.run_flags(cell.options))
    return cell


def _run_dir(name, seed):
    return _RUNS / f"{name}_seed{seed}"


def run(argv: Sequence[str] | None = None) -> None:
    """The command; see `command.run_command`."""
    run_command(run_table, "the same command continues", argv)


if __name__ == "__main__":
    run()

"""The published table: trains, evaluates and reports its cells, one after another, shortest first.

  python -m iwae_tf.table                                  the ten cells of MNIST
  python -m iwae_tf.table mnist_iwae_1l_k5 'mnist_vae_*'   some of them, by the names of their flagfiles
  python -m iwae_tf.table --seed=2                         further words go to every run; here a second set of runs

The flagfiles are in flags/table/; each run goes to runs/table/CELL_seedN, and the report to runs/table/report. The same
command continues where it was stopped, and leaves finished cells as they are.
"""

import contextlib
import fnmatch
import pathlib
import sys
import types

from iwae_tf import main, runs
from iwae_tf.errors import UserError
from iwae_tf.experiment import options, summary
from iwae_tf.experiment.command import run_command
from iwae_tf.report import command as report
from iwae_tf.runtime import progress

_FLAGFILES = pathlib.Path(__file__).parent.parent / "flags" / "table"
_RUNS = pathlib.Path("runs") / "table"
_REPORT = _RUNS / "report"
_USUAL_CELLS = "mnist_*"
# What a pass costs, in samples of one image that pass forward and backward through one stochastic layer's networks.
_WORK_PER_IMAGE, _WORK_PER_STEP, _WORK_OF_LAYERS = 1.0, 50.0, {1: 1.0, 2: 1.45}
# Forward alone, and how many test images there are for a training image.
_WORK_FORWARD, _TEST_SHARE = 0.25, 1.0 / 6.0


def run_table(argv):
    """The story of a table: each cell as `iwae_tf.main` runs it, then the report."""
    cells = _cells(argv)
    print(f"cells, shortest first: {', '.join(cell.name for cell in cells)}")
    failed = []
    for number, cell in enumerate(cells, start=1):
        try:
            _run_cell(cells, number)
        except UserError as error:
            failed.append(cell)
            print(f"iwae_tf: {cell.name}: {error}", file=sys.stderr)
    begun = [cell.flags.run_dir for cell in cells if cell not in failed and _run(cell).flags.exists()]
    if begun:
        print()
        report.main(["report", *begun, f"--out={_REPORT}", "--json"])
    if failed:
        names = ", ".join(cell.name for cell in failed)
        raise UserError(f"{names} failed, see above; the same command tries again.")


def _run_cell(cells, number):
    """Trains and evaluates a cell, unless that is done."""
    cell = cells[number - 1]
    if summary.finished_results(cell.flags, _run(cell)):
        print(f"cell {number} of {len(cells)}, {cell.name}, is finished")
        return
    whole = Whole(cells, number)
    print(f"\n{whole.text()}", flush=True)
    with progress.noting(whole.text):
        main.main(cell.argv)


def _run(cell):
    return runs.RunDirectory(cell.flags.run_dir)


def _cells(argv):
    """The cells that a command line asks for, shortest first: name, argv of its run, and flags.

    Raises:
      UserError: unknown cells, flags that a run refuses, or run directories that hold something else.
    """
    if options.asks_for_help(argv):
        print(f"{__doc__}\nThe flags of the runs: python -m iwae_tf.main --help")
        sys.exit(0)
    words = [word for word in argv[1:] if word.startswith("-")]
    own = [word for word in words if word.lstrip("-").split("=")[0] == "run_dir"]
    if own:
        raise UserError(f"{own[0]} has no meaning for a whole table: each cell has its own in {_RUNS}/.")
    names = _names([word for word in argv[1:] if not word.startswith("-")] or [_USUAL_CELLS])
    cells = [_cell(name, words) for name in names]
    return sorted(cells, key=lambda cell: _work(cell.flags))


def _names(patterns):
    """The cells whose names match."""
    known = sorted(path.stem for path in _FLAGFILES.glob("*.flags"))
    if not known:
        raise UserError(f"There are no flagfiles in {_FLAGFILES}; run this from a checkout of the repository.")
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            raise UserError(
                f"{pattern!r} is no cell; give some of {', '.join(known)}, or patterns such as 'mnist_*', and flags as "
                "--name=value."
            )
    return [name for name in known if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def _cell(name, words):
    argv = ["main", f"--flagfile={_FLAGFILES / name}.flags", *words]
    seed = options.parse(argv).seed
    argv.append(f"--run_dir={_RUNS / f'{name}_seed{seed}'}")
    flags = options.parse(argv)
    if flags.overwrite:
        raise UserError(f"--overwrite has no meaning for a whole table; remove the folders of {_RUNS}/ that are to go.")
    if flags.strategy == "multi_worker":
        raise UserError("--strategy=multi_worker is for single runs: workers would not agree on finished cells.")
    # Whatever would be refused hours from now is refused at once.
    runs.RunDirectory(flags.run_dir).check(options.run_flags(flags))
    return types.SimpleNamespace(name=name, argv=argv, flags=flags)


class Whole:
    """How far a table is.

    Args:
      cells: all cells.
      number: which one is on, from 1.
    """

    def __init__(self, cells, number):
        self._cells, self._number = cells, number

    def text(self):
        """One line: the cell, how much of the whole is done, and the time left once the machine's speed is known."""
        done = sum(_work_done(cell) for cell in self._cells)
        total = sum(_work(cell.flags) for cell in self._cells)
        histories = [(cell.flags, _history(cell)) for cell in self._cells]
        timed = [(_work_trained(flags, len(rows)), rows[-1]["seconds"]) for flags, rows in histories if rows]
        text = f"table: cell {self._number} of {len(self._cells)}, {self._cells[self._number - 1].name}"
        text += f"; {done / total:.0%} of all is done"
        if not timed:
            return f"{text}; the time left will be known after the first epoch"
        work, seconds = map(sum, zip(*timed, strict=True))
        return f"{text}, {progress.duration(seconds / work * (total - done))} left"


def _work_done(cell):
    """What of a cell's work is finished; of an evaluation only the whole."""
    with contextlib.suppress(UserError):  # Of damaged results the cell itself says what is wrong.
        if summary.finished_results(cell.flags, _run(cell)):
            return _work(cell.flags)
    return _work_trained(cell.flags, len(_history(cell)))


def _history(cell):
    """The rows of a cell's history.csv; a damaged one is written anew when its turn comes."""
    with contextlib.suppress(UserError):
        return _run(cell).read_history()
    return []


def _work(flags):
    """The work of a cell, per training image."""
    evaluation = _WORK_FORWARD * _TEST_SHARE * flags.nll_samples * flags.binarization_seeds
    return _work_trained(flags, options.num_epochs(flags)) + _layers_factor(flags) * evaluation


def _work_trained(flags, epochs):
    """The work of the first epochs."""
    first = min(epochs, flags.first_epochs)
    return first * _work_of_epoch(flags, flags.first_k) + (epochs - first) * _work_of_epoch(flags, flags.k)


def _work_of_epoch(flags, k):
    samples = options.num_samples(flags, k)
    if flags.gradient_estimator == "resampled" and samples > flags.resampled:
        samples = _WORK_FORWARD * samples + flags.resampled
    return _layers_factor(flags) * (samples + _WORK_PER_IMAGE + _WORK_PER_STEP / flags.batch_size)


def _layers_factor(flags):
    latent_dims, _ = options.layer_dims(flags.latent_dims, flags.hidden_dims)
    return _WORK_OF_LAYERS.get(len(latent_dims), 0.7 * len(latent_dims))


if __name__ == "__main__":
    run_command(run_table, "the same command continues")

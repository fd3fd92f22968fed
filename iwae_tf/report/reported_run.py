"""Runs as the report reads them, finished or not; and groups of runs that differ only in their seed."""

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import UNSET

from iwae_tf import paper
from iwae_tf.errors import UserError
from iwae_tf.experiment import finished, stored, summary
from iwae_tf.experiment.flags import EVALUATION_FLAGS, Options
from iwae_tf.runs import DataDescription, Results, RunDirectory
from iwae_tf.runs.directory import MOVING_SETTINGS, TRAINED_WITH
from iwae_tf.runs.results import Annealing
from iwae_tf.runtime import console, files

# (latent_dims, k, objective) of the ten cells of each published table; at k = 1 the two objectives are the same.
GRID = sorted(
    {(dims, k, objective) for _, dims, objective, k in paper.TABLE if (k, objective) != (1, "vae")},
    key=lambda cell: (len(cell[0]), cell[1], cell[2] == "iwae"),
)
# The data sets for which the paper has these cells, in Tables 1 and 3.
GRID_DATASETS = ("mnist", "omniglot28", "binarized_mnist", "npz:omniglot28_by_drawing.npz")
# Data like those of the paper, which are not the same images -> the paper's data set.
STAND_INS = {"npz:omniglot28_by_drawing.npz": "omniglot28"}
# The flags that decide in which cell a run is.
CELL_FLAGS = ("dataset", "objective", "k", "latent_dims", "hidden_dims")
# Images with more pixels along a side are not drawn.
_MOST_PIXELS = 256


@dataclasses.dataclass(frozen=True)
class ReportedRun:
    """One run.

    Attributes:
      number: the number of the run in the report, from 1.
      path: its folder, as it was given.
      options: its options; those of the evaluation are the ones that results.json was measured with.
      results: what results.json holds, or None if the run is not evaluated yet.
      history: the rows of history.csv.
      data: the description of its images; everything is `UNSET` if it is missing.
      annealing: what ais.json holds, or None if the evaluated model was not annealed.
      start: the run of the report that this one trains on with the other objective, as in the paper's Table 2, or None.
    """

    number: int
    path: str
    options: Options
    results: Results | None
    history: list[dict[str, float]]
    data: DataDescription
    annealing: Annealing | None = None
    start: "ReportedRun | None" = None

    @property
    def title(self) -> str:
        return summary.title(self.options)

    @property
    def cell(self) -> tuple[str, tuple[int, ...], int, str] | None:
        """(data set, latent_dims, k, objective) as in `GRID`, or None if the run is in no table of the paper."""
        place = summary.cell(self.options, self.data.binarization)
        if place is None or self.start:
            return None
        dataset, dims, objective, k = place
        cell = dims, k, "iwae" if (k, objective) == (1, "vae") else objective
        return (dataset, *cell) if dataset in GRID_DATASETS and cell in GRID else None

    @property
    def epochs(self) -> int:
        """The number of finished epochs."""
        return self.results.training.epochs if self.results else len(self.history)

    @property
    def seconds(self) -> float:
        """The time spent in training."""
        if self.results:
            return self.results.training.seconds
        return self.history[-1]["seconds"] if self.history else 0.0

    @property
    def origin(self) -> str:
        """The name of the run or model that this one started from, without its seed, or ""."""
        return re.sub(r"_seed\d+$", "", pathlib.PurePath(self.options.init_from).name)

    @property
    def command(self) -> str:
        """The shell command that repeats the run; a released model that it started from is given by its name."""
        path, options = pathlib.Path(self.path), self.options
        if self.origin and RunDirectory(path).is_released() and (path.parent / self.origin).is_dir():
            options = dataclasses.replace(options, init_from=self.origin)
        return stored.command(options)

    @property
    def machine(self) -> str:
        """What the run was evaluated on, or "" if it is not recorded."""
        return self.results.machine if self.results and self.results.machine is not UNSET else ""

    @property
    def state(self) -> str:
        """How far the run is, in words."""
        if self.results:
            return "evaluated"
        planned = self.options.num_epochs
        if self.epochs >= planned:
            return "trained, not evaluated yet"
        return f"training, {self.epochs:,} of {summary.counted(planned, 'epoch')}"

    @property
    def validation_bound(self) -> float | None:
        """L_k of the validation images after the last epoch, in nats, for k = `options.total_samples`."""
        return self.history[-1]["validation_iwae_bound"] if self.history else None

    @property
    def recipe(self) -> dict[str, str]:
        """Everything that decides what the run computes, except the seed; name -> text."""
        recipe = stored.run_flags(self.options) | {"nll_samples": str(self.options.nll_samples)}
        if self.cell and self.options.k == 1:
            recipe["objective"] = "iwae"
        recipe["init_from"] = self.origin
        return {name: text for name, text in recipe.items() if name not in ("seed", *MOVING_SETTINGS)}

    def images(self, name: str) -> np.ndarray | None:
        """Returns images that the evaluation stored in samples.npz.

        Args:
          name: "probabilities" or "reconstructions".

        Returns:
          Float [num_images, height, width] or [..., 3] in [0, 1]; None if they are missing or damaged.
        """
        directory = RunDirectory(self.path)
        images = (files.read_arrays(directory.samples, [name]) or {}).get(name) if self.results else None
        if images is None or images.ndim not in (3, 4) or not np.issubdtype(images.dtype, np.floating):
            return None
        if not images.size or max(images.shape) > _MOST_PIXELS or not ((images >= 0.0) & (images <= 1.0)).all():
            return None
        return images

    def log_likelihoods(self) -> np.ndarray | None:
        """Returns log p(x) of each test image in nats, or None if they are missing or damaged."""
        if not self.results:
            return None
        return RunDirectory(self.path).read_log_likelihoods(self.results.nll.num_images)


def read(paths: Sequence[str | pathlib.Path]) -> list[ReportedRun]:
    """Reads run directories. A folder that is given twice is read once, and what is no run is skipped with a note.

    Args:
      paths: the folders.

    Returns:
      The runs, in this order.

    Raises:
      UserError: there is no such folder, none of them is a run directory, or the files of one are damaged.
    """
    folders: dict[str, str | pathlib.Path] = {}
    for path in paths:
        folders.setdefault(os.path.realpath(path), path)
    skipped = {path: reason for path in folders.values() if (reason := _reason_to_skip(path))}
    made_by_command = [path for path in folders.values() if path not in skipped]
    if not made_by_command:
        path, reason = next(iter(skipped.items()))
        raise UserError(f"There is nothing to report on, as {path} {reason}; give run directories, such as runs/*.")
    for path, reason in skipped.items():
        console.warn(f"skipping {path}, which {reason}")
    read_runs = [_read(number, path) for number, path in enumerate(made_by_command, start=1)]
    return [dataclasses.replace(run, start=_start(run, read_runs)) for run in read_runs]


def _reason_to_skip(path):
    """Why a folder is left out, in words, or "": it is no run, or one of `iwae_tf.train`, which has no options."""
    # These functions return False for names that are too long. Reading what does not exist reports what is wrong.
    if os.path.exists(path) and not os.path.exists(os.path.join(path, "flags.txt")):
        holds_runs = next(pathlib.Path(path).glob("*/flags.txt"), None)
        return "holds run directories; give those" if holds_runs else "is not a run directory: it has no flags.txt"
    try:
        settings = RunDirectory(path).read_flags()
    except OSError:
        return ""  # Reading the run reports it.
    return "was trained with iwae_tf.train" if TRAINED_WITH in settings else ""


def _start(run, runs):
    """The run of `runs` that this one trains on with the other objective as in the paper's Table 2, or None."""
    options = run.options
    schedule = options.num_epochs, options.learning_rate
    if not options.init_from or schedule != (paper.REINITIALIZATION_EPOCHS, paper.REINITIALIZATION_RATE):
        return None
    others = [other for other in runs if other is not run]
    same_place = [other for other in others if os.path.realpath(other.path) == os.path.realpath(options.init_from)]
    name = pathlib.PurePath(options.init_from).name
    same_name = [other for other in others if pathlib.PurePath(other.path).name in (name, run.origin)]
    found = same_place or same_name
    # Of the VAE with k = 1, which is the IWAE, and the IWAE with k = 50, one becomes the other.
    cells = {("mnist", (50,), k, "iwae") for k in (1, 50)}
    return found[0] if len(found) == 1 and {run.cell, found[0].cell} == cells else None


def _read(number: int, path: str | pathlib.Path) -> ReportedRun:
    directory = RunDirectory(path)
    try:
        options, results = stored.read_options(directory), directory.read_results()
        history = directory.read_history()
        data = results.data if results else directory.read_data() if directory.data.exists() else DataDescription()
    except OSError as error:
        raise UserError(f"Cannot read {error.filename or path} ({error.strerror}).") from error
    if results:
        _refuse_other_layers(directory, options, results)
        options = dataclasses.replace(options, **_evaluation_options(results))
    annealing = finished.annealing_of(results, directory) if results else None
    return ReportedRun(number, str(path), options, results, history, data, annealing)


def _refuse_other_layers(directory: RunDirectory, options: Options, results: Results) -> None:
    units, num_layers = results.active_units, len(options.latent_dims)
    for counts in (units, units.authors_code):
        if counts is not UNSET and len(counts.per_layer) != num_layers:
            raise UserError(
                f"{directory.results} is damaged: it has {summary.counted(len(counts.per_layer), 'count')} of active "
                f"units, but the model has {summary.counted(num_layers, 'layer')}; remove it to evaluate again."
            )


def _evaluation_options(results: Results) -> dict[str, Any]:
    """The options of the evaluation, as far as they are stored, name -> value."""
    flags = {name: results.flags.get(name) for name in EVALUATION_FLAGS}
    plain = {name: value for name, value in flags.items() if type(value) is int and value >= 0}
    return plain | {"nll_samples": results.nll.num_samples}


def group_seeds(runs: Sequence[ReportedRun]) -> list[list[ReportedRun]]:
    """Groups the evaluated runs that differ only in their seed.

    Returns:
      The groups, in the order of their first runs. An unfinished run is a group by itself.
    """
    groups = collections.defaultdict(list)
    seeds: collections.Counter = collections.Counter()
    for run in runs:
        # Unfinished runs are not averaged. A second run with the same seed says nothing about the spread over seeds.
        state = (run.epochs, run.data.sha256) if run.results else (run.number,)
        key = (tuple(sorted(run.recipe.items())), state)
        seeds[key, run.options.seed] += 1
        groups[key, seeds[key, run.options.seed]].append(run)
    return list(groups.values())


def pairs(runs: Sequence[ReportedRun]) -> list[tuple[ReportedRun, ReportedRun]]:
    """Returns the pairs of a VAE and an IWAE with k > 1 that differ only in the objective and the number of epochs.

    They have the same seed, and were evaluated on the same test images with the same number of samples.
    """
    evaluated = [run for run in runs if run.results and run.options.k > 1]
    vaes, iwaes = ([run for run in evaluated if run.options.objective == name] for name in ("vae", "iwae"))
    return [(vae, iwae) for vae in vaes for iwae in iwaes if _comparable(vae) == _comparable(iwae)]


def _comparable(run):
    """What both runs of a pair have in common."""
    different = ("objective", "epochs", "first_epochs", "init_from")
    recipe = {name: text for name, text in run.recipe.items() if name not in different}
    recipe["init_from"] = run.origin.replace("_vae_", "_iwae_")  # Each may have started from its own kind.
    return recipe, run.options.seed, run.data.sha256, run.results.nll.num_images, run.results.nll.binarization_seed


def differences(groups: Sequence[Sequence[ReportedRun]]) -> list[str]:
    """Describes how groups in the same cell differ: a text for each, with the flags that not all of them share."""
    recipes = [group[0].recipe for group in groups]
    names = dict.fromkeys(name for recipe in recipes for name in recipe)
    different = [name for name in names if len({recipe.get(name) for recipe in recipes}) > 1]
    return [" ".join(f"{name}={recipe[name]}" for name in different if recipe.get(name)) for recipe in recipes]

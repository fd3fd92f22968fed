"""Runs as the report reads them, finished or not: what each is, where it belongs, and which are seeds of one."""

import collections
import dataclasses
import os
import types

import numpy as np

from iwae_tf import paper, runs
from iwae_tf.errors import UserError
from iwae_tf.experiment import build, options, summary
from iwae_tf.runs import directory
from iwae_tf.runtime import files

# (latent_dims, k, objective) of the ten cells of the published table; at k = 1 the two objectives are one.
GRID = sorted(
    {(dims, k, objective) for _, dims, objective, k in paper.TABLE if (k, objective) != (1, "vae")},
    key=lambda cell: (len(cell[0]), cell[1], cell[2] == "iwae"),
)
# The data sets that the paper has those cells of.
GRID_DATASETS = ("mnist", "omniglot28")
# The flags that make a cell.
CELL_FLAGS = ("dataset", "objective", "k", "latent_dims", "hidden_dims")
# More pixels than these along a side are no picture for a report.
_MOST_PIXELS = 256


@dataclasses.dataclass(frozen=True)
class ReportedRun:
    """One run.

    Attributes:
      number: by which the report refers to it, from 1.
      path: its folder, as it was given.
      flags: as `options.parse` returns them; those of the evaluation are those of the results.
      results: what results.json holds, or None where nothing is evaluated.
      history: the rows of history.csv.
      data: what is on record of its images, a dictionary, perhaps empty.
    """

    number: int
    path: str
    flags: types.SimpleNamespace
    results: dict | None
    history: list
    data: dict

    @property
    def title(self):
        return summary.title(self.flags)

    @property
    def latent_dims(self):
        return options.layer_dims(self.flags.latent_dims, self.flags.hidden_dims)[0]

    @property
    def cell(self):
        """(data set, latent_dims, k, objective) as in `GRID`, or None where the run is in no table of the paper."""
        place = summary.cell(self.flags, self.data.get("binarization", self.flags.binarization))
        if place is None:
            return None
        dataset, dims, objective, k = place
        cell = dims, k, "iwae" if (k, objective) == (1, "vae") else objective
        return (dataset, *cell) if dataset in GRID_DATASETS and cell in GRID else None

    @property
    def epochs(self):
        """Those that are done."""
        return self.results["training"]["epochs"] if self.results else len(self.history)

    @property
    def planned_epochs(self):
        return options.num_epochs(self.flags)

    @property
    def seconds(self):
        """Time spent in training."""
        if self.results:
            return self.results["training"]["seconds"]
        return self.history[-1]["seconds"] if self.history else 0.0

    @property
    def state(self):
        """What an unfinished run is doing, in words."""
        if self.results:
            return "evaluated"
        if self.epochs >= self.planned_epochs:
            return "trained, not evaluated yet"
        return f"training, {self.epochs:,} of {self.planned_epochs:,} epochs"

    @property
    def validation_bound(self):
        """The last one, in nats, or None; its number of samples is `num_samples`."""
        return self.history[-1]["validation_iwae_bound"] if self.history else None

    @property
    def num_samples(self):
        return options.num_samples(self.flags)

    @property
    def recipe(self):
        """All that decides what the run computes but for the seed, name -> text."""
        recipe = options.run_flags(self.flags) | {"nll_samples": str(self.flags.nll_samples)}
        if self.cell and self.flags.k == 1:
            recipe["objective"] = "iwae"
        return {name: text for name, text in recipe.items() if name not in ("seed", *directory.MOVING_FLAGS)}

    def images(self, name):
        """Pictures that the evaluation left, float [num_images, height, width] in [0, 1]; None if there are none."""
        run = runs.RunDirectory(self.path)
        images = (files.read_arrays(run.samples, [name]) or {}).get(name) if self.results else None
        if images is None or images.ndim != 3 or not np.issubdtype(images.dtype, np.floating):
            return None
        if not images.size or max(images.shape) > _MOST_PIXELS or not ((images >= 0.0) & (images <= 1.0)).all():
            return None
        return images


def read(paths):
    """Reads run directories, each once.

    Args:
      paths: the folders.

    Returns:
      A list of `Record`, in their order.

    Raises:
      UserError: one is no run directory, or its files are damaged.
    """
    folders = {}
    for path in paths:
        folders.setdefault(os.path.realpath(path), path)
    return [_read(number, path) for number, path in enumerate(folders.values(), start=1)]


def _read(number, path):
    run = runs.RunDirectory(path)
    try:
        flags, results, history = build.read_flags(run), run.read_results(), run.read_history()
        data = results["data"] if results else run.read_data() if run.data.exists() else {}
    except OSError as error:
        raise UserError(f"Cannot read {error.filename or path} ({error.strerror}).") from error
    if results:
        vars(flags).update(_evaluation_flags(results))
    record = ReportedRun(number, str(path), flags, results, history, data)
    units = results["active_units"] if results else {}
    for counts in (units.get("per_layer"), units.get("authors_code", {}).get("per_layer")):
        if counts is not None and len(counts) != len(record.latent_dims):
            raise UserError(
                f"{run.results} is damaged: {counts} are no active units of {len(record.latent_dims)} layers."
            )
    return record


def _evaluation_flags(results):
    """The flags that the evaluation had, as far as they are on record, name -> value."""
    stored = {name: results["flags"].get(name) for name in options.EVALUATION_FLAGS}
    plain = {name: value for name, value in stored.items() if type(value) is int and value >= 0}
    return plain | {"nll_samples": results["nll"]["num_samples"]}


def groups(records):
    """Puts together the finished runs that differ in nothing but the seed.

    Returns:
      A list of lists of `Record`, in the order of their first ones.
    """
    found, seeds = collections.defaultdict(list), collections.Counter()
    for record in records:
        # Unfinished runs are not averaged, and of one seed a second run would tell nothing about the seeds.
        state = (record.epochs, str(record.data.get("sha256"))) if record.results else (record.number,)
        key = (tuple(sorted(record.recipe.items())), state)
        seeds[key, record.flags.seed] += 1
        found[key, seeds[key, record.flags.seed]].append(record)
    return list(found.values())


def differences(of_groups):
    """What tells groups of one cell apart, a text for each: the flags that not all of them share."""
    recipes = [group[0].recipe for group in of_groups]
    names = dict.fromkeys(name for recipe in recipes for name in recipe)
    apart = [name for name in names if len({recipe.get(name) for recipe in recipes}) > 1]
    return [" ".join(f"{name}={recipe[name]}" for name in apart if name in recipe) for recipe in recipes]

"""The pictures of the report: which runs each one shows, and its caption."""

import collections
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from iwae_tf import figures, paper
from iwae_tf.experiment.summary import counted
from iwae_tf.report import reported_run
from iwae_tf.report.reported_run import ReportedRun

_COLUMNS = 10
_NUM_IMAGES = 100

Pair = tuple[ReportedRun, ReportedRun]
Group = Sequence[ReportedRun]
# (latent_dims, k, objective), as in `reported_run.GRID`.
Cell = tuple[tuple[int, ...], int, str]


class Picture(NamedTuple):
    """A picture, or the reason why it is missing.

    Attributes:
      heading: its subject.
      caption: what it shows, or why it is missing; the first sentence is the most important.
      name: the name of its file, or "" if it is missing.
      draw: a function of its file or files, or None if it is missing.
    """

    heading: str
    caption: str
    name: str = ""
    draw: Callable[[figures.Paths], None] | None = None


def report_pictures(runs: Sequence[ReportedRun], groups: Sequence[Group]) -> list[Picture]:
    """All pictures of a report.

    Args:
      runs: all runs.
      groups: the same runs, grouped by `reported_run.group_seeds`.
    """
    pair = best_pair(runs)
    pictures = [_samples(pair), _reconstructions(pair)]
    for i, dataset in enumerate(dict.fromkeys(run.options.dataset for run in runs)):
        pictures.append(_learning_curves(dataset, runs, f"learning_curves{_ending(i)}.png"))
    for i, dataset in enumerate(dict.fromkeys(run.cell[0] for run in runs if run.cell)):
        chosen = representatives(dataset, groups)
        pictures += [
            _nll_against_k(dataset, groups, chosen, f"nll{_ending(i)}.png"),
            _active_units(dataset, groups, chosen, f"active_units{_ending(i)}.png"),
        ]
    return [picture for picture in pictures if picture]


def _ending(i: int) -> str:
    return f"_{i + 1}" if i else ""


def best_pair(runs: Sequence[ReportedRun]) -> Pair | None:
    """The VAE and the IWAE whose images are shown side by side, or None.

    Both have the same data, layers and k > 1. If several pairs have the highest rank, the first is chosen.
    """
    shapes = {run.number: _image_shape(run) for run in runs}
    with_images = [run for run in runs if run.options.total_samples > 1 and shapes[run.number]]
    vaes, iwaes = ([run for run in with_images if run.options.objective == name] for name in ("vae", "iwae"))

    def comparable(pair: Pair) -> bool:
        kinds = {(run.options.dataset, run.options.latent_dims, run.options.hidden_dims, run.options.k) for run in pair}
        return len(kinds) == 1 and len({shapes[run.number] for run in pair}) == 1

    return max(filter(comparable, itertools.product(vaes, iwaes)), key=_pair_rank, default=None)


class _PairRank(NamedTuple):
    """How well a pair suits the pictures; the first attribute is the most important."""

    are_in_table: bool
    have_one_layer_and_k_5: bool
    num_flags_in_common: int
    fewest_epochs: int
    have_same_seed: bool


def _pair_rank(pair: Pair) -> _PairRank:
    vae, iwae = pair
    return _PairRank(
        are_in_table=vae.cell is not None and iwae.cell is not None,
        have_one_layer_and_k_5=len(vae.options.latent_dims) == 1 and vae.options.k == 5,
        num_flags_in_common=len(set(vae.recipe.items()) & set(iwae.recipe.items())),
        fewest_epochs=min(vae.epochs, iwae.epochs),
        have_same_seed=vae.options.seed == iwae.options.seed,
    )


def _image_shape(run: ReportedRun) -> tuple[int, ...]:
    """(height, width) of the stored samples, or ()."""
    images = run.images("probabilities")
    return () if images is None else images.shape[1:]


def _samples(pair: Pair | None) -> Picture:
    heading = "Samples"
    if not pair:
        return Picture(heading, "There are no samples of a VAE and an IWAE with the same data, layers and k > 1.")
    caption = (
        f"Samples from the prior of runs {pair[0].number} and {pair[1].number}, shown as the probabilities of the "
        f"pixels. The data set is {pair[0].options.dataset}."
    )
    return _grids_picture(heading, caption, "samples.png", pair, "probabilities")


def _reconstructions(pair: Pair | None) -> Picture | None:
    heading, name = "Reconstructions", "reconstructions"
    if not pair:
        return None
    images = {run.number: run.images(name) for run in pair}
    missing = [str(number) for number, stack in images.items() if stack is None]
    if missing:
        who = f"Run {missing[0]} has" if len(missing) == 1 else f"Runs {' and '.join(missing)} have"
        return Picture(heading, f"{who} no reconstructions; older versions did not store them.")
    if len({stack.shape[1:] for stack in images.values() if stack is not None}) > 1:
        return Picture(heading, "The reconstructions of the two runs differ in size.")
    caption = (
        f"Test images and, in the row below each, their reconstructions by runs {pair[0].number} and "
        f"{pair[1].number}. Each is the mean of p(x | z) for one sample z from q(z | x)."
    )
    return _grids_picture(heading, caption, "reconstructions.png", pair, name)


def _grids_picture(heading: str, caption: str, name: str, pair: Pair, images: str) -> Picture:
    """A picture that shows the images of both runs as grids, with the titles of the runs."""
    stacks = [run.images(images) for run in pair]
    grids = [figures.image_grid(stack[:_NUM_IMAGES], _COLUMNS) for stack in stacks if stack is not None]
    titles = [f"{run.title} (run {run.number})" for run in pair]
    return Picture(heading, caption, name, lambda path: figures.save_grids(path, grids, titles))


def _learning_curves(dataset: str, runs: Sequence[ReportedRun], name: str) -> Picture:
    heading = f"Learning curves, {dataset}"
    curves = [
        {
            "label": f"{run.number}: {run.title}, seed {run.options.seed}",
            "epochs": [row["epoch"] for row in run.history],
            "minutes": [row["seconds"] / 60.0 for row in run.history],
            "bounds": [row["validation_iwae_bound"] for row in run.history],
        }
        for run in runs
        if run.history and run.options.dataset == dataset
    ]
    if not curves:
        return Picture(heading, "No epoch is finished.")
    caption = (
        "The bound L_k on the validation images after each epoch. k is the number of samples in the training of the "
        "run, so curves with different k are not comparable: the same model has a higher bound with more samples. The "
        "steep rise of the first epochs is cut off."
    )
    return Picture(heading, caption, name, lambda path: figures.save_validation_curves(path, curves))


def representatives(dataset: str, groups: Sequence[Group]) -> dict[Cell, Group]:
    """The group of runs that represents each cell of a data set's table in the pictures.

    If a cell has groups with different recipes, the one with the highest rank is chosen, and the first of several. The
    rank does not depend on the NLL, or the test images would choose.

    Args:
      dataset: one of `reported_run.GRID_DATASETS`.
      groups: as for `report_pictures`.

    Returns:
      cell -> group, for the cells that have evaluated runs.
    """
    evaluated = [group for group in groups if group[0].results and group[0].cell and group[0].cell[0] == dataset]
    # A recipe that more cells have makes the points of a line more comparable.
    num_cells = collections.Counter(recipe for recipe, _ in {(_recipe(group[0]), group[0].cell) for group in evaluated})

    def rank(group: Group) -> _GroupRank:
        run = group[0]
        return _GroupRank(
            has_published_samples=_has_published_samples(group),
            num_cells_with_recipe=num_cells[_recipe(run)],
            is_standard_gradient=run.options.gradient_estimator == "standard",
            epochs=run.epochs,
            num_seeds=len(group),
        )

    by_cell = {cell: [group for group in evaluated if group[0].cell == (dataset, *cell)] for cell in reported_run.GRID}
    return {cell: max(in_cell, key=rank) for cell, in_cell in by_cell.items() if in_cell}


class _GroupRank(NamedTuple):
    """How well a group suits as the representative of its cell; the first attribute is the most important."""

    has_published_samples: bool
    num_cells_with_recipe: int
    is_standard_gradient: bool
    epochs: int
    num_seeds: int


def _recipe(run: ReportedRun) -> frozenset[tuple[str, str]]:
    """The recipe of a run, except what makes its cell."""
    return frozenset((name, text) for name, text in run.recipe.items() if name not in reported_run.CELL_FLAGS)


def _has_published_samples(group: Group) -> bool:
    """Whether the NLL has as many samples as the paper's; others are different quantities."""
    return group[0].options.nll_samples == paper.NLL_SAMPLES


def _nll_against_k(dataset: str, groups: Sequence[Group], chosen: Mapping[Cell, Group], name: str) -> Picture:
    shown = {cell: group for cell, group in chosen.items() if _has_published_samples(group)}
    panels = {}
    for dims in dict.fromkeys(dims for dims, _, _ in shown):
        lines = [_measured_line(shown, dims, objective) for objective in ("vae", "iwae")]
        lines += [_published_line(dataset, dims, objective) for objective in ("vae", "iwae")]
        # At k = 1 the VAE is the IWAE; if it has no other point, its line would be hidden behind that of the IWAE.
        panels[counted(len(dims), "layer")] = [
            line
            for line in lines
            if line["k"] and (line["published"] or tuple(line["k"]) != (1,) or line["label"] == "IWAE")
        ]
    heading = f"NLL against k, {dataset}"
    if not panels:
        return Picture(heading, f"No run is evaluated with {paper.NLL_SAMPLES:,} samples.")
    caption = (
        "Test NLL against the number of samples k in training; lower is better. At k = 1 the VAE and the IWAE are the "
        "same. "
    )
    if any(len(group) > 1 for group in shown.values()):
        caption += "For several seeds the point is their mean and the bar their standard deviation. "
    if len(shown) < len(chosen):
        caption += f"NLLs with a number of samples other than {paper.NLL_SAMPLES:,} are left out. "
    caption += _which_recipe(groups, shown)
    return Picture(heading, caption.strip(), name, lambda path: figures.save_nll_against_k(path, panels))


def _measured_line(shown: Mapping[Cell, Group], dims: tuple[int, ...], objective: str) -> dict[str, Any]:
    points = []
    for (cell_dims, k, cell_objective), group in shown.items():
        if cell_dims == dims and (cell_objective == objective or k == 1):
            nlls = [run.results.nll.mean for run in group if run.results]
            points.append((k, np.mean(nlls), np.std(nlls, ddof=1) if len(nlls) > 1 else np.nan))
    counts, means, sds = zip(*points, strict=True) if points else ((), (), ())
    return {"label": objective.upper(), "published": False, "k": counts, "nll": means, "sd": sds}


def _published_line(dataset: str, dims: tuple[int, ...], objective: str) -> dict[str, Any]:
    points = [(k, published.nll) for (*line, k), published in paper.TABLE.items() if line == [dataset, dims, objective]]
    counts, nlls = zip(*points, strict=True) if points else ((), ())
    return {"label": objective.upper(), "published": True, "k": counts, "nll": nlls}


def _active_units(dataset: str, groups: Sequence[Group], chosen: Mapping[Cell, Group], name: str) -> Picture | None:
    if not chosen:
        return None
    cells = []
    for (dims, k, objective), group in chosen.items():
        units = [run.results.active_units.per_layer for run in group if run.results]
        published = paper.TABLE.get((dataset, dims, objective, k))
        label = f"{'VAE = IWAE' if k == 1 else objective.upper()}\n{counted(len(dims), 'layer')}\nk = {k}"
        ours = [float(count) for count in np.mean(units, axis=0)]
        cells.append({"label": label, "ours": ours, "published": published.active_units if published else None})
    caption = "Active units of each stochastic layer: those whose posterior mean varies with the image. "
    caption += _which_recipe(groups, chosen)
    heading = f"Active units, {dataset}"
    return Picture(heading, caption.strip(), name, lambda path: figures.save_active_units(path, cells))


def _which_recipe(groups: Sequence[Group], shown: Mapping[Cell, Group]) -> str:
    """Which runs a picture shows, if some of its cells have other evaluated runs too; "" otherwise."""
    cells = {group[0].cell for group in shown.values()}
    if sum(group[0].cell in cells for group in groups if group[0].results) == len(shown):
        return ""
    numbers = [str(run.number) for group in shown.values() for run in group]
    return f"Some cells have runs with several recipes; the picture shows runs {', '.join(numbers)}."

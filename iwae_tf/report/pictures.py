"""The report's pictures: which runs each of them shows, and what has to be said of it."""

import collections
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from iwae_tf import figures, paper
from iwae_tf.report import reported_run

_COLUMNS = 10
_NUM_IMAGES = 100
# Flags that a VAE and an IWAE must share to stand side by side.
_KIND = ("dataset", "latent_dims", "hidden_dims", "k")


class Picture(NamedTuple):
    """A picture, or the reason why there is none.

    Attributes:
      heading: what it is about.
      caption: what it shows, or what is missing; the first sentence says the most.
      name: of its file, or "" if it is missing.
      draw: a function of the file's path.
    """

    heading: str
    caption: str
    name: str = ""
    draw: Callable | None = None


def report_pictures(of_records, groups):
    """All pictures of a report.

    Args:
      of_records: a list of `records.Record`.
      groups: the same ones, as `records.groups` puts them together.

    Returns:
      A list of `Picture`.
    """
    pair = best_pair(of_records)
    found = [_samples(pair), _reconstructions(pair)]
    for i, dataset in enumerate(dict.fromkeys(record.flags.dataset for record in of_records)):
        found.append(_curves(dataset, of_records, f"learning_curves{_ending(i)}.png"))
    for i, dataset in enumerate(dict.fromkeys(record.cell[0] for record in of_records if record.cell)):
        found += [
            _nll_against_k(dataset, groups, f"nll{_ending(i)}.png"),
            _active_units(dataset, groups, f"active_units{_ending(i)}.png"),
        ]
    return [picture for picture in found if picture]


def _ending(i):
    return f"_{i + 1}" if i else ""


def best_pair(of_records):
    """The VAE and the IWAE whose pictures are to stand side by side, or None.

    They have the same data, layers and k, and otherwise as many flags as possible in common. One layer and k = 5 go
    before everything else.
    """
    shapes = {record.number: _shape(record) for record in of_records}
    drawn = [record for record in of_records if record.num_samples > 1 and shapes[record.number]]
    vaes, iwaes = ([record for record in drawn if record.flags.objective == name] for name in ("vae", "iwae"))

    def of_one_kind(pair):
        kinds = {tuple(getattr(record.flags, name) for name in _KIND) + shapes[record.number] for record in pair}
        return len(kinds) == 1

    return max(filter(of_one_kind, itertools.product(vaes, iwaes)), key=_worth, default=None)


def _shape(record):
    images = record.images("probabilities")
    return () if images is None else images.shape[1:]


def _worth(pair):
    vae, iwae = pair
    in_table = vae.cell is not None and iwae.cell is not None
    as_published = len(vae.latent_dims) == 1 and vae.flags.k == 5
    in_common = set(vae.recipe.items()) & set(iwae.recipe.items())
    same_seed = vae.flags.seed == iwae.flags.seed
    return in_table, as_published, len(in_common), min(vae.epochs, iwae.epochs), same_seed


def _grids(pair, name):
    """The images of both runs as grids with captions."""
    grids = [figures.image_grid(record.images(name)[:_NUM_IMAGES], _COLUMNS) for record in pair]
    return grids, [f"{record.title} (run {record.number})" for record in pair]


def _samples(pair):
    heading = "Samples"
    if not pair:
        return Picture(heading, "There are no samples of a VAE and an IWAE with the same data, layers and k > 1.")
    caption = (
        f"Images drawn from the prior of runs {pair[0].number} and {pair[1].number}: the pixels' probabilities. The "
        f"data set is {pair[0].flags.dataset}."
    )
    return Picture(heading, caption, "samples.png", _drawing(figures.save_grids, *_grids(pair, "probabilities")))


def _reconstructions(pair):
    heading, name = "Reconstructions", "reconstructions"
    if not pair:
        return None
    lacking = [record for record in pair if record.images(name) is None]
    if lacking:
        numbers = " and ".join(str(record.number) for record in lacking)
        return Picture(
            heading,
            f"Of run{'s'[: len(lacking) > 1]} {numbers} there are no reconstructions: older versions kept none.",
        )
    if len({record.images(name).shape[1:] for record in pair}) > 1:
        return Picture(heading, "The runs' reconstructions are of different size.")
    caption = (
        f"Test images and, in the row below each, their reconstructions by runs {pair[0].number} and "
        f"{pair[1].number}. Each is the mean of p(x | z) for one sample z from q(z | x)."
    )
    return Picture(heading, caption, "reconstructions.png", _drawing(figures.save_grids, *_grids(pair, name)))


def _curves(dataset, of_records, name):
    heading = f"Learning curves, {dataset}"
    curves = [
        {
            "label": f"{record.number}: {record.title}, seed {record.flags.seed}",
            "epochs": [row["epoch"] for row in record.history],
            "minutes": [row["seconds"] / 60.0 for row in record.history],
            "bounds": [row["validation_iwae_bound"] for row in record.history],
        }
        for record in of_records
        if record.history and record.flags.dataset == dataset
    ]
    if not curves:
        return Picture(heading, "No epoch is finished.")
    caption = (
        "The validation images' bound L_k after each epoch. k is that of the run's own training: bounds of different k "
        "are different quantities, and of one and the same model the one with more samples is higher. The first "
        "epochs, which are far below, are cut off."
    )
    return Picture(heading, caption, name, _drawing(figures.save_validation_curves, curves))


def representatives(dataset, groups):
    """For each cell of a data set's grid the runs that stand for it in pictures; cells without are left out.

    Where a cell has several recipes, the paper's number of samples behind the NLL goes first, then the recipe that more
    cells have, so that a line's points are alike; then the paper's gradient estimator, more epochs and more seeds. The
    NLL has no say in it, or the test images would choose.
    """
    evaluated = [group for group in groups if group[0].results and group[0].cell and group[0].cell[0] == dataset]
    num_cells = collections.Counter(recipe for recipe, _ in {(_recipe(group[0]), group[0].cell) for group in evaluated})

    def worth(group):
        record = group[0]
        is_standard = record.flags.gradient_estimator == "standard"
        return _as_published(group), num_cells[_recipe(record)], is_standard, record.epochs, len(group)

    of_cell = {cell: [group for group in evaluated if group[0].cell == (dataset, *cell)] for cell in reported_run.GRID}
    return {cell: max(found, key=worth) for cell, found in of_cell.items() if found}


def _recipe(record):
    """What a record's recipe is apart from its cell."""
    return frozenset((name, text) for name, text in record.recipe.items() if name not in reported_run.CELL_FLAGS)


def _as_published(group):
    """Whether the NLL is the same quantity as the paper's."""
    return group[0].flags.nll_samples == paper.NLL_SAMPLES


def _nll_against_k(dataset, groups, name):
    of_cells = representatives(dataset, groups)
    chosen = {cell: group for cell, group in of_cells.items() if _as_published(group)}
    panels = {}
    for dims in dict.fromkeys(cell[0] for cell in chosen):
        lines = [_measured_line(chosen, dims, objective) for objective in ("vae", "iwae")]
        lines += [_published_line(dataset, dims, objective) for objective in ("vae", "iwae")]
        panels[f"{len(dims)} layer{'s'[: len(dims) > 1]}"] = [line for line in lines if line["k"]]
    heading = f"NLL against k, {dataset}"
    if not panels:
        return Picture(heading, f"No run is evaluated with {paper.NLL_SAMPLES:,} samples.")
    caption = "Test NLL against the samples k of training; lower is better. At k = 1 the VAE and the IWAE are one. "
    if any(len(group) > 1 for group in chosen.values()):
        caption += "Where a cell has several seeds the point is their mean and the bar their standard deviation. "
    if len(chosen) < len(of_cells):
        caption += f"NLLs of other than {paper.NLL_SAMPLES:,} samples are left out. "
    caption += _which_recipe(groups, chosen)
    return Picture(heading, caption.strip(), name, _drawing(figures.save_nll_against_k, panels))


def _measured_line(chosen, dims, objective):
    points = []
    for (cell_dims, k, cell_objective), group in chosen.items():
        if cell_dims == dims and (cell_objective == objective or k == 1):
            nlls = [record.results["nll"]["mean"] for record in group]
            points.append((k, np.mean(nlls), np.std(nlls, ddof=1) if len(nlls) > 1 else np.nan))
    counts, nlls, sds = zip(*points, strict=True) if points else ((), (), ())
    return {"label": objective.upper(), "published": False, "k": counts, "nll": nlls, "sd": sds}


def _published_line(dataset, dims, objective):
    points = [
        (k, value.nll) for (name, d, o, k), value in paper.TABLE.items() if (name, d, o) == (dataset, dims, objective)
    ]
    counts, nlls = zip(*points, strict=True) if points else ((), ())
    return {"label": objective.upper(), "published": True, "k": counts, "nll": nlls}


def _active_units(dataset, groups, name):
    chosen = representatives(dataset, groups)
    if not chosen:
        return None
    cells = []
    for dims, k, objective in chosen:
        units = [record.results["active_units"]["per_layer"] for record in chosen[dims, k, objective]]
        beside = paper.TABLE.get((dataset, dims, objective, k))
        label = f"{'VAE = IWAE' if k == 1 else objective.upper()}\n{len(dims)} layer{'s'[: len(dims) > 1]}\nk = {k}"
        ours = [float(count) for count in np.mean(units, axis=0)]
        cells.append({"label": label, "ours": ours, "published": beside.active_units if beside else None})
    caption = "Active units of each stochastic layer: those whose posterior mean varies with the image. "
    caption += _which_recipe(groups, chosen)
    heading = f"Active units, {dataset}"
    return Picture(heading, caption.strip(), name, _drawing(figures.save_active_units, cells))


def _which_recipe(groups, chosen):
    """Says which runs a picture shows, where some of the same cells have others."""
    cells = {group[0].cell for group in chosen.values()}
    if sum(group[0].cell in cells for group in groups if group[0].results) == len(chosen):
        return ""
    numbers = [str(record.number) for group in chosen.values() for record in group]
    return f"Some cells have runs of several recipes; the picture shows runs {', '.join(numbers)}."


def _drawing(function, *arguments):
    def draw(path):
        function(path, *arguments)

    return draw

"""The contents of the report's tables, as plain data."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from iwae_tf import paper
from iwae_tf.evaluation.statistics import mean_and_stderr
from iwae_tf.report import markdown, reported_run
from iwae_tf.report.reported_run import ReportedRun
from iwae_tf.runs import Results


def contents(runs: Sequence[ReportedRun], groups: Sequence[Sequence[ReportedRun]]) -> dict[str, Any]:
    """Everything that the report shows, except its pictures.

    Args:
      runs: all runs.
      groups: the same runs, grouped by `reported_run.group_seeds`.

    Returns:
      Plain JSON: "tables", data set -> rows; "pairs", a row per VAE and IWAE with the same recipe; "other_runs", rows;
      "reinitializations", a row per run of Table 2; "runs", one row per run.
    """
    present = {run.cell[0] for run in runs if run.cell}
    tables = {name: _table_rows(name, groups) for name in reported_run.GRID_DATASETS if name in present}
    others = [
        {"title": group[0].title, "dataset": group[0].options.dataset} | _group_row(group)
        for group in groups
        if not group[0].cell and not group[0].start
    ]
    pairs = [_pair_row(vae, iwae) for vae, iwae in reported_run.pairs(runs)]
    return {
        "tables": tables,
        "pairs": [row for row in pairs if row],
        "reinitializations": [_reinitialization_row(run, run.start) for run in runs if run.start],
        "other_runs": others,
        "runs": [_run_row(run) for run in runs],
    }


def _table_rows(dataset: str, groups: Sequence[Sequence[ReportedRun]]) -> list[dict[str, Any]]:
    """The rows of a data set's table: at least one per cell."""
    rows = []
    for dims, k, objective in reported_run.GRID:
        published = paper.TABLE.get((reported_run.STAND_INS.get(dataset, dataset), dims, objective, k))
        row = {
            "num_layers": len(dims),
            "k": k,
            "objective": "vae = iwae" if k == 1 else objective,
            "published_nll": published.nll if published else None,
            "published_active_units": list(published.active_units) if published else None,
            "is_comparable": dataset not in reported_run.STAND_INS,
        }
        in_cell = [group for group in groups if group[0].cell == (dataset, dims, k, objective)]
        if not in_cell:
            rows.append(row | {"runs": [], "state": "missing"})
        for group, recipe in zip(in_cell, reported_run.differences(in_cell), strict=True):
            rows.append(row | _group_row(group) | {"recipe": recipe})
    return rows


def _pair_row(vae: ReportedRun, iwae: ReportedRun) -> dict[str, Any] | None:
    """The difference of a VAE and an IWAE on the same test images; None if one has no value for each image."""
    ours, theirs = iwae.log_likelihoods(), vae.log_likelihoods()
    if ours is None or theirs is None:
        return None
    return {
        "dataset": iwae.options.dataset,
        "num_layers": len(iwae.options.latent_dims),
        "k": iwae.options.k,
        "seed": iwae.options.seed,
        "runs": [vae.number, iwae.number],
        "epochs": [vae.epochs, iwae.epochs],
        "vae_nll": float(-theirs.mean()),
        "iwae_nll": float(-ours.mean()),
        "difference": mean_and_stderr(theirs - ours),
    }


def _reinitialization_row(run: ReportedRun, start: ReportedRun) -> dict[str, Any]:
    """A model before and after it was trained on with the other objective."""
    objectives = ("iwae", "vae") if run.options.k == 1 else ("vae", "iwae")
    published = paper.REINITIALIZATION[objectives]
    return {
        "objectives": list(objectives),
        "phases": [_group_row([start]), _group_row([run])],
        "published_nlls": [phase.nll for phase in published],
        "published_active_units": [list(phase.active_units) for phase in published],
    }


def _group_row(group: Sequence[ReportedRun]) -> dict[str, Any]:
    """The averaged results of runs that differ only in their seed, or how far an unfinished run is."""
    first = group[0]
    row = {
        "runs": [run.number for run in group],
        "seeds": [run.options.seed for run in group],
        "state": first.state,
        "epochs": first.epochs,
        "planned_epochs": first.options.num_epochs,
        "origin": first.origin,
        "minutes": float(np.mean([run.seconds for run in group])) / 60.0,
    }
    results = [run.results for run in group if run.results]
    if not results:
        return row | {"validation_bound": {"k": first.options.total_samples, "mean": first.validation_bound}}
    return row | _averages(results) | {"nll_samples": first.options.nll_samples}


def _averages(results: Sequence[Results]) -> dict[str, Any]:
    """The averages over seeds."""
    nlls = [result.nll.mean for result in results]
    stderrs = [result.nll.stderr for result in results if result.nll.stderr is not None]
    units = [result.active_units.per_layer for result in results]
    return {
        "nll": float(np.mean(nlls)),
        "sd_over_seeds": float(np.std(nlls, ddof=1)) if len(nlls) > 1 else None,
        # All seeds share the test images, so their errors are not independent: no 1 / sqrt(seeds) here.
        "stderr": float(np.mean(stderrs)) if len(stderrs) == len(results) else None,
        "active_units": [float(count) for count in np.mean(units, axis=0)],
    }


def _run_row(run: ReportedRun) -> dict[str, Any]:
    return {
        "number": run.number,
        "run_dir": markdown.printable(run.path),
        "title": run.title,
        "state": run.state,
        "seed": run.options.seed,
        "machine": markdown.printable(run.machine),
        "command": markdown.printable(run.command),
        "results": _plain_results(run.results) if run.results else None,
        "annealing": msgspec.to_builtins(run.annealing) if run.annealing else None,
    }


def _plain_results(results: Results) -> dict[str, Any]:
    """What the report shows of results.json; the flags are in the command, and the units would be long lists."""
    plain = msgspec.to_builtins(results)
    return {name: value for name, value in plain.items() if name not in ("flags", "units")} | {
        "versions": results.package_versions
    }

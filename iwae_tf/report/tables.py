"""The report's tables and text."""

import numpy as np

from iwae_tf import paper
from iwae_tf.experiment import options, summary
from iwae_tf.report import markdown, reported_run
from iwae_tf.runs import results

TITLE = "# Report"
_INTRODUCTION = """\
NLL is the negative log-likelihood of the test images in nats, -L_5000 unless another number of samples stands beside
it; lower is better. Where several runs differ in nothing but the seed it is their mean +- their standard deviation,
else the run's NLL +- its standard error over the test images, which has a column of its own, too. "run no." is the
number in the section Commands. "Published" is Table 1 of Burda et al. (arXiv:1509.00519), after 3,280 epochs."""
_BEHIND = """\
L_k grows with k towards log p(x). Where it still differs from fewer to all samples, or from the corrected value
(without its bias of order 1/k), the NLL is an upper bound that more samples would lower. Effective samples are 1 / sum
of squared weights, and a largest weight near 1 is an estimate that rests on a single sample; quantiles are over the
test images."""


def contents(of_records, groups):
    """What the report shows but for its pictures.

    Args:
      of_records: a list of `records.Record`.
      groups: the same ones, as `records.groups` puts them together.

    Returns:
      Plain JSON: "tables", data set -> rows; "other_runs", rows; "runs", one row for each run.
    """
    present = {record.cell[0] for record in of_records if record.cell}
    tables = {name: _grid_rows(name, groups) for name in reported_run.GRID_DATASETS if name in present}
    others = [_identity(group[0]) | _measured(group) for group in groups if not group[0].cell]
    return {"tables": tables, "other_runs": others, "runs": [_run_row(record) for record in of_records]}


def _grid_rows(dataset, groups):
    """The table's rows of one data set: at least one for each cell."""
    rows = []
    for cell in reported_run.GRID:
        dims, k, objective = cell
        beside = paper.TABLE.get((dataset, dims, objective, k))
        head = {
            "num_layers": len(dims),
            "k": k,
            "objective": "vae = iwae" if k == 1 else objective,
            "published_nll": beside.nll if beside else None,
            "published_active_units": list(beside.active_units) if beside else None,
        }
        of_cell = [group for group in groups if group[0].cell == (dataset, *cell)]
        if not of_cell:
            rows.append(head | {"runs": [], "state": "missing"})
        for group, recipe in zip(of_cell, reported_run.differences(of_cell), strict=True):
            rows.append(head | _measured(group) | {"recipe": recipe})
    return rows


def _identity(record):
    return {"title": record.title, "dataset": record.flags.dataset}


def _measured(group):
    """What runs that differ in nothing but the seed have found, averaged; or how far an unfinished one is."""
    first = group[0]
    row = {
        "runs": [record.number for record in group],
        "seeds": [record.flags.seed for record in group],
        "state": first.state,
        "epochs": first.epochs,
        "planned_epochs": first.planned_epochs,
        "minutes": float(np.mean([record.seconds for record in group])) / 60.0,
    }
    if not first.results:
        return row | {"validation_bound": {"k": first.num_samples, "mean": first.validation_bound}}
    nlls, units = [record.results["nll"] for record in group], [record.results["active_units"] for record in group]
    stderrs = [nll["stderr"] for nll in nlls]
    return row | {
        "nll": float(np.mean([nll["mean"] for nll in nlls])),
        "nll_samples": first.flags.nll_samples,
        "sd_over_seeds": float(np.std([nll["mean"] for nll in nlls], ddof=1)) if len(group) > 1 else None,
        # The seeds share the test images, whose easy and hard ones are the same for all: no 1 / sqrt(seeds) here.
        "stderr": None if None in stderrs else float(np.mean(stderrs)),
        "active_units": [float(count) for count in np.mean([one["per_layer"] for one in units], axis=0)],
    }


def _run_row(record):
    """What is known of one run."""
    return {
        "number": record.number,
        "run_dir": markdown.printable(record.path),
        "title": record.title,
        "state": record.state,
        "seed": record.flags.seed,
        "command": markdown.printable(options.command(record.flags)),
        "results": results.known_results(record.results) if record.results else None,
    }


def text(content, pictures):
    """The report as Markdown.

    Args:
      content: as `contents` returns it.
      pictures: a list of `pictures.Picture`.
    """
    of_runs = content["runs"]
    num_evaluated = sum(run["results"] is not None for run in of_runs)
    lines = [TITLE, "", f"Runs: {len(of_runs)}, of which {num_evaluated} are evaluated.", "", _INTRODUCTION]
    for dataset, rows in content["tables"].items():
        lines += ["", f"## {dataset}", "", *markdown.table(*_grid_table(rows))]
    if content["other_runs"]:
        lines += ["", "## Other runs", "", "These are in no table of the paper.", ""]
        lines += markdown.table(*_other_table(content["other_runs"]))
    for picture in pictures:
        lines += ["", f"## {markdown.escape(picture.heading)}", ""]
        lines += markdown.picture(picture.name, picture.caption) if picture.name else [markdown.escape(picture.caption)]
    if num_evaluated:
        lines += ["", "## What stands behind each NLL", "", _BEHIND, "", *markdown.table(*_behind_table(of_runs))]
        lines += ["", "## Versions", "", *_version_lines(of_runs)]
    lines += ["", "## Commands", "", *_command_lines(of_runs)]
    return "\n".join(lines) + "\n"


def _grid_table(rows):
    """Header and cells of the table of one data set, plain texts; columns without any content are left out."""
    cells = [
        {
            "layers": str(row["num_layers"]),
            "k": str(row["k"]),
            "objective": row["objective"].upper(),
            "run no.": ", ".join(map(str, row["runs"])),
            "NLL": _nll(row),
            "published": _number(row["published_nll"]),
            "difference": _number(_difference(row), "+.2f"),
            "standard error": _number(row.get("stderr")),
            "active units": _units(row),
            "published units": summary.join(row["published_active_units"] or []),
            **_spent(row),
            "what differs": row.get("recipe", ""),
        }
        for row in rows
    ]
    return _filled(cells)


def _other_table(rows):
    cells = [
        {
            "model": row["title"],
            "data set": row["dataset"],
            "run no.": ", ".join(map(str, row["runs"])),
            "NLL": _nll(row),
            "standard error": _number(row.get("stderr")),
            "active units": _units(row),
            **_spent(row),
        }
        for row in rows
    ]
    return _filled(cells)


def _filled(cells):
    """Header and rows of those columns that hold anything."""
    header = [name for name in cells[0] if any(row[name] for row in cells)]
    return header, [[row[name] for name in header] for row in cells]


def _number(value, form=".2f"):
    return "" if value is None else f"{value:{form}}"


def _spread(value, spread):
    return _number(value) + ("" if spread is None else f" +- {spread:.2f}")


def _nll(row):
    """The NLL with its spread, or how far the run is."""
    if "nll" not in row:
        bound = row.get("validation_bound", {"mean": None})
        return row["state"] + ("" if bound["mean"] is None else f"; validation L_{bound['k']:,} {bound['mean']:.2f}")
    samples = "" if row["nll_samples"] == paper.NLL_SAMPLES else f" (-L_{row['nll_samples']:,})"
    if row["sd_over_seeds"] is None:
        return _spread(row["nll"], row["stderr"]) + samples
    return f"{_spread(row['nll'], row['sd_over_seeds'])} ({len(row['runs'])} seeds){samples}"


def _difference(row):
    """Ours less the published one; None unless both are there and are the same quantity."""
    if row["published_nll"] is None or row.get("nll_samples") != paper.NLL_SAMPLES:
        return None
    return row["nll"] - row["published_nll"]


def _units(row):
    return summary.join(f"{round(count, 1):g}" for count in row.get("active_units", ()))


def _spent(row):
    if "epochs" not in row:
        return {"epochs": "", "minutes": ""}
    planned = "" if row["epochs"] == row["planned_epochs"] else f" of {row['planned_epochs']:,}"
    return {"epochs": f"{row['epochs']:,}{planned}", "minutes": f"{row['minutes']:,.1f}"}


def _behind_table(of_runs):
    return _filled([_behind(run) for run in of_runs if run["results"]])


def _behind(run):
    """What tells how far an NLL can be trusted, as texts by column; those of what the run lacks are empty."""
    results = run["results"]
    nll, corrected = results["nll"], results.get("corrected_nll", {"mean": None})
    fewer = [bound for bound in results.get("bounds", ()) if bound["k"] <= nll["num_samples"] / 2]
    before = max(fewer, key=lambda bound: bound["k"], default=None)
    return {
        "run": f"{run['number']}: {run['title']}",
        "fewer samples": f"{-before['mean']:.2f} (-L_{before['k']:,})" if before else "",
        "all samples": f"{nll['mean']:.2f} (-L_{nll['num_samples']:,})",
        "corrected": _number(corrected["mean"]),
        "effective samples, 1 % / 10 % / 50 %": _quantiles(
            results, "effective_sample_size", ("1%", "10%", "50%"), ".1f"
        ),
        "largest weight, 50 % / 90 %": _quantiles(results, "largest_weight", ("50%", "90%"), ".3f"),
        **_further(results),
    }


def _quantiles(results, name, which, form):
    return " / ".join(f"{results[name][q]:{form}}" for q in which) if name in results else ""


def _further(results):
    """What only some runs have measured, as texts by column."""
    k_hat, binarizations, train = (results.get(name) for name in ("k_hat", "binarizations", "train_nll"))
    authors = results["active_units"].get("authors_code")
    return {
        "Pareto k-hat": f"{k_hat['share_above']:.1%} of {k_hat['num_images']:,} images above {k_hat['threshold']:g}"
        if k_hat
        else "",
        "other binarisations": f"{_spread(binarizations['mean'], binarizations['sd'])} ({len(binarizations['nll'])})"
        if binarizations
        else "",
        "training images": f"{_spread(train['mean'], train['stderr'])} (-L_{train['num_samples']:,}, "
        f"{train['num_images']:,} images)"
        if train
        else "",
        "units by the authors' code": summary.join(authors["per_layer"]) if authors else "",
    }


def _version_lines(of_runs):
    """The versions, once where all runs have the same."""
    of_run = {
        run["number"]: ", ".join(f"{name} {version}" for name, version in sorted(run["results"]["versions"].items()))
        for run in of_runs
        if run["results"]
    }
    if len(set(of_run.values())) == 1:
        return [f"All runs: {markdown.escape(next(iter(of_run.values())))}."]
    return markdown.table(["run", "versions"], [[str(number), versions] for number, versions in of_run.items()])


def _command_lines(of_runs):
    """The numbered runs, and the command that repeats each."""
    header = ["run", "folder", "model", "seed", "state"]
    rows = [[str(run["number"]), run["run_dir"], run["title"], str(run["seed"]), run["state"]] for run in of_runs]
    commands = [line for run in of_runs for line in (f"# run {run['number']}, seed {run['seed']}", run["command"])]
    hint = "Flags that are not named are as by default, the seed among them. Another `--run_dir` keeps runs apart."
    return [*markdown.table(header, rows), "", hint, "", *markdown.code(commands)]


def console_lines(content):
    """The tables as text."""
    lines = []
    for dataset, rows in content["tables"].items():
        lines += [f"{dataset}:", *markdown.text_table(*_grid_table(rows)), ""]
    if content["other_runs"]:
        lines += ["other runs:", *markdown.text_table(*_other_table(content["other_runs"])), ""]
    return lines

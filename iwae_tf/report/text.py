"""The report as Markdown, its tables as LaTeX, and its tables for the console."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from iwae_tf import paper
from iwae_tf.experiment import summary
from iwae_tf.report import latex, markdown

if TYPE_CHECKING:  # Importing matplotlib takes a while.
    from iwae_tf.report.pictures import Picture

# By these words a folder is recognised as a report.
BEGINNING = "# Report\n\nRuns: "
# By this line a LaTeX file is recognised as that of a report.
LATEX_BEGINNING = "% Tables of a report of iwae_tf."
_LATEX_INTRODUCTION = f"""\
{LATEX_BEGINNING} Include them with \\input; they need
% \\usepackage{{booktabs}}
% \\usepackage{{graphicx}}
% \\usepackage[T1]{{fontenc}}
% \\usepackage{{textcomp}}"""
_INTRODUCTION = """\
NLL is the negative log-likelihood of the test images in nats: -L_5000, unless another number of samples is given;
lower is better. For a single run, it is the NLL +- its standard error over the test images. For runs that differ only
in their seed, it is the mean +- the standard deviation over the seeds, and the standard error has its own column. "run
no." refers to the section Commands. "started from" is the model whose weights the training began with; epochs and
minutes do not include its own. The minutes depend on the machine, which the section Commands names. "published" is
Table 1 of Burda et al. (arXiv:1509.00519), or Table 3 for binarized_mnist, after 3,280 epochs of training."""
_STAND_IN = """\
These runs use all drawings of OMNIGLOT, shrunk to 28 x 28 by area and split by drawing as the paper's images are. The
published values are for other images, whose NLLs differ by many nats: compare the order and the differences of a column
only, not the columns with each other."""
_PAIRS = """\
A VAE and an IWAE with the same recipe and seed, on the same binarised test images with 5,000 samples each, unless
another number is given above. The difference is NLL of the IWAE minus NLL of the VAE, so a negative one favours the
IWAE; its standard error is that of the mean of the differences of single images."""
_REINITIALIZATIONS = """\
A trained model is trained on with the other objective for 37 epochs, as in Table 2 of the paper; the VAE has k = 1, the
IWAE k = 50. NLL and active units are given before and after."""
_RELIABILITY = """\
L_k grows with k towards log p(x), so every NLL here is an upper bound. If fewer samples or the corrected value (without
its bias of order 1/k) differ from all samples, still more samples would lower the NLL. The number of effective samples
is 1 / sum of squared normalised weights; if the largest weight is near 1, the estimate rests on a single sample. The
percentages are quantiles over the test images."""
_RELIABILITY_CAPTION = (
    "How far the NLLs can be trusted. Corrected: without the bias of order 1/k. Effective samples: 1 / sum of squared "
    "normalised weights. Annealed: how far annealed importance sampling is from -L_5,000 on the same images. "
    "Percentages are quantiles over the test images."
)
_COMMANDS = (
    "Flags that are not listed have their default, including the seed. Use another `--run_dir` to keep an existing run."
)

Row = dict[str, Any]


def report_text(content: dict[str, Any], pictures: Sequence[Picture], link: Callable[[str], str] = str) -> str:
    """The report as Markdown.

    Args:
      content: as `rows.contents` returns it.
      pictures: the pictures, in their order.
      link: returns the path of a picture, as the text names it.
    """
    runs = content["runs"]
    num_evaluated = sum(run["results"] is not None for run in runs)
    lines = [f"{BEGINNING}{len(runs)}, evaluated: {num_evaluated}.", "", _INTRODUCTION]
    for dataset, rows in content["tables"].items():
        lines += ["", f"## {dataset}", "", *([] if rows[0]["is_comparable"] else [_STAND_IN, ""])]
        lines += markdown.table(*_paper_table(rows))
    if content["pairs"]:
        lines += ["", "## VAE and IWAE on the same images", "", _PAIRS, ""]
        lines += markdown.table(*_pairs_table(content["pairs"]))
    if content["reinitializations"]:
        lines += ["", "## Trained on with the other objective", "", _REINITIALIZATIONS, ""]
        lines += markdown.table(*_reinitializations_table(content["reinitializations"]))
    if content["other_runs"]:
        lines += ["", "## Other runs", "", "These are not in any table of the paper.", ""]
        lines += markdown.table(*_other_table(content["other_runs"]))
    for picture in pictures:
        lines += ["", f"## {markdown.escape(picture.heading)}", ""]
        lines += (
            markdown.picture(link(picture.name), picture.caption)
            if picture.name
            else [markdown.escape(picture.caption)]
        )
    if num_evaluated:
        lines += ["", "## Reliability of the NLL", "", _RELIABILITY, "", *markdown.table(*_reliability_table(runs))]
        lines += ["", "## Versions", "", *_version_lines(runs)]
    lines += ["", "## Commands", "", *_command_lines(runs)]
    return "\n".join(lines) + "\n"


# Columns that a paper has no use for; the numbers of the runs refer to a section that LaTeX has not, and the epochs
# would mislead without the models that a run started from.
_NOT_IN_LATEX = ("run no.", "started from", "epochs", "minutes", "fewer samples")


def latex_text(content: dict[str, Any]) -> str:
    """The tables of the report as LaTeX, but not its pictures and commands.

    Args:
      content: as `rows.contents` returns it.
    """
    lines = [_LATEX_INTRODUCTION]
    for dataset, rows in content["tables"].items():
        caption = (
            f"Test NLL on {dataset} in nats: -L_5,000 +- its standard error over the test images, or +- the standard "
            "deviation over seeds; lower is better. Published: Burda, Grosse and Salakhutdinov, arXiv:1509.00519, "
            "after 3,280 epochs."
        )
        if not rows[0]["is_comparable"]:
            caption += " Its images are others, so only the order is comparable."
        lines += ["", *latex.table(*_of_paper(_paper_table(rows)), caption, f"tab:{dataset.replace('_', '-')}")]
    if content["pairs"]:
        caption = (
            "VAE and IWAE with the same recipe and seed on the same binarised test images: NLL in nats. The difference "
            "is that of the IWAE minus that of the VAE; its standard error is over the images."
        )
        lines += ["", *latex.table(*_of_paper(_pairs_table(content["pairs"])), caption, "tab:pairs")]
    if content["reinitializations"]:
        caption = "Models that are trained on with the other objective: NLL in nats"
        table = _of_paper(_reinitializations_table(content["reinitializations"]))
        lines += ["", *latex.table(*table, caption, "tab:reinitializations")]
    if content["other_runs"]:
        lines += ["", *latex.table(*_of_paper(_other_table(content["other_runs"])), "Other runs", "tab:other-runs")]
    if any(run["results"] for run in content["runs"]):
        table = _of_paper(_reliability_table(content["runs"]))
        lines += ["", *latex.table(*table, _RELIABILITY_CAPTION, "tab:reliability")]
    return "\n".join(lines) + "\n"


def _of_paper(table: tuple[list[str], list[list[str]]]) -> tuple[list[str], list[list[str]]]:
    """Header and cells without the columns that a paper has no use for."""
    header, rows = table
    kept = [i for i, name in enumerate(header) if name not in _NOT_IN_LATEX]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def console_lines(content: dict[str, Any]) -> list[str]:
    """The tables as text.

    Args:
      content: as `rows.contents` returns it.
    """
    lines = []
    for dataset, rows in content["tables"].items():
        lines += [f"{dataset}:", *markdown.text_table(*_paper_table(rows)), ""]
    if content["pairs"]:
        lines += ["VAE and IWAE on the same images:", *markdown.text_table(*_pairs_table(content["pairs"])), ""]
    if content["reinitializations"]:
        table = _reinitializations_table(content["reinitializations"])
        lines += ["trained on with the other objective:", *markdown.text_table(*table), ""]
    if content["other_runs"]:
        lines += ["other runs:", *markdown.text_table(*_other_table(content["other_runs"])), ""]
    return lines


def _paper_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of a data set's table, as plain text."""
    return _without_empty_columns(
        [
            {
                "layers": str(row["num_layers"]),
                "k": str(row["k"]),
                "objective": row["objective"].upper(),
                "run no.": ", ".join(map(str, row["runs"])),
                "NLL": _nll(row),
                "published": _number(row["published_nll"]),
                "difference": _number(_difference(row), "+.2f"),
                "standard error": _stderr_of_seeds(row),
                "active units": _active_units(row),
                "published units": summary.join(row["published_active_units"] or []),
                **_training_columns(row),
                "recipe": row.get("recipe", ""),
            }
            for row in rows
        ]
    )


def _pairs_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table of pairs, as plain text."""
    return _without_empty_columns(
        [
            {
                "data set": row["dataset"],
                "layers": str(row["num_layers"]),
                "k": str(row["k"]),
                "seed": str(row["seed"]),
                "run no.": ", ".join(map(str, row["runs"])),
                "epochs": " / ".join(f"{epochs:,}" for epochs in dict.fromkeys(row["epochs"])),
                "VAE": _number(row["vae_nll"]),
                "IWAE": _number(row["iwae_nll"]),
                "difference": f"{row['difference']['mean']:+.3f}",
                "standard error": _number(row["difference"]["stderr"], ".3f"),
            }
            for row in rows
        ]
    )


def _reinitializations_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table of re-initialisations, as plain text."""
    return _without_empty_columns(
        [
            {
                "objective": " -> ".join(name.upper() for name in row["objectives"]),
                "run no.": ", ".join(str(phase["runs"][0]) for phase in row["phases"]),
                "seed": str(row["phases"][-1]["seeds"][0]),
                "NLL": " -> ".join(map(_nll, row["phases"])),
                "published": " -> ".join(map(_number, row["published_nlls"])),
                "active units": " -> ".join(map(_active_units, row["phases"])),
                "published units": " -> ".join(map(summary.join, row["published_active_units"])),
            }
            for row in rows
        ]
    )


def _other_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table of all other runs, as plain text."""
    return _without_empty_columns(
        [
            {
                "model": row["title"],
                "data set": row["dataset"],
                "run no.": ", ".join(map(str, row["runs"])),
                "NLL": _nll(row),
                "standard error": _stderr_of_seeds(row),
                "active units": _active_units(row),
                **_training_columns(row),
            }
            for row in rows
        ]
    )


def _without_empty_columns(rows: Sequence[dict[str, str]]) -> tuple[list[str], list[list[str]]]:
    header = [name for name in rows[0] if any(row[name] for row in rows)]
    return header, [[row[name] for name in header] for row in rows]


def _number(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else f"{value:{form}}"


def _with_spread(value: float, spread: float | None) -> str:
    return _number(value) + ("" if spread is None else f" +- {spread:.2f}")


def _nll(row: Row) -> str:
    """The NLL with its spread, or how far the run is."""
    if "nll" not in row:
        bound = row.get("validation_bound", {"mean": None})
        return row["state"] + ("" if bound["mean"] is None else f"; validation L_{bound['k']:,} {bound['mean']:.2f}")
    samples = summary.unusual_samples(row["nll_samples"])
    if row["sd_over_seeds"] is None:
        return _with_spread(row["nll"], row["stderr"]) + samples
    return f"{_with_spread(row['nll'], row['sd_over_seeds'])} ({len(row['runs'])} seeds){samples}"


def _stderr_of_seeds(row: Row) -> str:
    """The standard error over the images, where the column NLL has the spread over seeds instead."""
    return "" if row.get("sd_over_seeds") is None else _number(row["stderr"])


def _difference(row: Row) -> float | None:
    """The NLL minus the published one; None unless both exist and are of the same images and number of samples."""
    if not row["is_comparable"] or row["published_nll"] is None or row.get("nll_samples") != paper.NLL_SAMPLES:
        return None
    return row["nll"] - row["published_nll"]


def _active_units(row: Row) -> str:
    return summary.join(f"{round(count, 1):g}" for count in row.get("active_units", ()))


def _training_columns(row: Row) -> dict[str, str]:
    if "epochs" not in row:
        return {"started from": "", "epochs": "", "minutes": ""}
    planned = "" if row["epochs"] == row["planned_epochs"] else f" of {row['planned_epochs']:,}"
    return {
        "started from": row["origin"],
        "epochs": f"{row['epochs']:,}{planned}",
        "minutes": f"{row['minutes']:,.1f}",
    }


def _reliability_table(runs: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    return _without_empty_columns([_reliability_columns(run) for run in runs if run["results"]])


def _reliability_columns(run: Row) -> dict[str, str]:
    """What shows how far an NLL can be trusted; texts by column, "" where the run has not measured it."""
    results = run["results"]
    nll, corrected = results["nll"], results.get("corrected_nll", {"mean": None})
    half_or_fewer = [bound for bound in results.get("bounds", ()) if bound["k"] <= nll["num_samples"] / 2]
    fewer = max(half_or_fewer, key=lambda bound: bound["k"], default=None)
    return {
        "run": f"{run['number']}: {run['title']}",
        "fewer samples": f"{-fewer['mean']:.2f} (-L_{fewer['k']:,})" if fewer else "",
        "all samples": f"{nll['mean']:.2f} (-L_{nll['num_samples']:,})",
        "corrected": _number(corrected["mean"]),
        "effective samples, 1% / 10% / 50%": _quantiles(results, "effective_sample_size", ("1%", "10%", "50%"), ".1f"),
        "largest weight, 50% / 90%": _quantiles(results, "largest_weight", ("50%", "90%"), ".3f"),
        "annealed": _annealed(run["annealing"]),
        **_optional_columns(results),
    }


def _annealed(annealing: Row | None) -> str:
    """By how much the NLL by annealed importance sampling is below the usual one of the same images."""
    if not annealing:
        return ""
    images = annealing["test"]
    bound, count = f"-L_{annealing['num_samples']:,}", summary.counted(images["num_images"], "image")
    difference = _with_spread(abs(images["difference"]["mean"]), images["difference"]["stderr"])
    return f"{difference} {'below' if images['difference']['mean'] >= 0.0 else 'above'} {bound} of {count}"


def _quantiles(results: Row, name: str, quantiles: Sequence[str], form: str) -> str:
    return " / ".join(f"{results[name][quantile]:{form}}" for quantile in quantiles) if name in results else ""


def _optional_columns(results: Row) -> dict[str, str]:
    """What is measured on request only; texts by column."""
    columns = dict.fromkeys(
        ("Pareto k-hat", "other binarisations", "training images", "units by the authors' code"), ""
    )
    if k_hat := results.get("k_hat"):
        images = summary.counted(k_hat["num_images"], "image")
        columns["Pareto k-hat"] = f"{k_hat['share_above']:.1%} of {images} above {k_hat['threshold']:g}"
    if over_seeds := results.get("binarizations"):
        spread = _with_spread(over_seeds["mean"], over_seeds["sd"])
        columns["other binarisations"] = f"{spread} ({len(over_seeds['nll'])})"
    if train := results.get("train_nll"):
        images = summary.counted(train["num_images"], "image")
        nll = _with_spread(train["mean"], train["stderr"])
        columns["training images"] = f"{nll} (-L_{train['num_samples']:,}, {images})"
    if authors := results["active_units"].get("authors_code"):
        columns["units by the authors' code"] = summary.join(authors["per_layer"])
    return columns


def _version_lines(runs: Sequence[Row]) -> list[str]:
    """The package versions, in one line if all runs have the same."""
    versions = {
        run["number"]: ", ".join(f"{name} {version}" for name, version in sorted(run["results"]["versions"].items()))
        for run in runs
        if run["results"]
    }
    if len(set(versions.values())) == 1:
        return [f"All runs: {markdown.escape(next(iter(versions.values())))}."]
    return markdown.table(["run", "versions"], [[str(number), text] for number, text in versions.items()])


def _command_lines(runs: Sequence[Row]) -> list[str]:
    """The numbered runs, and the command that repeats each."""
    table = [
        {
            "run": str(run["number"]),
            "folder": run["run_dir"],
            "model": run["title"],
            "seed": str(run["seed"]),
            "state": run["state"],
            "machine": run["machine"],
        }
        for run in runs
    ]
    header, rows = _without_empty_columns(table)
    commands = [line for run in runs for line in (f"# run {run['number']}, seed {run['seed']}", run["command"])]
    return [*markdown.table(header, rows), "", _COMMANDS, "", *markdown.code(commands)]

"""Scores new data: log p(x) of each row or image, `python -m iwae_tf.score --run_dir=runs/quickstart --data=FILE`.

Rows that are unlike the training data have a low log p(x): the column `test_share` says how many of the run's own test
rows have a lower one. But images with little ink have a high one whatever they show. `log_ratio`, log p(x) minus that
of independent values, does not favour them, and is the better score of anomalies.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Sequence

import numpy as np

from iwae_tf.errors import UserError
from iwae_tf.evaluation.statistics import mean_and_stderr
from iwae_tf.experiment import build, command, new_data, stored
from iwae_tf.experiment.flags import flag, json_flag, parse_folder
from iwae_tf.experiment.parsing import CommandLine
from iwae_tf.runs.results import Mean
from iwae_tf.runtime import console, files, progress

_FEW_SAMPLES = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """The flags of this command."""

    run_dir: str = flag("", "The run whose model scores, or the name of a released model.", parse=parse_folder)
    data: str = flag(
        "",
        "The rows or images: a .csv file with the columns of the run, a .npy file, a .npz file with one array (or "
        "data, x, X, test), or the name of a data set, of which the test images are taken.",
    )
    data_dir: str = flag("", "The folder of the data set.", parse=parse_folder)
    output: str = flag(
        "",
        "The file to write, .csv or .npz; by default scores_DATA.csv in the run directory, or in the current folder if "
        "the model is a released one.",
        parse=parse_folder,
    )
    num_samples: int = flag(5000, "Importance samples for each row.", at_least=1, at_most=10**9)
    seed: int = flag(0, "Seed of the samples.", at_least=0, at_most=2**31 - 1)
    json: bool = json_flag()


_command_line = CommandLine(ScoreOptions, __doc__)


def main(argv: Sequence[str]) -> None:
    """Scores, writes the scores and a histogram of them, and prints a summary."""
    options, _, _ = _command_line.parse(argv)
    run = new_data.opened_run(options)
    output = new_data.output_path(options, run, "scores")
    command.import_tensorflow_quietly()
    from iwae_tf import figures
    from iwae_tf.evaluation import baseline, log_likelihood

    start = time.monotonic()
    new = new_data.read(run, options.data, options.data_dir)
    model = new_data.load_model(run, new)
    console.note(f"scoring {len(new.x):,} {new.noun} of {new.name} with {options.num_samples:,} samples each")
    countdown = progress.Countdown(len(new.x), noun=new.noun)

    def report(finished):
        countdown.update(len(finished), f"mean log p(x) {finished.log_likelihoods.mean():.2f} nats")

    estimates = log_likelihood.evaluate_images(model, new.x, options.num_samples, options.seed, report=report)
    scores, test = estimates.log_likelihoods, run.read_log_likelihoods()
    independent = baseline.log_likelihood_of_independent_values(
        model, new.x, run.read_data().event_shape, build.likelihood_of(stored.read_options(run), run)
    )
    columns = {
        "log_likelihood": scores,
        "log_ratio": np.where(np.isfinite(scores), scores - independent, -np.inf),
        "effective_sample_size": estimates.effective_sample_sizes,
    }
    if test is not None:
        columns["test_share"] = np.searchsorted(np.sort(test), scores) / len(test)
    _write(output, columns)
    figures.save_scores(output.with_suffix(".png"), scores, test, new.name)
    print(
        json.dumps(_plain(columns, output))
        if options.json
        else _summary(columns, new, options.num_samples, _num_test_samples(run))
    )
    console.note(f"in {progress.duration(time.monotonic() - start)}; see {output} and {output.with_suffix('.png')}")


def _num_test_samples(run):
    """With how many samples log p(x) of the test rows was estimated; 0 if it is unknown."""
    with contextlib.suppress(UserError):  # Damaged results are no reason to lose the scores.
        results = run.read_results()
        return results.nll.num_samples if results else 0
    return 0


def _write(path, columns):
    """Writes the scores, one row for each row of the data."""
    if path.suffix == ".npz":
        files.write_arrays(path, columns)
        return
    lines = [",".join(["row", *columns])]
    rows = zip(*columns.values(), strict=True)
    lines += [f"{i}," + ",".join(f"{value:.8g}" for value in row) for i, row in enumerate(rows, start=1)]
    files.write_atomically(path, ("\n".join(lines) + "\n").encode())


def _plain(columns, output):
    """What --json prints: the mean over the rows with a finite log p(x), and where the scores of all rows are."""
    scores = columns["log_likelihood"]
    finite = scores[np.isfinite(scores)]
    return {
        "rows": len(scores),
        "log_likelihood": mean_and_stderr(finite) if len(finite) else None,
        "rows_without_finite_log_likelihood": len(scores) - len(finite),
        "effective_sample_size": {"median": float(np.median(columns["effective_sample_size"]))},
        "file": str(output),
    }


def _summary(columns, new, num_samples, test_samples):
    """What is printed."""
    scores, sizes = columns["log_likelihood"], columns["effective_sample_size"]
    finite = scores[np.isfinite(scores)]
    mean = Mean(**mean_and_stderr(finite)) if len(finite) else None
    lines = [f"mean log p(x) {mean.mean:.2f} nats" + (f" +- {mean.stderr:.2f}" if mean.stderr else "")] if mean else []
    if len(finite) < len(scores):
        lines.append(
            f"{len(scores) - len(finite):,} {new.noun} have no finite log p(x): they are far from all training data"
        )
    is_missing = np.isnan(new.x)
    empty = int(is_missing.all(axis=1).sum())
    if empty:
        lines.append(f"{empty:,} rows have no values at all; their log p(x), about 0, says nothing")
    missing = int(is_missing.any(axis=1).sum()) - empty
    if missing:
        lines.append(
            f"{missing:,} rows have missing values; their log p(x) is that of the other values, which is not "
            "comparable with that of complete rows"
        )
    if "test_share" in columns:
        if test_samples not in (0, num_samples):
            bias = "low" if num_samples < test_samples else "high"
            lines.append(
                f"test_share compares scores of {num_samples:,} samples with those of the test {new.noun}, which had "
                f"{test_samples:,}: it is a little too {bias}"
            )
        share = float(np.mean(columns["test_share"] < 0.01))
        lines.append(f"{share:.1%} of the {new.noun} are less likely than 99% of the test {new.noun} of the run")
    few = int(np.sum(sizes < _FEW_SAMPLES))
    lines.append(f"effective sample size: median {np.median(sizes):.0f}; below {_FEW_SAMPLES} in {few:,} {new.noun}")
    for name in ("log_likelihood", "log_ratio"):
        lowest = np.argsort(columns[name], kind="stable")[:5]
        rows = ", ".join(f"{i + 1} ({columns[name][i]:.1f})" for i in lowest)
        lines.append(f"{new.noun} with the lowest {name}: {rows}")
    return "\n".join(lines)


def run(argv: Sequence[str] | None = None) -> None:
    """The command; see `command.run_command`."""
    command.run_command(main, "nothing was written", argv)


if __name__ == "__main__":
    run()

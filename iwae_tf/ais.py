"""Measures how much of an NLL is the estimator's: `python -m iwae_tf.ais --run_dir=runs/quickstart`.

Annealed importance sampling estimates log p(x) of test images more exactly than importance sampling does (Wu et al.,
arXiv:1611.04273). With --bidirectional, images that are drawn from the model get a bound on log p(x) from either side
(Grosse et al., arXiv:1511.02543). The same command continues where it was stopped.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from iwae_tf.errors import UserError
from iwae_tf.evaluation.statistics import mean_and_stderr, quantiles
from iwae_tf.experiment import build, command, stored
from iwae_tf.experiment import summary as summary_texts
from iwae_tf.experiment.flags import figure_format_flag, flag, json_flag, parse_folder
from iwae_tf.experiment.parsing import CommandLine
from iwae_tf.runs import released
from iwae_tf.runs import results as formats
from iwae_tf.runtime import console, files, progress, signals


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnealingOptions:
    """The flags of this command."""

    run_dir: str = flag("", "The run whose model is measured; the results are written there.", parse=parse_folder)
    data_dir: str = flag("", "The folder of the run's data, if it has moved.", parse=parse_folder)
    num_images: int = flag(100, "Test images, and images drawn from the model.", at_least=2, at_most=100_000)
    num_chains: int = flag(16, "Chains of each image.", at_least=2, at_most=10_000)
    num_temperatures: int = flag(500, "Temperatures between q(z | x) and p(x, z).", at_least=1, at_most=10**6)
    num_leapfrog: int = flag(
        5, "Leapfrog steps of Hamiltonian Monte Carlo at each temperature.", at_least=1, at_most=1000
    )
    start: str = flag(
        "posterior",
        "Where the chains start: posterior is q(z | x), prior is p(z) as in the papers, which needs more temperatures.",
        choices=("posterior", "prior"),
    )
    nll_samples: int = flag(5000, "Importance samples of the L_k to compare with.", at_least=1, at_most=10**9)
    bidirectional: bool = flag(False, "Also enclose log p(x) of images that are drawn from the model.")
    seed: int = flag(0, "Seed of the chains and of the drawn images.", at_least=0, at_most=2**31 - 1)
    json: bool = json_flag()
    figure_format: tuple[str, ...] = figure_format_flag()


_command_line = CommandLine(AnnealingOptions, __doc__)


def main(argv: Sequence[str]) -> None:
    """Measures, prints a table, writes ais.json and ais.npz and draws the figure."""
    options, _, _ = _command_line.parse(argv)
    if not options.run_dir:
        raise UserError("--run_dir is missing: give the run whose model is to be measured.")
    with build.run_to_extend(options.run_dir) as run:
        stored.read_options(run)  # Refuses what is no run, before the folder is locked.
        run.take()
        command.import_tensorflow_quietly()
        from iwae_tf.datasets import observations

        start = time.monotonic()
        images, model = build.load_images_of(run, options.data_dir), build.load(build.trained_run(options.run_dir))
        x = observations.fixed(images.test[: options.num_images], "test", model.support)
        if len(x) < 2:
            raise UserError(f"{run.path} has {len(x)} test image, but a mean with an error needs at least 2.")
        with signals.deferred():
            measured, curves = _measure(options, run, model, x)
        content = summary(options, model.num_steps, measured)
        _write(options, run, content, measured, curves)
        released.update_checksums(run, [run.ais, run.ais_arrays])
        run.unfinished_annealing.unlink(missing_ok=True)
        print(formats.to_json(content).decode().rstrip() if options.json else table(content))
        picture = run.figures / f"ais.{options.figure_format[0]}"
        console.note(f"in {progress.duration(time.monotonic() - start)}; see {picture}")


def _measure(options, run, model, x):
    """Set of images -> name -> array with a value for each image; and the rows of the curve of L_k against k."""
    from iwae_tf.evaluation import annealing, log_likelihood
    from iwae_tf.experiment import annealed

    sets = [annealed.Images("test", x)]
    if options.bidirectional:
        sets.append(annealed.Images("simulated", *annealing.simulated(model, options.num_images, options.seed)))
    b = annealing.temperatures(options.num_temperatures)
    schedule = annealing.Schedule(b, options.num_leapfrog, options.start)
    measurement = annealed.Measurement(
        annealing.Annealer(model, schedule, options.seed),
        options.num_chains,
        run.unfinished_annealing,
        identity={**_flags(options, "nll_samples"), "steps": model.num_steps},
    )
    counts = f"{len(x):,} images, {options.num_chains} chains, {options.num_temperatures:,} temperatures"
    console.note(f"{counts}; compiling takes some seconds")
    chains = measurement.measure(sets)
    estimates = {images.name: log_likelihood.evaluate_images(model, images.x, options.nll_samples) for images in sets}
    measured = {
        name: {**_of_chains(arrays), "importance_sampling": estimates[name].log_likelihoods}
        for name, arrays in chains.items()
    }
    _refuse_infinite(measured)
    curves = {
        name: [{"k": k, **mean_and_stderr(of_images.at(k))} for k in of_images.counts]
        for name, of_images in estimates.items()
    }
    return measured, curves


def _flags(options, *left_out):
    """The flags that decide what is measured, name -> value."""
    names = ("run_dir", "data_dir", "figure_format", "json", *left_out)
    return {name: value for name, value in dataclasses.asdict(options).items() if name not in names}


def _refuse_infinite(measured):
    """Raises a UserError for estimates that are not finite."""
    for name, arrays in measured.items():
        wrong = np.flatnonzero(~np.isfinite(arrays["log_likelihood"] + arrays["importance_sampling"]))
        if len(wrong):
            raise UserError(
                f"The estimates of {len(wrong)} {name} images are not finite (the first is number {wrong[0]}): the "
                "training failed; train again with a smaller --learning_rate and --overwrite."
            )


def _of_chains(arrays):
    """What the chains say of each image."""
    from iwae_tf.evaluation import annealing

    lower = annealing.lower(arrays["log_weights"])
    values = {
        "log_likelihood": lower.values,
        "stderr": lower.stderrs,
        "effective_sample_size": lower.effective_sample_sizes,
        "acceptance": arrays["acceptance"],
    }
    if "reverse_log_weights" in arrays:
        values["upper"] = annealing.upper(arrays["reverse_log_weights"])
    return values


def summary(options: AnnealingOptions, steps: int, measured: Mapping[str, Mapping[str, Any]]) -> formats.Annealing:
    """Returns the content of ais.json.

    Args:
      options: the flags.
      steps: the training steps of the model.
      measured: set of images -> name -> array with a value for each image; "importance_sampling" is L_k.
    """
    return formats.Annealing(
        steps=steps,
        num_samples=options.nll_samples,
        num_chains=options.num_chains,
        flags=_flags(options),
        **{name: _images(of_images) for name, of_images in measured.items()},
    )


def _images(arrays):
    value, bound = arrays["log_likelihood"], arrays["importance_sampling"]
    sizes, acceptance = (
        msgspec.convert(quantiles(arrays[name]), formats.Quantiles) for name in ("effective_sample_size", "acceptance")
    )
    upper = {}
    if "upper" in arrays:
        upper = {"upper": _mean(arrays["upper"]), "gap": _mean(arrays["upper"] - value)}
    return formats.AnnealedImages(
        num_images=len(value),
        log_likelihood=_mean(value),
        stderr_of_chains=float(np.sqrt(np.square(arrays["stderr"]).sum()) / len(value)),
        importance_sampling=_mean(bound),
        difference=_mean(value - bound),
        effective_sample_size=sizes,
        acceptance=acceptance,
        **upper,
    )


def _mean(values):
    return formats.Mean(**mean_and_stderr(values))


def table(content: formats.Annealing) -> str:
    """The content of ais.json as text."""
    bound = f"L_{content.num_samples:,}"
    lines = [f"images      number  {bound:>9}        AIS    AIS - {bound:<17}upper bound    gap"]
    sets = {"test": content.test, "simulated": content.simulated}
    for name, images in sets.items():
        if images is msgspec.UNSET:
            continue
        line = f"{name:<10}{images.num_images:>8}  {images.importance_sampling.mean:9.2f}"
        line += f"{images.log_likelihood.mean:11.2f}    {summary_texts.with_stderr(images.difference, 3):<20}"
        if images.upper is not msgspec.UNSET and images.gap is not msgspec.UNSET:
            line += f"{images.upper.mean:14.2f}    {summary_texts.with_stderr(images.gap, 3)}"
        lines.append(line.rstrip())
    acceptance, size = content.test.acceptance.mean, content.test.effective_sample_size.mean
    if content.test.difference.mean < 0.0:
        lines.append("The chains are worse than importance sampling: use more temperatures.")
    return "\n".join(
        [*lines, f"acceptance {acceptance:.0%}, effective sample size {size:.1f} of {content.num_chains} chains"]
    )


def _write(options, run, content, measured, curves):
    """Writes ais.json, ais.npz and the figure."""
    from iwae_tf import figures

    arrays = {f"{name}/{key}": array for name, of_images in measured.items() for key, array in of_images.items()}
    files.write_arrays(run.ais_arrays, arrays)
    files.write_atomically(run.ais, formats.to_json(content))
    run.figures.mkdir(exist_ok=True)
    paths = [run.figures / f"ais.{form}" for form in options.figure_format]
    figures.save_annealing(paths, curves, msgspec.to_builtins(content))


def run(argv: Sequence[str] | None = None) -> None:
    """The command; see `command.run_command`."""
    command.run_command(main, "the same command continues", argv)


if __name__ == "__main__":
    run()

"""Measures gradient estimators on a trained model: `python -m iwae_tf.gradients --run_dir=runs/quickstart`.

For each estimator and each number of samples k it draws the gradient of the same few images many times, and reports,
separately for both networks, its bias against the standard gradient, its variance and its signal-to-noise ratio, as in
"Tighter Variational Bounds are Not Necessarily Better" (Rainforth et al., arXiv:1802.04537).
"""

import dataclasses
import json
import time
from collections.abc import Sequence

from iwae_tf import compatibility
from iwae_tf.errors import UserError
from iwae_tf.experiment import build, checks, command, stored
from iwae_tf.experiment.flags import figure_format_flag, flag, json_flag, parse_folder, parse_integers
from iwae_tf.experiment.parsing import CommandLine
from iwae_tf.runtime import console, files, progress

_NETWORKS = ("inference", "generative")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientOptions:
    """The flags of this command."""

    run_dir: str = flag("", "The run whose model is measured; the results are written there.", parse=parse_folder)
    data_dir: str = flag("", "The folder of the run's data, if it has moved.", parse=parse_folder)
    k: tuple[int, ...] = flag((1, 5, 50), "Numbers of samples.", parse=parse_integers)
    fresh: bool = flag(False, "Use the untrained model of the run.")
    draws: int = flag(200, "Gradients to draw per estimator and k.", at_least=10)
    images: int = flag(20, "Test images that a gradient is averaged over.", at_least=1)
    resampled: int = flag(5, "Samples of the estimator of that name, at most k.", at_least=1)
    seed: int = flag(0, "Seed of all draws.", at_least=0, at_most=2**31 - 1)
    json: bool = json_flag()
    figure_format: tuple[str, ...] = figure_format_flag()


_command_line = CommandLine(GradientOptions, __doc__)


def main(argv: Sequence[str]) -> None:
    """Measures, prints a table, writes gradients.json and draws the figure."""
    options, _, _ = _command_line.parse(argv)
    if not options.run_dir:
        raise UserError("--run_dir is missing: give the run whose model is to be measured.")
    with build.run_to_extend(options.run_dir) as run:
        run_options = stored.read_options(run)
        for k in options.k:
            reason = checks.reason_against(dataclasses.replace(run_options, k=k), estimator="standard")
            if reason:
                raise UserError(f"--k={k} is not compatible with this run: {reason}")
        run.take()
        command.import_tensorflow_quietly()
        start = time.monotonic()
        x, source = _load(options, run_options, run)
        rows = [row for k in options.k for row in _measure(source, dataclasses.replace(run_options, k=k), x, options)]
        state = "untrained" if options.fresh else "trained"
        console.note(f"{state} model of {run.path}, {options.draws} draws of {len(x)} images, seed {options.seed}:")
        content = _content(options, rows, len(x))
        _write(run, content, options.figure_format)
        print(json.dumps(content, indent=2) if options.json else table(rows))
        seconds = progress.duration(time.monotonic() - start)
        console.note(f"in {seconds}; see {run.figures / f'gradients.{options.figure_format[0]}'}")


def _load(options, run_options, run):
    """The test images, float [num_images, event], and the model."""
    from iwae_tf import training
    from iwae_tf.datasets import observations

    images = build.load_images_of(run, options.data_dir)
    x = observations.fixed(images.test[: options.images], "test", run_options.support)
    if not options.fresh:
        return x, build.load(build.trained_run(options.run_dir))
    model = build.build_model(run_options, images.event_shape, images)
    training.prepare(model, build.build_plan(run_options))
    return x, model


def _measure(source, run_options, x, options):
    """The rows of one k."""
    from iwae_tf.evaluation import gradient_moments

    console.note(f"measuring k = {run_options.k}; compiling takes some seconds")
    model = _with_samples(source, run_options, options.resampled)
    names = _compatible_estimators(run_options, model.num_resampled)
    measured = gradient_moments.measure(model, names, x, options.draws, options.seed)
    return [
        {"estimator": name, "k": run_options.k, "network": network, **moments._asdict()}
        for name, networks in measured.items()
        for network, moments in networks.items()
    ]


def _write(run, content, formats):
    """Writes gradients.json and the figure."""
    from iwae_tf import figures

    run.figures.mkdir(exist_ok=True)
    pictures = [run.figures / f"gradients.{form}" for form in formats]
    figures.save_gradients(pictures, content["rows"])
    files.write_atomically(run.gradients, (json.dumps(content, indent=2) + "\n").encode())


def _content(options, rows, num_images):
    """The content of gradients.json."""
    return {
        "trained": not options.fresh,
        "draws": options.draws,
        "images": num_images,
        "seed": options.seed,
        "rows": rows,
    }


def table(rows: Sequence[dict]) -> str:
    """The rows as text."""
    lines = ["network      k  estimator     bias t   bias %     variance   signal/noise"]
    for network in _NETWORKS:
        for row in rows:
            if row["network"] == network:
                bias = (
                    f"{row['bias_t']:9.1f}{100 * row['relative_bias']:9.2f}" if row["bias_t"] is not None else " " * 18
                )
                lines.append(
                    f"{network:<10}{row['k']:>4}  {row['estimator']:<10}{bias}{row['variance']:13.3e}"
                    f"{row['signal_to_noise']:15.3f}"
                )
    return "\n".join(lines)


def _compatible_estimators(options, num_resampled):
    """The estimators that are compatible with the objective and the networks, without warm-up."""
    return [
        name
        for name in compatibility.SERVES
        if not checks.reason_against(options, estimator=name, num_resampled=num_resampled, beta_warmup=False)
    ]


def _with_samples(source, options, num_resampled):
    """The source's networks with the objective and the number of samples of these options."""
    from iwae_tf import bounds, models

    model = models.ImportanceWeightedAutoencoder(
        source.inference,
        source.generative,
        objective=bounds.objective(options.objective, *options.objective_parameters),
        num_samples=options.total_samples,
        num_resampled=min(options.total_samples, num_resampled),
    )
    model.compile(jit_compile=source.jit_compile)
    return model


def run(argv: Sequence[str] | None = None) -> None:
    """The command; see `command.run_command`."""
    command.run_command(main, "nothing was written", argv)


if __name__ == "__main__":
    run()

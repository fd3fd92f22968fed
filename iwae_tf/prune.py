"""Removes the inactive units of a trained model: `python -m iwae_tf.prune --run_dir=runs/quickstart`.

A unit is inactive if Cov_x(E_q[u]) is at most the threshold on training images; the test images are not used to choose.
An inactive unit is removed from both networks and replaced by its mean, which moves into the biases. The NLL of the
test images is measured before and after on the same samples. The smaller model is written to RUN_DIR/pruned/.
"""

import dataclasses
import json
import math
from collections.abc import Sequence

import numpy as np

from iwae_tf.errors import UserError
from iwae_tf.evaluation.statistics import mean_and_stderr
from iwae_tf.experiment import build, command, stored
from iwae_tf.experiment.flags import MOST, flag, json_flag, parse_folder
from iwae_tf.experiment.parsing import CommandLine
from iwae_tf.runtime import console, files, progress

# Training images on which the units are measured.
_NUM_IMAGES = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """The flags of this command."""

    run_dir: str = flag("", "The run whose model is pruned; the result is written there.", parse=parse_folder)
    data_dir: str = flag("", "The folder of the run's data, if it has moved.", parse=parse_folder)
    threshold: float = flag(
        0.01,
        "Units with at most this variance are removed.",
        at_least=0.0,
        check=math.isfinite,
        message="is not a variance: give a finite number such as 0.01",
    )
    nll_samples: int = flag(5000, "Importance samples per image for the NLL.", at_least=1, at_most=MOST)
    images: int = flag(0, "Measure the NLL of the first N test images; 0 uses all.", at_least=0)
    export: bool = flag(True, "Write the smaller model as a SavedModel.")
    json: bool = json_flag()


_command_line = CommandLine(PruneOptions, __doc__)


def main(argv: Sequence[str]) -> None:
    """Chooses the units, removes them, evaluates both models, and writes RUN_DIR/pruned/."""
    options, _, _ = _command_line.parse(argv)
    if not options.run_dir:
        raise UserError("--run_dir is missing: give the run whose model is to be pruned.")
    with build.run_to_extend(options.run_dir) as run:
        run_options = stored.read_options(run)
        run.take()
        command.import_tensorflow_quietly()
        from iwae_tf.datasets import observations
        from iwae_tf.evaluation import pruning

        images, model = build.load_images_of(run, options.data_dir), build.load(build.trained_run(options.run_dir))
        measured, num_train = _measure_units(model, images, run)
        kept = pruning.units_to_keep(measured, options.threshold)
        if all(len(units) == len(layer.variances) for units, layer in zip(kept, measured, strict=True)):
            print(_nothing_to_remove(measured, run))
            return
        _announce(measured, kept, options.threshold)
        smaller = _smaller(model, run_options, images.event_shape, kept)
        pruning.transfer(model, smaller, kept, [layer.means for layer in measured])
        pair = {"before": model, "after": pruning.OnSharedEpsilon(smaller, model, kept)}
        values = _evaluate(pair, observations.fixed(images.test, "test", model.support), options, images.noun)
        summary = _summary(options, kept, {"before": model, "after": smaller}, values, num_train)
        _write(run, summary, smaller if options.export else None)
        print(json.dumps(summary, indent=2) if options.json else _table(summary, run))


def _measure_units(model, images, run):
    """The statistics of the units on training images, and how many images these are."""
    from iwae_tf.datasets import observations
    from iwae_tf.evaluation import units

    train = observations.fixed(images.train[:_NUM_IMAGES], "train", model.support)
    console.note(f"measuring the units of {run.path} on {len(train):,} training images")
    measured = units.measure(model, train)
    units.refuse_infinite(measured)
    return measured, len(train)


def _smaller(model, run_options, image_shape, kept):
    """An untrained model with as many units as are kept."""
    latent_dims = tuple(len(units) for units in kept)
    smaller = build.build_model(dataclasses.replace(run_options, latent_dims=latent_dims), image_shape)
    smaller.compile(jit_compile=model.jit_compile)
    return smaller


def _nothing_to_remove(measured, run):
    """What is printed if all units are active; an earlier call with a larger threshold may have written a model."""
    smallest = min(layer.variances.min() for layer in measured)
    text = f"every unit is active (the smallest variance is {smallest:.3g}): nothing is removed or written"
    return f"{text}; {run.pruned}/ is from an earlier call" if run.pruned.exists() else text


def _announce(measured, kept, threshold):
    """Prints how many units are removed."""
    for number, (layer, units) in enumerate(zip(measured, kept, strict=True), start=1):
        removed = len(layer.variances) - len(units)
        text = f"layer {number}: {removed} of {len(layer.variances)} units have a variance of at most {threshold:g}"
        if not layer.num_active(threshold):
            text = f"layer {number}: no unit has a variance above {threshold:g}; the most active one is kept"
        console.note(text)


def _evaluate(models, test, options, noun):
    """Estimates log p(x) of the first test images under each model, name -> float64 [num_images]."""
    from iwae_tf.evaluation import log_likelihood

    test = test[: options.images or None]
    values = {}
    for name, model in models.items():
        console.note(f"{name}: evaluating {len(test):,} test {noun} with {options.nll_samples:,} samples each")
        countdown = progress.Countdown(len(test), noun=noun)

        def report(estimates, countdown=countdown):
            countdown.update(len(estimates), f"NLL {-estimates.log_likelihoods.mean():.2f} nats")

        estimates = log_likelihood.evaluate_images(model, test, options.nll_samples, report=report)
        values[name] = estimates.log_likelihoods
        if not np.isfinite(values[name]).all():
            raise UserError(f"The bounds {name} pruning are not finite: the training of {options.run_dir} failed.")
    return values


def _summary(options, kept, models, values, num_train):
    """The content of pruned.json."""
    from iwae_tf.datasets import observations
    from iwae_tf.evaluation import units

    nll = {name: mean_and_stderr(-log_likelihoods) for name, log_likelihoods in values.items()}
    return {
        "threshold": options.threshold,
        "steps": models["before"].num_steps,
        "kept_units": [units.tolist() for units in kept],
        "chosen_by": {"split": "train", "num_images": num_train, "num_samples": units.ACTIVE_UNIT_SAMPLES},
        "num_units": {name: model.inference.latent_dims for name, model in models.items()},
        "parameters": {
            name: sum(math.prod(weight.shape) for weight in model.trainable_variables) for name, model in models.items()
        },
        "nll": {
            **nll,
            "difference": mean_and_stderr(values["before"] - values["after"]),
            "num_samples": options.nll_samples,
            "num_images": len(values["before"]),
            "binarization_seed": observations.SEED,
        },
        "exported": options.export,
    }


def _write(run, summary, smaller):
    """Replaces RUN_DIR/pruned/; pruned.json is written last, which marks the folder as complete."""
    from iwae_tf.export import export

    run.discard_pruned()
    run.pruned.mkdir()
    if smaller:
        export(smaller, run.pruned / "saved_model")
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    files.write_atomically(run.pruned / "pruned.json", text.encode())


def _table(summary, run):
    """The summary as lines to print."""
    lines = ["                 before        after"]
    units = {name: "+".join(map(str, counts)) for name, counts in summary["num_units"].items()}
    lines.append(f"units      {units['before']:>12} {units['after']:>12}")
    lines.append(f"parameters {summary['parameters']['before']:>12,} {summary['parameters']['after']:>12,}")
    nll = summary["nll"]
    lines.append(f"test NLL   {nll['before']['mean']:>12.2f} {nll['after']['mean']:>12.2f}")
    difference = nll["difference"]
    stderr = "" if difference["stderr"] is None else f" +- {difference['stderr']:.3f}"
    lines.append(f"after - before: {difference['mean']:+.3f}{stderr} nats, paired, on the same samples")
    return "\n".join([*lines, f"see {run.pruned}/"])


def run(argv: Sequence[str] | None = None) -> None:
    """The command; see `command.run_command`."""
    command.run_command(main, "nothing was written", argv)


if __name__ == "__main__":
    run()

"""Removes the inactive units of a trained model: `python -m iwae_tf.prune --run_dir=runs/quickstart`.

A unit is inactive where Cov_x(E_q[u]) is at most the threshold on training images; the test images have no say in the
choice. It is removed from both networks and held at its mean, which moves into the biases. The NLL of the test images
is measured before and after, on the same samples. The smaller model goes to RUN_DIR/pruned/.
"""

import json
import math
import types

import numpy as np
from absl import flags as absl_flags

from iwae_tf import runs
from iwae_tf.errors import UserError
from iwae_tf.evaluation import statistics
from iwae_tf.experiment import build, command, options
from iwae_tf.runtime import files, progress

# Training images by which the units are judged.
_NUM_IMAGES = 10_000
_values = absl_flags.FlagValues()


def _flag(kind, name, default, text, **kwargs):
    kind(name, default, help=text, flag_values=_values, **kwargs)


_flag(absl_flags.DEFINE_string, "run_dir", "", "The run whose model is pruned; the result goes there.")
_flag(absl_flags.DEFINE_string, "data_dir", "", "The folder of the run's data, if it was moved since.")
_flag(absl_flags.DEFINE_float, "threshold", 0.01, "Variance up to which a unit is removed.", lower_bound=0.0)
_flag(absl_flags.DEFINE_integer, "nll_samples", 5000, "Importance samples per image of the NLL.", lower_bound=1)
_flag(absl_flags.DEFINE_integer, "images", 0, "Test images of the NLL, the first ones; 0 for all.", lower_bound=0)
_flag(absl_flags.DEFINE_bool, "export", True, "Write the smaller model as a SavedModel.")


def main(argv):
    """Chooses the units, removes them, measures both models, and writes RUN_DIR/pruned/."""
    flags = _parse(argv)
    with runs.RunDirectory(flags.run_dir) as run:
        run_flags = build.read_flags(run)
        run.take()
        command.import_tensorflow_quietly()
        from iwae_tf.datasets import binarization
        from iwae_tf.evaluation import pruning, units

        run_flags.data_dir = flags.data_dir or run_flags.data_dir
        images, data = build.images(run_flags)
        run.check_data(data)
        model = build.load(flags.run_dir)
        train = binarization.fixed_binarization(images.train[:_NUM_IMAGES], "train")
        print(f"measuring the units of {run.path} on {len(train):,} training images", flush=True)
        measured = units.measure(model, train)
        units.refuse_infinite(measured)
        kept = pruning.units_to_keep(measured, flags.threshold)
        if all(len(of_layer) == len(layer.variances) for of_layer, layer in zip(kept, measured, strict=True)):
            print(_nothing_to_remove(measured, run))
            return
        smaller = _smaller(model, run_flags, data["image_shape"], kept)
        pruning.transfer(model, smaller, kept, [layer.means for layer in measured])
        _announce(measured, kept, flags.threshold)
        test = binarization.fixed_binarization(images.test, "test")[: flags.images or None]
        values = _evaluate({"before": model, "after": pruning.OnSharedNoise(smaller, model, kept)}, test, flags)
        record = _record(flags, kept, {"before": model, "after": smaller}, values, len(train))
        _write(run, record, smaller if flags.export else None)
        print(_summary(record, run))


def _smaller(model, run_flags, image_shape, kept):
    """An untrained model with as many units as are kept."""
    latent_dims = ",".join(str(len(of_layer)) for of_layer in kept)
    built = build.model(types.SimpleNamespace(**{**vars(run_flags), "latent_dims": latent_dims}), image_shape)
    built.compile(jit_compile=model.jit_compile)
    return built


def _nothing_to_remove(measured, run):
    """A line that says so, and that what an earlier call with a larger threshold wrote is still there."""
    least = min(layer.variances.min() for layer in measured)
    text = f"every unit is active (the smallest variance is {least:.3g}): nothing is removed or written"
    return f"{text}; {run.pruned}/ is of an earlier call" if run.pruned.exists() else text


def _announce(measured, kept, threshold):
    """Says which units go."""
    for number, (layer, of_layer) in enumerate(zip(measured, kept, strict=True), start=1):
        removed = len(layer.variances) - len(of_layer)
        text = f"layer {number}: {removed} of {len(layer.variances)} units have a variance of at most {threshold:g}"
        if not layer.num_active(threshold):
            text = f"layer {number}: no unit has a variance above {threshold:g}; the most active one is kept"
        print(text, flush=True)


def _evaluate(models, test, flags):
    """Estimates log p(x) of the test images under each model, name -> float64 [num_images]."""
    from iwae_tf.evaluation import log_likelihood

    found = {}
    for name, model in models.items():
        print(f"{name}: evaluating {len(test):,} test images with {flags.nll_samples:,} samples each", flush=True)
        countdown = progress.Countdown(len(test))

        def report(bounds, countdown=countdown):
            countdown.update(len(bounds), f"NLL {-bounds.log_likelihoods.mean():.2f} nats")

        found[name] = log_likelihood.evaluate_images(model, test, flags.nll_samples, report=report).log_likelihoods
        if not np.isfinite(found[name]).all():
            raise UserError(f"The bounds {name} pruning are not finite: the model of {flags.run_dir} went wrong.")
    return found


def _record(flags, kept, models, values, num_train):
    """What pruned.json holds."""
    from iwae_tf.datasets import binarization
    from iwae_tf.evaluation import units

    nll = {name: statistics.mean_and_stderr(-log_likelihoods) for name, log_likelihoods in values.items()}
    return {
        "threshold": flags.threshold,
        "steps": models["before"].num_steps,
        "kept_units": [of_layer.tolist() for of_layer in kept],
        "chosen_by": {"split": "train", "num_images": num_train, "num_samples": units.ACTIVE_UNIT_SAMPLES},
        "num_units": {name: model.inference.latent_dims for name, model in models.items()},
        "parameters": {
            name: sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)
            for name, model in models.items()
        },
        "nll": {
            **nll,
            "difference": statistics.mean_and_stderr(values["before"] - values["after"]),
            "num_samples": flags.nll_samples,
            "num_images": len(values["before"]),
            "binarization_seed": binarization.FIXED_BINARIZATION_SEED,
        },
        "exported": flags.export,
    }


def _write(run, record, smaller):
    """Writes RUN_DIR/pruned/ anew; its record last, which tells that it is whole."""
    from iwae_tf.export import export

    run.discard_pruned()
    run.pruned.mkdir()
    if smaller:
        export(smaller, run.pruned / "saved_model")
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    files.write_atomically(run.pruned / "pruned.json", text.encode())


def _summary(record, run):
    """The record as lines to print."""
    lines = ["                 before        after"]
    units = {name: "+".join(map(str, counts)) for name, counts in record["num_units"].items()}
    lines.append(f"units      {units['before']:>12} {units['after']:>12}")
    lines.append(f"parameters {record['parameters']['before']:>12,} {record['parameters']['after']:>12,}")
    nll = record["nll"]
    lines.append(f"test NLL   {nll['before']['mean']:>12.2f} {nll['after']['mean']:>12.2f}")
    difference = nll["difference"]
    stderr = "" if difference["stderr"] is None else f" +- {difference['stderr']:.3f}"
    lines.append(f"after - before: {difference['mean']:+.3f}{stderr} nats, in pairs, on the same samples")
    return "\n".join([*lines, f"see {run.pruned}/"])


def _parse(argv):
    """Reads the flags; raises a UserError for bad ones."""
    options.read(_values, argv, help_text=lambda: f"{__doc__}\n{_values.get_help()}")
    if not _values.run_dir:
        raise UserError("--run_dir is missing: name the run whose model is to be pruned.")
    if not math.isfinite(_values.threshold):
        raise UserError(f"--threshold={_values.threshold} is no variance: give a finite number such as 0.01.")
    names = ("run_dir", "data_dir", "threshold", "nll_samples", "images", "export")
    return types.SimpleNamespace(**{name: _values[name].value for name in names})


if __name__ == "__main__":
    command.run_command(main, "nothing was written")

"""Measures gradient estimators on one's own model: `python -m iwae_tf.gradients --run_dir=runs/quickstart`.

For each estimator and each number of samples k it draws the gradient of the same few images again and again, and
reports, separately for both networks, its bias against the standard gradient, its variance and its signal-to-noise
ratio: the picture of "tighter variational bounds are not necessarily better" (Rainforth et al., arXiv:1802.04537).
"""

import json
import time
import types

from absl import flags as absl_flags

from iwae_tf import compatibility, runs
from iwae_tf.errors import UserError
from iwae_tf.experiment import build, command, options
from iwae_tf.runtime import files, progress

_NETWORKS = ("inference", "generative")
_values = absl_flags.FlagValues()


def _flag(kind, name, default, text, **kwargs):
    kind(name, default, help=text, flag_values=_values, **kwargs)


_flag(absl_flags.DEFINE_string, "run_dir", "", "The run whose model is measured; the results go there.")
_flag(absl_flags.DEFINE_string, "data_dir", "", "The folder of the run's data, if it was moved since.")
_flag(absl_flags.DEFINE_list, "k", ["1", "5", "50"], "Numbers of samples.")
_flag(absl_flags.DEFINE_bool, "fresh", False, "Take the untrained model of the run's flags.")
_flag(absl_flags.DEFINE_integer, "draws", 200, "Gradients of each kind that are drawn.", lower_bound=10)
_flag(absl_flags.DEFINE_integer, "images", 20, "Test images that a gradient is averaged over.", lower_bound=1)
_flag(absl_flags.DEFINE_integer, "resampled", 5, "Samples of the estimator of that name, or k if less.", lower_bound=1)
_flag(absl_flags.DEFINE_integer, "seed", 0, "Seed of all draws.", lower_bound=0)


def main(argv):
    """Measures, prints a table, writes gradients.json and draws figures/gradients.png."""
    flags = _parse(argv)
    run = runs.RunDirectory(flags.run_dir)
    run_flags = build.read_flags(run)
    at_each_k = [types.SimpleNamespace(**{**vars(run_flags), "k": k}) for k in flags.k]
    for at_k in at_each_k:
        reason = options.reason_against(at_k, estimator="standard")
        if reason:
            raise UserError(f"--k={at_k.k} does not go with this run: {reason}")
    command.import_tensorflow_quietly()
    from iwae_tf import figures, training
    from iwae_tf.datasets import binarization
    from iwae_tf.evaluation import gradient_moments

    run_flags.data_dir = flags.data_dir or run_flags.data_dir
    images, data = build.images(run_flags)
    run.check_data(data)
    if flags.fresh:
        source = build.model(run_flags, images.image_shape, images.train_mean)
        training.prepare(source, build.plan(run_flags))
    else:
        source = build.load(flags.run_dir)
    x = binarization.fixed_binarization(images.test[: flags.images], "test")
    rows, start = [], time.monotonic()
    line = progress.StatusLine()
    for at_k in at_each_k:
        line.keep(f"measuring k = {at_k.k}; compiling takes some seconds")
        model = _with_samples(source, at_k, flags.resampled)
        measured = gradient_moments.measure(model, _served(at_k, model.num_resampled), x, flags.draws, flags.seed)
        for name, of_networks in measured.items():
            for network, moments in of_networks.items():
                rows.append({"estimator": name, "k": at_k.k, "network": network, **moments._asdict()})
    state = "untrained" if flags.fresh else "trained"
    print(f"{state} model of {run.path}, {flags.draws} draws of {len(x)} images, seed {flags.seed}:")
    print(table(rows))
    run.figures.mkdir(exist_ok=True)
    figures.save_gradients(run.figures / "gradients.png", rows)
    record = {"trained": not flags.fresh, "draws": flags.draws, "images": len(x), "seed": flags.seed, "rows": rows}
    files.write_atomically(run.path / "gradients.json", (json.dumps(record, indent=2) + "\n").encode())
    print(f"in {progress.duration(time.monotonic() - start)}; see {run.path / 'figures' / 'gradients.png'}")


def table(rows):
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


def _served(flags, num_resampled):
    """The estimators that go with these flags' objective and networks."""
    return [
        name
        for name in compatibility.SERVES
        # What is measured has no warm-up.
        if not options.reason_against(flags, estimator=name, num_resampled=num_resampled, beta_warmup=False)
    ]


def _with_samples(source, flags, resampled):
    """The source's networks with the objective and the number of samples of these flags."""
    from iwae_tf import bounds, models

    model = models.ImportanceWeightedAutoencoder(
        source.inference,
        source.generative,
        objective=bounds.objective(flags.objective, *options.objective_parameters(flags)),
        num_samples=options.num_samples(flags),
        num_resampled=min(options.num_samples(flags), resampled),
    )
    model.compile(jit_compile=source.jit_compile)
    return model


def _parse(argv):
    """Reads the flags; raises a UserError for bad ones."""
    options.read(_values, argv, help_text=lambda: f"{__doc__}\n{_values.get_help()}")
    if not _values.run_dir:
        raise UserError("--run_dir is missing: name the run whose model is to be measured.")
    if not _values.k or not all(word.isascii() and word.isdigit() and int(word) > 0 for word in _values.k):
        raise UserError(f"--k={','.join(_values.k)} is no list of positive integers such as 1,5,50.")
    names = ("run_dir", "data_dir", "fresh", "draws", "images", "resampled", "seed")
    return types.SimpleNamespace(k=[int(word) for word in _values.k], **{name: _values[name].value for name in names})


if __name__ == "__main__":
    command.run_command(main, "nothing was written")

"""Measures gradient estimators on one's own model: `python -m iwae_tf.gradients --run_dir=runs/quickstart`.

For each estimator and each number of samples k it draws the gradient of the same few images again and again, and
reports, separately for both networks, its bias against the standard gradient, its variance and its signal-to-noise
ratio: the picture of "tighter variational bounds are not necessarily better" (Rainforth et al., arXiv:1802.04537).
"""

import json
import time
import types
from typing import NamedTuple

import numpy as np
from absl import flags as absl_flags

from iwae_tf import compatibility, experiment, files, options, progress, runs
from iwae_tf.errors import UserError

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


class Moments(NamedTuple):
    """What the draws of one estimator tell about one network's gradient.

    Attributes:
      bias_t: t statistic of the bias along the standard gradient's mean, from paired draws; None for the standard one.
      relative_bias: that bias over the standard gradient's mean along the same direction.
      variance: variance of a parameter's gradient, averaged over the parameters.
      signal_to_noise: |mean| / standard deviation of a parameter's gradient, averaged over the parameters.
    """

    bias_t: float | None
    relative_bias: float | None
    variance: float
    signal_to_noise: float


def main(argv):
    """Measures, prints a table, writes gradients.json and draws figures/gradients.png."""
    flags = _parse(argv)
    run = runs.RunDirectory(flags.run_dir)
    run_flags = experiment.read_flags(run)
    at_each_k = [types.SimpleNamespace(**{**vars(run_flags), "k": k}) for k in flags.k]
    for at_k in at_each_k:
        reason = options.reason_against(at_k, estimator="standard")
        if reason:
            raise UserError(f"--k={at_k.k} does not go with this run: {reason}")
    experiment.import_tensorflow_quietly()
    from iwae_tf import binarization, figures, training

    run_flags.data_dir = flags.data_dir or run_flags.data_dir
    images, data = experiment.images(run_flags)
    run.check_data(data)
    if flags.fresh:
        source = experiment.model(run_flags, images.image_shape, images.train_mean)
        training.prepare(source, experiment.plan(run_flags))
    else:
        source = experiment.load(flags.run_dir)
    x = binarization.fixed_binarization(images.test[: flags.images], "test")
    rows, start = [], time.monotonic()
    line = progress.StatusLine()
    for at_k in at_each_k:
        line.keep(f"measuring k = {at_k.k}; compiling takes some seconds")
        model = _with_samples(source, at_k, flags.resampled)
        measured = measure(model, _served(at_k, model.num_resampled), x, flags.draws, flags.seed)
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


def measure(model, names, x, draws, seed=0):
    """Measures estimators of one model's gradient against the standard one, all on the same samples.

    Args:
      model: a built `ImportanceWeightedAutoencoder`.
      names: from `estimators.GRADIENT_ESTIMATORS`, which the model's objective and networks admit.
      x: float array [batch, event].
      draws: how many gradients to draw of each.
      seed: seed of the draws.

    Returns:
      Name -> network ("inference", "generative") -> `Moments`.
    """
    import tensorflow as tf

    from iwae_tf import estimators, noise

    x = tf.constant(x)
    names = ["standard", *(name for name in names if name != "standard")]

    @tf.function(jit_compile=model.jit_compile)
    def draw(key):
        """For each network [estimators, parameters]."""
        eps = model.draw_noise(model.num_samples, len(x), key)
        own = noise.fold_in(key, 1)
        gradients = [estimators.GRADIENT_ESTIMATORS[name](model, x, eps, 1.0, own)[1] for name in names]
        return [tf.stack([_flat(model, network, one) for one in gradients]) for network in _NETWORKS]

    def drawn(purpose, count):
        for i in range(count):
            yield [part.numpy().astype(np.float64) for part in draw(noise.key(seed, purpose, i))]

    # A quarter as many draws of their own tell the direction along which biases are looked for.
    standard = [[of_network[0] for of_network in parts] for parts in drawn("direction", draws // 4)]
    sums = [_Sums(np.mean(of_network, axis=0)) for of_network in zip(*standard, strict=True)]
    for parts in drawn("gradients", draws):
        for of_network, gradients in zip(sums, parts, strict=True):
            of_network.add(gradients)
    measured = {network: of_network.moments() for network, of_network in zip(_NETWORKS, sums, strict=True)}
    return {name: {network: measured[network][i] for network in _NETWORKS} for i, name in enumerate(names)}


class _Sums:
    """Sums over the draws of one network's gradients, the standard estimator's first."""

    def __init__(self, direction):
        self._direction = direction
        self._sum = self._sum_of_squares = 0.0
        self._projected = []

    def add(self, gradients):
        """Adds a draw, [estimators, parameters]."""
        self._sum = self._sum + gradients
        self._sum_of_squares = self._sum_of_squares + gradients**2
        self._projected.append((gradients - gradients[0]) @ self._direction)

    def moments(self):
        """Returns the `Moments` of each estimator."""
        draws = len(self._projected)
        mean = self._sum / draws
        variance = np.maximum(self._sum_of_squares / draws - mean**2, 0.0) * draws / (draws - 1)
        squared_length = self._direction @ self._direction
        bias = np.mean(self._projected, axis=0)
        # Both lengths are along a direction from other draws: no noise of theirs is squared.
        length = mean[0] @ self._direction
        # Rounding alone makes differences where two estimators agree.
        stderr = np.maximum(np.std(self._projected, axis=0, ddof=1) / np.sqrt(draws), 1e-5 * squared_length)
        return [
            Moments(
                float(bias[i] / stderr[i]) if i else None,
                float(bias[i] / length) if i else None,
                float(variance[i].mean()),
                _signal_to_noise(mean[i], variance[i]),
            )
            for i in range(len(mean))
        ]


def _signal_to_noise(mean, variance):
    noisy = variance > 0.0
    return float(np.mean(np.abs(mean[noisy]) / np.sqrt(variance[noisy]))) if noisy.any() else 0.0


def _flat(model, network, gradients):
    """One network's gradient as a vector; weights that serve both are in both."""
    import tensorflow as tf

    own = {id(variable) for variable in getattr(model, network).trainable_variables}
    return tf.concat(
        [tf.reshape(g, [-1]) for v, g in zip(model.trainable_variables, gradients, strict=True) if id(v) in own], axis=0
    )


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
    experiment.run_command(main, "nothing was written")

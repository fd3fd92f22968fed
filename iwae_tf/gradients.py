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

from iwae_tf import compatibility, experiment, options, progress, runs
from iwae_tf.errors import UserError

_NETWORKS = ("inference", "generative")
_values = absl_flags.FlagValues()


def _flag(kind, name, default, text, **kwargs):
    kind(name, default, help=text, flag_values=_values, **kwargs)


_flag(absl_flags.DEFINE_string, "run_dir", "", "The run whose model is measured; the results go there.")
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
      relative_bias: that bias over the length of the mean.
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
    experiment.import_tensorflow_quietly()
    from iwae_tf import datasets, figures

    source = experiment.load(flags.run_dir, trained=not flags.fresh)
    images = datasets.load(run_flags.dataset).test[: flags.images]
    x = datasets.fixed_binarization(images, "test")
    rows, start = [], time.monotonic()
    line = progress.StatusLine()
    cases = [(k, name) for k in flags.k for name in _served(run_flags, k, flags.resampled)]
    for done, (k, name) in enumerate(cases):
        line.update(lambda done=done: f"{done} of {len(cases)} measured")
        model = _with(source, run_flags, k, name, flags.resampled)
        for network, moments in measure(model, x, flags.draws, flags.seed).items():
            rows.append({"estimator": name, "k": k, "network": network, **moments._asdict()})
    state = "untrained" if flags.fresh else "trained"
    print(f"{state} model of {run.path}, {flags.draws} draws of {len(x)} images, seed {flags.seed}:")
    print(table(rows))
    print(f"in {progress.duration(time.monotonic() - start)}; see {run.path / 'figures' / 'gradients.png'}")
    record = {"trained": not flags.fresh, "draws": flags.draws, "images": len(x), "seed": flags.seed, "rows": rows}
    runs.write_atomically(run.path / "gradients.json", (json.dumps(record, indent=2) + "\n").encode())
    run.figures.mkdir(exist_ok=True)
    figures.save_gradients(run.figures / "gradients.png", rows)


def measure(model, x, draws, seed=0):
    """Measures a model's estimator against the standard one.

    Args:
      model: a built `ImportanceWeightedAutoencoder`.
      x: float array [batch, event].
      draws: how many gradients to draw.
      seed: seed of the draws.

    Returns:
      Network ("inference", "generative") -> `Moments`.
    """
    import tensorflow as tf

    from iwae_tf import estimators, noise

    x = tf.constant(x)

    @tf.function(jit_compile=model.jit_compile)
    def draw(key):
        eps = model.draw_noise(model.num_samples, len(x), key)
        pair = [one(model, x, eps, 1.0, noise.fold_in(key, 1))[1] for one in (estimators.standard, model.estimator)]
        return [tf.concat([_flat(model, network, gradients) for gradients in pair], axis=0) for network in _NETWORKS]

    sums = None
    directions = [
        np.mean(parts, axis=0)
        for parts in zip(*(_pairs(draw, noise.key(seed, "direction", i)) for i in range(draws // 4)), strict=True)
    ]
    projections = []
    for i in range(draws):
        pairs = _pairs(draw, noise.key(seed, "gradients", i))
        own = [pair[1] for pair in pairs]
        projections.append(
            [(pair[1] - pair[0]) @ direction[0] for pair, direction in zip(pairs, directions, strict=True)]
        )
        new = [np.stack([gradient, gradient**2]) for gradient in own]
        sums = new if sums is None else [a + b for a, b in zip(sums, new, strict=True)]
    is_standard = model.estimator is estimators.standard
    return {
        network: _moments(total / draws, draws, projected, direction[0], is_standard)
        for network, total, projected, direction in zip(
            _NETWORKS, sums, np.transpose(projections), directions, strict=True
        )
    }


def _pairs(draw, key):
    """[standard, other] of each network, float64."""
    return [part.numpy().astype(np.float64).reshape(2, -1) for part in draw(key)]


def _flat(model, network, gradients):
    """One network's gradient as a vector; weights that serve both are in both."""
    import tensorflow as tf

    own = {id(variable) for variable in getattr(model, network).trainable_variables}
    return tf.concat(
        [tf.reshape(g, [-1]) for v, g in zip(model.trainable_variables, gradients, strict=True) if id(v) in own], axis=0
    )


def _moments(means, draws, projected, direction, is_standard):
    mean, mean_square = means
    variance = np.maximum(mean_square - mean**2, 0.0) * draws / (draws - 1)
    used = variance > 0.0
    signal_to_noise = float(np.mean(np.abs(mean[used]) / np.sqrt(variance[used]))) if used.any() else 0.0
    if is_standard:
        return Moments(None, None, float(variance.mean()), signal_to_noise)
    stderr = projected.std(ddof=1) / np.sqrt(draws)
    # Rounding alone makes differences where two estimators agree.
    rounding = 1e-5 * (direction @ direction)
    bias = float(projected.mean())
    return Moments(
        float(bias / max(stderr, rounding)),
        bias / float(direction @ direction),
        float(variance.mean()),
        signal_to_noise,
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


def _served(run_flags, k, resampled):
    """The estimators that go with the run's objective and networks at this k."""
    changed = types.SimpleNamespace(**{**vars(run_flags), "k": k})
    return [
        name
        for name in compatibility.SERVES
        if not options.reason_against(changed, estimator=name, num_resampled=min(k, resampled))
    ]


def _with(source, run_flags, k, estimator, resampled):
    """The source's networks with another number of samples and another estimator."""
    from iwae_tf import bounds, models

    changed = types.SimpleNamespace(**{**vars(run_flags), "k": k})
    model = models.ImportanceWeightedAutoencoder(
        source.inference,
        source.generative,
        objective=bounds.objective(run_flags.objective, *options.objective_parameters(changed)),
        gradient_estimator=estimator,
        num_samples=options.num_samples(changed),
        num_resampled=min(k, resampled),
    )
    model.compile(jit_compile=source.jit_compile)
    return model


def _parse(argv):
    """Reads the flags; raises a UserError for bad ones."""
    if any(word in ("--help", "-h") for word in argv):
        print(f"{__doc__}\n{_values.get_help()}")
        raise SystemExit(0)
    try:
        words = _values(argv)[1:]
    except absl_flags.Error as error:
        raise UserError(" ".join(str(error).split())) from error
    if words:
        raise UserError(f"{words[0]!r} belongs to no flag; see --help.")
    if not _values.run_dir:
        raise UserError("--run_dir is missing: name the run whose model is to be measured.")
    if not _values.k or not all(word.isascii() and word.isdigit() and int(word) > 0 for word in _values.k):
        raise UserError(f"--k={','.join(_values.k)} is no list of positive integers such as 1,5,50.")
    names = ("run_dir", "fresh", "draws", "images", "resampled", "seed")
    return types.SimpleNamespace(k=[int(word) for word in _values.k], **{name: _values[name].value for name in names})


if __name__ == "__main__":
    experiment.run_command(main, "nothing was written")

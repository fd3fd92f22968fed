"""Run directories with known numbers, as training runs would have left them."""

import msgspec
import numpy as np

from iwae_tf import runs
from iwae_tf.experiment import parsing, stored
from iwae_tf.runtime import files

VERSIONS = {"iwae_tf": "1.0", "tensorflow": "2.20.0"}
# The least that results.json holds, as plain JSON.
RESULTS = {
    "nll": {"mean": 90.5, "stderr": None, "num_samples": 5000, "num_images": 1},
    "elbo": -92.0,
    "iwae_bound": {"k": 5, "mean": -91},
    "active_units": {"per_layer": [25]},
    "data": {"binarization": "stochastic"},
    "training": {"epochs": 3, "seconds": 1.5},
    "flags": {},
    "versions": {},
}


def write_run(path, *words, nll=None, epochs=None, units=None, images=True, data=None, **more):
    """Writes a run directory.

    Args:
      path: the folder.
      *words: flags of the run.
      nll: the NLL of the test images in nats; None if the run is not evaluated.
      epochs: the finished epochs, by default all.
      units: active units of each layer.
      images: whether it has samples and reconstructions.
      data: what differs in the description of the images.
      **more: what else is in results.json, plain JSON.

    Returns:
      The folder.
    """
    options = parsing.parse(["main", *words])
    epochs = options.num_epochs if epochs is None else epochs
    described = {"binarization": options.binarization, "image_shape": [28, 28], "sha256": "01"} | (data or {})
    with runs.RunDirectory(path) as run:
        run.claim(stored.run_flags(options), data=msgspec.convert(described, runs.DataDescription))
        if epochs:
            run.write_history(history(epochs, last=-(nll or 90.0)))
        if nll is not None:
            run.write_results(results(options, nll, epochs, units, data=described, **more))
            if images:
                rng = np.random.default_rng(options.seed)
                pictures = {name: rng.uniform(size=(100, 28, 28)) for name in ("probabilities", "reconstructions")}
                files.write_arrays(run.samples, pictures)
    return path


def history(epochs, last):
    """Rows of history.csv whose validation bound ends at `last`, in nats; 2 s per epoch."""
    bounds = last - 200.0 / np.arange(1.0, epochs + 1.0) + 200.0 / epochs
    return [
        dict.fromkeys(runs.HISTORY_COLUMNS, float(bound))
        | {"epoch": epoch, "step": 596 * epoch, "seconds": 2.0 * epoch}
        for epoch, bound in enumerate(bounds, start=1)
    ]


def results(options, nll, epochs, units=None, **more):
    """`runs.Results` with an NLL in nats."""
    quantiles = {"mean": 9.0, "1%": 1.25, "10%": 2.5, "50%": 7.5, "90%": 20.0}
    plain = {
        "nll": {"mean": nll, "stderr": 0.25, "num_samples": options.nll_samples, "num_images": 10000},
        "elbo": -nll - 2.0,
        "iwae_bound": {"k": options.k, "mean": -nll - 1.0},
        "bounds": [
            {"k": k, "mean": -nll - 10.0 / k, "stderr": 0.25} for k in (1, 50, 2500, 5000) if k <= options.nll_samples
        ],
        "corrected_nll": {"mean": nll - 0.03, "stderr": 0.25},
        "effective_sample_size": quantiles,
        "largest_weight": dict.fromkeys(quantiles, 0.5) | {"90%": 0.875},
        "active_units": {"per_layer": units or [20, 5, 4, 3, 2][: len(options.latent_dims)]},
        "training": {"epochs": epochs, "seconds": 2.0 * epochs},
        "flags": stored.result_flags(options),
        "versions": VERSIONS,
    }
    return msgspec.convert(plain | more, runs.Results)

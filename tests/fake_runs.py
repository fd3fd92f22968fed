"""Run directories with known numbers, as trainings would have left them."""

import numpy as np

from iwae_tf import runs
from iwae_tf.experiment import options
from iwae_tf.runtime import files

VERSIONS = {"iwae_tf": "1.0", "tensorflow": "2.20.0"}


def write_run(path, *words, nll=None, epochs=None, units=None, images=True, data=None, **further):
    """Writes a run directory.

    Args:
      path: the folder.
      *words: flags of the run.
      nll: of its test images in nats; None if it is not evaluated.
      epochs: those that are done, by default all.
      units: active units of each layer.
      images: whether it has samples and reconstructions.
      data: what differs in the record of the images.
      **further: what else results.json has.

    Returns:
      The folder.
    """
    flags = options.parse(["main", *words])
    epochs = options.num_epochs(flags) if epochs is None else epochs
    described = {"binarization": flags.binarization, "image_shape": [28, 28], "sha256": "01"} | (data or {})
    with runs.RunDirectory(path) as run:
        run.claim(options.run_flags(flags), data=described)
        if epochs:
            run.write_history(history(epochs, last=-(nll or 90.0)))
        if nll is not None:
            run.write_results(results(flags, nll, epochs, units, described) | further)
            if images:
                rng = np.random.default_rng(flags.seed)
                pictures = {name: rng.uniform(size=(100, 28, 28)) for name in ("probabilities", "reconstructions")}
                files.write_arrays(run.samples, pictures)
    return path


def history(epochs, last):
    """Rows of history.csv whose validation bound ends at `last`, in nats; 2 s an epoch."""
    bounds = last - 200.0 / np.arange(1.0, epochs + 1.0) + 200.0 / epochs
    return [
        dict.fromkeys(runs.HISTORY_COLUMNS, float(bound))
        | {"epoch": epoch, "step": 596 * epoch, "seconds": 2.0 * epoch}
        for epoch, bound in enumerate(bounds, start=1)
    ]


def results(flags, nll, epochs, units, data):
    """What results.json has."""
    num_layers = len(options.layer_dims(flags.latent_dims, flags.hidden_dims)[0])
    quantiles = {"mean": 9.0, "1%": 1.25, "10%": 2.5, "50%": 7.5, "90%": 20.0}
    return {
        "nll": {"mean": nll, "stderr": 0.25, "num_samples": flags.nll_samples, "num_images": 10000},
        "elbo": -nll - 2.0,
        "iwae_bound": {"k": flags.k, "mean": -nll - 1.0},
        "bounds": [
            {"k": k, "mean": -nll - 10.0 / k, "stderr": 0.25} for k in (1, 50, 2500, 5000) if k <= flags.nll_samples
        ],
        "corrected_nll": {"mean": nll - 0.03, "stderr": 0.25},
        "effective_sample_size": quantiles,
        "largest_weight": dict.fromkeys(quantiles, 0.5) | {"90%": 0.875},
        "active_units": {"per_layer": units or [20, 5, 4, 3, 2][:num_layers]},
        "data": data,
        "training": {"epochs": epochs, "seconds": 2.0 * epochs},
        "flags": options.result_flags(flags),
        "versions": VERSIONS,
    }

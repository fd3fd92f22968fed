"""Pictures as PNG, PDF and SVG files; `style` has their look. Only this package imports matplotlib."""

import contextlib
import os
import sys

if "matplotlib" not in sys.modules:
    # A notebook hands MPLBACKEND to the programs that it starts, also where its backend is not installed; matplotlib
    # then refuses to be imported, although no backend is needed here.
    backend = os.environ.pop("MPLBACKEND", None)
    import matplotlib

    if backend is not None:
        os.environ["MPLBACKEND"] = backend
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend

from iwae_tf.figures.classes import save_embeddings, save_nll_by_class
from iwae_tf.figures.images import image_grid, save_grids, save_image, save_pixels, save_worst_images
from iwae_tf.figures.latents import save_posteriors, save_traversal, save_units
from iwae_tf.figures.output import FORMATS, Paths
from iwae_tf.figures.report import save_active_units, save_nll_against_k, save_validation_curves
from iwae_tf.figures.run import save_annealing, save_bound_curve, save_gradients, save_learning_curves
from iwae_tf.figures.tables import save_marginals, save_pairs, save_scores

__all__ = [
    "FORMATS",
    "Paths",
    "image_grid",
    "save_active_units",
    "save_annealing",
    "save_bound_curve",
    "save_embeddings",
    "save_gradients",
    "save_grids",
    "save_image",
    "save_learning_curves",
    "save_marginals",
    "save_nll_against_k",
    "save_nll_by_class",
    "save_pairs",
    "save_pixels",
    "save_posteriors",
    "save_scores",
    "save_traversal",
    "save_units",
    "save_validation_curves",
    "save_worst_images",
]

"""Posterior means of test data, and their embedding in the plane.

UMAP and t-SNE are used only if they are installed: `pip install umap-learn`, or scikit-learn.
"""

import numpy as np
import tensorflow as tf

from iwae_tf import models

# So many rows are embedded; more would make a figure slow to draw and full.
NUM_ROWS = 2000
_ROWS_PER_CALL = 500
_SEED = 0
# Of t-SNE; half of its default, after which little moves.
_NUM_ITERATIONS = 500
# Fewer points have no neighbourhoods.
_FEWEST_POINTS = 20


def posterior_means(model: models.ImportanceWeightedAutoencoder, x: np.ndarray) -> list[np.ndarray]:
    """Returns the mean of q of each layer, given the means of the layers that it depends on.

    Args:
      model: an `ImportanceWeightedAutoencoder`.
      x: float array [n, event].

    Returns:
      A float32 array [n, d_l] for each layer, bottom first.
    """
    pieces = [x[start : start + _ROWS_PER_CALL] for start in range(0, len(x), _ROWS_PER_CALL)]
    means = [[q.mean().numpy() for q in model.mean_path(tf.constant(piece))] for piece in pieces]
    return [
        np.concatenate([piece.reshape(-1, units) for piece in layer])
        for layer, units in zip(zip(*means, strict=True), model.inference.latent_dims, strict=True)
    ]


def embeddings(values: np.ndarray) -> dict[str, np.ndarray]:
    """Embeds points in the plane: by PCA, and by UMAP or else t-SNE if one is installed.

    Args:
      values: float array [n, d].

    Returns:
      Method -> float64 array [n, 2]; the same on every call.
    """
    linear = principal_components(values)
    neighbours = _by_neighbours(values.astype(np.float64), linear)
    return {"PCA": linear} | neighbours


def principal_components(values: np.ndarray) -> np.ndarray:
    """Returns the two principal components of points [n, d], float64 [n, 2]; the largest weight of each is positive."""
    centred = values.astype(np.float64) - values.mean(axis=0, dtype=np.float64)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:2]
    largest = np.argmax(np.abs(directions), axis=1)
    directions = directions * np.sign(np.take_along_axis(directions, largest[:, np.newaxis], axis=1))
    points = centred @ directions.T
    return np.pad(points, [(0, 0), (0, 2 - points.shape[1])])


def _by_neighbours(values, linear):
    """Method -> points, or {} if no method is installed or there is nothing to see."""
    spread = linear[:, 0].std()
    if len(values) < _FEWEST_POINTS or not spread > 0.0:
        return {}
    try:
        from umap import UMAP

        return {"UMAP": UMAP(random_state=_SEED, n_jobs=1).fit_transform(values)}
    except ImportError:
        pass
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError:
        return {}
    perplexity = min(30.0, (len(values) - 1) / 3.0)
    method = TSNE(init=1e-4 * linear / spread, perplexity=perplexity, max_iter=_NUM_ITERATIONS, random_state=_SEED)
    with threadpool_limits(1):  # Several threads wait for each other longer than they work.
        return {"t-SNE": method.fit_transform(values)}

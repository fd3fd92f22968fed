"""Summaries of one value per image, as plain JSON."""

import numpy as np


def mean_and_stderr(values: np.ndarray) -> dict[str, float | None]:
    """Returns the mean of values [num_images] and its standard error, which is None for a single image."""
    stderr = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(values.mean()), "stderr": stderr}


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Returns the mean and the 1%, 10%, 50% and 90% quantiles of values [num_images]."""
    return {"mean": float(values.mean())} | {f"{q:.0%}": float(np.quantile(values, q)) for q in (0.01, 0.1, 0.5, 0.9)}

"""Summaries of values that each image has."""

import numpy as np


def mean_and_stderr(values):
    """A mean over images and its standard error, which a single image does not have; plain JSON."""
    stderr = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(values.mean()), "stderr": stderr}


def quantiles(values):
    """Where a number lies that each image has, plain JSON."""
    return {"mean": float(values.mean())} | {f"{q:.0%}": float(np.quantile(values, q)) for q in (0.01, 0.1, 0.5, 0.9)}

"""Data sets by name, with their splits. Only `binarization` and `observations` import TensorFlow, on first use."""

import importlib

from iwae_tf.datasets.catalogue import DATASETS, FAMILIES, Dataset, Entry, Request, find, load

__all__ = ["DATASETS", "FAMILIES", "Dataset", "Entry", "Request", "find", "load"]


def __getattr__(name: str):
    if name in ("binarization", "observations"):
        return importlib.import_module(f"iwae_tf.datasets.{name}")
    raise AttributeError(f"module 'iwae_tf.datasets' has no attribute {name!r}")

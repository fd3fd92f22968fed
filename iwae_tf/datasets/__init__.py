"""Data sets by name: images and splits. Only the submodule `binarization` imports TensorFlow, on first use."""

import importlib

from iwae_tf.datasets.catalogue import DATASETS, FAMILIES, Entry, Images, Request, find, load

__all__ = ["DATASETS", "FAMILIES", "Entry", "Images", "Request", "find", "load"]


def __getattr__(name: str):
    if name == "binarization":
        return importlib.import_module("iwae_tf.datasets.binarization")
    raise AttributeError(f"module 'iwae_tf.datasets' has no attribute {name!r}")

"""Data sets by name: images and splits. It does not import TensorFlow; `datasets.binarization` does."""

from iwae_tf.datasets.catalogue import DATASETS, FAMILIES, Entry, Images, find, load

__all__ = ["DATASETS", "FAMILIES", "Entry", "Images", "find", "load"]

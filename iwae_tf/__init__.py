"""Importance weighted autoencoders (Burda et al., arXiv:1509.00519) with Keras 3 and TensorFlow Probability.

What `__all__` lists is the public API; anything else may change between versions. The names are imported on first use,
so `import iwae_tf` is immediate.
"""

import importlib
import json
import os
import pathlib
import sys
from typing import TYPE_CHECKING

from iwae_tf.version import __version__

if TYPE_CHECKING:
    from iwae_tf import bounds, datasets, errors, layers, networks
    from iwae_tf.api import load, load_dataset, log_likelihood, train
    from iwae_tf.importance import LogLikelihood
    from iwae_tf.models import ImportanceWeightedAutoencoder
    from iwae_tf.networks import paper_networks
    from iwae_tf.training import Plan

__all__ = [
    "ImportanceWeightedAutoencoder",
    "LogLikelihood",
    "Plan",
    "__version__",
    "bounds",
    "datasets",
    "errors",
    "layers",
    "load",
    "load_dataset",
    "log_likelihood",
    "networks",
    "paper_networks",
    "train",
]
# Name -> the module that defines it.
_MODULES = {
    "ImportanceWeightedAutoencoder": "iwae_tf.models",
    "LogLikelihood": "iwae_tf.importance",
    "Plan": "iwae_tf.training",
    "load": "iwae_tf.api",
    "load_dataset": "iwae_tf.api",
    "log_likelihood": "iwae_tf.api",
    "paper_networks": "iwae_tf.networks",
    "train": "iwae_tf.api",
}
_SUBMODULES = ("bounds", "datasets", "errors", "layers", "networks")


def _refuse_other_backends():
    """Raises an ImportError if Keras computes, or would compute, with something else than TensorFlow."""
    if "keras" in sys.modules:
        backend = sys.modules["keras"].config.backend()
    else:
        folder = pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
        try:
            configured = json.loads((folder / "keras.json").read_text(encoding="utf-8")).get("backend")
        except (OSError, ValueError, AttributeError):
            configured = None
        backend = os.environ.get("KERAS_BACKEND") or configured or "tensorflow"
    if backend != "tensorflow":
        raise ImportError(
            f"iwae_tf needs Keras with TensorFlow, but its backend is {backend!r}; set KERAS_BACKEND=tensorflow in the "
            "environment before keras is imported."
        )


def _register():
    """Imports the modules whose classes `keras.saving.load_model` may have to find, if Keras is there."""
    if "keras" in sys.modules:
        _refuse_other_backends()
        for name in ("models", "networks", "schedules"):
            importlib.import_module(f"iwae_tf.{name}")


def __getattr__(name: str):
    if name in _MODULES or (name in _SUBMODULES and name not in ("datasets", "errors")):
        _refuse_other_backends()
    if name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"iwae_tf.{name}")
    else:
        raise AttributeError(f"module 'iwae_tf' has no attribute {name!r}")
    _register()
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_register()

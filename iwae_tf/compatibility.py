"""Which objectives, gradient estimators and networks can be combined, and why the others cannot.

It does not import TensorFlow, so the command line can refuse a combination at once that the model would refuse.
"""

import math
from collections.abc import Sequence

OBJECTIVES = ("iwae", "vae", "miwae", "piwae", "ciwae", "vr", "jackknife")
_WHY_NOT = {
    ("resampled", "piwae"): "the two networks weight the samples differently",
    ("resampled", "jackknife"): "a sample's share in its gradient can be negative",
}
_RWS = "wake-sleep maximises L_k for the generative network; use objective iwae"
# Gradient estimator -> the objectives that it supports.
SERVES: dict[str, tuple[str, ...]] = {
    "standard": OBJECTIVES,
    "stl": OBJECTIVES,
    "dreg": OBJECTIVES,
    "rws": ("iwae",),
    "resampled": tuple(name for name in OBJECTIVES if ("resampled", name) not in _WHY_NOT),
}


def reason_against(
    objective: str,
    estimator: str,
    parameters: Sequence[float] = (),
    num_samples: int = 50,
    num_resampled: int = 1,
    shares_weights: bool = False,
    batch_norm: bool = False,
    beta_warmup: bool = False,
) -> str | None:
    """Explains why a combination is not possible.

    Args:
      objective: a name from `OBJECTIVES`.
      estimator: a name from `SERVES`.
      parameters: the objective's parameters, see `bounds.objective`.
      num_samples: the number of importance samples, M * K for the objectives with an outer mean.
      num_resampled: how many of them the estimator "resampled" draws.
      shares_weights: whether the inference network uses weights of the generative network, as in the Ladder VAE.
      batch_norm: whether a network has batch normalisation.
      beta_warmup: whether there is a warm-up of beta.

    Returns:
      One line, or None if the combination is possible.
    """
    return (
        _reason_against_samples(objective, parameters, num_samples)
        or _reason_against_estimator(objective, estimator, parameters, num_samples, num_resampled)
        or _reason_against_networks(objective, estimator, shares_weights, batch_norm)
        or _reason_against_warmup(estimator, beta_warmup)
    )


def _reason_against_samples(objective, parameters, num_samples):
    if num_samples < 1:
        return f"num_samples is {num_samples}, but must be at least 1."
    if objective in ("miwae", "piwae") and num_samples % parameters[0]:
        return (
            f"num_samples is {num_samples}, but must be a multiple of num_outer, {parameters[0]}, for the objective "
            f"{objective}."
        )
    if objective == "jackknife" and num_samples < 2:
        return "The objective jackknife needs at least 2 samples, as it leaves out one at a time."
    return None


def _reason_against_estimator(objective, estimator, parameters, num_samples, num_resampled):
    if objective not in SERVES[estimator]:
        why = _WHY_NOT.get((estimator, objective), _RWS)
        return f"The gradient estimator {estimator} does not support the objective {objective}: {why}."
    if estimator == "rws" and num_samples < 2:
        return "The gradient estimator rws needs at least 2 samples: with 1 the wake phase teaches q nothing."
    if estimator == "dreg" and objective == "vr" and parameters[0] == -math.inf:
        return "The gradient estimator dreg does not support alpha = -inf: the derivatives of a maximum jump."
    if estimator == "resampled" and not 1 <= num_resampled <= num_samples:
        return f"num_resampled is {num_resampled}, but must be from 1 to num_samples, {num_samples}."
    return None


def _reason_against_networks(objective, estimator, shares_weights, batch_norm):
    if shares_weights and objective in ("piwae", "jackknife"):
        return f"The objective {objective} gives each network its own bound, but the Ladder's networks share weights."
    if shares_weights and estimator == "rws":
        return "The gradient estimator rws gives each network its own loss, but the Ladder's networks share weights."
    if batch_norm and estimator != "standard":
        return (
            f"The gradient estimator {estimator} needs samples that do not depend on each other, but batch "
            "normalisation couples them; use the standard estimator."
        )
    return None


def _reason_against_warmup(estimator, beta_warmup):
    if beta_warmup and estimator == "rws":
        return "The gradient estimator rws is not compatible with a beta warm-up: its losses are not bounds."
    return None

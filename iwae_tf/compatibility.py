"""Which gradient estimator serves which objective and which networks, and why the others do not.

Without TensorFlow, so that the command line can refuse at once what the model would refuse.
"""

import math

# Estimator -> its objectives.
SERVES = {
    "standard": ("iwae", "vae", "miwae", "piwae", "ciwae", "vr", "jackknife"),
    "stl": ("iwae", "vae", "miwae", "piwae", "ciwae", "vr", "jackknife"),
    "dreg": ("iwae", "vae", "miwae", "piwae", "ciwae", "vr", "jackknife"),
    "rws": ("iwae",),
    "resampled": ("iwae", "vae", "miwae", "ciwae", "vr"),
}
_WHY_NOT = {
    ("resampled", "piwae"): "the two networks weigh the samples differently",
    ("resampled", "jackknife"): "a sample's share in its gradient can be negative",
}
_RWS = "wake-sleep maximises L_k for the generative network: take objective iwae"


def reason_against(
    objective,
    estimator,
    parameters=(),
    num_samples=50,
    num_resampled=1,
    shares_weights=False,
    batch_norm=False,
    beta_warmup=False,
):
    """Says why a combination has no meaning.

    Args:
      objective: a name from `bounds.OBJECTIVES`.
      estimator: a name from `SERVES`.
      parameters: the objective's own.
      num_samples: importance samples in all.
      num_resampled: those that the estimator "resampled" draws.
      shares_weights: whether the inference network uses weights of the generative one, as the Ladder does.
      batch_norm: whether a network has batch normalisation.
      beta_warmup: whether there is a warm-up.

    Returns:
      One line, or None if all is well.
    """
    if num_samples < 1:
        return f"num_samples is {num_samples}, but a bound needs at least 1 sample."
    if objective in ("miwae", "piwae") and num_samples % parameters[0]:
        return f"num_samples is {num_samples}, which does not make {parameters[0]} equal groups for {objective}."
    if objective == "jackknife" and num_samples < 2:
        return "The objective jackknife needs at least 2 samples: one is left out in turn."
    if objective not in SERVES[estimator]:
        why = _WHY_NOT.get((estimator, objective), _RWS)
        return f"The gradient estimator {estimator} does not serve the objective {objective}: {why}."
    if estimator == "rws" and num_samples < 2:
        return "The gradient estimator rws needs at least 2 samples: with one the wake phase teaches q nothing."
    if estimator == "dreg" and objective == "vr" and parameters[0] == -math.inf:
        return "The gradient estimator dreg does not serve alpha = -inf: the derivatives of a maximum jump."
    if estimator == "resampled" and not 1 <= num_resampled <= num_samples:
        return f"num_resampled is {num_resampled}, but must be from 1 to the number of samples, {num_samples}."
    if shares_weights and objective in ("piwae", "jackknife"):
        return f"The objective {objective} gives each network its own bound, but the Ladder's networks share weights."
    if shares_weights and estimator == "rws":
        return "The gradient estimator rws gives each network its own loss, but the Ladder's networks share weights."
    if batch_norm and estimator != "standard":
        return (
            f"The gradient estimator {estimator} needs samples that do not depend on each other, but batch "
            "normalisation couples them: take the standard one."
        )
    if beta_warmup and estimator == "rws":
        return "The gradient estimator rws does not go with a beta warm-up: its losses are no bound with KL terms."
    return None

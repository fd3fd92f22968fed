"""The results and sizes published in the paper, for comparison.

#### References

[1]: Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. Importance Weighted Autoencoders. arXiv:1509.00519v4, Tables 1
  (MNIST and OMNIGLOT), 2 (re-initialisation) and 3 (binarized_mnist): test NLL in nats (-L_5000) and active units per
  stochastic layer, bottom first.
"""

from typing import NamedTuple

# The number of importance samples per test image in the table's NLL.
NLL_SAMPLES = 5000
# Training has 8 stages of 3^i epochs; section 5 of [1].
NUM_STAGES = 8
EPOCHS = 3280


class Published(NamedTuple):
    """One cell of the table: NLL in nats and active units per stochastic layer, bottom first."""

    nll: float
    active_units: tuple[int, ...]


# (data set, latent_dims, objective, k); at k = 1 both objectives are the ELBO, but for OMNIGLOT with two layers the
# paper has two runs.
TABLE: dict[tuple[str, tuple[int, ...], str, int], Published] = {
    ("mnist", (50,), "vae", 1): Published(86.76, (19,)),
    ("mnist", (50,), "vae", 5): Published(86.47, (20,)),
    ("mnist", (50,), "vae", 50): Published(86.35, (20,)),
    ("mnist", (50,), "iwae", 1): Published(86.76, (19,)),
    ("mnist", (50,), "iwae", 5): Published(85.54, (22,)),
    ("mnist", (50,), "iwae", 50): Published(84.78, (25,)),
    ("mnist", (100, 50), "vae", 1): Published(85.33, (16, 5)),
    ("mnist", (100, 50), "vae", 5): Published(85.01, (17, 5)),
    ("mnist", (100, 50), "vae", 50): Published(84.78, (17, 5)),
    ("mnist", (100, 50), "iwae", 1): Published(85.33, (16, 5)),
    ("mnist", (100, 50), "iwae", 5): Published(83.89, (21, 5)),
    ("mnist", (100, 50), "iwae", 50): Published(82.90, (26, 7)),
    ("omniglot28", (50,), "vae", 1): Published(108.11, (28,)),
    ("omniglot28", (50,), "vae", 5): Published(107.62, (28,)),
    ("omniglot28", (50,), "vae", 50): Published(107.80, (28,)),
    ("omniglot28", (50,), "iwae", 1): Published(108.11, (28,)),
    ("omniglot28", (50,), "iwae", 5): Published(106.12, (34,)),
    ("omniglot28", (50,), "iwae", 50): Published(104.67, (41,)),
    ("omniglot28", (100, 50), "vae", 1): Published(107.58, (28, 4)),
    ("omniglot28", (100, 50), "vae", 5): Published(106.31, (30, 5)),
    ("omniglot28", (100, 50), "vae", 50): Published(106.30, (30, 5)),
    ("omniglot28", (100, 50), "iwae", 1): Published(107.56, (30, 5)),
    ("omniglot28", (100, 50), "iwae", 5): Published(104.79, (38, 6)),
    ("omniglot28", (100, 50), "iwae", 50): Published(103.38, (44, 7)),
    ("binarized_mnist", (50,), "vae", 1): Published(88.71, (19,)),
    ("binarized_mnist", (50,), "vae", 5): Published(88.83, (19,)),
    ("binarized_mnist", (50,), "vae", 50): Published(89.05, (20,)),
    ("binarized_mnist", (50,), "iwae", 1): Published(88.71, (19,)),
    ("binarized_mnist", (50,), "iwae", 5): Published(87.63, (22,)),
    ("binarized_mnist", (50,), "iwae", 50): Published(87.10, (24,)),
    ("binarized_mnist", (100, 50), "vae", 1): Published(88.08, (16, 5)),
    ("binarized_mnist", (100, 50), "vae", 5): Published(87.63, (17, 5)),
    ("binarized_mnist", (100, 50), "vae", 50): Published(87.86, (17, 6)),
    ("binarized_mnist", (100, 50), "iwae", 1): Published(88.08, (16, 5)),
    ("binarized_mnist", (100, 50), "iwae", 5): Published(86.17, (21, 5)),
    ("binarized_mnist", (100, 50), "iwae", 50): Published(85.32, (24, 7)),
}
# Table 2: what a trained model of one layer becomes when it is trained on with the other objective; the VAE has k = 1,
# the IWAE k = 50: (objective before, objective after) -> (before, after).
REINITIALIZATION: dict[tuple[str, str], tuple[Published, Published]] = {
    ("vae", "iwae"): (Published(86.76, (19,)), Published(84.88, (22,))),
    ("iwae", "vae"): (Published(84.78, (25,)), Published(86.02, (23,))),
}
REINITIALIZATION_EPOCHS, REINITIALIZATION_RATE = 37, 1e-4
# The widths of the hidden layers below z_1 and below each further stochastic layer.
HIDDEN_DIMS = ((200, 200), (100, 100))


def hidden_dims(num_layers: int) -> tuple[tuple[int, ...], ...]:
    """Returns the paper's hidden widths below each of `num_layers` stochastic layers, bottom first; [1, section 5]."""
    return HIDDEN_DIMS[:1] + HIDDEN_DIMS[1:] * (num_layers - 1)

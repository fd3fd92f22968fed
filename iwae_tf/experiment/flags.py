"""The flags of a run: each is a field of `Options`, with its default, its help, and the values that it may have.

To add a flag, add a field. If runs that were made before must be read with another value than the default, give that
value as `before`. This module does not import TensorFlow, so that `--help` and errors are immediate; tests compare the
choices with those that the code has.
"""

import dataclasses
import math
import os
import re
from typing import Any

from iwae_tf import compatibility, supports

# Larger counts are typing errors, and would not fit into the counters.
MOST = 10**7

# The formats of figures.
FIGURE_FORMATS = ("png", "pdf", "svg")

# Flags that have an effect only if another flag has one of these values.
DEPENDENT_FLAGS = (
    ("num_outer", "objective", ("miwae", "piwae")),
    ("ciwae_beta", "objective", ("ciwae",)),
    ("alpha", "objective", ("vr",)),
    ("resampled", "gradient_estimator", ("resampled",)),
    ("binarization", "likelihood", ("bernoulli",)),
    ("likelihood_scale", "likelihood", ("gaussian", "student_t", "discretized_logistic", "negative_binomial")),
    ("num_levels", "likelihood", ("discretized_logistic",)),
    ("standardize", "likelihood", ("gaussian", "student_t")),
    ("channels", "network", ("conv",)),
    ("strides", "network", ("conv",)),
)


def parse_integers(text: str) -> tuple[int, ...]:
    """Reads "100,50" as (100, 50).

    Raises:
      ValueError: the text is not a list of positive integers.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) <= 8 and 0 < int(word) <= MOST for word in words):
        raise ValueError(f"{text[:80]!r} is not a list of positive integers such as 100,50, each at most {MOST:,}")
    return tuple(int(word) for word in words)


def parse_hidden_dims(text: str) -> tuple[tuple[int, ...], ...] | None:
    """Reads "200,200;100,100" as ((200, 200), (100, 100)), "linear" as a group without layers, and "" as None.

    Raises:
      ValueError: the text is not such a list.
    """
    groups = text.split(";")
    return tuple(() if group.strip() == "linear" else parse_integers(group) for group in groups) if text else None


def parse_names(text: str) -> tuple[str, ...]:
    """Reads "id,name" as ("id", "name")."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_formats(text: str) -> tuple[str, ...]:
    """Reads "png,pdf" as ("png", "pdf").

    Raises:
      ValueError: the text is not a list of formats.
    """
    formats = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    if not set(formats) <= set(FIGURE_FORMATS):
        raise ValueError(f"{text[:80]!r} is not a list of {', '.join(FIGURE_FORMATS)}, such as png,pdf")
    return formats


def parse_folder(text: str) -> str:
    """Reads a folder; ~ stands for the home folder, whatever the shell did.

    Raises:
      ValueError: it is an address such as gs://bucket.
    """
    if re.match(r"[A-Za-z][\w+.-]*://", text):
        raise ValueError(f"{text!r} is an address, but must be a local folder")
    return os.path.expanduser(text)


def flag(default: Any, text: str, group: str = "", **properties: Any) -> Any:
    """A field of a dataclass that is a flag of a command; its type is the flag's.

    Args:
      default: None where the default depends on other flags.
      text: the help.
      group: the heading in the help.
      **properties: `choices`; `at_least` and `at_most`; `check` and `message`, a condition and what to say if it does
        not hold; `parse`, which reads the value from text; `before`, the value in runs that were made before the flag
        existed, if that is not the default.
    """
    return dataclasses.field(default=default, metadata={"group": group, "help": text, **properties})


def json_flag(group: str = "") -> Any:
    """The flag --json of a command that prints results."""
    return flag(False, "Print the results as JSON instead of text.", group)


def figure_format_flag(group: str = "") -> Any:
    """The field of --figure_format."""
    text = "Formats of the figures: png, pdf, svg, or several of them, separated by commas."
    return flag(FIGURE_FORMATS[:1], text, group, parse=parse_formats)


def _flag(group: str, default: Any, text: str, **properties: Any) -> Any:
    return flag(default, text, group, **properties)


_DATA, _MODEL, _TRAINING = "Data", "Model and objective", "Training"
_EVALUATION, _RUN = "Evaluation", "Run"
# In single precision, smaller numbers are zero.
_POSITIVE = {
    "check": lambda value: 1.2e-38 <= value < math.inf,
    "message": "must be a positive number, such as 1e-3 (the smallest is 1.2e-38)",
}
_SHARE = {
    "check": lambda value: 0.0 <= value < 1.0,
    "message": "must be at least 0 and less than 1",
    "before": 0.0,  # Files were never split.
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The values of all flags, as `parsing.parse` returns them: it fills in the defaults that are None here."""

    dataset: str = _flag(
        _DATA,
        "mnist",
        "mnist is included in the package. binarized_mnist: Larochelle's fixed binarisation. omniglot28: the paper's "
        "OMNIGLOT. omniglot: its 105x105 images, scaled down to 28x28. tfds:NAME: images of TensorFlow Datasets. "
        "npz:FILE: your own images or rows, with the arrays train and test. npy:FILE: one array, which is split. "
        "csv:FILE: a table of numbers, which is split; see docs/data.md.",
    )
    data_dir: str = _flag(
        _DATA,
        "",
        "Folder that contains chardata.mat (omniglot28), by default ~/.cache/iwae_tf, to which it is downloaded; or "
        "the folder where TensorFlow Datasets prepares its data sets, by default ~/tensorflow_datasets.",
        parse=parse_folder,
    )
    train_split: str = _flag(
        _DATA,
        "",
        "Training images of a TensorFlow Datasets set, in its split syntax, such as 'train[:80%]'. By default train.",
    )
    validation_split: str = _flag(
        _DATA,
        "",
        "Validation images, in the same syntax. By default the last training images: 400 (1,345 of OMNIGLOT), but at "
        "most a tenth and at least one.",
    )
    test_split: str = _flag(_DATA, "", "Test images, in the same syntax. By default test.")
    binarization: str = _flag(
        _DATA,
        None,
        "stochastic: each time an image is used, every pixel is drawn with its grey value as probability. fixed: "
        "drawn once. threshold: cut at one half. By default stochastic, but fixed for binarized_mnist. Test images "
        "are always binarised once.",
        choices=("stochastic", "fixed", "threshold"),
    )
    max_images: int = _flag(
        _DATA, 0, "Use only the first N images of each split, for a quick look; 0 uses all.", at_least=0
    )
    test_fraction: float = _flag(
        _DATA,
        None,
        "Share of the rows that are drawn for the test from csv:, npy: or npz: without a test part; by default 0.1.",
        **_SHARE,
    )
    validation_fraction: float = _flag(
        _DATA,
        None,
        "Share of the rows that are drawn for validation; by default 0.1, and for npz: the last training rows.",
        **_SHARE,
    )
    split_seed: int = _flag(_DATA, 0, "Seed of these draws.", at_least=0, at_most=2**31 - 1)
    drop_columns: tuple[str, ...] = _flag(
        _DATA, (), "Columns of a csv file to leave out, separated by commas, such as 'id,name'.", parse=parse_names
    )
    mask_input: bool = _flag(
        _DATA, False, "Show the inference network which values of a table are missing; they are zeros to it anyway."
    )

    likelihood: str = _flag(
        _MODEL,
        "bernoulli",
        "p(x | z). bernoulli: zeros and ones, or grey values that are binarised. continuous_bernoulli: grey values in "
        "[0, 1]. discretized_logistic: grey or colour levels 0 ... 255. gaussian: real numbers. student_t: real "
        "numbers with outliers. poisson, negative_binomial: counts.",
        choices=supports.LIKELIHOODS,
    )
    likelihood_scale: str = _flag(
        _MODEL,
        None,
        "feature: one learned scale (gaussian, student_t, discretized_logistic) or dispersion (negative_binomial) for "
        "each value of x. sample: an output of the network. By default feature, and sample for discretized_logistic.",
        choices=("feature", "sample"),
    )
    num_levels: int = _flag(
        _MODEL, 256, "Number of levels of discretized_logistic: 0 to this minus 1.", at_least=2, at_most=65536
    )
    standardize: bool = _flag(
        _MODEL,
        True,
        "The networks see values minus the mean of the training data, divided by its standard deviation (gaussian and "
        "student_t). All results are in the units of the data.",
    )
    objective: str = _flag(
        _MODEL,
        "iwae",
        "What is maximised. iwae: the importance weighted bound L_k. vae: the mean of k log-weights. miwae: the mean "
        "of --num_outer bounds L_k. piwae: L_(num_outer * k) for the generative network, miwae for the inference "
        "network. ciwae: --ciwae_beta ELBO + (1 - beta) L_k. vr: the Renyi bound of order --alpha. jackknife: L_k "
        "without its bias of order 1/k for the generative network, L_k for the inference network.",
        choices=compatibility.OBJECTIVES,
    )
    k: int = _flag(_MODEL, 50, "Importance samples per image.", at_least=1, at_most=MOST)
    num_outer: int = _flag(
        _MODEL,
        8,
        "M, the number of bounds of k samples each that miwae and piwae average; they draw M * k samples.",
        at_least=1,
        at_most=MOST,
    )
    ciwae_beta: float = _flag(
        _MODEL,
        0.05,
        "The weight of the ELBO in ciwae.",
        check=lambda value: 0.0 <= value <= 1.0,
        message="must be a number from 0 to 1",
    )
    alpha: float = _flag(
        _MODEL,
        0.5,
        "Order of the Renyi bound of vr: 0 is L_k, 1 the ELBO, -inf the largest log-weight.",
        check=lambda value: value == -math.inf or abs(value) <= 1000.0,
        message="is not an order of a Renyi bound: give a number from -1000 to 1000, or -inf",
    )
    gradient_estimator: str = _flag(
        _MODEL,
        "standard",
        "standard: the gradient of the objective. dreg: doubly reparameterised, unbiased and often less noisy. stl: "
        "without the score function; biased for k > 1. rws: wake-phase update of the inference network (iwae only). "
        "resampled: backpropagates through only --resampled of the samples, drawn by their weights; unbiased, faster "
        "and noisier.",
        choices=tuple(compatibility.SERVES),
    )
    resampled: int = _flag(
        _MODEL,
        5,
        "Number of samples to backpropagate through, with --gradient_estimator=resampled; at most all samples.",
        at_least=1,
        at_most=MOST,
    )
    inference: str = _flag(
        _MODEL,
        "bottom_up",
        "bottom_up: q(z_1 | x) q(z_2 | z_1) ... as in the paper. ladder: the Ladder VAE, top-down, which combines q "
        "with the Gaussians of the generative network by their precisions.",
        choices=("bottom_up", "ladder"),
    )
    network: str = _flag(
        _MODEL,
        "mlp",
        "mlp: fully connected, as in the paper. conv: strided convolutions before q(z_1 | x) and transposed ones "
        "behind p(x | z_1), for images of at least 8 x 8.",
        choices=("mlp", "conv"),
    )
    channels: tuple[int, ...] = _flag(
        _MODEL,
        (32,),
        "Channels after each convolution of x, first one first.",
        parse=parse_integers,
    )
    strides: tuple[int, ...] = _flag(
        _MODEL,
        (4,),
        "Stride s of each convolution, whose kernel has 2 s x 2 s weights: 2,2 or 4 makes 7 x 7 of 28 x 28 pixels.",
        parse=parse_integers,
    )
    activation: str = _flag(
        _MODEL,
        None,
        "Activation of the hidden layers; by default tanh as in the paper, and swish for conv.",
        before="tanh",
        choices=("tanh", "relu", "leaky_relu", "elu", "gelu", "softplus", "swish"),
    )
    batch_norm: bool = _flag(
        _MODEL,
        False,
        "Batch normalisation in the hidden layers, as in the Ladder VAE paper; with the standard estimator only.",
    )
    latent_dims: tuple[int, ...] = _flag(
        _MODEL,
        (50,),
        "Sizes of the stochastic layers, bottom layer first; the paper has 50, or 100,50.",
        parse=parse_integers,
    )
    hidden_dims: tuple[tuple[int, ...], ...] = _flag(
        _MODEL,
        None,
        "Widths of the hidden layers below each stochastic layer, separated by semicolons (use quotes): "
        "'200,200;100,100'; linear for none. By default those of the paper: 200,200, then 100,100 for each further "
        "layer.",
        parse=parse_hidden_dims,
    )

    schedule: str = _flag(
        _TRAINING,
        "cosine",
        "cosine: from --learning_rate down to a hundredth of it over --epochs. paper: stages of 3^i epochs, in each "
        "of which the rate is lower by a factor of 10^(1/7); all 8 stages are 3,280 epochs.",
        choices=("cosine", "paper"),
    )
    epochs: int = _flag(_TRAINING, 100, "Passes over the training images (cosine schedule).", at_least=1, at_most=MOST)
    first_epochs: int = _flag(
        _TRAINING,
        0,
        "The first of these epochs use --first_k samples and a constant rate (cosine schedule).",
        at_least=0,
        at_most=MOST,
    )
    first_k: int = _flag(_TRAINING, 1, "Importance samples per image in the first epochs.", at_least=1, at_most=MOST)
    stages: int = _flag(
        _TRAINING,
        8,
        "Run the first N stages (paper schedule). May be raised when a run is continued.",
        at_least=1,
        at_most=8,
    )
    learning_rate: float = _flag(
        _TRAINING, None, "Rate at the start; by default 3e-3 for cosine and 1e-3 for paper.", **_POSITIVE
    )
    beta_warmup_epochs: int = _flag(
        _TRAINING,
        0,
        "Epochs in which the weight of the KL terms in log w grows from 0 to 1; evaluation always has weight 1.",
        at_least=0,
        at_most=MOST,
    )
    batch_size: int = _flag(_TRAINING, 100, "Images per step; the paper has 20.", at_least=1)
    adam_epsilon: float = _flag(_TRAINING, 1e-4, "Adam's epsilon; the paper has 1e-4.", **_POSITIVE)
    ema_momentum: float = _flag(
        _TRAINING,
        None,
        "The weights that are evaluated and exported are averaged over training with this momentum, but over at most "
        "a tenth of it; 0 takes the last weights. By default 0.999, and 0 with --batch_norm, whose statistics belong "
        "to the last weights.",
        check=lambda value: 0.0 <= value < 1.0,
        message="must be at least 0 and less than 1",
    )
    clip_norm: float = _flag(
        _TRAINING,
        0.0,
        "Scale the gradients of a step down to this global norm; 0 turns clipping off.",
        at_least=0.0,
        check=math.isfinite,
        message="must be a finite number",
    )
    dtype_policy: str = _flag(
        _TRAINING,
        "float32",
        "Keras' dtype policy of training. mixed_bfloat16: the larger matrix products of the steps are in bfloat16, all "
        "else is in float32. It is for GPUs, and for CPUs with instructions for it (grep bf16 /proc/cpuinfo) if k is "
        "large; on some of them, and elsewhere, it is slower. Validation, evaluation and export are in float32.",
        choices=("float32", "mixed_bfloat16"),
    )
    init_from: str = _flag(
        _TRAINING,
        "",
        "Start from the trained weights of this run directory, or of this released model (see iwae-tf models), with a "
        "new optimizer.",
        parse=parse_folder,
    )
    seed: int = _flag(
        _TRAINING,
        0,
        "Seed of the initial weights, the order of the images and all noise of training.",
        at_least=0,
        at_most=2**31 - 1,
    )

    nll_samples: int = _flag(
        _EVALUATION, 5000, "Importance samples per test image for the NLL.", at_least=1, at_most=MOST
    )
    khat_images: int = _flag(
        _EVALUATION,
        0,
        "Measure the Pareto k-hat of the importance weights of the first N test images: above 0.7 the NLL of an image "
        "is not reliable. A number larger than the test set means all. Needs ArviZ: pip install 'arviz>=0.23.4,<1'.",
        at_least=0,
        at_most=MOST,
    )
    binarization_seeds: int = _flag(
        _EVALUATION,
        1,
        "Measure the NLL on this many binarisations of the test images, with its mean and standard deviation over "
        "them.",
        at_least=1,
        at_most=1000,
    )
    train_nll_images: int = _flag(
        _EVALUATION,
        0,
        "Measure the NLL of the first N training images too, binarised once, to see how much the model overfits. "
        "10000 is enough.",
        at_least=0,
        at_most=MOST,
    )
    figure_format: tuple[str, ...] = figure_format_flag(_EVALUATION)
    picture_every: int = _flag(_EVALUATION, 10, "Epochs between pictures and active units in TensorBoard.", at_least=1)

    run_dir: str = _flag(
        _RUN,
        "",
        "Folder for all results; by default runs/ and a name made of data set, objective, layers, k and seed.",
        parse=parse_folder,
    )
    train: bool = _flag(
        _RUN,
        True,
        "Train, or continue training. With --notrain, flags that are not given are those of the run in --run_dir.",
    )
    evaluate: bool = _flag(_RUN, True, "Measure NLL and active units, and draw the figures.")
    export: bool = _flag(_RUN, True, "Write the SavedModel.")
    json: bool = json_flag(_RUN)
    overwrite: bool = _flag(_RUN, False, "Remove the run in --run_dir and start again.")
    checkpoint_minutes: float = _flag(
        _RUN,
        10.0,
        "Minutes between checkpoints within an epoch; there is always one after each epoch.",
        at_least=0.0,
        check=math.isfinite,
        message="must be a finite number",
    )
    jit: bool = _flag(_RUN, True, "Compile with XLA.")
    strategy: str = _flag(
        _RUN,
        "default",
        "default: one process, one device. mirrored: all GPUs of this machine. multi_worker: one process on each "
        "machine that the environment variable TF_CONFIG lists. Each batch is split over the devices, and XLA is off.",
        choices=("default", "mirrored", "multi_worker"),
    )

    @property
    def total_samples(self) -> int:
        """Importance samples per image in all: k, times num_outer for the objectives that have an outer mean."""
        return self.samples_for(self.k)

    @property
    def support(self) -> supports.Support:
        """The values that x may have."""
        return supports.of_likelihood(self.likelihood, self.num_levels)

    @property
    def first_total_samples(self) -> int:
        """The same in the first epochs."""
        return self.samples_for(self.first_k)

    def samples_for(self, k: int) -> int:
        """Importance samples per image in all if k were this."""
        return k * (self.num_outer if self.objective in ("miwae", "piwae") else 1)

    @property
    def objective_parameters(self) -> tuple:
        """The parameters of `bounds.objective`."""
        return tuple(
            getattr(self, name)
            for name, owner, values in DEPENDENT_FLAGS
            if owner == "objective" and self.objective in values
        )

    @property
    def num_epochs(self) -> int:
        """The epochs of the schedule: for the paper's, stages of 1, 3, 9, ... epochs."""
        return self.epochs if self.schedule == "cosine" else (3**self.stages - 1) // 2


def fields(*groups: str) -> list[dataclasses.Field]:
    """The fields of `Options`, or those of some groups, in the order of the help."""
    return [field for field in dataclasses.fields(Options) if not groups or field.metadata["group"] in groups]


# The names of the flags that decide what a run computes. The others may change from one call to the next.
RUN_FLAGS = tuple(field.name for field in fields(_DATA, _MODEL, _TRAINING))
# Those that decide what an evaluation measures.
EVALUATION_FLAGS = ("nll_samples", "khat_images", "binarization_seeds", "train_nll_images")

"""The flags of `python -m iwae_tf.main`: what there is, what is allowed, and which of them make a run.

This module does not import TensorFlow, so that `--help` and errors answer at once; tests hold the choices that it
offers equal to those that the code has. The flags live in a `FlagValues` of their own: importing `iwae_tf` adds
nothing to the flags of a program that uses it.
"""

import math
import pathlib
import re
import shlex
import sys
import types

from absl import flags

from iwae_tf import compatibility, datasets, paper
from iwae_tf.errors import UserError

_USAGE = """\
Trains an importance weighted autoencoder (Burda et al., arXiv:1509.00519), measures its test log-likelihood and
active units, draws pictures and exports a SavedModel. Without any flag: IWAE, one stochastic layer, k = 50, MNIST.

  python -m iwae_tf.main --k=50
  python -m iwae_tf.main --flagfile=flags/paper/mnist_iwae_2l_k50.flags

The same command continues a run that was interrupted, and shows the results of one that is finished.
"""
# More samples than this are a slip of the keyboard, and would not fit into the counters.
_MOST = 10**7
# Flags that have a meaning only for some data sets.
DATA_SET_FLAGS = ("data_dir", "train_split", "validation_split", "test_split")
# Flags that decide what an evaluation measures.
EVALUATION_FLAGS = ("nll_samples", "khat_images", "binarization_seeds", "train_nll_images")
# Flags that have a meaning only where another flag has one of some values.
_OWNED = (
    ("num_outer", "objective", ("miwae", "piwae")),
    ("ciwae_beta", "objective", ("ciwae",)),
    ("alpha", "objective", ("vr",)),
    ("resampled", "gradient_estimator", ("resampled",)),
)
_values = flags.FlagValues()
# Purpose -> names of its flags, in the order of --help.
_groups = {}
# Flags that decide what a run computes. The others may change from one call to the next.
_RUN_GROUPS = ("Data", "Model and objective", "Training")


def _group(purpose):
    """Returns a function that defines flags of one purpose."""
    names = _groups.setdefault(purpose, [])

    def define(kind, name, default, text, **kwargs):
        kind(name, default, help=text, flag_values=_values, **kwargs)
        names.append(name)

    return define


_data = _group("Data")
_data(
    flags.DEFINE_string,
    "dataset",
    "mnist",
    "mnist ships with the package. binarized_mnist: Larochelle's fixed binarisation. omniglot28: the paper's OMNIGLOT. "
    "omniglot: its 105x105 images shrunk to 28x28. tfds:NAME: images of TensorFlow Datasets. npz:FILE: your own, "
    "arrays train and test.",
)
_data(
    flags.DEFINE_string,
    "data_dir",
    "",
    "Folder that holds chardata.mat (omniglot28), by default ~/.cache/iwae_tf, into which it is downloaded; or the one "
    "in which TensorFlow Datasets prepares its data sets, by default ~/tensorflow_datasets.",
)
_data(
    flags.DEFINE_string,
    "train_split",
    "",
    "Training images of a TensorFlow Datasets set, in its split syntax, such as 'train[:80%]'. By default train.",
)
_data(
    flags.DEFINE_string,
    "validation_split",
    "",
    "Validation images, as above. By default the last training images: 400 (1,345 of OMNIGLOT), but at most a tenth.",
)
_data(flags.DEFINE_string, "test_split", "", "Test images, as above. By default test.")
_data(
    flags.DEFINE_enum,
    "binarization",
    None,
    "stochastic: a pixel is drawn with its grey value each time its image is seen. fixed: drawn once. threshold: cut "
    "at one half. By default stochastic, but fixed for binarized_mnist. Test images are always binarised once.",
    enum_values=["stochastic", "fixed", "threshold"],
)
_data(
    flags.DEFINE_integer,
    "max_images",
    0,
    "Use only the first N images of each split, for a quick look; 0 uses all.",
    lower_bound=0,
)
_model = _group("Model and objective")
_model(
    flags.DEFINE_enum,
    "objective",
    "iwae",
    "What is maximised. iwae: the importance weighted bound L_k. vae: the mean of k log-weights. miwae: the mean of "
    "--num_outer bounds L_k. piwae: the generative network L_(num_outer * k), the inference network miwae. ciwae: "
    "--ciwae_beta ELBO + (1 - beta) L_k. vr: the Renyi bound of order --alpha. jackknife: the generative network "
    "L_k without its bias of order 1/k, the inference network L_k.",
    enum_values=["iwae", "vae", "miwae", "piwae", "ciwae", "vr", "jackknife"],
)
_model(flags.DEFINE_integer, "k", 50, "Importance samples per image.", lower_bound=1, upper_bound=_MOST)
_model(
    flags.DEFINE_integer,
    "num_outer",
    8,
    "How many bounds of k samples each miwae and piwae have, M; they draw M * k samples.",
    lower_bound=1,
    upper_bound=_MOST,
)
_model(
    flags.DEFINE_float,
    "ciwae_beta",
    0.05,
    "The ELBO's share in ciwae.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_model(
    flags.DEFINE_float,
    "alpha",
    0.5,
    "Order of the Renyi bound of vr: 0 is L_k, 1 the ELBO, -inf the largest log-weight.",
)
_model(
    flags.DEFINE_enum,
    "gradient_estimator",
    "standard",
    "standard: the gradient of the objective. dreg: doubly reparameterised, unbiased and often less noisy. stl: "
    "without the score function; biased for k > 1. rws: wake-phase update of the inference network (iwae only). "
    "resampled: backpropagates through --resampled of the samples only, drawn by their weights; unbiased, faster and "
    "noisier.",
    enum_values=["standard", "stl", "dreg", "rws", "resampled"],
)
_model(
    flags.DEFINE_integer,
    "resampled",
    5,
    "Samples to backpropagate through, with --gradient_estimator=resampled; at most all that are drawn.",
    lower_bound=1,
    upper_bound=_MOST,
)
_model(
    flags.DEFINE_enum,
    "inference",
    "bottom_up",
    "bottom_up: q(z_1 | x) q(z_2 | z_1) ... as in the paper. ladder: the Ladder VAE's, top down and merged with the "
    "generative network's Gaussians by precision.",
    enum_values=["bottom_up", "ladder"],
)
_model(
    flags.DEFINE_enum,
    "activation",
    "tanh",
    "Of the hidden layers.",
    enum_values=["tanh", "relu", "leaky_relu", "elu", "gelu", "softplus", "swish"],
)
_model(
    flags.DEFINE_bool,
    "batch_norm",
    False,
    "Batch normalisation in the hidden layers, as in the Ladder VAE's paper; with the standard gradient only.",
)
_model(
    flags.DEFINE_string,
    "latent_dims",
    "50",
    "Sizes of the stochastic layers, bottom first; the paper has 50, or 100,50.",
)
_model(
    flags.DEFINE_string,
    "hidden_dims",
    "",
    "Widths of the hidden layers below each stochastic layer, the groups divided by semicolons (quote them): "
    "'200,200;100,100'. Empty: the paper's, 200,200 and then 100,100 for each further layer.",
)
_training = _group("Training")
_training(
    flags.DEFINE_enum,
    "schedule",
    "cosine",
    "cosine: from --learning_rate down to a hundredth of it over --epochs. paper: stages of 3^i epochs, the rate "
    "falling by 10^(1/7) each; all 8 stages are 3,280 epochs.",
    enum_values=["cosine", "paper"],
)
_training(
    flags.DEFINE_integer,
    "epochs",
    100,
    "Passes over the training images (cosine schedule).",
    lower_bound=1,
    upper_bound=_MOST,
)
_training(
    flags.DEFINE_integer,
    "first_epochs",
    0,
    "The first of these epochs have --first_k samples and a constant rate (cosine schedule).",
    lower_bound=0,
    upper_bound=_MOST,
)
_training(
    flags.DEFINE_integer,
    "first_k",
    1,
    "Importance samples per image in the first epochs.",
    lower_bound=1,
    upper_bound=_MOST,
)
_training(
    flags.DEFINE_integer,
    "stages",
    8,
    "Run the first N stages (paper schedule). May grow when a run is continued.",
    lower_bound=1,
    upper_bound=8,
)
_training(
    flags.DEFINE_float,
    "learning_rate",
    None,
    "Rate at the start; by default 3e-3 for cosine and 1e-3 for paper.",
)
_training(
    flags.DEFINE_integer,
    "beta_warmup_epochs",
    0,
    "Epochs in which the weight of the KL terms within log w grows from 0 to 1; evaluation has weight 1.",
    lower_bound=0,
    upper_bound=_MOST,
)
_training(flags.DEFINE_integer, "batch_size", 100, "Images per step; the paper has 20.", lower_bound=1)
_training(flags.DEFINE_float, "adam_epsilon", 1e-4, "Adam's epsilon; the paper has 1e-4.")
_training(
    flags.DEFINE_float,
    "ema_momentum",
    None,
    "The weights that are evaluated and exported are averaged over training with this momentum, but "
    "over no more than a tenth of it; 0 takes the last. By default 0.999, and 0 with --batch_norm, whose statistics "
    "are those of the last weights.",
)
_training(
    flags.DEFINE_float,
    "clip_norm",
    0.0,
    "Scale the gradients of a step down to this norm, all together; 0 never does.",
    lower_bound=0.0,
)
_training(
    flags.DEFINE_string,
    "init_from",
    "",
    "Start from the trained weights of this run directory, with a new optimizer.",
)
_training(
    flags.DEFINE_integer,
    "seed",
    0,
    "Seed of the initial weights, the order of the images and all noise of training.",
    lower_bound=0,
    upper_bound=2**31 - 1,
)
_evaluation = _group("Evaluation")
_evaluation(
    flags.DEFINE_integer,
    "nll_samples",
    5000,
    "Importance samples per test image for the NLL.",
    lower_bound=1,
    upper_bound=_MOST,
)
_evaluation(
    flags.DEFINE_integer,
    "khat_images",
    0,
    "Test images, the first ones, whose importance weights' Pareto k-hat is measured: above 0.7 an image's NLL is not "
    "to be trusted. More than there are means all. Needs ArviZ: pip install 'iwae-tf[diagnostics]'.",
    lower_bound=0,
    upper_bound=_MOST,
)
_evaluation(
    flags.DEFINE_integer,
    "binarization_seeds",
    1,
    "Measure the NLL on this many binarisations of the test images, and its mean and standard deviation over them.",
    lower_bound=1,
    upper_bound=1000,
)
_evaluation(
    flags.DEFINE_integer,
    "train_nll_images",
    0,
    "Measure the NLL of the first N training images, too, binarised once: how much the model overfits. 10000 will do.",
    lower_bound=0,
    upper_bound=_MOST,
)
_evaluation(
    flags.DEFINE_integer,
    "picture_every",
    10,
    "Epochs between pictures and active units in TensorBoard.",
    lower_bound=1,
)
_run = _group("Run")
_run(
    flags.DEFINE_string,
    "run_dir",
    "",
    "Where everything goes; by default runs/ and a name made of data set, objective, layers, k and seed.",
)
_run(flags.DEFINE_bool, "train", True, "Train, or continue training.")
_run(flags.DEFINE_bool, "evaluate", True, "Measure NLL and active units, and draw the figures.")
_run(flags.DEFINE_bool, "export", True, "Write the SavedModel.")
_run(flags.DEFINE_bool, "overwrite", False, "Remove the run that is in --run_dir and start anew.")
_run(
    flags.DEFINE_float,
    "checkpoint_minutes",
    10.0,
    "Minutes between checkpoints within an epoch; there is one after every epoch.",
    lower_bound=0.0,
)
_run(flags.DEFINE_bool, "jit", True, "Compile with XLA.")
_run(
    flags.DEFINE_enum,
    "strategy",
    "default",
    "default: one process, one device. mirrored: all GPUs of this machine. multi_worker: one process on each machine "
    "that the environment variable TF_CONFIG names. The batch is split over them, and XLA is off.",
    enum_values=["default", "mirrored", "multi_worker"],
)


@flags.multi_flags_validator(["latent_dims", "hidden_dims"], flag_values=_values)
def _check_dims(values):
    try:
        layer_dims(values["latent_dims"], values["hidden_dims"])
    except ValueError as error:
        raise flags.ValidationError(str(error)) from error
    return True


for _name in ("clip_norm", "checkpoint_minutes"):
    flags.register_validator(_name, math.isfinite, "must be a number", flag_values=_values)
for _name in ("learning_rate", "adam_epsilon"):
    flags.register_validator(
        _name,
        lambda value: value is None or 0.0 < value < math.inf,
        "must be a positive number, such as 1e-3",
        flag_values=_values,
    )
flags.register_validator(
    "ciwae_beta",
    lambda value: not math.isnan(value),
    "must be a number from 0 to 1",
    flag_values=_values,
)
flags.register_validator(
    "ema_momentum",
    lambda value: value is None or 0.0 <= value < 1.0,
    "must be at least 0 and less than 1",
    flag_values=_values,
)


def parse(argv):
    """Reads the command line.

    Args:
      argv: the program's name and its arguments.

    Returns:
      The flag values, as attributes; those whose default depends on others hold it where none was given.

    Raises:
      UserError: an unknown flag, a bad value, a flagfile that cannot be read, or words that belong to no flag.
      SystemExit: with status 0, after printing the help.
    """
    read(_values, argv, _help)
    _refuse_contradictions()
    values = types.SimpleNamespace(**{name: _values[name].value for names in _groups.values() for name in names})
    for name, default in _dependent_defaults(values).items():
        if getattr(values, name) is None:
            setattr(values, name, default)
    values.run_dir = values.run_dir or _default_run_dir(values)
    if values.init_from and pathlib.Path(values.init_from).resolve() == pathlib.Path(values.run_dir).resolve():
        raise UserError(f"--init_from={values.init_from} is the run directory itself; give another --run_dir.")
    return values


def _dependent_defaults(values):
    """The defaults that depend on other flags, name -> value."""
    return {
        "learning_rate": {"cosine": 3e-3, "paper": 1e-3}[values.schedule],
        "binarization": datasets.find(values.dataset)[0].binarization,
        "ema_momentum": 0.0 if values.batch_norm else 0.999,
    }


def read(values, argv, help_text, takes_words=False):
    """Reads a command line into flag values.

    Args:
      values: an absl `FlagValues`; what it held is forgotten.
      argv: the program's name and its arguments.
      help_text: a function that returns what --help prints.
      takes_words: whether words that belong to no flag have a meaning.

    Returns:
      Those words.

    Raises:
      UserError: an unknown flag, a bad value, a flagfile that cannot be read, or words that have no meaning.
      SystemExit: with status 0, after printing the help.
    """
    if asks_for_help(argv):
        print(help_text())
        sys.exit(0)
    try:
        for name in values:
            values[name].unparse()
        words = values(argv)[1:]
    except (flags.Error, OSError, UnicodeDecodeError) as error:
        hint = " See --help for the flags." if isinstance(error, flags.UnrecognizedFlagError) else ""
        raise UserError(" ".join(str(error).split()) + hint) from error
    if words and not takes_words:
        hint = f"; did you mean --{words[0]}?" if re.match(r"\w+=", words[0]) else "; see --help."
        raise UserError(f"{words[0]!r} belongs to no flag{hint}")
    return words


def asks_for_help(argv):
    """Whether a command line asks what there is."""
    return bool(set(argv[1:]) & {"--help", "-h", "-help", "--helpfull", "--helpshort", "-?"})


def _refuse_contradictions():
    """Raises a UserError for flags that were given but would have no effect, or that undo each other."""
    unused = {"cosine": "stages", "paper": "epochs"}[_values.schedule]
    if _values[unused].present:
        raise UserError(f"--{unused} has no meaning with --schedule={_values.schedule}; leave it out.")
    for name, owner, owners in _OWNED:
        if _values[owner].value not in owners and _values[name].present:
            raise UserError(
                f"--{name} has no meaning with --{owner}={_values[owner].value}; leave it out, or give --{owner}="
                f"{' or '.join(owners)}."
            )
    _refuse_foreign_data_flags()
    if not (_values.alpha == -math.inf or abs(_values.alpha) <= 1000.0):
        raise UserError(
            f"--alpha={_values.alpha} is no order of a Renyi bound: give a number from -1000 to 1000, or -inf."
        )
    _refuse_first_epochs()
    if _values.schedule == "cosine" and _values.beta_warmup_epochs > _values.epochs:
        raise UserError(
            f"--beta_warmup_epochs={_values.beta_warmup_epochs} is more than all --epochs={_values.epochs}; give fewer."
        )
    if _values.gradient_estimator == "resampled" and _values.resampled > num_samples(_values):
        raise UserError(
            f"--resampled={_values.resampled} is more than the {num_samples(_values)} samples that are drawn; give a "
            "smaller one."
        )
    if _values.batch_norm and _values.ema_momentum:
        raise UserError(
            f"--ema_momentum={_values.ema_momentum} would average the weights, but not the statistics of --batch_norm, "
            "which are those of the last weights: leave it out."
        )
    for name in ("batch_norm", "clip_norm"):
        if _values.strategy != "default" and _values[name].value:
            raise UserError(
                f"--{name} would be each replica's own under --strategy={_values.strategy}, and the training another: "
                "leave one of them out."
            )
    reason = reason_against(_values)
    if reason:
        raise UserError(reason)
    if _values.overwrite and not _values.train:
        raise UserError("--overwrite would remove the model that --notrain asks for; give one of them.")


def _refuse_first_epochs():
    """Raises a UserError for first epochs that cannot be."""
    if not _values.first_epochs:
        if _values.first_k != 1:
            raise UserError(f"--first_k={_values.first_k} has no meaning without --first_epochs; give both.")
        return
    if _values.schedule != "cosine":
        raise UserError(f"--first_epochs has no meaning with --schedule={_values.schedule}; leave it out.")
    if _values.first_epochs > _values.epochs:
        raise UserError(
            f"--first_epochs={_values.first_epochs} is more than all --epochs={_values.epochs}; give fewer."
        )
    first = num_samples(_values, _values.first_k)
    reason = reason_against(_values, num_samples=first, num_resampled=min(first, _values.resampled))
    if reason:
        raise UserError(f"--first_k={_values.first_k} does not go with the other flags: {reason}")


def _refuse_foreign_data_flags():
    """Raises a UserError for flags that mean nothing to the data set, or an unknown one."""
    entry, _ = datasets.find(_values.dataset)
    for name in DATA_SET_FLAGS:
        if _values[name].value and name not in entry.takes:
            raise UserError(f"--{name} has no meaning with --dataset={_values.dataset}; leave it out.")
    if entry.binarization == "fixed" and _values.binarization not in (None, "fixed"):
        raise UserError(
            f"--binarization={_values.binarization} has no meaning with --dataset={_values.dataset}, which is binary; "
            "leave it out."
        )
    binarization = _values.binarization or entry.binarization
    if binarization != "stochastic" and _values.binarization_seeds > 1:
        raise UserError(
            f"--binarization_seeds={_values.binarization_seeds} has no meaning with --binarization={binarization}, "
            "which gives the test images once and for all; leave it out."
        )


def reason_against(values, **changes):
    """`compatibility.reason_against` of these flags; `changes` are arguments that differ from theirs."""
    arguments = {
        "objective": values.objective,
        "estimator": values.gradient_estimator,
        "parameters": objective_parameters(values),
        "num_samples": num_samples(values),
        "num_resampled": values.resampled,
        "shares_weights": values.inference == "ladder" and len(layer_dims(values.latent_dims, "")[0]) > 1,
        "batch_norm": values.batch_norm,
        "beta_warmup": values.beta_warmup_epochs > 0,
    }
    return compatibility.reason_against(**arguments | changes)


def objective_parameters(values):
    """The parameters of `bounds.objective` for these flags, a tuple."""
    own = [
        getattr(values, name) for name, owner, owners in _OWNED if owner == "objective" and values.objective in owners
    ]
    return tuple(own)


def num_samples(values, k=None):
    """The importance samples per image in all: k, times --num_outer for the objectives that have it."""
    return (k or values.k) * (values.num_outer if values.objective in ("miwae", "piwae") else 1)


def layer_dims(latent_dims, hidden_dims):
    """Reads the layers' sizes from the texts of their flags.

    Args:
      latent_dims: such as "100,50".
      hidden_dims: such as "200,200;100,100", or "" for the paper's.

    Returns:
      A tuple of sizes and a tuple of tuples of widths, one for each stochastic layer.

    Raises:
      ValueError: the texts are no lists of positive integers, or lists of different length.
    """
    latent = _positive_integers("latent_dims", latent_dims)
    if not hidden_dims:
        return latent, paper.HIDDEN_DIMS[:1] + paper.HIDDEN_DIMS[1:] * (len(latent) - 1)
    hidden = tuple(_positive_integers("hidden_dims", part) for part in hidden_dims.split(";"))
    if len(hidden) != len(latent):
        raise ValueError(
            f"--latent_dims={latent_dims} names {len(latent)} stochastic layers, but --hidden_dims={hidden_dims} "
            f"names hidden layers for {len(hidden)}; give one group for each, divided by semicolons"
        )
    return latent, hidden


def _positive_integers(name, text):
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise ValueError(f"--{name}: {text!r} is no list of positive integers such as 200,200")
    return tuple(int(word) for word in words)


def has_paper_model(values):
    """Whether the networks are those of the paper, whose results can stand beside these."""
    latent_dims, hidden_dims = layer_dims(values.latent_dims, values.hidden_dims)
    papers = {"inference": "bottom_up", "activation": "tanh", "batch_norm": False, "init_from": ""}
    return (
        hidden_dims == layer_dims(values.latent_dims, "")[1]
        and len(latent_dims) <= len(paper.HIDDEN_DIMS)
        and all(getattr(values, name) == value for name, value in papers.items())
    )


def num_epochs(values):
    """The epochs that the schedule has: stages of 1, 3, 9, ... epochs for the paper's."""
    return values.epochs if values.schedule == "cosine" else (3**values.stages - 1) // 2


def run_flags(values):
    """The flags that decide what a run computes, name -> text: what flags.txt holds.

    The layers' sizes are written out in one spelling, and flags without effect are left out.
    """
    stored = {name: _text(getattr(values, name)) for name in run_flag_names()}
    del stored[{"cosine": "stages", "paper": "epochs"}[values.schedule]]
    for name, owner, owners in _OWNED:
        if getattr(values, owner) not in owners:
            del stored[name]
    takes = datasets.find(values.dataset)[0].takes
    for name in DATA_SET_FLAGS:
        if name not in takes:
            del stored[name]
    latent, hidden = layer_dims(values.latent_dims, values.hidden_dims)
    stored["latent_dims"] = ",".join(map(str, latent))
    stored["hidden_dims"] = _hidden_text(hidden)
    return stored


def command(values):
    """The command that repeats a run and its evaluation, for a shell, without the flags that are as by default."""
    stored = run_flags(values) | {name: _text(getattr(values, name)) for name in EVALUATION_FLAGS}
    defaults = {name: _values[name].default for name in stored} | _dependent_defaults(values)
    defaults["hidden_dims"] = _hidden_text(layer_dims(values.latent_dims, "")[1])
    words = [f"--{name}={text}" for name, text in stored.items() if text != _text(defaults[name])]
    folder = _default_run_dir(values)
    if values.init_from and pathlib.Path(values.init_from).resolve() == pathlib.Path(folder).resolve():
        words.append(f"--run_dir={folder}_continued")
    return shlex.join(["python", "-m", "iwae_tf.main", *words])


def run_flag_names():
    """The names of all flags that decide what a run computes."""
    return tuple(name for group in _RUN_GROUPS for name in _groups[group])


def result_flags(values):
    """The flags that decide what is in results.json, name -> value."""
    texts = run_flags(values)
    sizes = {name: texts[name] for name in ("latent_dims", "hidden_dims")}
    plain = {name: getattr(values, name) for name in [*texts, *EVALUATION_FLAGS]}
    plain.pop("data_dir", None)  # Where the images lie does not change them.
    # JSON has no infinity.
    infinite = {name: texts[name] for name, value in plain.items() if isinstance(value, float) and math.isinf(value)}
    return plain | sizes | infinite


def answer(stored, values):
    """Whether results are those that these flags ask for; they may hold more than that.

    Args:
      stored: the flags of the results, see `result_flags`; older versions lack some.
      values: as `parse` returns them.
    """
    asked = result_flags(values)
    further = {name: _values[name].default for name in EVALUATION_FLAGS if name != "nll_samples"}
    unasked = {name for name, default in further.items() if asked[name] == default}
    return all((further | stored).get(name) == value for name, value in asked.items() if name not in unasked)


def _hidden_text(hidden):
    return ";".join(",".join(map(str, widths)) for widths in hidden)


def _text(value):
    return repr(value) if isinstance(value, float) else str(value)


def _default_run_dir(values):
    num_layers = len(layer_dims(values.latent_dims, values.hidden_dims)[0])
    ladder = "_ladder" if values.inference == "ladder" else ""
    estimator = "" if values.gradient_estimator == "standard" else f"_{values.gradient_estimator}"
    model = f"{values.objective}{ladder}_{num_layers}l_k{values.k}{estimator}"
    _, member = datasets.find(values.dataset)
    # One's own file goes by its name; no character leads out of the folder or means something to a shell.
    data = pathlib.PurePath(member).stem if values.dataset.startswith("npz:") else values.dataset
    return f"runs/{re.sub(r'[^A-Za-z0-9.]+', '_', data)}_{model}_seed{values.seed}"


def choices(name):
    """The values that an enumerated flag offers."""
    return tuple(_values[name].parser.enum_values)


def _help():
    lines = [_USAGE]
    for group, names in _groups.items():
        lines.append(f"{group}:")
        for name in names:
            flag = _values[name]
            kind = "|".join(choices(name)) if hasattr(flag.parser, "enum_values") else flag.flag_type()
            text = flag.help.removeprefix(f"<{kind}>: ")
            switch = f"--[no]{name}" if flag.boolean else f"--{name}=<{kind}>"
            default = "" if flag.default in (None, "") else f" (default: {flag.default_as_str.strip(chr(39))})"
            lines.append(flags.text_wrap(f"{switch}  {text}{default}", 110, "      ", firstline_indent="  "))
        lines.append("")
    lines.append("--flagfile=FILE reads flags from a file, one a line; later flags win.")
    return "\n".join(lines)

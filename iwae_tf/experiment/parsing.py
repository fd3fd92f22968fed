"""From a command line to `Options`, and the help."""

import dataclasses
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence

from absl import flags as absl_flags
from absl import logging as absl_logging

from iwae_tf import datasets, paper
from iwae_tf.errors import UserError
from iwae_tf.experiment import checks
from iwae_tf.experiment.flags import Options
from iwae_tf.runtime import console

_USAGE = """\
Trains an importance weighted autoencoder (Burda et al., arXiv:1509.00519), measures its test log-likelihood and active
units, draws figures and exports a SavedModel. By default: IWAE, one stochastic layer, k = 50, MNIST.

  python -m iwae_tf.main --k=50
  python -m iwae_tf.main --flagfile=flags/paper/mnist_iwae_2l_k50.flags

The same command continues a run that was interrupted, and shows the results of one that is finished.
"""


_VERBOSITIES = ("info", "warning", "error")
_VERBOSITY_HELP = (
    "What is printed on standard error: info, also notes and progress; warning, only what may need attention; error, "
    "only the error that ends the command. Results are on standard output. (default: info)"
)


class CommandLine:
    """Reads the command line of one command.

    The flags live in an absl `FlagValues` of their own, so importing `iwae_tf` adds nothing to the flags of a program
    that uses it.

    Args:
      kind: a dataclass whose fields are made by `flags.flag`.
      usage: the beginning of the help.
      takes_words: whether words that are not flags are accepted, before, between or after the flags.
    """

    def __init__(self, kind: type, usage: str, takes_words: bool = False):
        self._kind, self._usage, self._takes_words = kind, usage, takes_words
        self._values = absl_flags.FlagValues()
        if takes_words:
            self._values.set_gnu_getopt()
        for field in dataclasses.fields(kind):
            _define(field, self._values)
        absl_flags.DEFINE_enum("verbosity", None, _VERBOSITIES, _VERBOSITY_HELP, flag_values=self._values)

    def parse(self, argv: Sequence[str], before: Mapping[str, str] | None = None):
        """Reads a command line.

        Args:
          argv: the program's name and its arguments.
          before: values of flags that were not given, name -> text, where they are not the defaults.

        Returns:
          An object of the dataclass, the names of the flags that were given, and the words that are not flags.

        Raises:
          UserError: an unknown flag, a bad value, a flagfile that cannot be read, or words that are not accepted.
          SystemExit: with status 0, after printing the help.
        """
        if asks_for_help(argv):
            print(self._help())
            sys.exit(0)
        for word in argv[1:]:
            # flags.txt has one flag per line, and no path holds a NUL.
            if re.search(r"[\0\n\r]", word) and not self._takes_words:
                raise UserError(f"{word!r} has a line break or a NUL character; leave it out.")
        words = self._read(argv)
        verbosity = self._values["verbosity"].value
        if verbosity:
            console.set_verbosity(verbosity)
            absl_logging.set_verbosity(verbosity)
        fields = dataclasses.fields(self._kind)
        given = frozenset(field.name for field in fields if self._values[field.name].present)
        texts = {name: text for name, text in (before or {}).items() if name not in given}
        values = {field.name: self._value(field, texts.get(field.name)) for field in fields}
        return self._kind(**values), given, words

    def _read(self, argv):
        """Sets the flag values, and returns the words that are not flags."""
        try:
            for name in self._values:
                self._values[name].unparse()
            words = self._values(argv)[1:]
        except (absl_flags.Error, OSError, ValueError) as error:
            raise UserError(_message(error)) from error
        if words and not self._takes_words:
            hint = f"; did you mean --{words[0]}?" if re.match(r"\w+=", words[0]) else "; see --help."
            raise UserError(f"{words[0]!r} is not a flag{hint}")
        return words

    def _value(self, field, text):
        """The value of a flag: from the command line, or from a text that replaces its default."""
        flag, properties = self._values[field.name], field.metadata
        value = flag.value if text is None else flag.parser.parse(text)
        if "parse" in properties:
            try:
                return field.default if value is None else properties["parse"](value)
            except ValueError as error:
                raise UserError(f"--{field.name}: {error}.") from error
        if "check" in properties and value is not None and not properties["check"](value):
            raise UserError(f"--{field.name}={value} {properties['message']}.")
        return value

    def _help(self):
        lines, group = [self._usage], ""
        for field in dataclasses.fields(self._kind):
            if field.metadata["group"] != group:
                lines += [""] * bool(group) + [f"{field.metadata['group']}:"]
                group = field.metadata["group"]
            lines.append(absl_flags.text_wrap(_help_line(field), 110, "      ", firstline_indent="  "))
        verbosity = f"--verbosity=<{'|'.join(_VERBOSITIES)}>  {_VERBOSITY_HELP}"
        lines += ["", "Output:", absl_flags.text_wrap(verbosity, 110, "      ", firstline_indent="  ")]
        return "\n".join([*lines, "", "--flagfile=FILE reads flags from a file, one per line; later flags win."])


def _message(error):
    """What absl says of a command line, in one line and in the words of this package."""
    text = " ".join(str(error).split()).removeprefix("ERROR:: ")
    if isinstance(error, absl_flags.UnrecognizedFlagError):
        text = re.sub(r" Did you mean: (.*?) ?\?$", lambda match: f" Did you mean --{match[1]}?", text)
        return f"{text.rstrip('.')}{'' if text.endswith('?') else '.'} See --help for the flags."
    number = re.fullmatch(r"flag (--\w+=.*?): (invalid literal for int|could not convert string to float).*", text)
    if number:
        return f"{number[1]} is not {'an integer' if 'int' in number[2] else 'a number'}."
    outside = re.fullmatch(r"flag (--\w+=.*?): .* is not an? (?:integer|number) in the range \[(.*), (.*)\]", text)
    if outside:
        lowest, highest = (f"{int(text):,}" if text.isdigit() else text for text in outside.groups()[1:])
        return f"{outside[1]} is not in the range from {lowest} to {highest}."
    flagfile = re.fullmatch(r"Unable to open flagfile: \[Errno \d+\] (.*): '(.*)'", text)
    if flagfile:
        return f"Cannot read --flagfile={flagfile[2]} ({flagfile[1]})."
    return text


def _define(field, values):
    """Defines the absl flag of a field; values with a parser of their own are texts."""
    properties = field.metadata
    arguments = {"help": properties["help"], "flag_values": values}
    default = None if "parse" in properties else field.default
    kind = _type(field)
    if "choices" in properties:
        absl_flags.DEFINE_enum(field.name, default, list(properties["choices"]), case_sensitive=False, **arguments)
    elif kind is bool:
        absl_flags.DEFINE_bool(field.name, default, **arguments)
    elif kind is str:
        absl_flags.DEFINE_string(field.name, default, **arguments)
    else:
        define = absl_flags.DEFINE_integer if kind is int else absl_flags.DEFINE_float
        bounds = {"lower_bound": properties.get("at_least"), "upper_bound": properties.get("at_most")}
        define(field.name, default, **bounds, **arguments)


def _type(field):
    """bool, int, float or str: how absl reads a field's flag."""
    return str if "parse" in field.metadata else field.type


def _help_line(field):
    choices = "|".join(field.metadata.get("choices", ()))
    kind = choices if 0 < len(choices) < _MOST_CHOICES else _KINDS[_type(field)]
    switch = f"--[no]{field.name}" if field.type is bool else f"--{field.name}=<{kind}>"
    default = "" if field.default in (None, "") else f" (default: {as_text(field.default)})"
    return f"{switch}  {field.metadata['help']}{default}"


# Characters; the help explains the choices if they are longer.
_MOST_CHOICES = 80
_KINDS = {bool: "bool", int: "integer", float: "number", str: "string"}


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether a command line asks for the help."""
    return bool(set(argv[1:]) & {"--help", "-h", "-help", "--helpfull", "--helpshort", "-?"})


def as_text(value) -> str:
    """How the value of a flag is written on a command line."""
    if isinstance(value, tuple):
        groups = bool(value) and isinstance(value[0], tuple)
        return ";".join(as_text(group) or "linear" for group in value) if groups else ",".join(map(as_text, value))
    return repr(value) if isinstance(value, float) else str(value)


_command_line = CommandLine(Options, _USAGE)


def parse(argv: Sequence[str], before: Mapping[str, str] | None = None) -> Options:
    """Reads the command line of a run.

    Args:
      argv: the program's name and its arguments.
      before: as for `CommandLine.parse`; see `stored`.

    Returns:
      The `Options`; those whose default depends on others have their value.

    Raises:
      UserError: see `CommandLine.parse`; or flags that contradict each other.
      SystemExit: with status 0, after printing the help.
    """
    options, given, _ = _command_line.parse(argv, before)
    options = _with_dependent_defaults(options)
    checks.refuse_contradictions(options, given)
    return options


def _with_dependent_defaults(options: Options) -> Options:
    """Fills in the values whose default depends on other flags."""
    missing = {name: value for name, value in dependent_defaults(options).items() if getattr(options, name) is None}
    options = dataclasses.replace(options, **missing)
    return dataclasses.replace(options, run_dir=options.run_dir or default_run_dir(options))


def dependent_defaults(options: Options) -> dict:
    """The defaults that depend on other flags, name -> value."""
    return {
        "hidden_dims": paper.hidden_dims(len(options.latent_dims)),
        "activation": "swish" if options.network == "conv" else "tanh",
        "learning_rate": {"cosine": 3e-3, "paper": 1e-3}[options.schedule],
        "binarization": datasets.find(options.dataset)[0].binarization,
        "likelihood_scale": "sample" if options.likelihood == "discretized_logistic" else "feature",
        **_default_fractions(options),
        "ema_momentum": 0.0 if options.batch_norm else 0.999,
    }


def _default_fractions(options):
    """The shares of a file without parts. 0 stands for the parts that a data set has."""
    family = options.dataset.partition(":")[0]
    share = 0.1 if family in ("csv", "npy") else 0.0
    return {"test_fraction": share, "validation_fraction": share}


def default_run_dir(options: Options) -> str:
    """The run directory of a command line without --run_dir."""
    ladder = "_ladder" if options.inference == "ladder" else ""
    estimator = "" if options.gradient_estimator == "standard" else f"_{options.gradient_estimator}"
    ladder += "" if options.network == "mlp" else f"_{options.network}"
    model = f"{options.objective}{ladder}_{len(options.latent_dims)}l_k{options.k}{estimator}"
    _, member = datasets.find(options.dataset)
    # A data set of one's own is named by its file; no character may lead out of the folder or be special in a shell.
    is_file = options.dataset.startswith(("npz:", "npy:", "csv:"))
    data = pathlib.PurePath(member).stem if is_file else options.dataset
    data += "" if options.likelihood == "bernoulli" else f"_{options.likelihood}"
    return f"runs/{re.sub(r'[^A-Za-z0-9.]+', '_', data)}_{model}_seed{options.seed}"

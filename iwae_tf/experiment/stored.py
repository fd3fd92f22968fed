"""What a run keeps of its options, and how they are read again.

flags.txt holds the flags that decide what a run computes. A run that was made before a flag existed does not know it;
the flag then has the value of its field's `before`, or else its default.
"""

import dataclasses
import math
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from iwae_tf import datasets
from iwae_tf.errors import UserError
from iwae_tf.experiment import parsing
from iwae_tf.experiment.checks import DATA_SET_FLAGS
from iwae_tf.experiment.flags import DEPENDENT_FLAGS, EVALUATION_FLAGS, RUN_FLAGS, Options, fields
from iwae_tf.experiment.parsing import as_text
from iwae_tf.runs import RunDirectory
from iwae_tf.runs.directory import TRAINED_WITH


def run_flags(options: Options) -> dict[str, str]:
    """The flags that decide what a run computes, name -> text: what flags.txt holds.

    The sizes of the layers are written out, and flags without effect are left out.
    """
    left_out = {"cosine": "stages", "paper": "epochs"}[options.schedule]
    without_effect = {name for name, owner, values in DEPENDENT_FLAGS if getattr(options, owner) not in values}
    without_effect |= set(DATA_SET_FLAGS) - set(datasets.find(options.dataset)[0].takes)
    return {
        name: as_text(getattr(options, name)) for name in RUN_FLAGS if name != left_out and name not in without_effect
    }


def flags_before() -> dict[str, str]:
    """The values that flags have in a run that does not know them, name -> text."""
    return {name: as_text(value) for name, value in _values_before().items() if name in RUN_FLAGS and value is not None}


def _values_before():
    return {field.name: field.metadata.get("before", field.default) for field in fields()}


def read_options(run) -> Options:
    """Returns the options of a `runs.RunDirectory`.

    Raises:
      UserError: it was not trained by this program, or its flags are not those of a run (such as --flagfile, which
        would read other files), or have values that they cannot have.
    """
    words, init_from = _words(run)
    try:
        options = parsing.parse(["run", *words], _texts_before())
    except UserError as error:
        raise UserError(f"{run.flags} is damaged: {error}") from error
    return dataclasses.replace(options, init_from=init_from)


def parse(argv: Sequence[str]) -> Options:
    """Reads the command line of `iwae_tf.main`: with --notrain, flags that are not given are those of the run.

    Raises:
      UserError: as `parsing.parse`; or with --notrain, there is no run, or as `read_options`.
    """
    options = parsing.parse(argv)
    run = RunDirectory(options.run_dir)
    if options.train:
        return options
    if not os.path.exists(run.flags):
        raise UserError(f"There is no run in {run.path}, so there is no trained model; train it without --notrain.")
    stored_options = read_options(run)
    words, _ = _words(run)
    options = parsing.parse([argv[0], *words, *argv[1:]], _texts_before())
    return dataclasses.replace(options, init_from=options.init_from or stored_options.init_from)


def _words(run):
    """The command line of a run, and its --init_from: that model may since lie in the default run directory."""
    stored = run.read_flags()
    if TRAINED_WITH in stored:
        raise UserError(
            f"{run.path} was trained with {stored[TRAINED_WITH]}: build the same model in Python and call it again "
            "with the same plan, which restores the weights."
        )
    unknown = sorted(set(stored) - set(RUN_FLAGS))
    if unknown:
        raise UserError(f"{run.flags} is damaged: --{unknown[0]} is not a flag of a run.")
    init_from = stored.pop("init_from", "")
    return [f"--{name}={value}" for name, value in stored.items()], init_from


def _texts_before():
    return {field.name: as_text(field.metadata["before"]) for field in fields() if "before" in field.metadata}


def result_flags(options: Options) -> dict[str, Any]:
    """The flags that decide what is in results.json, name -> value, plain JSON."""
    texts = run_flags(options)
    plain = {name: getattr(options, name) for name in [*texts, *EVALUATION_FLAGS]}
    plain.pop("data_dir", None)  # The place of the images does not change them.
    # JSON has no infinity.
    as_texts = [name for name, value in plain.items() if isinstance(value, tuple) or value in (math.inf, -math.inf)]
    return plain | {name: texts[name] for name in as_texts}


def covers(stored: Mapping[str, Any], options: Options) -> bool:
    """Whether results are those that the options ask for; they may hold more.

    Args:
      stored: the flags of the results, see `result_flags`; those that an older version did not know are missing.
      options: what is asked for.
    """
    defaults = {field.name: field.default for field in fields()}
    known = _values_before() | dict(stored)
    asked = result_flags(options)
    extra = [name for name in EVALUATION_FLAGS if name != "nll_samples"]
    needed = {name: value for name, value in asked.items() if name not in extra or value != defaults[name]}
    return all(known.get(name) == value for name, value in needed.items())


def command(options: Options) -> str:
    """The shell command that repeats a run and its evaluation, without the flags that have their default."""
    stored = run_flags(options) | {name: as_text(getattr(options, name)) for name in EVALUATION_FLAGS}
    defaults = {field.name: field.default for field in fields()} | parsing.dependent_defaults(options)
    words = [f"--{name}={text}" for name, text in stored.items() if text != as_text(defaults[name])]
    folder = parsing.default_run_dir(options)
    if options.init_from and pathlib.Path(options.init_from).resolve() == pathlib.Path(folder).resolve():
        words.append(f"--run_dir={folder}_continued")
    return shlex.join(["python", "-m", "iwae_tf.main", *words])

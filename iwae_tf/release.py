"""Lists the released models, checks one, or releases a run of your own.

  iwae-tf models                                        the models that come with the package
  iwae-tf models --verify=mnist_iwae_1l_k1 --images=500 measures an NLL again, and compares it with the released one
  iwae-tf models --add=runs/mine --folder=models        releases a finished run

A released model is a run directory without what only continues its training. `iwae_tf.load(NAME)` returns it, and
--init_from=NAME starts from it.
"""

import dataclasses
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Sequence

import msgspec
import numpy as np

from iwae_tf.errors import UserError
from iwae_tf.experiment import build, command, finished, stored, summary
from iwae_tf.experiment.flags import flag, json_flag, parse_folder
from iwae_tf.experiment.parsing import CommandLine
from iwae_tf.report import markdown
from iwae_tf.runs import released
from iwae_tf.runtime import console, progress

# An NLL that is measured again may differ by this many standard errors, and by the rounding of another processor.
_STDERRS, _ROUNDING = 4.0, 1e-3
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.+-]{0,99}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReleaseOptions:
    """The flags of this command."""

    verify: str = flag("", "Measure the NLL of this released model again. Give a folder for one of your own.")
    images: int = flag(0, "With --verify: measure the first N test images only; 0 measures all.", at_least=0)
    data_dir: str = flag("", "With --verify: the folder of the data, if it has moved.", parse=parse_folder)
    add: str = flag("", "Release the finished run in this folder.", parse=parse_folder)
    name: str = flag("", "With --add: the name of the model, by default that of the folder.")
    folder: str = flag("models", "With --add: where to put it.", parse=parse_folder)
    json: bool = json_flag()


_command_line = CommandLine(ReleaseOptions, __doc__)


def main(argv: Sequence[str]) -> None:
    """Lists, verifies or adds."""
    options, given, _ = _command_line.parse(argv)
    for name, owner in (("images", "verify"), ("data_dir", "verify"), ("name", "add"), ("folder", "add")):
        if name in given and not getattr(options, owner):
            raise UserError(f"--{name} has no effect without --{owner}; leave it out.")
    for name, expected in (("add", "a finished run"), ("verify", "the name of a released model")):
        if name in given and not getattr(options, name):
            raise UserError(f"--{name} is empty; give {expected}.")
    if options.add and options.verify:
        raise UserError("--add and --verify are two steps; give one of them.")
    if options.add:
        _add(options)
    elif options.verify:
        _verify(options)
    else:
        _list(options)


def _list(options):
    """Prints the released models with their numbers. What is damaged is left out, and refused at the end."""
    models, errors = {}, []
    for name in released.names():
        try:
            models[name] = _read(name)
        except UserError as error:
            errors.append(error)
    if options.json:
        print(json.dumps({name: _plain(results) for name, (_, results) in models.items()}, indent=2))
    elif models:
        header = ("name", "data set", "model", "NLL", "active units")
        lines = markdown.text_table(header, [_row(name, *model) for name, model in models.items()])
        print("\n".join(lines))
        print(
            "\nNLL is -L_5000 of the test images, unless another number of samples is given, in nats +- its standard "
            "error. iwae_tf.load(NAME) returns a model."
        )
    elif not errors:
        print(f"There are no released models in {released.folder()}.")
    if errors:
        raise errors[0]


def _read(name):
    """The options and results of a released model."""
    path = released.folder() / name
    released.check(path)
    run = build.run_directory(path)
    return stored.read_options(run), run.read_results()


def _plain(results):
    """The results of a model without the long lists, as plain JSON."""
    left_out = ("units", "flags", "versions")
    return {key: value for key, value in msgspec.to_builtins(results).items() if key not in left_out}


def _row(name, options, results):
    nll = summary.with_stderr(results.nll) + summary.unusual_samples(results.nll.num_samples)
    return name, options.dataset, summary.title(options), nll, summary.join(results.active_units.per_layer)


def _add(options):
    """Copies a finished run and its averaged weights."""
    run = build.run_directory(options.add)
    results, run_options = _finished_results(run)
    name = options.name or pathlib.Path(options.add).resolve().name
    if not _NAME.fullmatch(name):
        raise UserError(
            f"--name={name} must have 1 to 100 letters, digits, _, -, + or ., and begin with a letter or digit."
        )
    folder = pathlib.Path(options.folder)
    target = folder / name
    if os.path.exists(target):  # Unlike `target.exists()`, it returns False for paths that are too long.
        raise UserError(f"{target} exists; remove it, or give another --name.")
    command.import_tensorflow_quietly()
    from iwae_tf import training

    model = build.load(build.trained_run(options.add))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as temporary:
            copy = released.copy_run(run, pathlib.Path(temporary) / name)
            training.save_weights(model, copy)
            released.write_checksums(copy.path)
            copy.path.rename(target)
    except OSError as error:
        raise UserError(f"Cannot write to --folder={options.folder} ({error.strerror}); give another one.") from error
    size = sum(path.stat().st_size for path in target.iterdir())
    if options.json:
        print(json.dumps({"folder": str(target), "bytes": size, "nll": msgspec.to_builtins(results.nll)}, indent=2))
        return
    print(f"{summary.title(run_options)}: NLL {summary.with_stderr(results.nll)}")
    print(f"{target} has {size / 1e6:.1f} MB")


def _finished_results(run):
    """The results of a finished run and its options."""
    options, results = stored.read_options(run), run.read_results()
    if results is None:
        raise UserError(f"{run.path} is not evaluated yet; the command that trained it does that.")
    if results.training.epochs < options.num_epochs or not finished.belongs_to_weights(results, run):
        raise UserError(f"{run.path} is not finished; the command that trained it continues it.")
    return results, options


def _verify(options):
    """Measures the log-likelihoods of a released model again, and compares them with the released ones."""
    run = build.trained_run(options.verify)
    results = run.read_results()
    if results is None:
        raise UserError(f"{run.path} has no results to compare with; evaluate it first.")
    before = run.read_log_likelihoods(results.nll.num_images)
    if before is None:
        raise UserError(f"{run.test_log_likelihoods} is missing or damaged; install iwae_tf again, or copy it again.")
    command.import_tensorflow_quietly()
    from iwae_tf.datasets import observations
    from iwae_tf.evaluation import log_likelihood

    images, model = build.load_images_of(run, options.data_dir), build.load(run)
    x = observations.fixed(images.test[: options.images or None], "test", model.support)
    num_samples = results.nll.num_samples
    console.note(f"{options.verify}: measuring {len(x):,} test {images.noun} with {num_samples:,} samples each")
    countdown = progress.Countdown(len(x), noun=images.noun)
    again = log_likelihood.evaluate_images(
        model, x, num_samples, report=lambda done: countdown.update(len(done), _nll(done.log_likelihoods))
    )
    comparison = _compare(before[: len(x)], again)
    if options.json:
        print(json.dumps(dataclasses.asdict(comparison) | {"agrees": comparison.agrees}, indent=2))
    else:
        print(
            f"released NLL {comparison.released_nll:.2f}, measured again NLL {comparison.nll:.2f}; no image differs "
            f"by more than {comparison.largest_difference:.2g} nats"
        )
        if comparison.agrees:
            print("They agree.")
    if not comparison.agrees:
        raise UserError(
            f"The log-likelihoods differ by {comparison.nll - comparison.released_nll:.3g} nats on average, more than "
            "chance explains: these are other images or other weights; install iwae_tf again."
        )


@dataclasses.dataclass(frozen=True)
class _Comparison:
    """Two measurements of the same test images, in nats."""

    num_images: int
    released_nll: float
    nll: float
    largest_difference: float
    stderr_of_difference: float

    @property
    def agrees(self):
        """Whether other noise and rounding explain the difference."""
        return abs(self.nll - self.released_nll) <= _STDERRS * self.stderr_of_difference + _ROUNDING


def _nll(log_likelihoods):
    return f"NLL {-log_likelihoods.mean():.2f}"


def _compare(before, again):
    """Returns a `_Comparison`; the variance of an estimate of log p(x) is about 1 / its effective sample size."""
    after = again.log_likelihoods
    stderr = np.sqrt(2.0 * np.sum(1.0 / again.effective_sample_sizes)) / len(after)
    largest = np.abs(after - before).max()
    return _Comparison(len(after), *(float(value) for value in (-before.mean(), -after.mean(), largest, stderr)))


def run(argv: Sequence[str] | None = None) -> None:
    """The command; see `command.run_command`."""
    command.run_command(main, "run it again", argv)


if __name__ == "__main__":
    run()

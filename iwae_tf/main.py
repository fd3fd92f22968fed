"""Trains, evaluates, draws and exports one model: `python -m iwae_tf.main --k=50`; `--help` lists the flags."""

import math
import sys
from collections.abc import Sequence

from iwae_tf.datasets import tables
from iwae_tf.evaluation import pareto
from iwae_tf.experiment import build, cluster, command, finished, memory, stored, summary
from iwae_tf.runs import released
from iwae_tf.runs.results import to_json
from iwae_tf.runtime import console, signals


def main(argv: Sequence[str]) -> None:
    """Runs one experiment from data to results."""
    options = stored.parse(argv)
    with build.run_directory(options.run_dir) as run:
        run.check(stored.run_flags(options), options.overwrite)
        results = None if options.overwrite else finished.finished_results(options, run)
        if results:
            console.note(f"{run.path} is finished, here are its results; use --overwrite to start again.")
            _print_results(options, results, run)
            return
        if options.khat_images:
            pareto.require_arviz()
        command.import_tensorflow_quietly()
        _run(options, run)


def _run(options, run):
    """Trains, evaluates and exports."""
    from iwae_tf import training
    from iwae_tf.experiment import board
    from iwae_tf.experiment.evaluate import evaluate
    from iwae_tf.export import export
    from iwae_tf.runtime import distribute

    strategy = cluster.strategy(options)
    workers = distribute.Workers(strategy)
    images, data = build.load_images(options)
    cluster.refuse_differences(options, data, workers)
    if options.train:
        memory.refuse_impossible(options, math.prod(images.event_shape))
    with strategy.scope():
        model = _new_model(options, images)
    # Outside of the scope: only the chief loads the other model, so no variable of it may be shared by all workers.
    if options.init_from and workers.is_chief and (options.overwrite or not run.has_model()):
        build.initialise(model, build.initial_model(options, data.column_names), options.init_from)
    # Everything that can be refused has been checked; from here on files are written.
    if workers.is_chief:
        run.claim(stored.run_flags(options), options.overwrite, data)
        board.write_settings(options, run)
    _announce(options, images, data, workers, run)
    with signals.deferred():
        chief_run = run if workers.is_chief else None
        trained = training.train(model, images, build.build_plan(options), chief_run, options.train)
        overfitting = summary.overfitting(run.read_history()) if workers.is_chief else None
        if overfitting:
            console.warn(overfitting)
        # train() removes the results of a shorter training run.
        results = finished.stored_results(options, run) if workers.is_chief else None
        if options.evaluate and not workers.any(results is not None):
            results = evaluate(options, model, images, data, trained, run, workers)
            if workers.is_chief:
                measured = run.results, run.test_log_likelihoods, run.samples
                released.update_checksums(run, [run.flags, run.history, *measured])
        if options.export and workers.is_chief:
            export(model, run.saved_model)
        if results:
            _print_results(options, results, run)
        signals.check()


def _print_results(options, results, run):
    if options.json:
        print(to_json(results).decode().rstrip())
        return
    print(summary.table(options, results))
    annealing = finished.annealing_of(results, run)
    if annealing:
        print(summary.annealing(annealing))


def _new_model(options, images):
    """The untrained model."""
    steps_per_epoch = build.build_plan(options).steps_per_epoch(len(images.train))
    return build.build_model(options, images.event_shape, images, steps_per_epoch)


def _announce(options, images, data, workers, run):
    """Prints what is trained on which images."""
    if not workers.is_chief:
        console.note(f"worker {workers.index + 1} of {workers.count}; the first one writes the files")
        return
    num_images = f"{len(images.train):,} {images.noun} of {options.dataset}"
    console.note(f"{summary.title(options)} on {num_images}; all files go to {run.path}/")
    if data.num_duplicates:
        console.note(
            f"{data.num_duplicates:,} of the {len(images.test):,} test {images.noun} are also training {images.noun}"
        )
    if images.is_table:
        _describe_table(images)
    if options.strategy != "default":
        console.note(f"--strategy={options.strategy}: {workers.count} worker{'s'[: workers.count > 1]}, without XLA")


def _describe_table(table):
    """Prints what a user should know about the columns."""
    values = sum(split.size for split in (table.train, table.validation, table.test))
    missing = f", {table.num_missing / values:.1%} of the values are missing" if table.num_missing else ""
    sizes = f"{len(table.validation):,} rows for validation, {len(table.test):,} for the test"
    console.note(f"{len(table.columns)} columns; {sizes}{missing}")
    for first, second in tables.equal_columns(table.train, table.columns):
        console.note(f"columns {first} and {second} have the same values; one of them is enough (see --drop_columns)")


def run(argv: Sequence[str] | None = None) -> None:
    """The command; see `command.run_command`."""
    argv = sys.argv if argv is None else argv
    hint = "without --overwrite " if "--overwrite" in argv else ""
    command.run_command(main, f"the same command {hint}continues", argv)


if __name__ == "__main__":
    run()

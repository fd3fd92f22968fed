"""Trains, evaluates, draws and exports one model: `python -m iwae_tf.main --k=50`; `--help` lists the flags."""

import sys

from iwae_tf import runs
from iwae_tf.evaluation import pareto
from iwae_tf.experiment import build, cluster, command, options, summary
from iwae_tf.runtime import signals


def main(argv):
    """The story of a run."""
    flags = options.parse(argv)
    with runs.RunDirectory(flags.run_dir) as run:
        run.check(options.run_flags(flags), flags.overwrite)
        results = None if flags.overwrite else summary.finished_results(flags, run)
        if results:
            print(f"{run.path} is finished, here are its results; --overwrite would start it anew.")
            print(summary.table(flags, results))
            return

        if flags.khat_images:
            pareto.require_arviz()
        command.import_tensorflow_quietly()
        from iwae_tf import training
        from iwae_tf.experiment.evaluate import evaluate
        from iwae_tf.export import export
        from iwae_tf.runtime import distribute

        strategy = cluster.strategy(flags)
        workers = distribute.Workers(strategy)
        images, data = build.images(flags)
        cluster.refuse_differences(flags, data, workers)
        plan = build.plan(flags)
        # All that can be refused is, before anything is overwritten.
        with strategy.scope():
            model = build.model(flags, images.image_shape, images.train_mean, plan.steps_per_epoch(len(images.train)))
        if flags.init_from and workers.is_chief and (flags.overwrite or not run.has_checkpoints()):
            build.initialise(model, build.initial_model(flags), flags.init_from)
        if workers.is_chief:
            run.claim(options.run_flags(flags), flags.overwrite, data)
        _announce(flags, images, data, workers, run)
        with signals.deferred():
            trained = training.train(model, images, plan, run if workers.is_chief else None, flags.train)
            # Those of a shorter training are gone.
            results = summary.stored_results(flags, run) if workers.is_chief else None
            if flags.evaluate and not workers.any(results is not None):
                results = evaluate(flags, model, images, data, trained, run, workers)
            if flags.export and workers.is_chief:
                export(model, run.saved_model)
            if results:
                print(summary.table(flags, results))
            signals.check()


def _announce(flags, images, data, workers, run):
    """Says what is done on what."""
    if not workers.is_chief:
        print(f"worker {workers.index + 1} of {workers.count}; the first one writes")
        return
    print(f"{summary.title(flags)} on {len(images.train):,} images of {flags.dataset}; everything goes to {run.path}/")
    if data["num_duplicates"]:
        print(f"{data['num_duplicates']:,} of the {len(images.test):,} test images are among the training images, too")
    if flags.strategy != "default":
        print(f"--strategy={flags.strategy}: {workers.count} worker(s); without XLA, which does not go with strategies")


def run():
    """The command; see `experiment.run_command`."""
    hint = "without --overwrite " if "--overwrite" in sys.argv else ""
    command.run_command(main, f"the same command {hint}continues")


if __name__ == "__main__":
    run()

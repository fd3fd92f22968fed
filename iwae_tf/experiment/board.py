"""What TensorBoard shows of a run beside its curves: hyperparameters, command, layout, final results, projector.

All of it lies in test/ of the run directory. One event file says what is run, and is written before the training; the
other has the results. Each is replaced as a whole, so nothing is repeated if a run is continued or evaluated again.
"""

import hashlib
import io
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as sessions
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.scalar import summary_v2 as scalar
from tensorboard.plugins.text import summary_v2 as text
from tensorboard.summary.writer.record_writer import RecordWriter

from iwae_tf import datasets, figures, models, runs
from iwae_tf.evaluation import embedding
from iwae_tf.evaluation.samples import as_pictures
from iwae_tf.experiment import stored, summary
from iwae_tf.experiment.flags import EVALUATION_FLAGS, Options
from iwae_tf.experiment.parsing import as_text
from iwae_tf.runtime import files

# The columns of the HParams tab -> flags. TensorBoard sorts the columns by name and shows the first five.
_HYPERPARAMETERS = {
    "estimator": "gradient_estimator",
    "k": "k",
    "latent_dims": "latent_dims",
    "objective": "objective",
    "rate": "learning_rate",
    "seed": "seed",
    "training batch": "batch_size",
    "training data": "dataset",
    "training epochs": "num_epochs",
}
# Category -> chart -> expressions for its tags.
_LAYOUT = {
    "Bounds in nats": {"L_k": ["iwae_bound$"], "ELBO": ["elbo$"], "test NLL": ["nll$"]},
    "Distortion and rate in nats": {"distortion": ["distortion$"], "rate": ["rate$"], "rate per layer": ["rate/"]},
    "Samples and units": {"effective sample size": ["effective_sample_size$"], "active units": ["active_units/"]},
    "Optimizer": {"learning rate": ["learning_rate$"]},
}
# TensorBoard takes its columns from any one run, so all runs name as many layers.
_FEWEST_LAYERS = 2
# The largest side of the picture that holds all images of the projector.
_MOST_PIXELS = 4096


def write_settings(options: Options, run: runs.RunDirectory) -> None:
    """Writes what is run: hyperparameters, the command, all flags, and a layout of the curves.

    Args:
      options: the `Options`.
      run: the claimed `runs.RunDirectory`.
    """
    flags = stored.run_flags(options) | {name: as_text(getattr(options, name)) for name in EVALUATION_FLAGS}
    summaries = [
        hparams.hparams_pb(_hyperparameters(options), trial_id=_trial(run)),
        _columns(len(options.latent_dims)),
        custom_scalar.pb(_layout()),
        text.text_pb("command", _code([stored.command(options)])),
        text.text_pb("flags", _code(f"--{name}={value}" for name, value in flags.items())),
    ]
    run.test_events.mkdir(exist_ok=True)
    _write_events(run.settings_events, summaries, step=0)


def _hyperparameters(options):
    values = {column: getattr(options, name) for column, name in _HYPERPARAMETERS.items()}
    return {
        column: _utf8(as_text(value)) if isinstance(value, str | tuple) else value for column, value in values.items()
    }


def _trial(run):
    """A name of the run; TensorBoard averages runs with the same one."""
    path = run.path.resolve()
    return _utf8(f"{path.name} ({hashlib.sha256(bytes(path)).hexdigest()[:4]})")


def _columns(num_layers):
    names = [f"active_units/layer_{number}" for number in range(1, max(num_layers, _FEWEST_LAYERS) + 1)]
    metrics = [hparams.Metric("nll", display_name="test NLL")]
    metrics += [hparams.Metric(name, display_name=name.replace("_", " ").replace("/", ", ")) for name in names]
    columns = [hparams.HParam(column) for column in _HYPERPARAMETERS]
    # Without a time, so that runs do not differ.
    return hparams.hparams_config_pb(columns, metrics, time_created_secs=0)


def _layout():
    categories = [
        layout_pb2.Category(
            title=category,
            chart=[
                layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
                for title, tags in charts.items()
            ],
        )
        for category, charts in _LAYOUT.items()
    ]
    return layout_pb2.Layout(category=categories)


def _code(lines):
    """Markdown that shows lines as they are."""
    return "\n".join(f"    {_utf8(line)}" for line in lines)


def _utf8(words):
    """A text without bytes of file names that are not UTF-8."""
    return words.encode("utf-8", "replace").decode()


def write_results(
    options: Options,
    results: runs.Results,
    model: models.ImportanceWeightedAutoencoder,
    dataset: datasets.Dataset,
    test: np.ndarray,
    log_likelihoods: np.ndarray,
    run: runs.RunDirectory,
) -> None:
    """Writes the final results and the files of the projector.

    Args:
      options: the `Options`.
      results: the complete `runs.Results`.
      model: the trained model.
      dataset: the data set.
      test: x of the test images or rows, float [num_images, event].
      log_likelihoods: log p(x) of each in nats, [num_images].
      run: the `runs.RunDirectory`.
    """
    scalars = {"nll": results.nll.mean, "elbo": results.elbo, "iwae_bound": results.iwae_bound.mean}
    counts = enumerate(results.active_units.per_layer, start=1)
    scalars |= {f"active_units/layer_{number}": float(count) for number, count in counts}
    summaries = [scalar.scalar_pb(name, value) for name, value in scalars.items()]
    summaries += [
        text.text_pb("results", _code(summary.table(options, results).splitlines())),
        sessions.session_end_pb(api_pb2.STATUS_SUCCESS),
    ]
    steps = results.training.steps
    run.test_events.mkdir(exist_ok=True)
    _write_projector(model, dataset, test[: embedding.NUM_ROWS], log_likelihoods, run.test_events)
    _write_events(run.result_events, summaries, step=0 if steps is msgspec.UNSET else steps)


def _write_events(path: pathlib.Path, summaries: Sequence[Any], step: int) -> None:
    """Writes an event file."""
    now = time.time()
    content = io.BytesIO()
    writer = RecordWriter(content)
    writer.write(event_pb2.Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    for values in summaries:
        event = event_pb2.Event(wall_time=now, step=step)
        # Some are of TensorFlow's class, which is another one with the same fields.
        event.summary.ParseFromString(values.SerializeToString())
        writer.write(event.SerializeToString())
    files.write_atomically(path, content.getbuffer())


def _write_projector(model, dataset, test, log_likelihoods, folder):
    """Writes posterior means, labels, NLLs and images of the first test rows."""
    sprite = _write_sprite(model, dataset, len(test), folder / "sprite.png")
    lines = []
    for number, means in enumerate(embedding.posterior_means(model, test), start=1):
        name = f"posterior_means_layer_{number}.tsv"
        content = io.BytesIO()
        np.savetxt(content, means, fmt="%.3g", delimiter="\t")
        files.write_atomically(folder / name, content.getbuffer())
        lines += [
            "embeddings {",
            f'  tensor_name: "posterior means, layer {number}"',
            f'  tensor_path: "{name}"',
            '  metadata_path: "metadata.tsv"',
            *sprite,
            "}",
        ]
    files.write_atomically(folder / "metadata.tsv", _metadata(dataset.test_labels, log_likelihoods, len(test)))
    files.write_atomically(folder / "projector_config.pbtxt", ("\n".join(lines) + "\n").encode())


def _metadata(labels, log_likelihoods, count):
    columns = {} if labels is None else {"label": labels}
    columns |= {"number": range(count), "nll": [f"{-value:.2f}" for value in log_likelihoods[:count]]}
    rows = [columns, *zip(*(values[:count] for values in columns.values()), strict=True)]
    return "".join("\t".join(map(str, row)) + "\n" for row in rows).encode()


def _write_sprite(model, dataset, count, path):
    """Writes one picture of all images; returns lines of the projector's configuration, none for tables."""
    if dataset.is_table:
        return []
    values = dataset.test[:count].reshape(-1, *dataset.event_shape)
    pictures = values / 255.0 if values.dtype == np.uint8 else as_pictures(values, model.support)
    columns = math.ceil(math.sqrt(count))
    # Of large images, only some of the pixels.
    step = math.ceil(columns * max(pictures.shape[1:3]) / _MOST_PIXELS)
    pictures = pictures[:, ::step, ::step]
    figures.save_pixels(path, figures.image_grid(pictures, columns, gap=0))
    height, width = pictures.shape[1:3]
    return [
        "  sprite {",
        f'    image_path: "{path.name}"',
        f"    single_image_dim: {width}",
        f"    single_image_dim: {height}",
        "  }",
    ]

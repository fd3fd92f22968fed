"""Times training steps: `python -m benchmarks.training`.

Each row compares, in one process and in turns, the epochs that `python -m iwae_tf.main` runs (validation, event
files, checkpoints and progress included) with a plain Keras fit of the same model (no XLA, one step per execution,
binarised in the tf.data pipeline) and with the step's matrix products alone.
"""

import contextlib
import io
import itertools
import json
import os
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from benchmarks import roofline
from iwae_tf import datasets, models, networks, options, runs, training

_LAYERS = flags.DEFINE_list("layers", ["1", "2"], "Numbers of stochastic layers.")
_SAMPLES = flags.DEFINE_list("k", ["1", "5", "50"], "Numbers of importance samples.")
_BATCHES = flags.DEFINE_list("batch", ["20"], "Batch sizes.")
_ESTIMATOR = flags.DEFINE_string("gradient_estimator", "standard", "Gradient estimator of the timed path.")
_RESAMPLED = flags.DEFINE_integer("resampled", 5, "Its samples, for the estimator of that name.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Turns; the medians are printed.")
_SECONDS = flags.DEFINE_float("seconds", 15.0, "About how long a turn lasts.")
_JSON = flags.DEFINE_string("json", "", "Also write the rows as a list of records to this file.")

_LATENT_DIMS = {1: "50", 2: "100,50"}


def _model(layers, k, **kwargs):
    inference, generative = networks.paper_networks(784, *options.layer_dims(_LATENT_DIMS[layers], ""))
    return models.ImportanceWeightedAutoencoder(inference, generative, num_samples=k, **kwargs)


def time_program(model, images, batch, folder):
    """Yields seconds per step of one epoch after the other, as the program trains it."""
    run = runs.RunDirectory(folder)
    run.claim({"benchmark": "training"})
    plan = training.Plan(epochs=1000, batch_size=batch, picture_every=1000)
    steps = plan.steps_per_epoch(len(images.train))
    training.prepare(model, plan, steps)
    rows = []
    for epoch in itertools.count():
        before = rows[-1]["seconds"] if rows else 0.0
        with contextlib.redirect_stdout(io.StringIO()):
            training.fit(model, images, plan, run, rows, epoch, epoch + 1)
        yield (rows[-1]["seconds"] - before) / steps


def time_baseline(model, images, batch):
    """Yields seconds per step of one epoch after the other of a plain Keras fit."""
    model(tf.zeros([1, 784]))
    model.compile(optimizer=keras.optimizers.Adam(1e-3, epsilon=1e-4), jit_compile=False)
    data = tf.data.Dataset.from_tensor_slices(images.train).shuffle(len(images.train)).batch(batch, drop_remainder=True)
    data = data.map(_binarize).prefetch(tf.data.AUTOTUNE)
    while True:
        start = time.perf_counter()
        model.fit(data, epochs=1, shuffle=False, verbose=0)
        yield (time.perf_counter() - start) / (len(images.train) // batch)


def _binarize(images):
    grey = tf.cast(images, tf.float32) / 255.0
    return tf.cast(tf.random.uniform(tf.shape(grey)) < grey, tf.float32)


def _images(milliseconds, batch):
    """As many images as make an epoch of about `--seconds` at this many milliseconds a step."""
    steps = max(5, int(1e3 * _SECONDS.value / milliseconds))
    return datasets.load("mnist").first(min(59600, steps * batch))


def measure(layers, k, batch):
    """Returns one record."""
    model, plain = (
        _model(layers, k, gradient_estimator=_ESTIMATOR.value, num_resampled=min(k, _RESAMPLED.value)),
        _model(layers, k),
    )
    guess = 1.0 + 0.25 * k * batch / 20
    with tempfile.TemporaryDirectory() as folder:
        turns = time_program(model, _images(guess, batch), batch, folder)
        plain_turns = time_baseline(plain, _images(5.0 + 3.0 * guess, batch), batch)
        next(turns), next(plain_turns)  # Compilation.
        products = roofline.step_products(model, batch, k)
        times = [(next(turns), next(plain_turns), roofline.measure(products)) for _ in range(_REPEATS.value)]
    own, baseline, rate = np.median(times, axis=0)
    operations = sum(product.operations for product in products)
    return {
        "what": "training",
        "layers": layers,
        "k": k,
        "batch": batch,
        "milliseconds": 1e3 * own,
        "baseline_milliseconds": 1e3 * baseline,
        "roofline_gflops": rate / 1e9,
        "achieved_gflops": operations / own / 1e9,
    }


def main(argv):
    if argv[1:]:
        sys.exit(f"benchmarks.training: {argv[1]!r} belongs to no flag; see --help.")
    logging.set_verbosity(logging.ERROR)
    print("layers    k  batch   ms/step  images/s   plain ms   speed-up   GFLOP/s  roofline   share")
    records = []
    for layers, k, batch in itertools.product(_LAYERS.value, _SAMPLES.value, _BATCHES.value):
        record = measure(int(layers), int(k), int(batch))
        records.append(record)
        own, plain = record["milliseconds"], record["baseline_milliseconds"]
        share = record["achieved_gflops"] / record["roofline_gflops"]
        print(
            f"{layers:>6}{k:>5}{batch:>7}{own:10.2f}{1e3 * int(batch) / own:10.0f}{plain:11.2f}{plain / own:11.2f}"
            f"{record['achieved_gflops']:10.1f}{record['roofline_gflops']:10.1f}{share:8.0%}",
            flush=True,
        )
    if _JSON.value:
        runs.write_atomically(_JSON.value, (json.dumps(records, indent=2) + "\n").encode())


if __name__ == "__main__":
    app.run(main)

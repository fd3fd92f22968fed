"""Times training steps: `python -m benchmarks.training`.

The first table compares, alternating in one process, the epochs that `python -m iwae_tf.main` runs (validation, event
files, checkpoints and progress included) with a plain Keras fit of the same model (no XLA, one step per execution,
binarised in the tf.data pipeline), with `fit` as docs/keras.md has it, and with the step's matrix products alone. The
last columns are the share of the own steps per second that this `fit` reaches, and the rate of the same products in
bfloat16. The second table shows how time and peak memory grow with the number of samples and the batch size, each row
in a separate process.
"""

import concurrent.futures
import itertools
import multiprocessing
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import program, roofline, table

_LAYERS = flags.DEFINE_list("layers", ["1", "2"], "Numbers of stochastic layers.")
_SAMPLES = flags.DEFINE_list("k", ["1", "5", "50"], "Numbers of importance samples.")
_BATCHES = flags.DEFINE_list("batch", ["20"], "Batch sizes.")
_ESTIMATOR = flags.DEFINE_string("gradient_estimator", "standard", "Gradient estimator of the timed path.")
_RESAMPLED = flags.DEFINE_integer("resampled", 5, "Samples of the estimator of that name.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Rounds; the medians are printed.")
_SECONDS = flags.DEFINE_float("seconds", 15.0, "About how long a round lasts.")
_GROWTH_SAMPLES = flags.DEFINE_list("growth_k", ["1", "5", "50", "500"], "Samples in the second table; empty for none.")
_GROWTH_BATCHES = flags.DEFINE_list("growth_batch", ["20", "100", "1000"], "Batch sizes in the second table.")
_JSON = flags.DEFINE_string("json", "", "Also write the first table as JSON to this file.")


def measure(layers, k, batch):
    """Returns one row of the first table."""
    estimator = {"gradient_estimator": _ESTIMATOR.value, "num_resampled": min(k, _RESAMPLED.value)}
    model, keras_model = (program.paper_model(layers, k, **estimator) for _ in range(2))
    plain = program.paper_model(layers, k)
    guess = 1.0 + 0.25 * k * batch / 20  # Milliseconds a step.
    images, plain_images = (
        program.first_images(max(5, int(1e3 * _SECONDS.value / milliseconds)), batch)
        for milliseconds in (guess, 5.0 + 1.5 * guess)
    )
    with tempfile.TemporaryDirectory() as folder:
        epochs = program.training_epochs(model, images, batch, folder)
        plain_epochs = program.plain_training_epochs(plain, plain_images, batch)
        fit_epochs = program.fit_epochs(keras_model, images, batch)
        next(epochs), next(plain_epochs), next(fit_epochs)  # Compilation.
        products = roofline.step_products(model, batch, k)
        times = [
            (next(epochs), next(plain_epochs), next(fit_epochs), roofline.measure(products))
            for _ in range(_REPEATS.value)
        ]
    own, baseline, fit, rate = np.median(times, axis=0)
    row = table.row("training", layers, k, batch, own, baseline, rate, products)
    half_rate = roofline.measure(products, dtype=tf.bfloat16)
    return row | {"fit_milliseconds": 1e3 * fit, "bfloat16_roofline_gflops": half_rate / 1e9}


def print_growth(layers):
    """Prints the second table."""
    print(f"\ngrowth, {layers} layer{'s'[: layers > 1]}: milliseconds per step and peak memory of the process")
    print("    k  batch    ms/step  images*k/s   memory")
    for k, batch in itertools.product(_GROWTH_SAMPLES.value, _GROWTH_BATCHES.value):
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as process:
            seconds, peak = process.submit(program.training_growth, layers, int(k), int(batch)).result()
        rate = int(k) * int(batch) / seconds
        print(f"{k:>5}{batch:>7}{1e3 * seconds:11.2f}{rate:12,.0f}{peak / 2**20:7,.0f} MiB", flush=True)


def main(argv):
    table.refuse_words(argv)
    print(f"{table.TITLE}     fit   bf16 GFLOP/s")
    rows = []
    for layers, k, batch in itertools.product(_LAYERS.value, _SAMPLES.value, _BATCHES.value):
        rows.append(measure(int(layers), int(k), int(batch)))
        row = rows[-1]
        share = row["milliseconds"] / row["fit_milliseconds"]
        print(f"{table.text(row)}{share:8.0%}{row['bfloat16_roofline_gflops']:15.1f}", flush=True)
    table.write(_JSON.value, rows)
    if _GROWTH_SAMPLES.value:
        for layers in _LAYERS.value:
            print_growth(int(layers))


if __name__ == "__main__":
    app.run(main)

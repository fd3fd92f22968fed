"""Times the log-likelihood of test images: `python -m benchmarks.evaluation`.

Compares, alternating in one process, `log_likelihood.evaluate_images` as the program calls it with a plain loop over
the images (without XLA, all samples of an image at once) and with the matrix products alone.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import program, roofline, table
from iwae_tf import datasets
from iwae_tf.datasets import binarization

_LAYERS = flags.DEFINE_list("layers", ["1", "2"], "Numbers of stochastic layers.")
_SAMPLES = flags.DEFINE_integer("samples", 5000, "Importance samples per image.")
_IMAGES = flags.DEFINE_integer("images", 200, "Images per round; the plain loop uses a twentieth of them.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds; the medians are printed.")
_JSON = flags.DEFINE_string("json", "", "Also write the rows as JSON to this file.")


def measure(layers):
    """Returns one row."""
    model = program.paper_model(layers, 50)
    images = binarization.fixed_binarization(datasets.load("mnist").test[: _IMAGES.value], "test")
    model(tf.zeros([1, 784]))
    model.compile(jit_compile=True)
    # Each pass compiles again, which the program does once for 10,000 images: subtract that time.
    compilation = next(program.log_likelihoods(model, images[:1], 1)) / len(images)
    passes = program.log_likelihoods(model, images, _SAMPLES.value)
    plain = program.plain_log_likelihoods(model, images[: max(1, len(images) // 20)], _SAMPLES.value)
    next(plain)
    products = roofline.forward_products(model, _SAMPLES.value)
    times = [
        (next(passes) - compilation, next(plain), roofline.measure(roofline.forward_products(model, 1000)))
        for _ in range(_REPEATS.value)
    ]
    own, baseline, rate = np.median(times, axis=0)
    return table.row("evaluation", layers, _SAMPLES.value, 1, own, baseline, rate, products)


def main(argv):
    table.refuse_words(argv)
    print(table.TITLE)
    rows = []
    for layers in _LAYERS.value:
        rows.append(measure(int(layers)))
        print(table.text(rows[-1]), flush=True)
    table.write(_JSON.value, rows)


if __name__ == "__main__":
    app.run(main)

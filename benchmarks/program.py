"""What the benchmarks time: the program's own code, and a plain version to compare with."""

import contextlib
import io
import resource
import sys
import tempfile
import time

import keras
import tensorflow as tf

from iwae_tf import bounds, datasets, models, networks, noise, runs, training
from iwae_tf.evaluation import log_likelihood
from iwae_tf.training import history

LATENT_DIMS = {1: (50,), 2: (100, 50)}
# Training images of MNIST.
_MOST_IMAGES = 59600


def paper_model(layers, k, policy="float32", **kwargs):
    """The paper's model with 1 or 2 stochastic layers under a dtype policy; other arguments are those of the model."""
    inference, generative = networks.paper_networks(784, LATENT_DIMS[layers], dtype=policy)
    return models.ImportanceWeightedAutoencoder(inference, generative, num_samples=k, dtype=policy, **kwargs)


def first_images(num_steps, batch):
    """MNIST, cut to about this many steps per epoch."""
    return datasets.load("mnist").first(min(_MOST_IMAGES, num_steps * batch))


def training_epochs(model, images, batch, folder):
    """Yields the seconds per step of each epoch, as the program trains it.

    Validation, event files, checkpoints and progress are included; the first epoch also includes compilation.
    """
    run = runs.RunDirectory(folder)
    run.claim({"benchmark": "training"})
    plan = training.Plan(epochs=1000, batch_size=batch, picture_every=1000)
    steps = plan.steps_per_epoch(len(images.train))
    training.prepare(model, plan, steps)
    epochs = training.train_epochs(model, images, plan, run, history.History())
    while True:
        # The seconds in the history would include the other measurements between two epochs.
        start = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):  # The progress.
            next(epochs)
        yield (time.perf_counter() - start) / steps


def plain_training_epochs(model, images, batch):
    """Yields the same for a plain Keras fit: no XLA, one step per execution, binarised in the tf.data pipeline."""
    return fit_epochs(model, images, batch, jit_compile=False, steps_per_execution=1)


def fit_epochs(model, images, batch, **compile_arguments):
    """Yields the seconds per step of each epoch of Keras' `fit`, as docs/keras.md has it."""
    model.compile(optimizer=keras.optimizers.Adam(1e-3, epsilon=1e-4), **compile_arguments)
    data = tf.data.Dataset.from_tensor_slices(images.train).shuffle(len(images.train)).batch(batch, drop_remainder=True)
    data = data.map(_binarize).prefetch(tf.data.AUTOTUNE)
    while True:
        start = time.perf_counter()
        model.fit(data, epochs=1, shuffle=False, verbose=0)
        yield (time.perf_counter() - start) / (len(images.train) // batch)


def _binarize(images):
    grey = tf.cast(images, tf.float32) / 255.0
    return tf.cast(tf.random.uniform(tf.shape(grey)) < grey, tf.float32)


def training_growth(layers, k, batch):
    """Measures one row of the second table; call it in a separate process, whose peak memory it returns.

    Returns:
      Seconds per step, and the process's peak memory in bytes.
    """
    steps = max(5, int(6000 / (1.0 + 0.25 * k * batch / 20)))
    with tempfile.TemporaryDirectory() as folder:
        epochs = training_epochs(paper_model(layers, k), first_images(steps, batch), batch, folder)
        next(epochs)
        seconds = min(next(epochs), next(epochs))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return seconds, peak if sys.platform == "darwin" else 1024 * peak


def log_likelihoods(model, images, num_samples):
    """Yields the seconds per image of each pass of the program's evaluation."""
    while True:
        start = time.perf_counter()
        log_likelihood.evaluate_images(model, images, num_samples)
        yield (time.perf_counter() - start) / len(images)


def plain_log_likelihoods(model, images, num_samples):
    """Yields the same for a plain loop over the images: all samples of an image at once, without XLA."""
    one_image = tf.function(lambda x, key: bounds.iwae_bound(model.log_weights(x, num_samples, key)))
    while True:
        start = time.perf_counter()
        for i in range(len(images)):
            one_image(images[i : i + 1], noise.key(0, "benchmark", i)).numpy()
        yield (time.perf_counter() - start) / len(images)

"""Export as a SavedModel with named signatures, which loads without iwae_tf and TensorFlow Probability."""

import pathlib
import shutil

import keras
import tensorflow as tf

from iwae_tf import models
from iwae_tf.evaluation.log_likelihood import importance_bounds


def export(model: models.ImportanceWeightedAutoencoder, path: str | pathlib.Path) -> None:
    """Writes the model as a SavedModel.

    The signatures accept any batch size; `seed` is int32 [2], and the same seed gives the same numbers:

      log_likelihood(x float32 [batch, event], num_samples int32 [], seed) -> log_likelihood [batch], in nats
      encode(x, seed) -> one sample z_1, z_2, ... of every layer, and mean, stddev [batch, d_1] of the distribution
        of z_1: q(z_1 | x), or in the Ladder VAE q(z_1 | z_2, x) given the sample z_2
      decode(z [batch, d_1]) -> probabilities, logits [batch, event]
      sample(num_images int32 [], seed) -> probabilities [num_images, event]
      reconstruct(x, seed) -> probabilities [batch, event]

    Args:
      model: a built `ImportanceWeightedAutoencoder` with Gaussian q and Bernoulli pixels.
      path: the folder; an existing folder is replaced.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, function, signature in _endpoints(model):
        archive.add_endpoint(name, function, input_signature=signature)
    archive.write_out(str(temporary), verbose=False)
    # In this order, so that a folder with this name is always complete.
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _endpoints(model):
    """Returns (name, function, input signature) of every signature."""
    x = tf.TensorSpec([None, model.generative.event_size], tf.float32, name="x")
    z = tf.TensorSpec([None, model.inference.latent_dims[0]], tf.float32, name="z")
    seed = tf.TensorSpec([2], tf.int32, name="seed")

    def count(name):
        return tf.TensorSpec([], tf.int32, name=name)

    def log_likelihood(x, num_samples, seed):
        ids = tf.range(tf.shape(x)[0])
        return {"log_likelihood": importance_bounds(model, x, ids, [[0, num_samples]], seed).bounds[0]}

    def encode(x, seed):
        samples, q = model.inference(x, model.draw_epsilon(1, tf.shape(x)[0], seed))
        z = {f"z_{layer}": sample[0] for layer, sample in enumerate(samples, start=1)}
        shape = tf.shape(z["z_1"])
        return {"mean": tf.reshape(q[0].mean(), shape), "stddev": tf.reshape(q[0].stddev(), shape), **z}

    def decode(z):
        p_x = model.generative.decode(z)
        return {"probabilities": p_x.mean(), "logits": p_x.distribution.logits}

    def sample(num_images, seed):
        return {"probabilities": model.sample(num_images, seed).mean()}

    def reconstruct(x, seed):
        return {"probabilities": model.reconstruct(x, seed).mean()}

    return [
        ("log_likelihood", log_likelihood, [x, count("num_samples"), seed]),
        ("encode", encode, [x, seed]),
        ("decode", decode, [z]),
        ("sample", sample, [count("num_images"), seed]),
        ("reconstruct", reconstruct, [x, seed]),
    ]

"""Export as a SavedModel with named signatures, which loads without iwae_tf and TensorFlow Probability."""

import pathlib
import shutil

import keras
import tensorflow as tf

from iwae_tf import inputs, models
from iwae_tf.importance import importance_bounds, posterior_means


def export(model: models.ImportanceWeightedAutoencoder, path: str | pathlib.Path) -> None:
    """Writes the model as a SavedModel.

    The signatures accept any batch size. x is float32 [batch, event] or, except in `posterior`, images of any shape
    with `event` values, such as [batch, 28, 28]; `seed` is int32 [2], and the same seed gives the same numbers:

      log_likelihood(x, num_samples int32 [], seed) -> log_likelihood [batch], in nats, and effective_sample_size
        [batch]; the samples of an image depend on its place in the batch
      log_likelihood_by_id(x, image_ids int32 [batch], num_samples, seed) -> the same, but the samples of an image
        depend on its id, so its value is the same in any batch
      encode(x, seed) -> one sample z_1, z_2, ... of every layer, and mean, stddev [batch, d_1] of the distribution
        of z_1: q(z_1 | x), or in the Ladder VAE q(z_1 | z_2, x) given the sample z_2
      posterior(x) -> mean_1, stddev_1, mean_2, ... of q of every layer, [batch, d_l], where each sample is replaced by
        its mean; without random numbers, so it converts to TensorFlow Lite, as decode does
      decode(z [batch, d_1]) -> probabilities, logits [batch, event]
      sample(num_images int32 [], seed) -> probabilities [num_images, event]
      reconstruct(x, seed) -> probabilities [batch, event]

    With other likelihoods than Bernoulli the last three return `mean` instead, and there is one more, and a further one
    if values may be missing (NaN):

      draw(num_images, seed) -> x [num_images, event], with the noise of p(x | z)
      impute(x, num_samples, seed) -> x [batch, event], where E[x | the other values] replaces missing values, and
        effective_sample_size [batch]

    Wrong shapes, values without a density, and num_samples < 1 are errors of the signatures, except that `posterior`
    does not check values: assertions do not convert to TensorFlow Lite.

    Args:
      model: an `ImportanceWeightedAutoencoder` with Gaussian q.
      path: the folder; an existing folder is replaced.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    model.build((None, model.event_size))
    archive = keras.export.ExportArchive()
    archive.track(model)
    for signature, specs in _Signatures(model).inputs.items():
        archive.add_endpoint(signature.__name__, signature, input_signature=specs)
    archive.write_out(str(temporary), verbose=False)
    # In this order, so that a folder with this name is always complete.
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


class _Signatures:
    """The signatures of a model; each method is one."""

    def __init__(self, model):
        self._model = model
        self._latent_dims = model.inference.latent_dims
        x = tf.TensorSpec(None, tf.float32, name="x")
        flat_x = tf.TensorSpec([None, model.event_size], tf.float32, name="x")
        image_ids = tf.TensorSpec([None], tf.int32, name="image_ids")
        num_samples = tf.TensorSpec([], tf.int32, name="num_samples")
        num_images = tf.TensorSpec([], tf.int32, name="num_images")
        seed = tf.TensorSpec([2], tf.int32, name="seed")
        z = tf.TensorSpec([None, self._latent_dims[0]], tf.float32, name="z")
        self.inputs = {
            self.log_likelihood: [x, num_samples, seed],
            self.log_likelihood_by_id: [x, image_ids, num_samples, seed],
            self.encode: [x, seed],
            self.posterior: [flat_x],
            self.decode: [z],
            self.sample: [num_images, seed],
            self.reconstruct: [x, seed],
        }
        self._is_binary = model.support.is_binary
        if not self._is_binary:
            self.inputs[self.draw] = [num_images, seed]
        if model.missing_values:
            self.inputs[self.impute] = [x, num_samples, seed]

    def log_likelihood(self, x, num_samples, seed):
        return self.log_likelihood_by_id(x, tf.range(tf.shape(x)[0]), num_samples, seed)

    def log_likelihood_by_id(self, x, image_ids, num_samples, seed):
        x = self._flat(x)
        same = tf.equal(tf.size(image_ids), tf.shape(x)[0])
        assertions = [
            *_at_least_one("num_samples", num_samples),
            *inputs.require(same, "image_ids has", tf.size(image_ids), "values, but must have one for each image."),
        ]
        with tf.control_dependencies(assertions):
            ranges = tf.stack([[0, num_samples]])
        estimates = importance_bounds(self._model, x, image_ids, ranges, seed)
        size = estimates.effective_sample_size
        return {"log_likelihood": estimates.bounds[0], "effective_sample_size": size}

    def encode(self, x, seed):
        x = self._flat(x)
        samples, q = self._model.inference(x, self._model.draw_epsilon(1, tf.shape(x)[0], seed))
        z = {f"z_{layer}": sample[0] for layer, sample in enumerate(samples, start=1)}
        shape = tf.shape(z["z_1"])
        return {"mean": tf.reshape(q[0].mean(), shape), "stddev": tf.reshape(q[0].stddev(), shape), **z}

    def posterior(self, x):
        moments = {}
        for layer, (q, units) in enumerate(zip(self._model.mean_path(x), self._latent_dims, strict=True), start=1):
            moments[f"mean_{layer}"] = tf.reshape(q.mean(), [-1, units])
            moments[f"stddev_{layer}"] = tf.reshape(q.stddev(), [-1, units])
        return moments

    def decode(self, z):
        p_x = self._model.generative.decode(z)
        return self._means(p_x) | ({"logits": p_x.distribution.logits} if self._is_binary else {})

    def _means(self, p_x):
        return {"probabilities" if self._is_binary else "mean": p_x.mean()}

    def sample(self, num_images, seed):
        with tf.control_dependencies(_at_least_one("num_images", num_images)):
            num_images = tf.identity(num_images)
        return self._means(self._model.sampled(num_images, seed))

    def draw(self, num_images, seed):
        with tf.control_dependencies(_at_least_one("num_images", num_images)):
            num_images = tf.identity(num_images)
        return {"x": self._model.drawn(num_images, seed)}

    def reconstruct(self, x, seed):
        return self._means(self._model.reconstructed(self._flat(x), seed))

    def impute(self, x, num_samples, seed):
        x = self._flat(x)
        with tf.control_dependencies(_at_least_one("num_samples", num_samples)):
            num_samples = tf.identity(num_samples)
        means = posterior_means(self._model, x, tf.range(tf.shape(x)[0]), num_samples, seed)
        return {
            "x": tf.where(tf.math.is_nan(x), means.x, x),
            "effective_sample_size": means.effective_sample_size,
        }

    def _flat(self, x):
        """Images of any shape as checked images [batch, event]."""
        event, shape = self._model.event_size, tf.shape(x)
        fits = tf.equal(tf.reduce_prod(shape[1:]), event)
        with tf.control_dependencies(
            inputs.require(fits, "The images have shape", shape, f", but must have {event} values each.")
        ):
            return self._model.checked(tf.reshape(x, [-1, event]))[0]


def _at_least_one(name, count):
    return inputs.require(count > 0, f"{name} is", count, ", but must be at least 1.")

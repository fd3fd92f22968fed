"""What a trained model is used for: encodings, samples, reconstructions, interpolations, log-likelihoods."""

import linear_gaussian
import numpy as np
import pytest
import small_model
import tensorflow as tf
from small_model import EVENT

import iwae_tf
from iwae_tf import noise

X, _, _ = small_model.data()
LADDER = {"latent_dims": (3, 2), "inference": "ladder"}


@pytest.fixture(params=[{}, {"latent_dims": (3, 2)}, LADDER], ids=["one layer", "two layers", "ladder"])
def model(request):
    model = small_model.build(**request.param)
    for variable in model.trainable_variables:  # The initial decoder hardly depends on z.
        variable.assign_add(0.3 * tf.random.stateless_normal(variable.shape, [0, 1]))
    return model


def test_encode_and_decode(model):
    means, stddevs, samples = model.encode(X, num_samples=4)
    for moments, samples_l, units in zip(zip(means, stddevs, strict=True), samples, (3, 2), strict=False):
        assert [moment.shape for moment in moments] == [(len(X), units)] * 2
        assert samples_l.shape == (4, len(X), units)
    assert model.decode(samples[0]).mean().shape == (4, len(X), EVENT)
    assert model.decode(samples[0][0].numpy()).mean().shape == (len(X), EVENT)
    np.testing.assert_array_equal(model.encode(X, 4).samples[0], samples[0])
    assert np.any(model.encode(X, 4, seed=1).samples[0] != samples[0])


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_the_encoding_has_the_moments_of_the_exact_posterior(num_layers):
    """q(z_l | x) of the linear-Gaussian model is a Gaussian whose moments the samples have."""
    model, _ = linear_gaussian.build(num_layers)
    x = linear_gaussian.data()
    means, stddevs, _ = model.encode(x, num_samples=4000)
    _, _, samples = model.encode(x, num_samples=4000, seed=1)
    for mean, stddev, z in zip(means, stddevs, samples, strict=True):
        stderr = stddev / np.sqrt(4000)
        assert np.max(np.abs(np.mean(z, axis=0) - mean) / stderr) < 4.5 * np.sqrt(2.0)
        np.testing.assert_allclose(np.std(z, axis=0), stddev, rtol=4.5 * np.sqrt(2.0 / 4000))


def test_sample_and_reconstruct_return_pictures(model):
    assert model.sample(6).shape == (6, EVENT)
    np.testing.assert_array_equal(model.sample(6), model.sample(6, seed=0))
    assert np.any(model.sample(6) != model.sample(6, seed=1))
    np.testing.assert_array_equal(model.sample(6), model.sampled(6, noise.key(0, "samples")).mean())
    assert model.reconstruct(X).shape == X.shape
    assert np.any(model.reconstruct(X) != model.reconstruct(X, seed=1))
    assert np.all((model.sample(6).numpy() > 0.0) & (model.sample(6).numpy() < 1.0))


def test_interpolations_go_from_one_mean_to_the_other(model):
    pictures = model.interpolate(X[:2], X[2:4], steps=5)
    assert pictures.shape == (5, 2, EVENT)
    for picture, x in ((pictures[0], X[:2]), (pictures[-1], X[2:4])):
        z = tf.reshape(model.mean_path(tf.constant(x))[0].mean(), [2, 3])
        np.testing.assert_allclose(picture, model.decode(z).mean(), rtol=1e-5)
    one = model.interpolate(X[0], X[2], steps=5)
    np.testing.assert_allclose(one, pictures[:, 0], rtol=1e-5)


def test_bad_arguments_of_interpolate():
    model = small_model.build()
    with pytest.raises(ValueError, match="steps is 1, but must be an integer, at least 2"):
        model.interpolate(X[:1], X[1:2], steps=1)
    with pytest.raises(ValueError, match=r"x1 has shape \(8,\) and x2 \(1, 8\)"):
        model.interpolate(X[0], X[:1])


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda model: model.encode(X, num_samples=0), "num_samples is 0, but must be an integer, at least 1"),
        (lambda model: model.encode(X, seed=2**31), "seed is 2147483648, but must be an integer, from 0 to 2147483647"),
        (lambda model: model.encode(X[:, :5]), r"The images have shape \(11, 5\), but"),
        (lambda model: model.sample(2.5), "num_images is 2.5"),
        (lambda model: model.sample(2, seed=-1), "seed is -1"),
        (lambda model: model.reconstruct(X, seed=1.5), "seed is 1.5"),
        (lambda model: model.decode(X), r"z has shape \(11, 8\), but must be \[..., 3\]"),
        (lambda model: model.decode(model.encode(X).samples), "z is the samples of several layers"),
        (lambda model: model.log_likelihood(X, num_samples=True), "num_samples is True"),
        (lambda model: model.log_likelihood(X[:0]), "at least one image"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(use, message):
    with pytest.raises(ValueError, match=message) as error:
        use(small_model.build())
    assert "\n" not in str(error.value)


def test_rows_of_numbers_are_images():
    model = small_model.build()
    np.testing.assert_array_equal(model(X[:2].tolist()), model(X[:2]))
    np.testing.assert_array_equal(model.encode(X[:2].tolist()).means[0], model.encode(X[:2]).means[0])


def test_log_likelihood_is_that_of_the_function():
    model = small_model.build()
    measured = model.log_likelihood(X, num_samples=30, seed=3)
    np.testing.assert_array_equal(measured.values, iwae_tf.log_likelihood(model, X, 30, seed=3).values)
    assert measured.values.shape == (len(X),)


def test_the_gradient_by_x_is_that_of_differences():
    """Saliency: through log-weights, at values between 0 and 1, where differences can be taken."""
    model = small_model.build(layer_kwargs={"dtype": "float64"}, dtype="float64")
    x = tf.constant(np.random.default_rng(1).uniform(0.2, 0.8, [3, EVENT]))

    def bound(x):
        return tf.reduce_sum(tf.reduce_logsumexp(model.log_weights(x, 5, noise.key(0, "test")), axis=0))

    with tf.GradientTape() as tape:
        tape.watch(x)
        value = bound(x)
    gradient = tape.gradient(value, x)
    step = 1e-5 * np.eye(3 * EVENT).reshape(-1, 3, EVENT)
    differences = np.array([(bound(x + s) - bound(x - s)) / 2e-5 for s in step]).reshape(3, EVENT)
    np.testing.assert_allclose(gradient, differences, rtol=1e-5)

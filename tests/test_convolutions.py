"""The convolutional networks: transposed convolutions, sizes, configurations, estimators, colours."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import compatibility, layers, models, networks
from iwae_tf.layers.convolutions import DoublingConvolution

RNG = np.random.default_rng(0)
ARGUMENTS = {"kernel_initializer": keras.initializers.GlorotUniform(seed=0), "dtype": "float32"}


def test_a_doubling_convolution_is_a_transposed_convolution():
    """Its kernels of size 2, one for each phase of the output, are the parts of one kernel of size 4."""
    x = np.float32(RNG.normal(size=[2, 3, 5, 7]))
    layer = DoublingConvolution(4, [6, 10], product_dtype="float32", **ARGUMENTS)
    layer(x)
    phases = RNG.normal(size=[2, 2, 7, 4, 4])  # Offsets, input channels, phases, output channels.
    layer.phases.kernel.assign(phases.reshape(2, 2, 7, 16))
    kernel = np.zeros([4, 4, 4, 7], np.float32)
    for phase in range(4):
        i, j = divmod(phase, 2)
        for a in range(2):
            for b in range(2):
                kernel[3 - i - 2 * a, 3 - j - 2 * b] = phases[a, b, :, phase].T
    expected = tf.nn.conv2d_transpose(x, kernel, [2, 6, 10, 4], 2)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)


def _networks(image_shape, latent_dims=(3,), channels=(2, 3), likelihood="bernoulli", inference="bottom_up", **kwargs):
    shared = {"image_shape": image_shape, "channels": channels, "activation": "tanh", **kwargs}
    upsampling = layers.TransposedConvolutions(**shared, seed=1)
    return networks.paper_networks(
        int(np.prod(image_shape)),
        latent_dims,
        [(5,), *[(4,)] * (len(latent_dims) - 1)],
        inference=inference,
        likelihood=functools.partial(layers.LIKELIHOODS[likelihood], upsampling=upsampling),
        input_layer=layers.Convolutions(**shared, seed=2),
        **kwargs,
    )


@pytest.mark.parametrize("image_shape", [(8, 8), (9, 11), (8, 13, 3), (28, 28, 1)])
def test_images_of_any_size_and_colour(image_shape):
    model = models.ImportanceWeightedAutoencoder(*_networks(image_shape), num_samples=2)
    x = np.float32(RNG.integers(0, 2, [4, np.prod(image_shape)]))
    assert model(x).shape == (4,)
    assert model.sample(2).shape == (2, np.prod(image_shape))


def test_the_initial_output_is_the_mean_image():
    """The output's bias has a value for each pixel, as a dense one has, not one for each colour."""
    mean = RNG.uniform(0.1, 0.9, 80)
    upsampling = layers.TransposedConvolutions((8, 10), (2,), seed=0)
    layer = layers.BernoulliLayer(80, [4], 0, output_bias=layers.output_bias_from_mean(mean), upsampling=upsampling)
    layer(tf.zeros([1, 3]))
    np.testing.assert_allclose(layer(tf.zeros([1, 3])).mean()[0], mean, rtol=1e-5)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "discretized_logistic"])
def test_a_model_is_built_again_from_its_configuration(likelihood):
    model = models.ImportanceWeightedAutoencoder(*_networks((8, 8), likelihood=likelihood), num_samples=2)
    x = np.float32(RNG.integers(0, 2, [4, 64]))
    model(x)
    again = models.ImportanceWeightedAutoencoder.from_config(model.get_config())
    again(x)
    for variable, source in zip(again.variables_of_networks, model.variables_of_networks, strict=True):
        np.testing.assert_array_equal(variable, source)
    np.testing.assert_array_equal(again(x), model(x))


@pytest.mark.parametrize("inference", ["bottom_up", "ladder"])
@pytest.mark.parametrize("estimator", sorted(compatibility.SERVES))
def test_every_estimator_trains_them(estimator, inference):
    if estimator == "rws" and inference == "ladder":
        pytest.skip("rws needs an inference network with weights of its own")
    inference, generative = _networks((8, 8), (3, 2), inference=inference)
    model = models.ImportanceWeightedAutoencoder(inference, generative, "iwae", estimator, num_samples=4)
    model.compile(keras.optimizers.Adam(1e-2))
    x = np.float32(RNG.integers(0, 2, [8, 64]))
    model.build((None, 64))
    before = [variable.numpy() for variable in model.trainable_variables]
    model.fit(x, batch_size=4, epochs=2, verbose=0)
    assert all(np.any(variable.numpy() != old) for variable, old in zip(model.trainable_variables, before, strict=True))


def test_mixed_precision_rounds_products_only():
    arguments = {"dtype": "mixed_bfloat16"}
    model = models.ImportanceWeightedAutoencoder(*_networks((8, 8), **arguments), num_samples=2, **arguments)
    full = models.ImportanceWeightedAutoencoder(*_networks((8, 8)), num_samples=2)
    x = np.float32(RNG.integers(0, 2, [4, 64]))
    np.testing.assert_array_equal(model(x), full(x))  # Evaluation is not rounded.
    for either in (model, full):
        either.compile(keras.optimizers.SGD(1.0))
    (_, rounded), (_, exact) = model.gradients(x), full.gradients(x)
    differences = [tf.norm(a - b) / tf.norm(b) for a, b in zip(rounded, exact, strict=True)]
    # bfloat16 has 8 bits: 2^-9 for each of a few roundings in a row.
    assert 0.0 < max(differences) < 8 * 2.0**-8


def test_small_images_are_refused():
    assert "at least 8 x 8" in layers.check_channels((7, 9), (4,))
    assert "at least 8 x 8" in layers.check_channels((13,), (4,))
    assert "leave nothing" in layers.check_channels((8, 8), (4, 4, 4, 4))
    assert layers.check_channels((8, 8, 3), (4, 4, 4)) is None

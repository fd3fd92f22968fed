"""The convolutional networks: transposed convolutions, sizes, configurations, estimators, colours."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from iwae_tf import compatibility, layers, models, networks
from iwae_tf.layers.convolutions import StridedConvolution, TransposedConvolution

RNG = np.random.default_rng(0)
ARGUMENTS = {"seed": 0, "dtype": "float32", "product_dtype": "float32"}


def _kernel(stride, inputs, outputs):
    """A random kernel of 2 stride x 2 stride."""
    return np.float32(RNG.normal(size=[2 * stride, 2 * stride, inputs, outputs]))


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_a_strided_convolution_on_the_coarse_grid_is_the_ordinary_one(stride):
    x = np.float32(RNG.normal(size=[2, 9, 11, 3]))
    layer = StridedConvolution(5, stride, **ARGUMENTS)
    layer(x)
    kernel = _kernel(stride, 3, 5)
    blocks = kernel.reshape(2, stride, 2, stride, 3, 5).transpose(0, 2, 1, 3, 4, 5)
    layer.convolution.kernel.assign(blocks.reshape(2, 2, -1, 5))
    before, sizes = stride // 2, [-(-side // stride) for side in (9, 11)]
    margins = [[before, (size + 1) * stride - side - before] for size, side in zip(sizes, (9, 11), strict=True)]
    expected = tf.nn.conv2d(x, kernel, stride, [[0, 0], *margins, [0, 0]])
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_a_transposed_convolution_is_the_transpose_of_the_strided_one(stride):
    """<y, A x> = <A^T y, x>, with the weights of A in the order of the transpose."""
    height, width = 3 * stride, 5 * stride
    x, y = np.float32(RNG.normal(size=[1, height, width, 3])), np.float32(RNG.normal(size=[1, 3, 5, 2]))
    strided, transposed = (
        StridedConvolution(2, stride, **ARGUMENTS),
        TransposedConvolution(3, [height, width], stride, **ARGUMENTS),
    )
    strided(x), transposed(y)
    kernel = _kernel(stride, 3, 2)
    blocks = kernel.reshape(2, stride, 2, stride, 3, 2).transpose(0, 2, 1, 3, 4, 5)
    strided.convolution.kernel.assign(blocks.reshape(2, 2, -1, 2))
    before = stride // 2
    phases = np.zeros([2, 2, 2, stride, stride, 3], np.float32)
    for a, b, i, j in itertools.product(range(2), range(2), range(stride), range(stride)):
        # An output of this phase sees the inputs a, b places after the first; where that is in the kernel.
        row, column = (p + before - stride * (offset - 1 + (p >= stride - before)) for p, offset in ((i, a), (j, b)))
        phases[a, b, :, i, j] = kernel[row, column].T
    transposed.phases.kernel.assign(phases.reshape(2, 2, 2, -1))
    left, right = tf.reduce_sum(y * strided(x)), tf.reduce_sum(transposed(y) * x)
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-3)


def _networks(
    image_shape,
    latent_dims=(3,),
    channels=(2, 3),
    strides=(2, 2),
    likelihood="bernoulli",
    inference="bottom_up",
    **kwargs,
):
    shared = {"image_shape": image_shape, "channels": channels, "strides": strides, "activation": "tanh", **kwargs}
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


@pytest.mark.parametrize("image_shape", [(9, 11), (8, 13, 3)])
def test_images_of_any_size_and_colour(image_shape):
    model = models.ImportanceWeightedAutoencoder(*_networks(image_shape), num_samples=2)
    x = np.float32(RNG.integers(0, 2, [4, np.prod(image_shape)]))
    assert model(x).shape == (4,)
    assert model.sample(2).shape == (2, np.prod(image_shape))


def test_the_initial_output_is_the_mean_image():
    """The output's bias has a value for each pixel, as a dense one has, not one for each colour."""
    mean = RNG.uniform(0.1, 0.9, 80)
    upsampling = layers.TransposedConvolutions((8, 10), (2,), (4,), seed=0)
    layer = layers.BernoulliLayer(80, [4], 0, output_bias=layers.output_bias_from_mean(mean), upsampling=upsampling)
    layer(tf.zeros([1, 3]))
    np.testing.assert_allclose(layer(tf.zeros([1, 3])).mean()[0], mean, rtol=1e-5)


@pytest.mark.parametrize("likelihood", ["bernoulli", "discretized_logistic"])
def test_a_model_is_built_again_from_its_configuration(likelihood):
    model = models.ImportanceWeightedAutoencoder(*_networks((8, 8), likelihood=likelihood), num_samples=2)
    x = np.float32(RNG.integers(0, 2, [4, 64]))
    model(x)
    again = models.ImportanceWeightedAutoencoder.from_config(model.get_config())
    again(x)
    for variable, source in zip(again.variables_of_networks, model.variables_of_networks, strict=True):
        np.testing.assert_array_equal(variable, source)
    np.testing.assert_array_equal(again(x), model(x))


_PAIRS = [(e, i) for e in sorted(compatibility.SERVES) for i in ("bottom_up", "ladder") if (e, i) != ("rws", "ladder")]


@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "inference"), _PAIRS)
def test_every_estimator_trains_them(estimator, inference):
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
    assert "at least 8 x 8" in layers.check_channels((7, 9), (4,), (2,))
    assert "at least 8 x 8" in layers.check_channels((13,), (4,), (2,))
    assert "leave nothing" in layers.check_channels((8, 8), (4, 4), (4, 3))
    assert "2 channels, but 1 strides" in layers.check_channels((8, 8), (4, 4), (4,))
    assert layers.check_channels((8, 8, 3), (4, 4, 4), (2, 2, 2)) is None

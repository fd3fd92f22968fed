"""Convolutional parts of the networks of images: strided convolutions of x, and transposed ones back to it.

The sizes are halved, rounded up, once for each number of channels: 28 x 28 becomes 14 x 14 and 7 x 7.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from iwae_tf import products
from iwae_tf.products import PACKAGE

_KERNEL_SIZE = 4


class ImageLayer(keras.layers.Layer):
    """What both directions share.

    Args:
      image_shape: (height, width) or (height, width, colours) of x.
      channels: the channels after each convolution of x, the first one first.
      seed: seed of the initial weights.
      activation: the activation after each convolution.
    """

    def __init__(
        self, image_shape: Sequence[int], channels: Sequence[int], seed: int, activation: str = "tanh", **kwargs: Any
    ) -> None:
        super().__init__(**{"autocast": False, **kwargs})
        self.image_shape, self.channels, self.seed = tuple(image_shape), tuple(channels), seed
        self.activation = keras.activations.get(activation)
        height, width, *colours = self.image_shape
        self.num_colours = colours[0] if colours else 1
        self.sizes: list[tuple[int, ...]] = [(height, width)]
        for _ in channels:
            self.sizes.append(tuple(-(-side // 2) for side in self.sizes[-1]))
        self._weight_seeds = np.random.SeedSequence(seed).generate_state(len(self.channels) + 4).tolist()

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "image_shape": self.image_shape,
            "channels": self.channels,
            "seed": self.seed,
            "activation": keras.activations.serialize(self.activation),
        }

    def build(self, shape: tuple) -> None:
        """Does nothing: the parts are built when they are called."""

    def part_arguments(self) -> dict[str, Any]:
        """The arguments that all parts have: types, and the next seed for the paper's initialisation."""
        initializer = keras.initializers.GlorotUniform(seed=self._weight_seeds.pop())
        dtypes = {"dtype": self.variable_dtype, "product_dtype": self.compute_dtype}
        return {"kernel_initializer": initializer, **dtypes}


@keras.saving.register_keras_serializable(PACKAGE)
class Convolutions(ImageLayer):
    """Strided convolutions, for the `input_layer` of q(z_1 | x); see `ImageLayer` for the arguments.

    Args:
      preprocessing: what x passes through first, such as `Preprocessing`, or None.
    """

    def __init__(self, *args: Any, preprocessing: keras.layers.Layer | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.preprocessing = preprocessing
        self.parts = [
            products.Conv2D(count, _KERNEL_SIZE, 2, "same", activation=self.activation, **self.part_arguments())
            for count in self.channels
        ]

    def get_config(self) -> dict[str, Any]:
        inner = self.preprocessing and keras.saving.serialize_keras_object(self.preprocessing)
        return {**super().get_config(), "preprocessing": inner}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Convolutions":
        """The inverse of `get_config`."""
        return cls(**{**config, "preprocessing": keras.saving.deserialize_keras_object(config["preprocessing"])})

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Maps x [batch, event] to [batch, features]."""
        x = x if self.preprocessing is None else self.preprocessing(x)
        x = tf.reshape(x, [-1, *self.sizes[0], self.num_colours])
        for part in self.parts:
            x = part(x)
        return tf.reshape(x, [-1, int(np.prod(x.shape[1:]))])


@keras.saving.register_keras_serializable(PACKAGE)
class TransposedConvolutions(ImageLayer):
    """Transposed convolutions, for the `upsampling` of p(x | z_1); see `ImageLayer` for the arguments.

    The last one, to the colours of x, is a head of the likelihood, see `head`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        (height, width), count = self.sizes[-1], self.channels[-1]
        self.dense = products.Dense(height * width * count, activation=self.activation, **self.part_arguments())
        self.parts = [
            DoublingConvolution(count, size, **self.part_arguments())
            for count, size in zip(self.channels[-2::-1], self.sizes[-2:0:-1], strict=True)
        ]

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Maps [..., width] to the values of the channels at half the size of x, [..., features]."""
        x = self.dense(features)
        leading = products.leading_shape(x)
        x = tf.reshape(x, [-1, *self.sizes[-1], self.channels[-1]])
        for part in self.parts:
            x = self.activation(part(x))
        return tf.reshape(x, [*leading, int(np.prod(x.shape[1:]))])

    def head(self, name: str, bias: np.ndarray | None) -> "PixelHead":
        """Returns the layer that maps the output of `call` to a parameter of each pixel."""
        half = (*self.sizes[1], self.channels[0])
        return PixelHead(half, (*self.sizes[0], self.num_colours), bias, name=name, **self.part_arguments())


class DoublingConvolution(keras.layers.Layer):
    """A transposed convolution of stride 2 and kernel size 4.

    Each of the four phases of the output is an ordinary convolution of size 2; one convolution computes all, as XLA is
    slow at transposed ones on a CPU.

    Args:
      channels: the channels of the output.
      size: its height and width, at most twice those of the input; what is beyond is cut off.
      **part_arguments: see `ImageLayer.part_arguments`.
    """

    def __init__(self, channels: int, size: Sequence[int], name: str | None = None, **part_arguments: Any) -> None:
        super().__init__(name=name, dtype=part_arguments["dtype"], autocast=False)
        self.channels, self.size = channels, size
        self.phases = products.Conv2D(4 * channels, 2, 1, "valid", **part_arguments)

    def build(self, shape: tuple) -> None:
        """Does nothing: the part is built when it is called."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Maps [n, h, w, c] to [n, *size, channels]."""
        height, width = x.shape[1:3]
        phases = tf.split(self.phases(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])), 4, axis=-1)
        rows = []
        for i in range(2):
            pair = [phases[2 * i + j][:, i : i + height, j : j + width] for j in range(2)]
            rows.append(tf.reshape(tf.stack(pair, axis=3), [-1, height, 2 * width, self.channels]))
        doubled = tf.reshape(tf.stack(rows, axis=2), [-1, 2 * height, 2 * width, self.channels])
        return doubled[:, : self.size[0], : self.size[1]]


class PixelHead(keras.layers.Layer):
    """A doubling convolution to the colours of x, with a bias for each pixel.

    Args:
      half_shape: height, width and channels of the input.
      image_shape: height, width and colours of x.
      bias: the initial bias [event]; None means zeros.
      **part_arguments: see `ImageLayer.part_arguments`.
    """

    def __init__(
        self,
        half_shape: Sequence[int],
        image_shape: Sequence[int],
        bias: np.ndarray | None,
        name: str,
        **part_arguments: Any,
    ) -> None:
        super().__init__(name=name, dtype=part_arguments["dtype"], autocast=False)
        self.half_shape, self.event = tuple(half_shape), int(np.prod(image_shape))
        self.convolution = DoublingConvolution(image_shape[2], image_shape[:2], use_bias=False, **part_arguments)
        initializer = "zeros" if bias is None else keras.initializers.Constant(np.asarray(bias, np.float32))
        self.bias = self.add_weight([self.event], initializer, name="bias")

    def build(self, shape: tuple) -> None:
        """Does nothing: the part is built when it is called."""

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Maps [..., features] to [..., event]."""
        leading = products.leading_shape(features)
        x = self.convolution(tf.reshape(features, [-1, *self.half_shape]))
        return tf.reshape(
            products.plus_bias(tf.reshape(x, [-1, self.event]), tf.cast(self.bias, x.dtype)), [*leading, self.event]
        )


def check_channels(image_shape: Sequence[int], channels: Sequence[int]) -> str | None:
    """Returns why images are too small for these convolutions, or None."""
    smallest = min(image_shape[:2])
    if len(image_shape) < 2 or smallest < 8:
        return f"convolutions need images of at least 8 x 8, but these are {' x '.join(map(str, image_shape))}"
    if 2 ** len(channels) > smallest:
        return f"{len(channels)} convolutions of stride 2 leave nothing of {' x '.join(map(str, image_shape))} images"
    return None

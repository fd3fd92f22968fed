"""Convolutional parts of the networks of images: strided convolutions of x, and transposed ones back to it.

A convolution of stride s has a kernel of 2 s x 2 s and divides the height and the width by s, rounded up. Seen on the
coarser grid, each is a convolution of 2 x 2 between blocks of s x s values, and so is its transpose.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from iwae_tf import products
from iwae_tf.products import PACKAGE


class ImageLayer(keras.layers.Layer):
    """What both directions share.

    Args:
      image_shape: (height, width) or (height, width, colours) of x.
      channels: the channels after each convolution of x, the first one first.
      strides: the stride of each.
      seed: seed of the initial weights.
      activation: the activation after each convolution.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int],
        strides: Sequence[int],
        seed: int,
        activation: str = "tanh",
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"autocast": False, **kwargs})
        self.image_shape, self.seed = tuple(image_shape), seed
        self.channels, self.strides = tuple(channels), tuple(strides)
        self.activation = keras.activations.get(activation)
        height, width, *colours = self.image_shape
        self.num_colours = colours[0] if colours else 1
        self.sizes: list[tuple[int, ...]] = [(height, width)]
        for stride in self.strides:
            self.sizes.append(tuple(-(-side // stride) for side in self.sizes[-1]))
        self._weight_seeds = np.random.SeedSequence(seed).generate_state(len(self.channels) + 4).tolist()

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "image_shape": self.image_shape,
            "channels": self.channels,
            "strides": self.strides,
            "seed": self.seed,
            "activation": keras.activations.serialize(self.activation),
        }

    def build(self, shape: tuple) -> None:
        """Does nothing: the parts are built when they are called."""

    def part_arguments(self) -> dict[str, Any]:
        """The next seed, and the types of a part."""
        dtypes = {"dtype": self.variable_dtype, "product_dtype": self.compute_dtype}
        return {"seed": self._weight_seeds.pop(), **dtypes}


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
            StridedConvolution(count, stride, **self.part_arguments())
            for count, stride in zip(self.channels, self.strides, strict=True)
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
            x = self.activation(part(x))
        return tf.reshape(x, [-1, int(np.prod(x.shape[1:]))])


@keras.saving.register_keras_serializable(PACKAGE)
class TransposedConvolutions(ImageLayer):
    """Transposed convolutions, for the `upsampling` of p(x | z_1); see `ImageLayer` for the arguments.

    The last one, to the colours of x, is a head of the likelihood, see `head`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        (height, width), count, arguments = self.sizes[-1], self.channels[-1], self.part_arguments()
        initializer = keras.initializers.GlorotUniform(seed=arguments.pop("seed"))
        units = height * width * count
        self.dense = products.Dense(units, activation=self.activation, kernel_initializer=initializer, **arguments)
        self.parts = [
            TransposedConvolution(count, size, stride, **self.part_arguments())
            for count, size, stride in zip(self.channels[-2::-1], self.sizes[-2:0:-1], self.strides[:0:-1], strict=True)
        ]

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Maps [..., width] to the values of the first channels after the first stride, [..., features]."""
        x = self.dense(features)
        leading = products.leading_shape(x)
        x = tf.reshape(x, [-1, *self.sizes[-1], self.channels[-1]])
        for part in self.parts:
            x = self.activation(part(x))
        return tf.reshape(x, [*leading, int(np.prod(x.shape[1:]))])

    def head(self, name: str, bias: np.ndarray | None) -> "PixelHead":
        """Returns the layer that maps the output of `call` to a parameter of each pixel."""
        inputs, outputs = (*self.sizes[1], self.channels[0]), (*self.sizes[0], self.num_colours)
        return PixelHead(inputs, outputs, self.strides[0], bias, name=name, **self.part_arguments())


class StridedConvolution(keras.layers.Layer):
    """A convolution of a stride s, with a kernel of 2 s x 2 s and a bias.

    Args:
      channels: the channels of the output.
      stride: the stride.
      **part_arguments: see `ImageLayer.part_arguments`.
    """

    def __init__(self, channels: int, stride: int, **part_arguments: Any) -> None:
        super().__init__(dtype=part_arguments["dtype"], autocast=False)
        self.stride = stride
        self.convolution = products.Convolution(channels, **part_arguments)
        self.bias = self.add_weight([channels], "zeros", name="bias", autocast=False)

    def build(self, shape: tuple) -> None:
        """Does nothing: the part is built when it is called."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Maps [n, h, w, c] to [n, ceil(h / stride), ceil(w / stride), channels]."""
        stride, (height, width, channels) = self.stride, x.shape[1:]
        sizes = [-(-side // stride) + 1 for side in (height, width)]
        before = stride // 2
        margins = [[before, size * stride - side - before] for size, side in zip(sizes, (height, width), strict=True)]
        blocks = tf.pad(x, [[0, 0], *margins, [0, 0]])
        blocks = tf.reshape(blocks, [-1, sizes[0], stride, sizes[1], stride, channels])
        blocks = tf.reshape(tf.transpose(blocks, [0, 1, 3, 2, 4, 5]), [-1, *sizes, stride * stride * channels])
        return self.convolution(blocks) + self.bias


class TransposedConvolution(keras.layers.Layer):
    """A transposed convolution of a stride s, with a kernel of 2 s x 2 s.

    The outputs at the place (i, j) of each block of s x s, its phase, are a convolution of 2 x 2 of the input.

    Args:
      channels: the channels of the output.
      size: its height and width; what is beyond is cut off.
      stride: the stride.
      use_bias: whether there is a bias for each channel.
      **part_arguments: see `ImageLayer.part_arguments`.
    """

    def __init__(
        self, channels: int, size: Sequence[int], stride: int, use_bias: bool = True, **part_arguments: Any
    ) -> None:
        super().__init__(dtype=part_arguments["dtype"], autocast=False)
        self.channels, self.size, self.stride = channels, tuple(size), stride
        self.phases = products.Convolution(stride * stride * channels, **part_arguments)
        self.bias = self.add_weight([channels], "zeros", name="bias", autocast=False) if use_bias else None

    def build(self, shape: tuple) -> None:
        """Does nothing: the part is built when it is called."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Maps [n, h, w, c] to [n, *size, channels]."""
        stride, (height, width) = self.stride, x.shape[1:3]
        phases = tf.split(self.phases(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])), stride * stride, axis=-1)
        # The second half of the phases is nearer to the next input.
        starts = [int(phase >= stride - stride // 2) for phase in range(stride)]
        rows = []
        for i, top in enumerate(starts):
            row = [phases[stride * i + j][:, top : top + height, left : left + width] for j, left in enumerate(starts)]
            rows.append(tf.reshape(tf.stack(row, axis=3), [-1, height, stride * width, self.channels]))
        whole = tf.reshape(tf.stack(rows, axis=2), [-1, stride * height, stride * width, self.channels])
        whole = whole[:, : self.size[0], : self.size[1]]
        return whole if self.bias is None else whole + self.bias


class PixelHead(keras.layers.Layer):
    """A transposed convolution to the colours of x, with a bias for each pixel.

    Args:
      input_shape: height, width and channels of the input.
      image_shape: height, width and colours of x.
      stride: the stride.
      bias: the initial bias [event]; None means zeros.
      **part_arguments: see `ImageLayer.part_arguments`.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        image_shape: Sequence[int],
        stride: int,
        bias: np.ndarray | None,
        name: str,
        **part_arguments: Any,
    ) -> None:
        super().__init__(name=name, dtype=part_arguments["dtype"], autocast=False)
        self.shape, self.event = tuple(input_shape), int(np.prod(image_shape))
        *size, colours = image_shape
        self.convolution = TransposedConvolution(colours, size, stride, use_bias=False, **part_arguments)
        initializer = "zeros" if bias is None else keras.initializers.Constant(np.asarray(bias, np.float32))
        self.bias = self.add_weight([self.event], initializer, name="bias", autocast=False)

    def build(self, shape: tuple) -> None:
        """Does nothing: the part is built when it is called."""

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Maps [..., features] to [..., event]."""
        leading = products.leading_shape(features)
        x = self.convolution(tf.reshape(features, [-1, *self.shape]))
        rows = products.plus_bias(tf.reshape(x, [-1, self.event]), tf.cast(self.bias, x.dtype))
        return tf.reshape(rows, [*leading, self.event])


def check_channels(image_shape: Sequence[int], channels: Sequence[int], strides: Sequence[int]) -> str | None:
    """Returns why images or sizes are not possible for these convolutions, or None."""
    shape = " x ".join(map(str, image_shape))
    if len(image_shape) < 2 or min(image_shape[:2]) < 8:
        return f"convolutions need images of at least 8 x 8, but these are {shape}"
    if len(channels) != len(strides) or not channels:
        return f"there are {len(channels)} channels, but {len(strides)} strides"
    if int(np.prod(strides)) > min(image_shape[:2]):
        return f"strides of {' x '.join(map(str, strides))} leave nothing of {shape} images"
    return None

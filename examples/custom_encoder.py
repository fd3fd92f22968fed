"""A custom encoder: a small convolutional network instead of the paper's fully connected one.

    python examples/custom_encoder.py

A stochastic layer is a Keras layer that returns a distribution and has an attribute `units`. Both models have the same
decoder and the same data, samples and epochs. A registered layer is found again by `iwae_tf.load`.
"""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

import iwae_tf
from iwae_tf import layers, networks


@keras.saving.register_keras_serializable("examples")
class ConvolutionalEncoder(keras.layers.Layer):
    """q(z | x): two strided convolutions, and the mean and the logarithm of the standard deviation of a Gaussian."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.net = keras.Sequential(
            [
                keras.layers.Reshape((28, 28, 1)),
                keras.layers.Conv2D(16, 5, strides=2, activation="swish"),
                keras.layers.Conv2D(32, 5, strides=2, activation="swish"),
                keras.layers.Flatten(),
                keras.layers.Dense(2 * units),
            ]
        )

    def call(self, x):
        parameters = tf.cast(self.net(x), tf.float32)  # Log-densities need it under a mixed precision policy, too.
        loc, log_scale = tf.split(parameters, 2, axis=-1)
        return tfp.distributions.MultivariateNormalDiag(loc, tf.exp(log_scale))


def main(num_images=10_000, epochs=10, num_samples=500):
    keras.utils.set_random_seed(0)  # Of the weights of the convolutions.
    images = iwae_tf.load_dataset("mnist").first(num_images)
    bias = layers.output_bias_from_mean(images.train_mean)
    x = iwae_tf.datasets.binarization.fixed_binarization(images.test[:500], "test")
    encoders = {
        "fully connected": layers.GaussianLayer(20, (200, 200), seed=1),
        "convolutional": ConvolutionalEncoder(20),
    }
    values = {}
    for name, encoder in encoders.items():
        decoder = layers.BernoulliLayer(784, (200, 200), seed=2, output_bias=bias)
        model = iwae_tf.ImportanceWeightedAutoencoder(
            networks.BottomUpInference([encoder]),
            networks.GenerativeNetwork([decoder], layers.standard_normal(20)),
            num_samples=5,
        )
        run_dir = f"runs/examples/custom_encoder/{name.replace(' ', '_')}"
        trained = iwae_tf.train(model, images, iwae_tf.Plan(epochs=epochs, picture_every=epochs), run_dir)
        # As another program would: the run describes its networks.
        result = iwae_tf.log_likelihood(iwae_tf.load(run_dir), x, num_samples)
        values[name] = result.values
        print(
            f"{name} encoder: NLL {-result.mean:.2f} +- {result.stderr:.2f} nats (-L_{num_samples}), "
            f"{encoder.count_params():,} weights, {trained.seconds:.0f} s of training"
        )
    # On the same images, so the difference is known better than each NLL.
    gain = values["convolutional"] - values["fully connected"]
    print(f"difference {gain.mean():+.2f} +- {gain.std(ddof=1) / len(gain) ** 0.5:.2f} nats for the convolutions")


if __name__ == "__main__":
    main()

"""The Keras way: `fit` with validation and callbacks, a saved file, and the loaded model.

    python examples/keras_fit.py

The model is a `keras.Model` whose loss is the negative bound, so everything of Keras works: here early stopping, a
checkpoint of the best epoch, and a log file. The checkpoint is then loaded as any `.keras` file.
"""

import pathlib

import keras
import tensorflow as tf

import iwae_tf
from iwae_tf.datasets import binarization


def binarize(grey):
    """Draws the pixels of a batch anew each time it is used, as in the paper."""
    return tf.cast(tf.random.uniform(tf.shape(grey)) < tf.cast(grey, tf.float32) / 255.0, tf.float32)


def main(num_images=20_000, epochs=15, num_samples=500):
    folder = pathlib.Path("runs/examples/keras_fit")
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)  # Of the order of the images and of `binarize`.

    images = iwae_tf.load_dataset("mnist").first(num_images)
    batches = tf.data.Dataset.from_tensor_slices(images.train).shuffle(len(images.train))
    batches = batches.batch(100, drop_remainder=True).map(binarize).prefetch(tf.data.AUTOTUNE)
    validation = binarization.fixed_binarization(images.validation, "validation")

    bias = iwae_tf.layers.output_bias_from_mean(images.train_mean)
    inference, generative = iwae_tf.paper_networks(784, latent_dims=(50,), output_bias=bias)
    model = iwae_tf.ImportanceWeightedAutoencoder(inference, generative, num_samples=5)
    model.compile(optimizer=keras.optimizers.Adam(1e-3, epsilon=1e-4))  # The loss is the model's own.
    best = folder / "best.keras"
    callbacks = [
        keras.callbacks.EarlyStopping(patience=3),
        keras.callbacks.ModelCheckpoint(best, save_best_only=True),
        keras.callbacks.CSVLogger(folder / "log.csv"),
    ]
    fitted = model.fit(
        batches, validation_data=validation, epochs=epochs, shuffle=False, callbacks=callbacks, verbose=0
    )
    losses = fitted.history["val_loss"]
    print(f"{len(losses)} epochs: validation loss {losses[0]:.2f} after the first, {min(losses):.2f} at best")

    loaded = keras.saving.load_model(best)
    print(f"validation loss of the loaded file {loaded.evaluate(validation, verbose=0, return_dict=True)['loss']:.2f}")
    x = binarization.fixed_binarization(images.test[:500], "test")
    result = iwae_tf.log_likelihood(loaded, x, num_samples)
    print(f"test NLL {-result.mean:.2f} +- {result.stderr:.2f} nats (-L_{num_samples}, {len(x)} images)")


if __name__ == "__main__":
    main()

"""The second process of serving.py: uses the exported model with TensorFlow alone.

    python examples/serving_client.py

It needs neither `iwae_tf` nor TensorFlow Probability. It reads the images in x.npy, calls the signatures of the
SavedModel, converts `posterior` and `decode` to TensorFlow Lite, and writes what they return to answers.npz.
"""

import pathlib
import sys

import numpy as np
import tensorflow as tf

FOLDER = pathlib.Path("runs/examples/serving")


def lite(saved_model, signature, **inputs):
    """Returns what a signature returns after its conversion to TensorFlow Lite, name -> array."""
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=[signature])
    return tf.lite.Interpreter(model_content=converter.convert()).get_signature_runner(signature)(**inputs)


def main(num_samples=1000):
    saved_model = FOLDER / "run" / "saved_model"
    signatures = tf.saved_model.load(str(saved_model)).signatures
    x = np.load(FOLDER / "x.npy")
    samples, seed = tf.constant(num_samples), tf.constant([0, 1])

    ids = tf.range(len(x))
    together = signatures["log_likelihood_by_id"](x=tf.constant(x), image_ids=ids, num_samples=samples, seed=seed)
    alone = signatures["log_likelihood_by_id"](
        x=tf.constant(x[3:4]), image_ids=ids[3:4], num_samples=samples, seed=seed
    )
    values = together["log_likelihood"].numpy()
    print(f"client: log p(x) of image 3 is {values[3]:.4f} in a batch, and {alone['log_likelihood'][0]:.4f} alone")

    posterior = signatures["posterior"](x=tf.constant(x))
    z = signatures["encode"](x=tf.constant(x), seed=seed)["z_1"].numpy()
    decoded = signatures["decode"](z=tf.constant(z))["probabilities"].numpy()
    new = signatures["sample"](num_images=tf.constant(16), seed=seed)["probabilities"].numpy()
    print(f"client: {len(new)} new images of {new.shape[1]} pixels")

    lite_mean = lite(saved_model, "posterior", x=x)["mean_1"]
    lite_decoded = lite(saved_model, "decode", z=z)["probabilities"]
    np.savez(
        FOLDER / "answers.npz",
        log_likelihood=values,
        mean=posterior["mean_1"].numpy(),
        z=z,
        decoded=decoded,
        lite_mean=lite_mean,
        lite_decoded=lite_decoded,
    )
    print("client: imported iwae_tf:", "iwae_tf" in sys.modules)


if __name__ == "__main__":
    main()

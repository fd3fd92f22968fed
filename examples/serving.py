"""Serving: train and export a model, use it in a process that has only TensorFlow, and compare the numbers.

    python examples/serving.py

`python -m iwae_tf.main` exports every model to `saved_model/`. The second process, serving_client.py, loads it and also
converts the two signatures without random numbers, `posterior` and `decode`, to TensorFlow Lite.

There is no ONNX here: tf2onnx 1.17 converts `decode`, but neither `posterior` (it lacks the operation BroadcastArgs)
nor `encode`, `sample` and `log_likelihood_by_id`.
"""

import pathlib
import subprocess
import sys

import numpy as np

import iwae_tf
from iwae_tf.datasets import binarization

FOLDER = pathlib.Path("runs/examples/serving")
CLIENT = pathlib.Path(__file__).with_name("serving_client.py")


def main(num_images=10_000, epochs=10, num_samples=1000):
    flags = ["--k=5", f"--max_images={num_images}", f"--epochs={epochs}", "--noevaluate", f"--run_dir={FOLDER / 'run'}"]
    print("$ python -m iwae_tf.main", *flags, flush=True)
    subprocess.run([sys.executable, "-m", "iwae_tf.main", *flags], check=True)

    images = iwae_tf.load_dataset("mnist").first(100)
    x = binarization.fixed_binarization(images.test, "test")
    np.save(FOLDER / "x.npy", x)
    subprocess.run([sys.executable, str(CLIENT)], check=True)

    model = iwae_tf.load(FOLDER / "run")
    here = model.log_likelihood(x, num_samples)
    mean = model.encode(x).means[0].numpy()
    with np.load(FOLDER / "answers.npz") as there:
        decoded = model.decode(there["z"]).mean().numpy()
        print(f"log p(x): {here.mean:.2f} in memory, {there['log_likelihood'].mean():.2f} served with other samples")
        print(f"largest difference of posterior means {abs(mean - there['mean']).max():.1e}", end="")
        print(f", of decoded pixels {abs(decoded - there['decoded']).max():.1e}")
        print(f"TensorFlow Lite: of posterior means {abs(mean - there['lite_mean']).max():.1e}", end="")
        print(f", of decoded pixels {abs(decoded - there['lite_decoded']).max():.1e}")


if __name__ == "__main__":
    main()

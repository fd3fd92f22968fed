"""Reading diagnostics: what the numbers of a run say about its NLL, its posterior and its units.

    python examples/diagnostics.py

The model is trained on too few images for too long, on purpose, so that there is something to find. The numbers are in
the run's `results.json` and `test_log_likelihoods.npz`; docs/diagnostics.md explains them.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np

RUN_DIR = pathlib.Path("runs/examples/diagnostics")


def main(num_images=1_000, epochs=200, num_samples=500):
    flags = [f"--max_images={num_images}", f"--epochs={epochs}", "--k=5", f"--nll_samples={num_samples}"]
    flags += [f"--khat_images={num_images}", f"--train_nll_images={num_images}", "--noexport", f"--run_dir={RUN_DIR}"]
    print("$ python -m iwae_tf.main", *flags, flush=True)
    subprocess.run([sys.executable, "-m", "iwae_tf.main", *flags], check=True)
    results = json.loads((RUN_DIR / "results.json").read_text())

    nll, corrected = results["nll"]["mean"], results["corrected_nll"]["mean"]
    print(f"\nHow good is the model? NLL {nll:.2f} +- {results['nll']['stderr']:.2f} nats.")
    print(
        f"Would more samples help? By some {nll - corrected:.1f} nats: it is {corrected:.2f} without the bias of 1/k."
    )
    share = results["k_hat"]["share_above"]
    print(f"Is it reliable? k-hat is above 0.7 for {share:.0%} of the images: their log p(x) may be higher.")

    with np.load(RUN_DIR / "test_log_likelihoods.npz") as arrays:
        sizes = arrays["effective_sample_size"]
    print(f"How good a proposal is q? The median image rests on {np.median(sizes):.1f} of {num_samples} samples,")
    print(f"  and least on images {np.argsort(sizes)[:5].tolist()}; see {RUN_DIR}/figures/worst_images.png.")

    gap = nll - results["train_nll"]["mean"]
    print(f"Does it overfit? The NLL of the training images is {gap:.1f} nats lower.")
    (active,), (layer,) = results["active_units"]["per_layer"], results["units"]
    kls = np.sort(layer["kls"])[::-1]
    largest = kls[:10].sum() / kls.sum()
    print(f"Which units are used? {active} of {len(kls)} are active, and 10 have {largest:.0%} of the KL.")


if __name__ == "__main__":
    main()

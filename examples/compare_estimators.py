"""Comparing gradient estimators: the same model, data and budget with `standard`, `stl` and `dreg`.

    python examples/compare_estimators.py

Each model is evaluated on the same test images, with the same noise. So the difference of two models on an image is
much less noisy than their values, and its standard error is that over images. It does not include the chance of
training: other seeds give other differences. docs/comparison.md has longer trainings.
"""

import iwae_tf
from iwae_tf.datasets import binarization

ESTIMATORS = ("standard", "stl", "dreg")


def main(num_images=5_000, epochs=20, num_samples=500):
    images = iwae_tf.load_dataset("mnist").first(num_images)
    bias = iwae_tf.layers.output_bias_from_mean(images.train_mean)
    plan = iwae_tf.Plan(epochs=epochs, picture_every=epochs)
    x = binarization.fixed_binarization(images.test[:500], "test")

    results = {}
    for name in ESTIMATORS:
        networks = iwae_tf.paper_networks(784, latent_dims=(50,), output_bias=bias)  # The same initial weights.
        model = iwae_tf.ImportanceWeightedAutoencoder(*networks, gradient_estimator=name, num_samples=20)
        iwae_tf.train(model, images, plan, f"runs/examples/estimators/{name}")
        results[name] = iwae_tf.log_likelihood(model, x, num_samples)

    print(f"\nNLL (-L_{num_samples}) of {len(x)} test images in nats, and the difference from `standard`")
    for name, result in results.items():
        difference = results["standard"].values - result.values
        stderr = difference.std(ddof=1) / len(x) ** 0.5
        print(
            f"{name:<10} {-result.mean:.2f} +- {result.stderr:.2f}   {difference.mean():+.2f} +- {stderr:.2f}   "
            f"effective sample size {result.effective_sample_size.mean():.1f}"
        )


if __name__ == "__main__":
    main()

"""One's own csv file with missing values: train on it, fill the gaps, and compare with the truth.

    python examples/csv_with_gaps.py

The table is scikit-learn's breast cancer data, 569 rows of 30 measurements. Half of the values are removed at random,
and kept for the comparison. The two commands are those that one would type in a shell. Training uses what is left of
each row, too.
"""

import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import sklearn.datasets

FOLDER = pathlib.Path("runs/examples/csv_with_gaps")


def command(module, *flags):
    """Runs a command of the package, as a shell would."""
    print("$ python -m", module, *flags, flush=True)
    subprocess.run([sys.executable, "-m", module, *flags], check=True)


def main(epochs=300, num_samples=1000, share=0.5):
    FOLDER.mkdir(parents=True, exist_ok=True)
    complete = sklearn.datasets.load_breast_cancer(as_frame=True).data
    gaps = np.random.default_rng(0).random(complete.shape) < share
    table = FOLDER / "table.csv"
    complete.mask(gaps).to_csv(table, index=False)

    command(
        "iwae_tf.main",
        f"--dataset=csv:{table}",
        "--likelihood=gaussian",
        "--latent_dims=10",
        "--hidden_dims=128,128",
        "--k=20",
        "--gradient_estimator=dreg",
        "--batch_size=50",
        f"--epochs={epochs}",
        f"--nll_samples={num_samples}",
        "--noexport",
        f"--run_dir={FOLDER / 'run'}",
    )
    command(
        "iwae_tf.impute",
        f"--run_dir={FOLDER / 'run'}",
        f"--data={table}",
        f"--output={FOLDER / 'filled.csv'}",
        f"--num_samples={num_samples}",
    )

    filled = pd.read_csv(FOLDER / "filled.csv")[complete.columns]
    means = complete.mask(gaps).mean()
    with_means = complete.mask(gaps).fillna(means)
    for name, imputed in (("column means", with_means), ("the model", filled)):
        errors = ((imputed - complete) / complete.std()).to_numpy()[gaps]
        print(f"error of {name}: {np.sqrt(np.mean(errors**2)):.3f} standard deviations, of {gaps.sum():,} values")


if __name__ == "__main__":
    main()

"""Importance weighted autoencoders (Burda et al., arXiv:1509.00519) with Keras 3 and TensorFlow Probability."""

from iwae_tf.version import __version__

__all__ = ["__version__", "load"]


def load(run_dir):
    """Gives back the trained model of a run directory, with the weights that were evaluated.

    Args:
      run_dir: the folder, as given to `--run_dir`.

    Returns:
      A built `iwae_tf.models.ImportanceWeightedAutoencoder`.

    Raises:
      iwae_tf.errors.UserError: there is no trained model.
    """
    from iwae_tf.experiment import build  # On demand: the package itself imports neither TensorFlow nor flags.

    return build.load(run_dir)

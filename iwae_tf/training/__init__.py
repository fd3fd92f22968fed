"""Training: the loop over epochs, with checkpoints, event files and progress."""

from iwae_tf.training.loop import train, train_epochs
from iwae_tf.training.plan import Plan
from iwae_tf.training.state import prepare, restore, save_weights, use_averages

__all__ = ["Plan", "prepare", "restore", "save_weights", "train", "train_epochs", "use_averages"]

"""The folder of a run: its files and their formats."""

from iwae_tf.runs.directory import RunDirectory
from iwae_tf.runs.history import HISTORY_COLUMNS
from iwae_tf.runs.results import DataDescription, Results

__all__ = ["HISTORY_COLUMNS", "DataDescription", "Results", "RunDirectory"]

"""New data for a trained model: files with the columns or the image size that it was trained on."""

import pathlib
from typing import NamedTuple

import numpy as np

from iwae_tf import datasets, runs
from iwae_tf.datasets import formats, tables
from iwae_tf.errors import UserError
from iwae_tf.experiment import build, stored


class NewData(NamedTuple):
    """Rows or images to score or to impute.

    Attributes:
      name: what they are, for messages and the names of files.
      x: float array [num_rows, event], in the units of the likelihood.
      columns: the names of the columns; empty for images.
    """

    name: str
    x: np.ndarray
    columns: tuple[str, ...]


def opened_run(options) -> runs.RunDirectory:
    """Returns the run directory; options have `run_dir` and `data`.

    Raises:
      UserError: a flag is missing, or the folder is no run.
    """
    for name, what in (("run_dir", "the run of the model"), ("data", "the file with the new data")):
        if not getattr(options, name):
            raise UserError(f"--{name} is missing: give {what}.")
    run = build.run_directory(options.run_dir)
    stored.read_options(run)
    return run


def output_path(options, run: runs.RunDirectory, what: str) -> pathlib.Path:
    """Returns the file to write.

    Raises:
      UserError: it is neither .csv nor .npz, its folder is missing, or it is the file with the data.
    """
    source = pathlib.Path(options.data.partition(":")[2] or options.data)
    path = pathlib.Path(options.output or run.path / f"{what}_{source.name.partition('.')[0]}.csv")
    if path.suffix not in (".csv", ".npz"):
        raise UserError(f"--output={path} must end with .csv or .npz.")
    if not path.parent.is_dir():
        raise UserError(f"The folder of --output={path} does not exist; create it, or give another one.")
    if path.resolve() == source.expanduser().resolve():
        raise UserError(f"--output={path} is the file with the data; give another one.")
    return path


def read(run: runs.RunDirectory, source: str, data_dir: str = "") -> NewData:
    """Reads new data.

    Args:
      run: the run whose model will be used.
      source: a .csv, .npy or .npz file, or the name of a data set, of which the test images are taken.
      data_dir: the folder of the data set, or "".

    Returns:
      The `NewData`.

    Raises:
      UserError: they cannot be read, or are not what the model was trained on.
    """
    from iwae_tf.datasets import observations

    options, described = stored.read_options(run), run.read_data()
    family, _, member = source.partition(":")
    path = pathlib.Path(member if family in ("csv", "npy", "npz") else source).expanduser()
    columns = described.column_names
    if family == "csv" or ".csv" in path.suffixes or path.suffix in (".tsv", ".txt"):
        values = _read_csv(path, columns)
    elif family in ("npy", "npz") or path.suffix in (".npy", ".npz"):
        values = formats.read_rows(path, options.support)
    else:
        values = datasets.load(source, data_dir, support=options.support).test
        path = pathlib.Path(source.replace(":", "_").replace("/", "_"))
    values = values.reshape(len(values), -1)
    event = int(np.prod(described.event_shape))
    if not len(values):
        raise UserError(f"{source} has no rows.")
    if values.shape[1] != event:
        wanted = f"{event} columns" if columns else f"images of {' x '.join(map(str, described.event_shape))}"
        raise UserError(f"{source} has {values.shape[1]} values a row, but the model was trained on {wanted}.")
    return NewData(path.name.partition(".")[0], observations.fixed(values, "test", options.support), columns)


def _read_csv(path, columns):
    """The columns of the model, in its order; those of a file without names by their place."""
    if not columns:
        raise UserError(f"{path} is a table, but the model was trained on images; give a .npz file of images.")
    try:
        values, _ = tables.read_csv(path, keep=columns)
    except UserError:
        if columns != tables.default_columns(len(columns)):
            raise
        values, _ = tables.read_csv(path)
    return values


def load_model(run: runs.RunDirectory, new: NewData):
    """Returns the trained model of a run.

    Raises:
      UserError: there is none, or it has no use for a value of the new data.
    """
    model = build.load(run.path)
    try:
        model.checked_images(new.x)
    except ValueError as error:
        raise UserError(f"{new.name}: {error}") from error
    return model

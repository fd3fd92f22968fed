"""New data for a trained model: files with the columns or the image size that it was trained on."""

import pathlib
import tempfile
from typing import Any, NamedTuple

import numpy as np

from iwae_tf import datasets, runs
from iwae_tf.datasets import formats, tables
from iwae_tf.errors import UserError
from iwae_tf.experiment import build, stored
from iwae_tf.runs import released


class NewData(NamedTuple):
    """Rows or images to score or to impute.

    Attributes:
      name: what they are, for messages and the names of files.
      x: float array [num_rows, event], in the units of the likelihood.
      names: the names of the columns of x in the file; empty for images.
      csv: the csv file that they come from, or None.
      noun: what they are: rows of a table, or images.
    """

    name: str
    x: np.ndarray
    names: tuple[str, ...] = ()
    csv: pathlib.Path | None = None
    noun: str = "rows"

    def texts(self) -> Any:
        """Returns the table as it is written in the csv file, with its other columns; or its numbers as texts.

        It is a pandas frame.
        """
        if self.csv:
            return tables.read_texts(self.csv)
        import pandas

        written = [["" if np.isnan(value) else f"{value:.9g}" for value in row] for row in self.x]
        return pandas.DataFrame(written, columns=list(self.names))


def opened_run(options) -> runs.RunDirectory:
    """Returns the run of a trained model; options have `run_dir` and `data`.

    Raises:
      UserError: a flag is missing, or the folder is no run.
    """
    for name, what in (("run_dir", "the run of the model"), ("data", "the file with the new data")):
        if not getattr(options, name):
            raise UserError(f"--{name} is missing: give {what}.")
    run = build.trained_run(options.run_dir)
    stored.read_options(run)
    return run


def output_path(options, run: runs.RunDirectory, what: str) -> pathlib.Path:
    """Returns the file to write.

    Raises:
      UserError: it is neither .csv nor .npz, its folder is missing or cannot be written, or it is the file with the
        data.
    """
    source = pathlib.Path(options.data.partition(":")[2] or options.data)
    folder = pathlib.Path() if released.is_name(options.run_dir) else run.path
    path = pathlib.Path(options.output or folder / f"{what}_{source.name.partition('.')[0]}.csv")
    if path.suffix not in (".csv", ".npz"):
        raise UserError(f"--output={path} must end with .csv or .npz.")
    if not path.parent.is_dir():
        raise UserError(f"The folder of --output={path} does not exist; create it, or give another one.")
    if path.resolve() == source.expanduser().resolve():
        raise UserError(f"--output={path} is the file with the data; give another one.")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()  # Now, not when everything is computed.
    except OSError as error:
        raise UserError(
            f"Cannot write to the folder {path.parent} ({error.strerror}); give another --output."
        ) from error
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
    is_csv = family == "csv" or ".csv" in path.suffixes or path.suffix in (".tsv", ".txt")
    if is_csv:
        values, names = _read_csv(path, columns)
    elif family in ("npy", "npz") or path.suffix in (".npy", ".npz"):
        values, names = formats.read_rows(path, options.support, described.is_table), columns
    else:
        loaded = datasets.load(source, data_dir, support=options.support)
        values, names = loaded.test.reshape(-1, *loaded.event_shape), loaded.columns
        path = pathlib.Path(source.replace(":", "_").replace("/", "_"))
    if not len(values):
        raise UserError(f"{source} has no rows.")
    if values.shape[1:] != described.event_shape:
        wanted, found = (" x ".join(map(str, shape)) for shape in (described.event_shape, values.shape[1:]))
        raise UserError(f"{source} has rows of {found} values, but the model was trained on {wanted}.")
    x = observations.fixed(values.reshape(len(values), -1), "test", options.support)
    return NewData(path.name.partition(".")[0], x, names, path if is_csv else None, described.noun)


def _read_csv(path, columns):
    """The columns of the model, in its order, and their names; those of a model without names by their place."""
    if not columns:
        raise UserError(f"{path} is a table, but the model was trained on images; give a .npz file of images.")
    try:
        return tables.read_csv(path, keep=columns)
    except UserError:
        if columns != tables.default_columns(len(columns)):
            raise
        return tables.read_csv(path)


def load_model(run: runs.RunDirectory, new: NewData):
    """Returns the trained model of a run.

    Raises:
      UserError: there is none, or it has no use for a value of the new data.
    """
    model = build.load(run)
    try:
        model.checked_images(new.x)
    except ValueError as error:
        raise UserError(f"{new.name}: {error}") from error
    return model

"""Tables: csv files, their splits, and what is wrong with columns."""

import contextlib
import csv
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from iwae_tf.errors import UserError, first_line

# A line may be as long as memory allows; the module's limit is 131,072 characters.
csv.field_size_limit(2**31 - 1)
# Rows that decide the delimiter and whether there is a header.
_NUM_SNIFFED = 20
_DELIMITERS = ",;\t| "
# Differences in a column must be this many times as large as the rounding of single precision.
_LEAST_RESOLUTION = 100.0


def default_columns(count: int) -> tuple[str, ...]:
    """The names of columns that have none."""
    return tuple(f"column_{i}" for i in range(1, count + 1))


def read_csv(
    path: str | pathlib.Path, drop_columns: Sequence[str] = (), keep: Sequence[str] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads a table of numbers.

    Args:
      path: a csv file, which may be compressed, with or without a header; the delimiter is found out.
      drop_columns: names of columns to leave out, which may hold text.
      keep: the names of the columns to read, in this order, or None for all others.

    Returns:
      float32 [n, columns], NaN where the file has nothing or NaN, and the names of the columns.

    Raises:
      UserError: the file is no such table.
    """
    frame = _read_frame(path)
    names = list(frame.columns)
    unknown = [name for name in (*drop_columns, *(keep or ())) if name not in names]
    if unknown:
        raise UserError(f"{path} has no column {unknown[0]!r}; its columns are {_listed(names)}.")
    columns = list(keep) if keep is not None else [name for name in names if name not in drop_columns]
    if not columns or not len(frame):
        raise UserError(f"{path} has no {'rows' if columns else 'columns'}; expected a table of numbers.")
    values = np.empty([len(frame), len(columns)], np.float32)
    for i, name in enumerate(columns):
        numbers = _numbers(frame[name], path, name)
        if keep is None:  # The differences between a few new rows may be small.
            check_resolution(numbers, path, name)
        values[:, i] = numbers
    return values, tuple(columns)


def read_texts(path: str | pathlib.Path) -> Any:
    """Returns all columns of a csv file as they are written, a pandas frame of texts; missing ones are empty."""
    return _read_frame(path, dtype=str, keep_default_na=False)


def _read_frame(path, **arguments):
    """The pandas frame of a csv file, with names for all columns."""
    import pandas

    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        raise UserError(f"{path} is a folder; expected a csv file.")
    if not path.is_file():
        raise UserError(f"There is no file {path}; expected a csv file.")
    try:
        with _opened(path) as lines:
            delimiter, words = _sniffed([line for _, line in zip(range(_NUM_SNIFFED), lines, strict=False)], path)
        with _opened(path) as lines:
            _check_lengths(lines, delimiter, path)
        frame = pandas.read_csv(
            path,
            sep=delimiter,
            header=0 if words else None,
            index_col=False,
            encoding="utf-8-sig",
            skipinitialspace=True,
            **arguments,
        )
    except (OSError, ValueError, UnicodeDecodeError, EOFError, csv.Error) as error:
        raise UserError(f"Cannot read {path} as a csv file ({first_line(error)}).") from error
    names = [name.strip() for name in words] if words else list(default_columns(frame.shape[1]))
    return _with_names(frame, names, path)


@contextlib.contextmanager
def _opened(path):
    """The lines of a text file, which may be compressed."""
    import pandas

    with pandas.io.common.get_handle(path, "r", compression="infer", encoding="utf-8-sig") as opened:
        yield opened.handle


def _rows(lines, delimiter):
    """A reader of lines that takes them as pandas does below."""
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True)


def _with_names(frame, names, path):
    """The frame with names for all columns, without the index that pandas writes and an empty last column."""
    if len(names) != frame.shape[1]:
        raise UserError(f"{path} has {len(names)} names in its header, but {frame.shape[1]} columns.")
    is_kept = [bool(name) for name in names]
    if len(names) > 1 and len(frame):
        numbers = list(map(str, range(len(frame))))
        is_kept[0] |= [str(value) for value in frame.iloc[:, 0]] != numbers
        is_kept[-1] |= not frame.iloc[:, -1].isin(["", np.nan]).all()
    is_kept[1:-1] = [True] * len(is_kept[1:-1])
    frame.columns = [name or default for name, default in zip(names, default_columns(len(names)), strict=True)]
    twice = [name for i, name in enumerate(frame.columns) if name in frame.columns[:i]]
    if twice:
        raise UserError(f"{path} has more than one column {twice[0]!r}; give each another name.")
    return frame.loc[:, is_kept]


def _sniffed(lines, path):
    """The delimiter, and the words of the header, or None if the first line is no header.

    It is, unless all its words are numbers or missing; but 0, 1, 2, ... are the names that pandas gives to columns.
    """
    if not any(line.strip() for line in lines):
        raise UserError(f"{path} is empty; expected a table of numbers.")
    rows = {d: [row for row in _rows(lines, d) if row] for d in _DELIMITERS}
    counts = {d: [len(row) for row in parsed] for d, parsed in rows.items()}
    # The delimiter that all lines have, and the same number of times, and most often. If a line is wrong, what at least
    # half of the lines have as often as the first one.
    steady = {d: number[0] for d, number in counts.items() if number[0] > 1 and len(set(number)) == 1}
    usual = {d: number[1:].count(number[0]) for d, number in counts.items() if number[0] > 1}
    usual = {d: count for d, count in usual.items() if 2 * count >= len(counts[d])}
    found = steady or usual
    # A single column, whose name may have a comma.
    single = next((d for d, number in counts.items() if set(number) == {1} == set(counts[","][1:])), ",")
    delimiter = max(found, key=lambda d: found[d], default=single)
    words = rows[delimiter][0]
    named = words[1:] if not words[0] else words
    is_counted = len(named) > 1 and named == list(map(str, range(len(named))))
    return delimiter, words if is_counted or not all(_is_number(word) for word in words) else None


def _check_lengths(lines, delimiter, path):
    """Raises a UserError if a row is longer or shorter than the first one; pandas would fill or shift it."""
    rows = _rows(lines, delimiter)
    length = 0
    for row in rows:
        length = length or len(row)
        if row and len(row) != length:
            raise UserError(
                f"{path} has {len(row)} values in line {rows.line_num:,} ({delimiter.join(row)[:40]!r}), but {length} "
                "in its first one; give each row as many values as there are columns, and put values that contain the "
                "delimiter into quotation marks."
            )


def _is_number(word):
    try:
        float(word or "nan")
    except ValueError:
        return False
    return True


def _listed(names):
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")


def _numbers(column, path, name):
    """The numbers of a pandas column, float64."""
    import pandas

    if pandas.api.types.is_numeric_dtype(column):
        values = column.to_numpy(np.float64)
    else:
        values = pandas.to_numeric(column, errors="coerce").to_numpy(np.float64)
        texts = column[np.isnan(values) & column.notna().to_numpy()]
        if len(texts):
            raise UserError(
                f"Column {name!r} of {path} has text, such as {str(texts.iloc[0])[:40]!r}; leave it out with "
                f"drop_columns={name}, or write it as numbers. Missing values are empty or NaN."
            )
    if np.isinf(values).any():
        first = int(np.flatnonzero(np.isinf(values))[0]) + 1
        raise UserError(
            f"Column {name!r} of {path} has infinite values, the first in row {first:,}; leave them empty if they are "
            "missing."
        )
    return values


def check_resolution(values: np.ndarray, path: str | pathlib.Path, name: str) -> None:
    """Raises a UserError for a column [n] whose differences single precision rounds away, as for times since 1970."""
    finite = values[~np.isnan(values)]
    if not len(finite):
        return
    spread, size = finite.std(), np.abs(finite).max()
    is_constant = finite.min() == finite.max()  # Its deviation may be a rounding error.
    if (not is_constant and spread < _LEAST_RESOLUTION * size * np.finfo(np.float32).eps) or size > np.finfo(
        np.float32
    ).max:
        raise UserError(
            f"Column {name!r} of {path} has values like {finite[0]:.10g} with a standard deviation of {spread:.3g}, "
            "which single precision cannot hold; subtract a constant, or scale the column."
        )


def split(
    values: np.ndarray, fractions: tuple[float, float], seed: int, path: str | pathlib.Path
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Draws the validation and the test part.

    Args:
      values: [n, ...].
      fractions: the shares of both parts; the first may be 0.
      seed: the seed of the draw.
      path: the file, for messages.

    Returns:
      Training, validation (None for the share 0) and test rows, each in the order of the file.

    Raises:
      UserError: a part would be empty.
    """
    counts = [round(fraction * len(values)) for fraction in fractions]
    empty = [fraction for fraction, count in zip(fractions, counts, strict=True) if fraction and not count]
    if empty or not counts[1] or sum(counts) >= len(values):
        raise UserError(
            f"{path} has {len(values)} rows, of which validation_fraction={fractions[0]:g} and test_fraction="
            f"{fractions[1]:g} leave no rows for one of the parts; give other fractions."
        )
    order = np.random.default_rng(seed).permutation(len(values))
    test, validation, train = np.split(order, [counts[1], sum(counts)])
    parts = [values[np.sort(part)] for part in (train, validation, test)]
    return parts[0], parts[1] if counts[0] else None, parts[2]


def check_columns(train: np.ndarray, columns: Sequence[str], name: str, is_real: bool) -> None:
    """Raises a UserError for columns without values, and where densities are concerned for constants.

    Args:
      train: the training rows, float32 [n, columns].
      columns: their names.
      name: the data set, for messages.
      is_real: whether the likelihood has a density: that of a constant has no maximum.
    """
    for i, column in enumerate(columns):
        values = train[:, i][~np.isnan(train[:, i])]
        problem = ""
        if not len(values):
            problem = "has no values in the training rows"
        elif is_real and values.min() == values.max():
            problem = f"has the same value, {values[0]:g}, in all training rows, so its density has no maximum"
        if problem:
            raise UserError(f"Column {column!r} of {name} {problem}; leave it out with drop_columns={column}.")


def equal_columns(values: np.ndarray, columns: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the pairs of names of columns with the same values."""
    first: dict[int, str] = {}
    return [
        (first[digest], column)
        for digest, column in ((hash(values[:, i].tobytes()), column) for i, column in enumerate(columns))
        if first.setdefault(digest, column) != column
    ]

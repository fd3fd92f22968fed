"""Imputes missing values of a table: `python -m iwae_tf.impute --run_dir=runs/wine --data=wine.csv`.

By default each missing value is replaced by its posterior mean, estimated by self-normalised importance sampling. With
--num_imputations, it is drawn that many times by sampling importance resampling (MIWAE, arXiv:1812.02633). Observed
values are not changed.
"""

import dataclasses
import json
import time
from collections.abc import Sequence

import numpy as np

from iwae_tf.errors import UserError
from iwae_tf.experiment import command, new_data
from iwae_tf.experiment.flags import flag, json_flag, parse_folder
from iwae_tf.experiment.parsing import CommandLine
from iwae_tf.runtime import console, files, progress

_FEW_SAMPLES = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImputeOptions:
    """The flags of this command."""

    run_dir: str = flag("", "The run whose model imputes.", parse=parse_folder)
    data: str = flag("", "The table: a .csv file with the columns of the run, a .npy or a .npz file.")
    output: str = flag(
        "",
        "The file to write, .csv or .npz; by default imputed_DATA.csv in the run directory, or in the current folder "
        "if the model is a released one.",
        parse=parse_folder,
    )
    num_imputations: int = flag(
        0, "Draws of each missing value, all in one file; 0 writes the posterior means.", at_least=0, at_most=10_000
    )
    num_samples: int = flag(5000, "Importance samples for each row.", at_least=1, at_most=10**9)
    seed: int = flag(0, "Seed of the samples.", at_least=0, at_most=2**31 - 1)
    json: bool = json_flag()


_command_line = CommandLine(ImputeOptions, __doc__)


def main(argv: Sequence[str]) -> None:
    """Imputes, writes the table, and prints a summary."""
    options, _, _ = _command_line.parse(argv)
    run = new_data.opened_run(options)
    output = new_data.output_path(options, run, "imputed")
    if not run.read_data().is_table:
        raise UserError(f"{run.path} was trained on images, which have no missing values; train on a table.")
    command.import_tensorflow_quietly()
    from iwae_tf.evaluation import imputation

    start = time.monotonic()
    new = new_data.read(run, options.data)
    incomplete = int(np.isnan(new.x).any(axis=1).sum())
    if not incomplete:
        raise UserError(f"{options.data} has no missing values, so there is nothing to impute.")
    model = new_data.load_model(run, new)
    share = np.isnan(new.x).mean()
    console.note(f"{incomplete:,} of {len(new.x):,} rows of {new.name} have missing values, {share:.1%} of all")
    countdown = progress.Countdown(incomplete, noun="rows")
    found = imputation.impute(
        model,
        new.x,
        options.num_samples,
        options.num_imputations,
        options.seed,
        report=lambda done: countdown.update(done, "imputed"),
    )
    _write(output, found, new)
    sizes = found.effective_sample_size[~np.isnan(found.effective_sample_size)]
    few = int(np.sum(sizes < _FEW_SAMPLES))
    if options.json:
        print(json.dumps(_plain(found, sizes, output)))
        return
    if np.any(sizes == 0.0):
        rows = ", ".join(str(i + 1) for i in np.flatnonzero(found.effective_sample_size == 0.0)[:10])
        print(f"{np.sum(sizes == 0.0):,} rows keep their gaps, as their other values are too far from the data: {rows}")
    print(f"effective sample size: median {np.median(sizes):.0f}; below {_FEW_SAMPLES} in {few:,} rows")
    if few > len(sizes) / 2:
        print("most rows rest on few samples: a larger --num_samples is more exact")
    console.note(f"in {progress.duration(time.monotonic() - start)}; see {output}")


def _plain(found, sizes, output):
    """What --json prints."""
    return {
        "rows": len(found.x),
        "imputed_rows": int(np.sum(sizes > 0.0)),
        "rows_that_keep_their_gaps": int(np.sum(sizes == 0.0)),
        "effective_sample_size": {"median": float(np.median(sizes))},
        "file": str(output),
    }


def _write(path, found, new):
    """Writes the table; several imputations one below the other, numbered."""
    if path.suffix == ".npz":
        arrays = {"x": found.x, "draws": found.draws, "effective_sample_size": found.effective_sample_size}
        files.write_arrays(path, arrays)
        return
    import pandas

    texts = new.texts()
    tables = [_filled(texts, new, x) for x in (found.draws if len(found.draws) else [found.x])]
    for number, table in enumerate(tables, start=1):
        table[_free_name("effective_sample_size", table)] = found.effective_sample_size
        if len(found.draws):
            table[_free_name("imputation", table)] = number
            table[_free_name("row", table)] = range(1, len(table) + 1)
    table = pandas.concat(tables, ignore_index=True)
    files.write_atomically(path, table.to_csv(index=False, float_format="%.7g").encode())


def _filled(texts, new, x):
    """The table of the file as text, with its other columns, where only the gaps are filled."""
    table = texts.copy()
    for name, before, after in zip(new.names, new.x.T, x.T, strict=True):
        gaps = np.isnan(before) & ~np.isnan(after)
        table.loc[gaps, name] = [f"{value:.7g}" for value in after[gaps]]
    return table


def _free_name(name, table):
    """The name of a column that the table does not have yet."""
    while name in table.columns:
        name += "_"
    return name


def run(argv: Sequence[str] | None = None) -> None:
    """The command; see `command.run_command`."""
    command.run_command(main, "nothing was written", argv)


if __name__ == "__main__":
    run()

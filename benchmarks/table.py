"""The rows that the benchmarks print and write."""

import json
import sys

from absl import logging

from iwae_tf.runtime import files

TITLE = "layers    k  batch        ms  images/s   plain ms   speed-up   GFLOP/s  roofline   share"


def row(what, layers, k, batch, seconds, baseline_seconds, rate, products):
    """Returns one row.

    Args:
      what: "training" or "evaluation".
      layers: the number of stochastic layers.
      k: importance samples.
      batch: images per call.
      seconds: the time of the program.
      baseline_seconds: the time of the plain version.
      rate: operations per second of bare matrix products.
      products: the `roofline.Product`s of the same work.
    """
    return {
        "what": what,
        "layers": layers,
        "k": k,
        "batch": batch,
        "milliseconds": 1e3 * seconds,
        "baseline_milliseconds": 1e3 * baseline_seconds,
        "roofline_gflops": rate / 1e9,
        "achieved_gflops": sum(product.operations for product in products) / seconds / 1e9,
    }


def text(row):
    """The text of a row, under `TITLE`."""
    own, plain = row["milliseconds"], row["baseline_milliseconds"]
    share = row["achieved_gflops"] / row["roofline_gflops"]
    return (
        f"{row['layers']:>6}{row['k']:>5}{row['batch']:>7}{own:10.2f}{1e3 * row['batch'] / own:10,.0f}{plain:11.2f}"
        f"{plain / own:11.2f}{row['achieved_gflops']:10.1f}{row['roofline_gflops']:10.1f}{share:8.0%}"
    )


def write(path, rows):
    """Writes the rows as JSON, if there is a path."""
    if path:
        files.write_atomically(path, (json.dumps(rows, indent=2) + "\n").encode())


def refuse_words(argv):
    """Ends the program if there are words that are not flags, and silences absl."""
    if argv[1:]:
        sys.exit(f"{argv[1]!r} is not a flag; see --help.")
    logging.set_verbosity(logging.ERROR)

"""The rows that the benchmarks print and write."""

import json
import sys

from absl import logging

from iwae_tf.runtime import files

TITLE = "layers    k  batch        ms  images/s   plain ms   speed-up   GFLOP/s  roofline   share"


def record(what, layers, k, batch, seconds, baseline_seconds, rate, products):
    """Returns one record.

    Args:
      what: "training" or "evaluation".
      layers: the number of stochastic layers.
      k: importance samples.
      batch: images that the time is for.
      seconds: what the program takes.
      baseline_seconds: what the plain path takes.
      rate: operations per second of bare matrix products.
      products: the `roofline.Product`s of this work.
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


def row(one):
    """The text of a record, under `TITLE`."""
    own, plain = one["milliseconds"], one["baseline_milliseconds"]
    share = one["achieved_gflops"] / one["roofline_gflops"]
    return (
        f"{one['layers']:>6}{one['k']:>5}{one['batch']:>7}{own:10.2f}{1e3 * one['batch'] / own:10,.0f}{plain:11.2f}"
        f"{plain / own:11.2f}{one['achieved_gflops']:10.1f}{one['roofline_gflops']:10.1f}{share:8.0%}"
    )


def write(path, records):
    """Writes the records as JSON, if there is a path."""
    if path:
        files.write_atomically(path, (json.dumps(records, indent=2) + "\n").encode())


def refuse_words(argv):
    """Ends the program on words that belong to no flag, and silences absl."""
    if argv[1:]:
        sys.exit(f"{argv[1]!r} belongs to no flag; see --help.")
    logging.set_verbosity(logging.ERROR)

"""Times training steps beside a plain PyTorch IWAE: `pip install torch`, then `python -m benchmarks.peers`.

Both take the same networks, numbers of samples and batches, Adam, and pixels that are binarised in each step. The
program is timed as in `benchmarks.training`, with float32 and with mixed_bfloat16; PyTorch without compilation, with
torch.compile, and with torch.compile and autocast to bfloat16. All take turns, each PyTorch version in its own process;
medians are printed. The last columns are the speed of the program with each policy, relative to the PyTorch version
with the same precision.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from absl import app, flags

from benchmarks import program, table

_LAYERS = flags.DEFINE_list("layers", ["1", "2"], "Numbers of stochastic layers.")
_SAMPLES = flags.DEFINE_list("k", ["1", "5", "50"], "Numbers of importance samples.")
_BATCHES = flags.DEFINE_list("batch", ["20", "100"], "Batch sizes.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Rounds; the medians are printed.")
_SECONDS = flags.DEFINE_float("seconds", 3.0, "About how long a round of each takes.")
_JSON = flags.DEFINE_string("json", "", "Also write the rows as JSON to this file.")

_PEERS = {
    "torch": {},
    "torch.compile": {"compiled": True},
    "torch.compile bf16": {"compiled": True, "autocast": True},
}
_POLICIES = ("float32", "mixed_bfloat16")
_WIDTH = 20


def measure(layers, k, batch):
    """Returns the milliseconds per step of each version."""
    steps = max(5, int(1e3 * _SECONDS.value / (1.0 + 0.25 * k * batch / 20)))
    with tempfile.TemporaryDirectory() as folder:
        rounds = {
            f"iwae_tf {policy}": program.training_epochs(
                program.paper_model(layers, k, policy=policy),
                program.first_images(steps, batch),
                batch,
                os.path.join(folder, policy),
            )
            for policy in _POLICIES
        }
        for name, arguments in _PEERS.items():
            options = {"layers": layers, "num_samples": k, "batch": batch, "steps": steps, **arguments}
            rounds[name] = _rounds_of_torch(options)
        for times in rounds.values():
            next(times)  # Compilation.
        seconds = [[next(times) for times in rounds.values()] for _ in range(_REPEATS.value)]
    return dict(zip(rounds, 1e3 * np.median(seconds, axis=0), strict=True))


def _rounds_of_torch(options):
    """Yields what `torch_iwae.training_rounds` does there; in this process it might not work beside TensorFlow."""
    command = [sys.executable, "-m", "benchmarks.torch_iwae", json.dumps(options)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.suppress(BrokenPipeError), subprocess.Popen(command, **pipes) as process:
        while line := process.stdout.readline():
            yield float(line)
            print(file=process.stdin, flush=True)
    sys.exit(f"PyTorch has stopped with exit status {process.returncode}: {' '.join(command)}")


def main(argv):
    table.refuse_words(argv)
    if not importlib.util.find_spec("torch"):
        sys.exit("This benchmark needs PyTorch, which iwae_tf does not depend on: pip install torch")
    rows = []
    for layers, k, batch in itertools.product(_LAYERS.value, _SAMPLES.value, _BATCHES.value):
        times = measure(int(layers), int(k), int(batch))
        if not rows:
            print(f"layers    k  batch{''.join(f'{name:>{_WIDTH + 4}}' for name in times)}   speed-up   bf16")
        single = times["torch.compile"] / times["iwae_tf float32"]
        half = times["torch.compile bf16"] / times["iwae_tf mixed_bfloat16"]
        numbers = "".join(f"{value:{_WIDTH + 1}.2f} ms" for value in times.values())
        print(f"{layers:>6}{k:>5}{batch:>7}{numbers}{single:11.2f}{half:7.2f}", flush=True)
        rows.append({"layers": int(layers), "k": int(k), "batch": int(batch), "milliseconds": times})
    table.write(_JSON.value, rows)


if __name__ == "__main__":
    app.run(main)

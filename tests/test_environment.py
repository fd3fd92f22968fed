"""The command in environments that other programs have set up."""

import json
import os
import subprocess
import sys

import pytest

from iwae_tf import runs

WORDS = ("--max_images=60", "--epochs=1", "--k=1", "--batch_size=20", "--latent_dims=2", "--hidden_dims=5")
WORDS += ("--nll_samples=10", "--noexport", "--run_dir=run")


@pytest.fixture
def foreign(tmp_path):
    """An environment for Keras with another backend in double precision, and for drawings in a notebook."""
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "jax", "floatx": "float64"}))
    backend = {"KERAS_BACKEND": "torch", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    return os.environ | backend | {"KERAS_HOME": str(tmp_path)}


def test_a_run_does_not_depend_on_other_backends(foreign, tmp_path):
    command = [sys.executable, "-m", "iwae_tf.main", *WORDS]
    # Without standard output, too, as after >&- in a shell.
    subprocess.run(command, cwd=tmp_path, env=foreign, check=True, preexec_fn=lambda: os.close(1))
    run = runs.RunDirectory(tmp_path / "run")
    assert run.read_results().training.epochs == 1
    assert (run.figures / "bounds.png").exists()


def test_a_program_with_another_backend_gets_one_clear_error(foreign, tmp_path):
    code = "import iwae_tf; iwae_tf.paper_networks"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=foreign, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: iwae_tf needs Keras with TensorFlow, but its backend is 'torch'; set KERAS_BACKEND=tensorflow in "
        "the environment before keras is imported."
    )

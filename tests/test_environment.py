"""The command in environments that other programs have set up."""

import json
import os
import signal
import subprocess
import sys

import pytest

import iwae_tf
from iwae_tf import runs
from iwae_tf.errors import UserError
from iwae_tf.experiment import memory, parsing

WORDS = ("--max_images=60", "--epochs=1", "--k=1", "--batch_size=20", "--latent_dims=2", "--hidden_dims=5")
WORDS += ("--nll_samples=10", "--noexport", "--run_dir=run")


@pytest.fixture
def foreign(tmp_path):
    """An environment for Keras with another backend in double precision, and for drawings in a notebook."""
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "jax", "floatx": "float64"}))
    backend = {"KERAS_BACKEND": "torch", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    return os.environ | backend | {"KERAS_HOME": str(tmp_path)}


@pytest.mark.slow
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


def test_the_reason_is_shown_when_tensorflow_ends_the_process(tmp_path):
    # As TensorFlow does on a processor without the instructions that it was compiled for.
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "__init__.py").write_text("import os\nos.write(2, b'needs AVX\\n')\nos.abort()\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "iwae_tf.main", *WORDS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGABRT
    assert done.stderr == "needs AVX\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["--k=1000000", "--batch_size=100"], "1,000,000 samples of 100 images"),
        (["--hidden_dims=100000,100000,100000,100000"], "weights"),
        (["--first_k=1000000", "--first_epochs=1", "--batch_size=100"], "1,000,000 samples of 100 images"),
    ],
)
def test_what_needs_more_memory_than_there_is_is_refused_before_a_run_is_claimed(words, needed, tmp_path):
    command = [sys.executable, "-m", "iwae_tf.main", "--run_dir=run", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("iwae_tf: Training needs at least ")
    assert needed in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_no_more_memory_is_asked_for_than_training_needs(monkeypatch):
    options = parsing.parse(["main", "--hidden_dims=3,4;5", "--latent_dims=2,1", "--k=6", "--batch_size=7"])
    weights = 2 * (10 * 3 + 3 * 4 + 2 * 5)
    units = 6 * 7 * (2 + 1 + 3 + 4 + 5 + 10)
    monkeypatch.setattr(memory, "_total_memory", lambda: 4 * (4 * weights + units))
    memory.refuse_impossible(options, num_pixels=10)
    monkeypatch.setattr(memory, "_total_memory", lambda: 4 * (4 * weights + units) - 1)
    with pytest.raises(UserError, match=f"{weights} weights, and 6 samples of 7 images"):
        memory.refuse_impossible(options, num_pixels=10)


@pytest.mark.parametrize(
    ("module", "closed"),
    [
        ("main", ">&-"),
        ("main", "2>&-"),
        ("main", "| true"),
        ("report", ">&- 2>&-"),
        ("table", ">&-"),
        ("ais", "| true"),
    ],
)
def test_help_without_a_reader(module, closed, tmp_path):
    script = f"set -o pipefail; {sys.executable} -m iwae_tf.{module} --help {closed}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode in (0, 128 + signal.SIGPIPE)
    assert done.stderr == ""


def test_the_package_is_found_beside_a_clone_with_its_name(tmp_path):
    (tmp_path / "iwae_tf" / "docs").mkdir(parents=True)
    code = "import iwae_tf; print(iwae_tf.__version__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == iwae_tf.__version__, done.stderr

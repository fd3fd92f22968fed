"""The wheel and the source distribution are complete."""

import pathlib
import subprocess
import sys
import tarfile
import zipfile

import pytest

from iwae_tf.version import __version__

CHECKOUT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the checkout without ignored files, such as those of earlier builds."""
    folder = tmp_path_factory.mktemp("source")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=True).stdout.splitlines()
    for name in names:
        if (CHECKOUT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((CHECKOUT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_has_every_module_the_flagfiles_the_models_and_mnist(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "iwae_tf").rglob("*.py")}
    assert modules <= names
    flagfiles = {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "flags").rglob("*.flags")}
    assert {f"iwae_tf/{name}" for name in flagfiles} <= names
    files = [path for path in (CHECKOUT / "models").glob("*/*") if path.is_file()]
    released = {f"iwae_tf/released_models/{path.relative_to(CHECKOUT / 'models').as_posix()}" for path in files}
    assert released
    assert released <= names
    assert not [name for name in names if "without_weights" in name]
    assert wheel.stat().st_size < 40_000_000
    assert {"iwae_tf/py.typed", "iwae_tf/datasets/mnist/train-images-idx3-ubyte.xz"} <= names


@pytest.mark.slow
def test_the_table_is_found_from_an_installed_wheel(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
    code += (
        "from iwae_tf import table; print(table.__file__); table.run_table(['table', 'mnist_iwae_1l_k1', '--epochs=0'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith(str(tmp_path / "site"))
    # The flagfile was read; what is refused is the flag that follows it.
    assert "--epochs=0" in done.stderr


@pytest.mark.slow
def test_a_released_model_is_found_in_an_installed_wheel(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
    code += "import iwae_tf; from iwae_tf.runs import released\n"
    code += "print(released.folder()); print(len(iwae_tf.load('mnist_iwae_1l_k1').variables_of_networks))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-2:] == [str(tmp_path / "site" / "iwae_tf" / "released_models"), "14"]


@pytest.mark.slow
def test_the_source_distribution_has_the_tests_and_their_data(source, tmp_path):
    code = "import sys, setuptools.build_meta as build; build.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, capture_output=True, cwd=source)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    folders = [
        path.relative_to(source)
        for folder in ("tests", "flags", "models", "iwae_tf", "docs", "examples")
        for path in (source / folder).rglob("*")
    ]
    needed = {path.as_posix() for path in folders if (source / path).is_file() and "egg-info" not in str(path)}
    assert needed <= names


def test_the_version_is_the_same_everywhere():
    citation = (CHECKOUT / "CITATION.cff").read_text()
    assert f"\nversion: {__version__}\n" in citation
    assert f"\n## {__version__} - " in (CHECKOUT / "CHANGELOG.md").read_text()

"""The paper's OMNIGLOT, on a file of the same format that the tests write, and its download."""

import functools
import socket
import threading

import numpy as np
import pytest
import scipy.io
import web_server

from iwae_tf import datasets
from iwae_tf.datasets import chardata
from iwae_tf.errors import UserError
from iwae_tf.runtime import download


@pytest.fixture(scope="module")
def characters():
    """Grey images [n, 28, 28] that differ from their mirror images, as many as in the paper's data set."""
    rng = np.random.default_rng(0)
    images = np.zeros([24345 + 8070, 28, 28], np.uint8)
    images[:, 3:6, 2:26] = rng.integers(0, 256, [len(images), 3, 24])  # A bar along the top.
    return images[:24345], images[24345:]


@pytest.fixture(scope="module")
def chardata_folder(characters, tmp_path_factory):
    """A folder with a file in the format of chardata.mat, and the file's git blob hash."""
    folder = tmp_path_factory.mktemp("chardata")
    # Column-major: the first column of an image, then the second, and so on.
    data, testdata = (np.stack([image.flatten(order="F") for image in images], axis=1) for images in characters)
    scipy.io.savemat(folder / "chardata.mat", {"data": data / 255.0, "testdata": testdata / 255.0}, do_compression=True)
    return folder, chardata.git_blob_hash((folder / "chardata.mat").read_bytes())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and no proxy between the tests and their web server."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


def _files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_git_blob_hash():
    assert chardata.git_blob_hash(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object


def test_chardata_is_upright_and_split_as_in_the_papers_code(chardata_folder, characters, monkeypatch):
    folder, blob = chardata_folder
    monkeypatch.setattr(chardata, "CHARDATA_BLOB", blob)
    train, test = chardata.read_chardata(str(folder))
    np.testing.assert_array_equal(train, characters[0])
    np.testing.assert_array_equal(test, characters[1])

    images = datasets.load("omniglot28", data_dir=str(folder))
    order = np.random.RandomState(123).permutation(24345)
    np.testing.assert_array_equal(images.train, characters[0][order[:23000]].reshape(-1, 784))
    np.testing.assert_array_equal(images.validation, characters[0][order[23000:]].reshape(-1, 784))
    np.testing.assert_array_equal(images.test, characters[1].reshape(-1, 784))
    assert images.event_shape == (28, 28)


def test_a_different_chardata_file_is_refused(chardata_folder):
    with pytest.raises(
        UserError, match="is not the paper's chardata.mat: its git blob hash is [0-9a-f]{40}, not 016a3536"
    ):
        chardata.read_chardata(str(chardata_folder[0]))


def test_a_missing_chardata_file_is_refused(tmp_path):
    with pytest.raises(
        UserError, match="Cannot read .*chardata.mat .*get https://github.com/yburda.*pass its folder as data_dir"
    ):
        chardata.read_chardata(str(tmp_path))


def test_chardata_is_downloaded_once(chardata_folder, cache, monkeypatch, capfd):
    folder, blob = chardata_folder
    monkeypatch.setattr(chardata, "CHARDATA_BLOB", blob)
    content, requests = (folder / "chardata.mat").read_bytes(), []
    with web_server.serve({"/chardata.mat": content}, requests) as address:
        monkeypatch.setattr(chardata, "CHARDATA_URL", f"{address}/chardata.mat")
        for _ in range(2):
            train, _ = chardata.read_chardata("")
    assert len(train) == 24345
    assert requests == 2 * ["/chardata.mat"]  # The test of the network, and the download.
    (path,) = _files(cache)
    assert path == cache / "iwae_tf" / "chardata.mat"
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o644
    out, err = capfd.readouterr()
    assert (out, err) == ("", f"downloading {address}/chardata.mat\n")


def test_a_different_download_is_not_kept(cache, monkeypatch):
    with web_server.serve({"/chardata.mat": b"<html>Sign in to the network</html>"}) as address:
        monkeypatch.setattr(chardata, "CHARDATA_URL", f"{address}/chardata.mat")
        with pytest.raises(UserError, match="is not the paper's chardata.mat"):
            chardata.read_chardata("")
    assert not _files(cache)


@pytest.mark.parametrize(("page", "message"), [("half", "[Bb]roken"), ("missing", "404")])
def test_a_failed_download_is_reported_and_leaves_no_file(page, message, cache, monkeypatch):
    with web_server.serve({"/half": b"complete"}) as address:
        monkeypatch.setattr(chardata, "CHARDATA_URL", f"{address}/{page}")
        with pytest.raises(UserError, match=f"Cannot download .*chardata.mat .*{message}") as error:
            chardata.read_chardata("")
    assert "\n" not in str(error.value)
    assert not _files(cache)


def test_a_cache_folder_that_cannot_be_written_is_reported(cache, monkeypatch):
    cache.write_text("a file, not a folder")
    with web_server.serve({"/chardata.mat": b"content"}) as address:
        monkeypatch.setattr(chardata, "CHARDATA_URL", f"{address}/chardata.mat")
        with pytest.raises(UserError, match="Cannot download .*chardata.mat "):
            chardata.read_chardata("")


def test_without_a_network_the_error_names_the_file_and_its_source(cache, monkeypatch):
    def fail(url, **_):
        raise OSError("no route to host")

    monkeypatch.setattr(download, "open_url", fail)
    with pytest.raises(UserError, match="chardata.mat .no route to host.; get https://.*pass its folder as data_dir"):
        chardata.read_chardata("")
    assert not list(cache.rglob("*.mat"))


def test_without_a_network_it_fails_within_seconds(cache, monkeypatch):
    """Even if the lookup of the host name does not end."""
    block = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: block.wait())
    monkeypatch.setattr(download, "open_url", functools.partial(download.open_url, seconds=0.1))
    with pytest.raises(UserError, match="Cannot download .*no answer within"):
        chardata.read_chardata("")
    block.set()
    assert not _files(cache)

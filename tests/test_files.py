import contextlib
import os
import socket
import threading
import time
import zipfile

import numpy as np
import pytest
import web_server

from iwae_tf.runtime import download, files


def test_open_url_returns_the_answer():
    with web_server.serve({"/page": b"complete"}) as address, download.open_url(f"{address}/page") as response:
        assert response.read() == b"complete"


def test_open_url_raises_an_os_error_for_a_missing_page():
    with web_server.serve({}) as address, pytest.raises(OSError, match="404"):
        download.open_url(f"{address}/missing")


def test_open_url_does_not_wait_for_a_server_that_does_not_answer():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        start = time.monotonic()
        with pytest.raises(OSError, match="timed out|no answer"):
            download.open_url(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.1)
        assert time.monotonic() - start < 60.0  # Only tests that it returns at all.


def test_open_url_does_not_wait_for_the_lookup_of_a_host_name(monkeypatch):
    block = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: block.wait())
    with pytest.raises(TimeoutError, match="no answer within"):
        download.open_url("http://name.invalid", seconds=0.1)
    block.set()


def test_the_cache_folder_follows_xdg_cache_home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / "iwae_tf"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_folder().parts[-2:] == (".cache", "iwae_tf")


def test_arrays_are_read_as_they_were_written_and_damaged_files_are_not_read(tmp_path):
    path = tmp_path / "arrays.npz"
    assert files.read_arrays(path) is None
    files.write_arrays(path, {"numbers": np.arange(600.0).reshape(2, 300)})
    np.testing.assert_array_equal(files.read_arrays(path)["numbers"], np.arange(600.0).reshape(2, 300))
    assert files.read_arrays(path, names=("letters",)) == {}
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    encrypted = bytearray(whole)
    encrypted[whole.index(b"PK\1\2") + 8] |= 1
    for content in (whole[: len(whole) // 2], bytes(damaged), bytes(encrypted), b"", b"text"):
        path.write_bytes(content)
        assert files.read_arrays(path) is None
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("numbers.npy", b"no array")
    assert files.read_arrays(path) is None
    with path.open("wb") as file:
        np.save(file, np.arange(3))  # An array, but not a .npz file.
    assert files.read_arrays(path) is None


def test_a_failed_write_leaves_only_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]

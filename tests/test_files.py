import contextlib
import http.server
import os
import socket
import threading
import time
import zipfile

import numpy as np
import pytest

from iwae_tf.runtime import download, files


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", "8")
        self.end_headers()
        self.wfile.write(b"complete" if self.path == "/whole" else b"half")

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """The address of a web server that knows /whole, and breaks off in the middle of /half."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_download(server):
    assert download.download(f"{server}/whole") == b"complete"


@pytest.mark.parametrize(("page", "message"), [("half", "broke off"), ("missing", "404")])
def test_a_download_that_fails_is_an_os_error(server, page, message):
    with pytest.raises(OSError, match=message):
        download.download(f"{server}/{page}")


def test_nobody_waits_for_a_server_that_does_not_answer():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        start = time.monotonic()
        with pytest.raises(OSError, match="timed out|no answer"):
            download.open_url(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.1)
        assert time.monotonic() - start < 60.0  # Not a speed: that it ends at all.


def test_nobody_waits_for_the_look_up_of_a_name(monkeypatch):
    block = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: block.wait())
    with pytest.raises(TimeoutError, match="no answer within"):
        download.open_url("http://name.invalid", seconds=0.1)
    block.set()


def test_the_cache_folder_is_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / "iwae_tf"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_folder().parts[-2:] == (".cache", "iwae_tf")


def test_arrays_are_read_as_they_were_written_and_damaged_ones_not_at_all(tmp_path):
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
        np.save(file, np.arange(3))  # An array, but no .npz.
    assert files.read_arrays(path) is None


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]

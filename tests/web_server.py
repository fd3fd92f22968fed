"""A local web server for the tests of downloads."""

import contextlib
import http.server
import threading


@contextlib.contextmanager
def serve(pages, requests=None):
    """Serves pages on this machine.

    Args:
      pages: path -> content; a path that ends in "/half" breaks off in the middle.
      requests: a list to which the path of each request is added.

    Yields:
      The address, without a slash at the end.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if requests is not None:
                requests.append(self.path)
            if self.path not in pages:
                self.send_error(404)
                return
            content = pages[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            # A client that only tests the connection does not read the content.
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content[: len(content) // 2] if self.path.endswith("/half") else content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()

"""Opens URLs without long waits if there is no network."""

import http.client
import queue
import threading
import urllib.error
import urllib.request

# Seconds to wait for a server's answer.
_TIMEOUT = 6.0


def open_url(url: str, seconds: float = _TIMEOUT) -> http.client.HTTPResponse:
    """Opens a URL like `urllib.request.urlopen`, but never waits longer than `seconds`.

    The timeout of urllib does not cover the lookup of the host name, which can take minutes without a network.
    Therefore, a separate thread opens the URL.

    Raises:
      OSError: the server does not answer in time, or answers with an error.
    """
    outcome: queue.SimpleQueue = queue.SimpleQueue()

    def attempt():
        try:
            outcome.put(urllib.request.urlopen(url, timeout=seconds))
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        answer = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None
    if isinstance(answer, urllib.error.URLError) and not isinstance(answer, urllib.error.HTTPError):
        raise OSError(str(answer.reason)) from answer
    if isinstance(answer, http.client.HTTPException) and not isinstance(answer, OSError):
        raise OSError(f"the answer is not valid HTTP: {answer!r}") from answer
    if isinstance(answer, Exception):
        raise answer
    return answer

"""Downloads that fail fast without a network."""

import http.client
import queue
import threading
import urllib.error
import urllib.request

# Seconds without an answer after which a server is given up.
_PATIENCE = 6.0


def download(url):
    """Returns the bytes behind a URL.

    Raises:
      OSError: there is no answer within seconds, or it breaks off.
    """
    try:
        with open_url(url) as response:
            return response.read()
    except http.client.HTTPException as error:
        raise OSError(f"the answer broke off: {error!r}") from error


def open_url(url, seconds=_PATIENCE):
    """Opens a URL as `urllib.request.urlopen`, but never waits longer than `seconds`.

    urllib's own limit leaves out the look-up of the host's name, which without a network can take minutes; so the
    attempt has a thread of its own.

    Raises:
      OSError: there is no answer.
    """
    outcome = queue.SimpleQueue()

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
    if isinstance(answer, Exception):
        raise answer
    return answer

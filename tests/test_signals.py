"""Signals, sent to separate processes."""

import signal
import subprocess
import sys

import pytest

WAIT = """
import sys, time
from iwae_tf.runtime import signals
with signals.deferred():
    print("ready", flush=True)
    while not signals.received():
        time.sleep(0.01)
    print("asked to stop", flush=True)
    {afterwards}
    signals.check()
"""


@pytest.fixture
def start():
    """Starts processes, and kills them after the test."""
    processes = []

    def start_process(code):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen([sys.executable, "-c", code], **pipes))
        assert processes[-1].stdout.readline() == "ready\n"
        return processes[-1]

    yield start_process
    for process in processes:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_the_work_finish(number, start):
    process = start(WAIT.format(afterwards="pass"))
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert out == "asked to stop\n"
    assert number.name in err
    assert f"Interrupted: {number.name}" in err


def test_a_second_sigint_ends_the_process_at_once(start):
    """Even while Python executes no instructions, as in a compiled call; this hash would take ages."""
    process = start(WAIT.format(afterwards='import hashlib; hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)'))
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked to stop\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert "stopped at once" in err


def test_a_second_sigterm_has_no_effect(start):
    process = start(WAIT.format(afterwards="time.sleep(0.5)"))
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert out == "asked to stop\n"
    assert "Interrupted: SIGTERM" in err


def test_signals_have_their_usual_effect_afterwards(start):
    code = "import time\nfrom iwae_tf.runtime import signals\nwith signals.deferred(): pass\n"
    process = start(code + "print('ready', flush=True)\ntime.sleep(60)")
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from holderjax.training.interruption import Interruption

# Deriving a key takes hours here, lets other threads run, and looks at no signal: as XLA does.
DEAF = """
import hashlib
from holderjax.training.interruption import Interruption
with Interruption():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


def test_the_second_ctrl_c_ends_even_a_process_that_hears_nothing() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        while "Ctrl-C again stops at once" not in (line := process.stderr.readline()):
            assert line, "the first Ctrl-C ended the process"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.communicate()


def test_the_first_ctrl_c_is_a_request_and_later_ones_are_as_before() -> None:
    # A shell's background jobs, and so their tests, start with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interruption() as stop:
            assert not stop.requested
            os.kill(os.getpid(), signal.SIGINT)
            stop._listener.join(0.5)
            assert stop.requested
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    handler = signal.getsignal(signal.SIGINT)
    seen = []

    def body() -> None:
        with Interruption() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(False, handler)]

"""Ctrl-C as a request: the first one waits for a checkpoint, the second does not."""

from __future__ import annotations

import os
import signal
import sys
import threading

EXIT_CODE = 130


class Interruption:
    """While entered, the first Ctrl-C only sets ``requested``; the second ends the process.

    A thread of its own listens, because the main one hears nothing while a compiled program runs.
    Ending at once loses nothing: what is on disk was written atomically. Outside the main thread,
    where signals cannot be handled, it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._handles = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Interruption:
        if self._handles:
            self._ear, self._mouth = os.pipe()
            os.set_blocking(self._mouth, False)
            # Python only writes signals to the pipe if they have a handler.
            self._previous = signal.signal(signal.SIGINT, lambda *_: None)
            self._previous_fd = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
            self._listener = threading.Thread(target=self._listen, daemon=True)
            self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._handles:
            signal.set_wakeup_fd(self._previous_fd)
            signal.signal(signal.SIGINT, self._previous)
            os.close(self._mouth)
            self._listener.join()
            os.close(self._ear)

    def _listen(self) -> None:
        while number := os.read(self._ear, 1):
            if number[0] != signal.SIGINT:
                continue
            if self.requested:
                _show_cursor()
                os._exit(EXIT_CODE)
            self.requested = True
            _write("stopping after this dispatch and a checkpoint; Ctrl-C again stops at once")


def _show_cursor() -> None:
    """A progress bar hides it and would have shown it at its end."""
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")


def _write(text: str) -> None:
    # Past the stream's buffer and its lock, which the main thread may hold.
    os.write(2, f"\n{text}\n".encode())

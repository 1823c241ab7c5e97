"""Ctrl-C as a request: the first one waits for a checkpoint, the second does not."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType


class Interruption:
    """While entered, the first Ctrl-C only sets ``requested``; the second ends the process.

    The second takes the default action of the signal, since an exception would wait for the
    compiled program to return. Checkpoints are atomic, so nothing is lost that was whole.
    """

    def __init__(self) -> None:
        self.requested = False
        self._can_handle = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Interruption:
        if self._can_handle:
            self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if self._can_handle:
            signal.signal(signal.SIGINT, self._previous)

    def _request(self, signal_number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
        text = "stopping after this dispatch and a checkpoint; Ctrl-C again stops at once"
        # The handler may have interrupted a write to the same stream, so it goes past its buffer.
        os.write(2, f"{show_cursor}\n{text}\n".encode())

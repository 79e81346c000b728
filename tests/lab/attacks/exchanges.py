"""Command-like exchanges with the laboratory's own servers: few bytes in, some more out, at the pace of somebody who types.

The client asks for every "command" ahead: so many random bytes after so many milliseconds. So all that is random is drawn
from the instance's seed, and the server (services/sink.py) keeps nothing. Used by infiltration and, inside its tunnel, by
dns_tunnel.
"""

from __future__ import annotations

import socket
import time
from types import TracebackType
from typing import Self

from ..services.sink import FRAME, LONGEST_ANSWER_BYTES, LONGEST_DELAY_MS
from .standins import PATIENCE_S, PIECE_BYTES, SETTLE_S, Ends


class Exchanges:
    """One connection over which bytes go out and asked-for bytes come back; over one device alone, where it is named."""

    def __init__(self, ends: Ends, device: str = "", patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._socket = socket.socket(socket.AF_INET6 if ":" in ends.dst else socket.AF_INET)
        try:
            self._socket.settimeout(patience_s)
            if device:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            if ends.src:
                self._socket.bind((ends.src, 0))
            self._socket.connect((ends.dst, ends.port))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close it in order, and let the other end's last packets come."""
        self._socket.close()
        time.sleep(SETTLE_S)

    def exchange(self, out: bytes, back_bytes: int, delay_s: float = 0.0) -> int:
        """Send bytes and read what was asked for, which comes after the delay; how many bytes came."""
        delay_ms = min(round(delay_s * 1000), LONGEST_DELAY_MS)
        back_bytes = min(back_bytes, LONGEST_ANSWER_BYTES)
        self._socket.settimeout(self._patience_s + delay_ms / 1000)
        self._socket.sendall(FRAME.pack(len(out), back_bytes, delay_ms) + out)
        left = back_bytes
        while left > 0:
            piece = self._socket.recv(min(left, PIECE_BYTES))
            if not piece:
                break
            left -= len(piece)
        return back_bytes - left

"""Filters in tcpdump's language, compiled by libpcap for a socket. Called by `ring_socket` and by `sniffed`.

scapy brings the bindings to libpcap; only `scapy.libs.winpcapy` is imported (the name is old: it is libpcap everywhere), and
only when there is a filter, because it takes 20 ms and looks for the library. It touches no network by itself.

Where a filter is compiled decides what it means. The kernel takes a VLAN tag out of a frame before a socket's filter sees
it, so `vlan 5` must ask the kernel for the tag and not look into the frame, and so must all that counts bytes behind it;
`inbound` can be asked of the kernel only. libpcap knows that when it compiles for an open interface. Hence an interface that
is up is opened for the moment of compiling; for one that is down the filter is compiled as for a file, to see that it is
sound, and again when it comes up.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

WHOLE_FRAME_BYTES = 262_144
"""What a filter's "yes" lets through of a frame: libpcap's own limit."""

INSTRUCTION_BYTES = 8
REJECT = b"\x06\0\0\0\0\0\0\0"
"""The filter "ret 0": not one frame."""


def compiled(expression: str, link_type: int, interface: str | None) -> bytes:
    """The program of a filter, as the kernel's struct sock_filter, 8 bytes an instruction.

    link_type: DLT_* of the frames. interface: compile for this one, which is up; None, or one that cannot be opened: as for
    a capture file. Raises ValueError with libpcap's words if the expression is wrong, OSError where there is no libpcap.
    """
    text = encoded(expression)
    pcap = libpcap()
    handle = None
    if interface is not None:
        error = ctypes.create_string_buffer(pcap.PCAP_ERRBUF_SIZE)
        handle = pcap.pcap_open_live(os.fsencode(interface), WHOLE_FRAME_BYTES, 0, 0, error)
    handle = handle or pcap.pcap_open_dead(link_type, WHOLE_FRAME_BYTES)
    program = pcap.bpf_program()
    try:
        if pcap.pcap_compile(handle, ctypes.byref(program), text, 1, 0xFFFF_FFFF) != 0:  # netmask unknown
            raise ValueError(pcap.pcap_geterr(handle).decode(errors="replace"))
        raw = ctypes.string_at(program.bf_insns, program.bf_len * INSTRUCTION_BYTES)
        pcap.pcap_freecode(ctypes.byref(program))
    finally:
        pcap.pcap_close(handle)
    return raw


def encoded(expression: str) -> bytes:
    """An expression for libpcap, which reads up to a NUL. Raises ValueError where it would read another one."""
    if "\0" in expression:
        raise ValueError("there is a NUL character in it")
    return expression.encode()


def libpcap() -> Any:
    """scapy's bindings, a module without types. Raises OSError."""
    from scapy.libs import winpcapy  # noqa: PLC0415  # late: it is slow, and most have no filter

    return winpcapy

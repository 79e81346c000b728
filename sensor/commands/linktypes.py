"""Names of link types, for the summary: a capture of an undecoded link type says what it holds, not only a number.

The numbers are those of pcap and pcapng files (www.tcpdump.org/linktypes.html); what the decoder reads is not in here.
"""

from __future__ import annotations

NAMES = {
    3: "AX.25",
    6: "IEEE 802.5 token ring",
    7: "ARCNET",
    8: "SLIP",
    10: "FDDI",
    100: "ATM, RFC 1483",
    104: "Cisco HDLC",
    105: "IEEE 802.11",
    107: "Frame Relay",
    109: "OpenBSD enc, IPsec",
    114: "LocalTalk",
    117: "OpenBSD pflog",
    119: "IEEE 802.11 with Prism header",
    122: "IP over Fibre Channel",
    123: "SunATM",
    127: "IEEE 802.11 with radiotap header",
    129: "ARCNET, Linux",
    138: "IP over IEEE 1394",
    139: "SS7 MTP2 with pseudo-header",
    140: "SS7 MTP2",
    141: "SS7 MTP3",
    142: "SS7 SCCP",
    143: "DOCSIS",
    144: "Linux IrDA",
    163: "IEEE 802.11 with AVS header",
    165: "BACnet MS/TP",
    166: "PPP by pppd",
    169: "GPRS LLC",
    177: "Linux LAPD",
    187: "Bluetooth HCI H4",
    189: "USB, Linux",
    192: "PPI",
    195: "IEEE 802.15.4 with FCS",
    197: "Endace ERF",
    201: "Bluetooth HCI H4 with direction",
    209: "IPMB, Linux",
    215: "IEEE 802.15.4 with PHY header",
    220: "USB, Linux, padded",
    224: "Fibre Channel FC-2",
    226: "Solaris ipnet",
    227: "CAN of SocketCAN",
    230: "IEEE 802.15.4 without FCS",
    231: "D-Bus",
    239: "Linux NFLOG",
    240: "Hilscher netANALYZER",
    242: "IP over InfiniBand",
    243: "DVB MPEG-2 transport stream",
    245: "NFC LLCP",
    247: "InfiniBand",
    248: "SCTP without IP",
    249: "USBPcap",
    251: "Bluetooth LE",
    252: "Wireshark upper PDU",
    253: "Linux Netlink",
    254: "Bluetooth, Linux monitor",
    256: "Bluetooth LE with pseudo-header",
    258: "PKTAP",
    272: "nRF sniffer",
    283: "IEEE 802.15.4 with TAP header",
}

PRIVATE = range(147, 163)
"""Reserved for private use: what is in them is for the one to tell who wrote the file."""


def named(number: int) -> str:
    """Name a link type with its number, for a person."""
    name = "private use" if number in PRIVATE else NAMES.get(number)
    return f"{number} ({name})" if name else str(number)

"""The network of a run: one namespace per host, two bridges in a namespace of their own, a router between, and no way out.

A frame's way: a host's eth0 (veth), its port of br-inside or br-outside in the namespace "switch", another port, another host;
from inside to outside through the namespace of the router. Only the ports of br-inside are captured (capture.py), so the inside
has everything that a switch would show, neighbour discovery included; outside, the router and the hosts know one another's
hardware addresses from the start: the kernel's neighbour tables (1,024 entries for all namespaces) would not hold them.
Offloads are off: the capture has frames as long as a wire's, with right checksums. Called by run.py and the tests, in a world.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Self

from . import world
from .delay import netem_command
from .isolation import refuse_if_open
from .processes import Process, Processes
from .site import INSIDE as INSIDE_RANGES
from .site import OUTSIDE as OUTSIDE_RANGES
from .site import Host, LabError, Site

INSIDE, OUTSIDE = (tuple(map(str, ranges)) for ranges in (INSIDE_RANGES, OUTSIDE_RANGES))

SWITCH = "switch"
ROUTER = "router"
BRIDGES = {"inside": "br-inside", "outside": "br-outside"}
TAP_FRAMES = 20_000
"""Frames that may wait for the delay line: a second of the most it must carry."""

LINE = "line"
"""The delay line's port of br-outside."""

OFFLOADS = ("tso", "gso", "gro", "sg", "tx", "rx")

PROGRAMS = (("ip", "iproute2"), ("tc", "iproute2"), ("ethtool", "ethtool"), ("tcpdump", "tcpdump"))
"""What the network needs, with Debian's packages."""

PATIENCE_S = 30.0
"""For the delay line to start, on a busy machine."""

HOST_SETTINGS = {
    "ipv4/ip_forward": "0",  # first: it resets others
    "ipv4/conf/all/rp_filter": "0",  # floods come from many addresses of one host
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    "ipv6/conf/all/accept_dad": "0",  # addresses are good at once
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/all/accept_ra": "0",
    "ipv6/conf/default/accept_ra": "0",
}
"""Of every host's namespace, in /proc/sys/net; the rest is the kernel's own choice, its limit of ICMP errors too."""

LINES_OF_A_HOST = f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {world.HOST_NAME.decode()}\n"
NAMES_ORDER = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"
"""/etc/hosts and /etc/nsswitch.conf of every host: names come from the laboratory's own DNS and nowhere else.
The machine's own name is there, for some tools look it up when they start: asked of the DNS, it would be of no attack."""


class Network:
    """The namespaces and links of a site, for the time of a with block.

    `logs` is the folder for the delay line's log; a temporary one unless told. LabError when a program is missing, or when
    this is not a world, or when something could reach beyond it.
    """

    def __init__(self, site: Site, logs: Path | None = None) -> None:
        self.site = site
        self.processes = Processes()
        self.link_kind = ""
        """What delays frames, once it is up: netem, userspace, or none when no link has delay or loss."""
        self.made: list[str] = []
        self.ports: dict[str, str] = {}
        """The port of its bridge by host."""
        self._logs = logs
        self._stack = ExitStack()

    @property
    def hosts(self) -> list[Host]:
        """Those that are up, without the router."""
        return [host for host in self.site.hosts if not host.down and host.kind != "router"]

    @property
    def inside_ports(self) -> list[str]:
        """The ports of br-inside: one of each host that is up, and the router's."""
        return [self.ports[host.name] for host in self.hosts if host.network == "inside"] + [self.ports[f"{ROUTER}-inside"]]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            world.refuse_outside()
            refuse_missing()
            if taken := {host.name for host in self.hosts} & {ROUTER, SWITCH}:
                raise LabError(f"no host may have the name {', '.join(taken)}: it is the laboratory's own")
            stack.callback(self._delete)
            if self._logs is None:
                self._logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netseq-lab-")))
            self._make_switch()
            self._make_router()
            for host in self.hosts:
                self._make_host(host)
            self._know_outside()
            stack.enter_context(self.processes)
            self._delay()
            self.refuse_if_open()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def refuse_if_open(self) -> None:
        """LabError when something in the network could reach beyond it (isolation.py)."""
        made: dict[str, list[str]] = {host.name: ["eth0"] for host in self.hosts}
        made[ROUTER] = ["inside", "outside"]
        made[SWITCH] = [*BRIDGES.values(), *self.ports.values(), LINE]
        refuse_if_open(made, {self.gateway(part) for part in (*INSIDE, *OUTSIDE)})

    def run(
        self, host: str, argv: Sequence[str], *, timeout_s: float = 60.0, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in a host's namespace to its end, and return what it said; subprocess's errors."""
        command = self.command(host, argv)
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=check, stdin=subprocess.DEVNULL)

    def popen(
        self,
        host: str,
        argv: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        *,
        name: str = "",
        cwd: Path | None = None,
        expected: bool = False,
    ) -> Process:
        """Start a program in a host's namespace (Processes.start); it is ended with the network, or by `processes.end`."""
        name = name or f"{Path(argv[0]).name} of {host}"
        if shutil.which(argv[0]) is None:
            raise LabError(f"{argv[0]} is not installed ({name} needs it)")
        return self.processes.start(self.command(host, argv), log, name=name, env=env, cwd=cwd, expected=expected)

    def command(self, host: str, argv: Sequence[str]) -> list[str]:
        """The same program, in a host's namespace; LabError when there is no such host, or it is down."""
        if host not in self.made:
            self.site[host]
            raise LabError(f"{host} is down: nothing can run there")
        return ["ip", "netns", "exec", host, *argv]

    def _make_switch(self) -> None:
        self._make_namespace(SWITCH, {"ipv6/conf/all/disable_ipv6": "1", "ipv6/conf/default/disable_ipv6": "1"})
        commands = [
            f"link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0" for bridge in BRIDGES.values()
        ]
        commands += [f"link set {bridge} up" for bridge in BRIDGES.values()]
        batch(SWITCH, commands)

    def _make_router(self) -> None:
        """Make the router with an interface for each network, named for it; its addresses are the site's, or each's first."""
        self._make_namespace(ROUTER, {**HOST_SETTINGS, "ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"})
        self.link_kind = link_kind(ROUTER) if any(host.delay_ms or host.loss for host in self.hosts) else "none"
        self._connect(ROUTER, "inside", "inside", self.gateway(INSIDE[0]))
        if self.link_kind != "userspace":
            self._connect(ROUTER, "outside", "outside", self.gateway(OUTSIDE[0]))
        else:
            for namespace, name in ((ROUTER, "outside"), (SWITCH, LINE)):
                batch(namespace, [f"tuntap add mode tap name {name}", f"link set {name} mtu 1500 txqueuelen {TAP_FRAMES} up"])
            batch(ROUTER, [f"link set outside address {_hardware(self.gateway(OUTSIDE[0]))}"])
            batch(SWITCH, [f"link set {LINE} master {BRIDGES['outside']}"])
        for network, ranges in (("inside", INSIDE), ("outside", OUTSIDE)):
            commands = [_address(self.gateway(part), part, network) for part in ranges]
            batch(ROUTER, [*commands, f"link set {network} up"])

    def _make_host(self, host: Host) -> None:
        settings = dict(HOST_SETTINGS)
        if not host.ipv6:
            settings["ipv6/conf/all/disable_ipv6"] = settings["ipv6/conf/default/disable_ipv6"] = "1"
        self._make_namespace(host.name, settings)
        self._connect(host.name, "eth0", host.network, (*host.ipv4, *host.ipv6)[0])
        ranges = INSIDE if host.network == "inside" else OUTSIDE
        commands, seen = [], set()
        for address in (*host.ipv4, *host.ipv6):
            part = _part(address, ranges, host)
            commands.append(_address(address, part if part not in seen else "", "eth0"))
            seen.add(part)
        commands.append("link set eth0 up")
        if host.ipv4:
            commands += [f"route add {part} dev eth0" for part in ranges if ":" not in part and part not in seen]
            commands.append(f"route add default via {self.gateway(_part(host.ipv4[0], ranges, host))} src {host.ipv4[0]}")
        if host.ipv6:
            commands.append(f"route add default via {self.gateway(_part(host.ipv6[0], ranges, host))}")
        batch(host.name, commands)
        self._write_names(host)

    def _make_namespace(self, name: str, settings: Mapping[str, str]) -> None:
        _do(["ip", "netns", "add", name])
        self.made.append(name)

        def write() -> None:
            for setting, value in settings.items():
                Path("/proc/sys/net", setting).write_text(value)

        world.within(name, write)
        batch(name, ["link set lo up"])

    def _connect(self, namespace: str, interface: str, network: str, address: str) -> None:
        """Join a namespace to a bridge, with a hardware address told by its address."""
        port = f"p{len(self.ports)}"
        self.ports[namespace if interface == "eth0" else f"{namespace}-{network}"] = port
        batch(
            SWITCH,
            [
                f"link add {port} mtu 1500 type veth"
                f" peer name {interface} mtu 1500 address {_hardware(address)} netns {namespace}",
                f"link set {port} master {BRIDGES[network]} up",
            ],
        )
        off = [word for offload in OFFLOADS for word in (offload, "off")]
        _do(["ip", "netns", "exec", SWITCH, "ethtool", "-K", port, *off])
        _do(["ip", "netns", "exec", namespace, "ethtool", "-K", interface, *off])

    def _know_outside(self) -> None:
        """Tell the router and the hosts outside one another's hardware addresses."""
        outside = [host for host in self.hosts if host.network == "outside"]
        own = _hardware(self.gateway(OUTSIDE[0]))
        known: list[str] = []
        for host in outside:
            mac = _hardware((*host.ipv4, *host.ipv6)[0])
            known += [f"neigh replace {address} lladdr {mac} dev outside nud permanent" for address in (*host.ipv4, *host.ipv6)]
            gateways = [self.gateway(part) for part in OUTSIDE if host.ipv6 or ":" not in part]
            batch(host.name, [f"neigh replace {gateway} lladdr {own} dev eth0 nud permanent" for gateway in gateways])
        batch(ROUTER, known)

    def _write_names(self, host: Host) -> None:
        """Write what `ip netns exec` shows as /etc/resolv.conf, hosts and nsswitch.conf."""
        folder = Path("/etc/netns", host.name)
        folder.mkdir(parents=True, exist_ok=True)
        servers = [server for server in self.site.offering("dns") if not server.down]
        near = [server for server in servers if server.network == host.network] or servers
        lines = [f"search {self.site.domain}", *(f"nameserver {server.ipv4[0]}" for server in near[:2])]
        (folder / "resolv.conf").write_text("\n".join([*lines, "options timeout:2 attempts:2", ""]))
        (folder / "hosts").write_text(LINES_OF_A_HOST)
        (folder / "nsswitch.conf").write_text(NAMES_ORDER)

    def _delay(self) -> None:
        if self.link_kind != "userspace":
            for host in self.hosts:
                for namespace, interface in ((host.name, "eth0"), (SWITCH, self.ports[host.name])):
                    if command := netem_command(interface, host):
                        _do(["ip", "netns", "exec", namespace, *command])
            return
        assert self._logs is not None
        table = self._logs / "delay-hosts.json"
        self.site.write(table)
        module = world.module("delay", str(table.absolute()), f"{ROUTER}/outside", f"{SWITCH}/{LINE}")
        line = self.processes.start(module, self._logs / "delay.log", name=LINE, env=world.MODULE_ENV)
        wait_until(lambda: line.poll() is not None or "carrying" in line.last_lines(1), "the delay line to start")
        self.processes.check()

    def gateway(self, part: str) -> str:
        """The router's address in a network."""
        network = ip_network(part)
        for router in self.site.hosts:
            if router.kind == "router":
                for address in (*router.ipv4, *router.ipv6):
                    if ip_address(address) in network:
                        return address
        return str(network[1])

    def _delete(self) -> None:
        while self.made:
            name = self.made.pop()
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)
        self.ports.clear()


def wait_until(true: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> None:
    """Wait until something holds; LabError when it takes too long."""
    until = time.monotonic() + within_s
    while not true():
        if time.monotonic() > until:
            raise LabError(f"waited {within_s:g} s for {what}: is the machine too busy?")
        time.sleep(0.005)


def refuse_missing() -> None:
    """LabError that names the package when a program of PROGRAMS is not installed."""
    for program, package in PROGRAMS:
        if shutil.which(program) is None:
            raise LabError(f"{program} is not installed: apt-get install {package}")


def link_kind(namespace: str) -> str:
    """netem where the kernel has it, else userspace; tried in a namespace that is up."""
    words = ["ip", "netns", "exec", namespace, "tc", "qdisc"]
    tried = subprocess.run([*words, "add", "dev", "lo", "root", "netem", "delay", "1ms"], capture_output=True, check=False)
    if tried.returncode != 0:
        return "userspace"
    _do([*words, "del", "dev", "lo", "root"])
    return "netem"


def _part(address: str, ranges: Sequence[str], host: Host) -> str:
    """The network that an address of a host is in; LabError when it is in none of `ranges`."""
    for part in ranges:
        if ip_address(address) in ip_network(part):
            return part
    raise LabError(f"{host.name}: {address} is in none of the networks {host.network} ({', '.join(ranges)})")


def _address(address: str, part: str, interface: str) -> str:
    """The command that adds an address: with its network's prefix where `part` tells it, as a further one of the host else."""
    whole = "128" if ":" in address else "32"
    prefix = part.partition("/")[2] or whole
    return f"address add {address}/{prefix} dev {interface}" + (" nodad" if ":" in address else "")


def _hardware(address: str) -> str:
    """A hardware address of the laboratory's own (locally administered) for an IP address: every run has the same."""
    packed = ip_address(address).packed
    return ":".join(f"{byte:02x}" for byte in (2, len(packed), *packed[-4:]))


def batch(namespace: str, commands: Sequence[str], program: str = "ip") -> None:
    """Many commands of ip or tc in one process."""
    if commands:
        _do([program, "-n", namespace, "-batch", "-"], "\n".join(commands))


def _do(argv: Sequence[str], given: str = "") -> None:
    done = subprocess.run(list(argv), input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: {' '.join((done.stdout + done.stderr).split())}")

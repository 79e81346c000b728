"""The private world that a run lives in: processes, network, mounts and host name of its own, gone without a trace afterwards.

`enter` starts the command again under two processes. The outer one is what the user sees and signals: it unshares, forks and
passes signals in and the exit status out. Its child is process 1 of the new process namespace: it prepares the mounts, starts
the command, buries orphans and ends with it. Whichever dies first, also by kill -9, takes the rest along: the kernel kills
process 1 when its parent is gone, all others when process 1 is gone, and frees the network namespaces with their last process.

Inside, /run and /dev/shm are empty at first and /etc is a copy: network namespaces by name, /etc/netns, users, passwords and
pid files of the world's own touch nothing of the machine. /tmp and the rest of the file system stay the machine's. Called by
the laboratory's command and by tests; `python -m tests.lab.world COMMAND ...` runs anything in a world.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from .site import LabError

T = TypeVar("T")

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000
PR_SET_PDEATHSIG = 1
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
"""linux/sched.h, linux/prctl.h, linux/mount.h; Python has them from 3.12 on, or not at all."""

SI_KERNEL = 0x80
"""siginfo's code of a signal that came from the terminal: the command, in the same process group, had it too."""

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

MACHINE = "NETSEQ_LAB_MACHINE"
"""Environment variable: the network namespaces of the machine's process 1 and of whoever called `enter`, by inode."""

HOST_NAME = b"netseq-lab"

RUN_FOLDERS = (("netns", 0o755), ("lock", 0o1777), ("user", 0o755), ("log", 0o755))
"""What programs expect to find in /run; services make their own beside them."""

MODULE_ENV = {"PYTHONPATH": str(Path(__file__).parents[len((__package__ or "").split("."))])}
"""What `module` needs in the environment to be found in any folder."""

_libc = ctypes.CDLL(None, use_errno=True)


def enter() -> None:
    """Return inside a world: at once when in one already, else by starting this very command again in a new one.

    The interpreter's options, arguments, folder, environment, input and outputs are kept, and its exit status is the command's.
    LabError without the right to make a world.
    """
    if inside():
        return
    refuse_without_rights()
    command = [sys.executable, *sys.orig_argv[1:]]
    os.execv(sys.executable, [sys.executable, "-m", f"{__package__}.world", *command])


def inside() -> bool:
    """Whether this process is in a world, by its network namespace and host name: the variable alone could be made up."""
    return bool(machine()) and str(network_inode()) not in machine() and os.uname().nodename == HOST_NAME.decode()


def machine() -> tuple[str, ...]:
    """The network namespaces that the world must not be in, by inode."""
    return tuple(os.environ.get(MACHINE, "").split())


def network_inode(process: str = "self") -> int:
    """The network namespace of a process."""
    return Path("/proc", process, "ns", "net").stat().st_ino


def refuse_without_rights() -> None:
    """LabError without what it takes to make namespaces."""
    if os.geteuid() != 0:
        raise LabError("the laboratory makes network namespaces, which needs root: run it with sudo")
    if shutil.which("ip") is None:
        raise LabError("ip is not installed: apt-get install iproute2")


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package, with MODULE_ENV in its environment."""
    return [sys.executable, "-m", f"{__package__}.{name}", *arguments]


def bind(file: Path, over: Path) -> None:
    """Show a file or folder in the place of another, in this world only; OSError when either does not exist."""
    refuse_outside()
    _mount(str(file), str(over), None, MS_BIND)


def cover(folder: Path, mode: int = 0o755, size_mb: int = 0) -> None:
    """Show an empty folder in memory in the place of another, in this world only: for programs with a fixed folder in /var.

    It may hold `size_mb`, or half the machine's memory.
    """
    refuse_outside()
    _mount("tmpfs", str(folder), "tmpfs", MS_NOSUID | MS_NODEV, f"mode={mode:o}" + (f",size={size_mb}m" if size_mb else ""))


def refuse_outside() -> None:
    """LabError when this is the machine and not a world."""
    if not inside():
        raise LabError("this would change the machine itself: call world.enter() first")


def within(namespace: str, function: Callable[[], T]) -> T:
    """Call a function inside a named network namespace, in a thread of its own; what it opens there stays there."""
    result: list[T] = []
    trouble: list[BaseException] = []

    def body() -> None:
        try:
            step_into(namespace)
            result.append(function())
        except BaseException as error:  # the caller raises it again
            trouble.append(error)

    thread = threading.Thread(target=body, name=namespace)
    thread.start()
    thread.join()
    if trouble:
        raise trouble[0]
    return result[0]


def step_into(namespace: str) -> None:
    """Move the calling thread into a named network namespace, for good."""
    with Path("/run/netns", namespace).open() as door:
        _check(_libc.setns(door.fileno(), CLONE_NEWNET), f"setns {namespace}")


def main(command: Sequence[str]) -> int:
    """Run a command in a new world, this process staying outside; its exit status, or 128 + the signal that ended it."""
    refuse_without_rights()
    found = {network_inode()}
    with contextlib.suppress(PermissionError):  # some machines hide process 1, even from root
        found.add(network_inode("1"))
    os.environ[MACHINE] = " ".join(map(str, sorted(found)))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*PASSED_ON, signal.SIGCHLD})
    try:
        _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC), "unshare")
    except OSError as error:
        raise LabError(f"no namespaces can be made here ({error}): a container needs --privileged") from error
    alive, outer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(outer)
        os._exit(_first_process(command, alive, before))
    os.close(alive)
    os.write(outer, b"!")
    return _wait(child)


def _first_process(command: Sequence[str], alive: int, before: set[signal.Signals] | set[int]) -> int:
    """Be process 1 of the world: prepare it, run the command, bury the dead; the command's exit status."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")
    if not os.read(alive, 1):  # the outer process died before the kernel was told to tell
        return 1
    os.close(alive)
    try:
        _prepare()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"the private world cannot be made: {error}", file=sys.stderr)  # noqa: T201
        return 2
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # python ignores it, and a command would inherit that
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            os.execvp(command[0], list(command))
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
            os._exit(127)
    return _wait(child)


def _prepare() -> None:
    """Mounts, loopback interface and host name of the world."""
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    _mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")  # noqa: S108
    for name, mode in RUN_FOLDERS:
        folder = Path("/run", name)
        folder.mkdir()
        folder.chmod(mode)
    _copy_settings()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    _check(_libc.sethostname(HOST_NAME, len(HOST_NAME)), "sethostname")


def _copy_settings() -> None:
    """Put a copy of /etc over it: `ip netns exec` wants folders there, and services users and settings of their own."""
    copy = Path("/run/etc")
    subprocess.run(["cp", "--archive", "/etc", str(copy)], check=True)
    (copy / "netns").mkdir(exist_ok=True)
    for name in ("resolv.conf", "hosts", "nsswitch.conf", "hostname"):
        file = copy / name
        if file.is_symlink() or not file.exists():  # into the machine's /run, where nothing could be mounted over it
            file.unlink(missing_ok=True)
            file.touch()
    _mount(str(copy), "/etc", None, MS_BIND)


def _wait(child: int) -> int:
    """Pass signals on to a child, bury every process that ends, and return the child's exit status when it does."""
    while True:
        told = signal.sigwaitinfo({*PASSED_ON, signal.SIGCHLD})
        if told.si_signo != signal.SIGCHLD:
            if told.si_code != SI_KERNEL:
                os.kill(child, told.si_signo)
            continue
        while True:
            try:
                ended, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if ended == child:
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
            if ended == 0:
                break


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    words = [word.encode() if word is not None else None for word in (source, target, kind)]
    _check(_libc.mount(*words, ctypes.c_ulong(flags), data.encode() or None), f"mount {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        sys.exit(f"{error}")

"""Two network namespaces of this machine, joined by a link that delays every packet: two nodes with a network between.

The link is a TUN device in each namespace and a thread here that carries packets from one to the other. (A veth pair
would need the kernel's netem for the delay, which many kernels of containers lack.) Needs root.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import secrets
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

_TUNSETIFF, _IFF_TUN_NO_PI = 0x400454CA, 0x0001 | 0x1000
_MTU = 1500


@dataclass
class Node:
    """One side. `command` runs there: in the namespace, under a host name of its own."""

    name: str
    address: str
    tun: int = -1
    received: int = 0
    waiting: list[tuple[float, int, bytes]] = field(default_factory=list)

    def command(self, *arguments: str) -> list[str]:
        shell = f'hostname {self.name}; exec "$@"'
        return ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", shell, "sh", *arguments]


def can_join() -> bool:
    return os.geteuid() == 0 and os.path.exists("/dev/net/tun") and _is_there("ip") and _is_there("unshare")


@contextlib.contextmanager
def joined_nodes(delay_s: float) -> Iterator[tuple[Node, Node]]:
    """Two nodes at 10.77.0.1 and 10.77.0.2, delay_s apart (one way)."""
    tag = secrets.token_hex(2)
    nodes = Node(f"drb{tag}a", "10.77.0.1"), Node(f"drb{tag}b", "10.77.0.2")
    stop = threading.Event()
    carrier = threading.Thread(target=_carry, args=(*nodes, delay_s, stop), daemon=True)
    try:
        for node, other in zip(nodes, nodes[::-1], strict=True):
            _ip("netns", "add", node.name)
            node.tun = _open_tun(node.name)
            in_namespace = ("-n", node.name)
            _ip(*in_namespace, "link", "set", "lo", "up")
            _ip(*in_namespace, "addr", "add", node.address, "peer", other.address, "dev", "tun0")
            _ip(*in_namespace, "link", "set", "tun0", "mtu", str(_MTU), "up")
        carrier.start()
        yield nodes
    finally:
        stop.set()
        if carrier.ident is not None:
            carrier.join()
        for node in nodes:
            if node.tun >= 0:
                os.close(node.tun)
            subprocess.run(["ip", "netns", "del", node.name], check=False, capture_output=True)


def _carry(a: Node, b: Node, delay_s: float, stop: threading.Event) -> None:
    """Packets in order, each delay_s after it was sent."""
    count = 0
    while not stop.is_set():
        due = [node.waiting[0][0] for node in (a, b) if node.waiting]
        timeout = max(0.0, min(due) - time.monotonic()) if due else 0.1
        ready, _, _ = select.select([a.tun, b.tun], [], [], timeout)
        for node, other in ((a, b), (b, a)):
            if node.tun in ready:
                count += 1
                heapq.heappush(other.waiting, (time.monotonic() + delay_s, count, os.read(node.tun, 2 * _MTU)))
        for node in (a, b):
            while node.waiting and node.waiting[0][0] <= time.monotonic():
                packet = heapq.heappop(node.waiting)[2]
                node.received += len(packet)
                with contextlib.suppress(OSError):  # the device went down
                    os.write(node.tun, packet)


def _open_tun(namespace: str) -> int:
    """A TUN device is made in the namespace of the thread that asks: a thread of its own, which enters it and ends."""
    result: list[int] = []

    def enter_and_open() -> None:
        with open(f"/var/run/netns/{namespace}") as file:
            _setns(file.fileno())
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN_NO_PI))
        result.append(tun)

    thread = threading.Thread(target=enter_and_open)
    thread.start()
    thread.join()
    return result[0]


def _setns(fd: int) -> None:
    """os.setns is there from Python 3.12 on."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).setns(fd, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _is_there(program: str) -> bool:
    from shutil import which

    return which(program) is not None

"""Opens the store at which the ranks of a run meet, and from which torch.distributed starts.

torch's own store reports a wrong address with pages of stack traces for every attempt. So the address is tried first
with plain sockets, and what is wrong with it becomes one sentence.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from datetime import timedelta

from torch.distributed import DistError, Store, TCPStore  # type: ignore[attr-defined]  # not in its stubs
from torch.distributed.rendezvous import rendezvous

from drb.distributed.failure import PeerError, first_few
from drb.distributed.launchers import Address, Place
from drb.distributed.mpi import broadcast_json, load_mpi, require_one_world
from drb.distributed.restarts import fresh_store

UNREACHABLE_S = 20.0  # a host that cannot be reached is given up earlier than one where nobody listens yet
_RETRY_S = 0.2
_GATE_POLL_S = 0.02
_PROOF_S = 5.0
_FAREWELL_S = 1.0  # rank 0 keeps the store for so much longer, or the others could not tell who is missing


def open_store(place: Place, node: str, timeout_s: float) -> Store:
    """The store, once all ranks have arrived at it. Collective.

    Args:
        node: this machine's name (`drb.machine.node_name`).
        timeout_s: how long to wait for the other ranks.
    Raises:
        ValueError: the address cannot be used. PeerError: some ranks did not arrive in time.
    """
    if place.address.by == "agent":
        store = _store_of_agent(place, timeout_s)
    elif place.address.by == "mpi":
        store = _meet_by_mpi(place, node, timeout_s)
    elif place.rank == 0:
        is_alone = place.local_world_size == place.world_size
        store = _serve(_listen(place.address, is_alone), place.world_size, timeout_s)
    else:
        store = _connect(place, place.address, timeout_s)
    _await_all(store, place, timeout_s)
    return store


def _store_of_agent(place: Place, timeout_s: float) -> Store:
    """A part of torchrun's store that earlier starts have not used."""
    store: Store
    store, *_ = next(rendezvous("env://", place.rank, place.world_size, timeout=timedelta(seconds=timeout_s)))
    return fresh_store(store, place.rank, place.world_size, timeout_s)


def _meet_by_mpi(place: Place, node: str, timeout_s: float) -> Store:
    """Rank 0 listens at a free port and broadcasts it. MASTER_ADDR or MASTER_PORT are used if one of them is set."""
    address = place.address
    mpi = load_mpi(f"a start by {place.launcher}", place.launcher)
    require_one_world(mpi, place.launcher, place.rank, place.world_size)
    listener, said = None, {}
    if place.rank == 0:
        loopback = place.local_world_size == place.world_size and not address.host
        listener = _bind(address.port, "127.0.0.1" if loopback else "")
        said = {"host": address.host or socket.gethostname(), "port": listener.getsockname()[1], "node": node}
    try:
        said = broadcast_json(mpi, said, timeout_s)
    except TimeoutError as error:
        raise PeerError(f"rank {place.rank} of {place.world_size}, start: {error}") from None
    if listener is not None:
        return _serve(listener, place.world_size, timeout_s)
    host = "127.0.0.1" if said["node"] == node else said["host"]
    return _connect(place, Address("mpi", host, said["port"], address.origin), timeout_s)


def _serve(listener: socket.socket, world_size: int, timeout_s: float) -> Store:
    """The store of rank 0, on the listening socket."""
    host, port = listener.getsockname()[:2]
    timeout = timedelta(seconds=timeout_s)
    host = "127.0.0.1" if host in ("::", "0.0.0.0") else host
    return TCPStore(host, port, world_size, True, timeout, wait_for_workers=False, master_listen_fd=listener.detach())


def _connect(place: Place, address: Address, timeout_s: float) -> Store:
    _require_known(address)
    _await_listener(address, place.rank, timeout_s)
    timeout = timedelta(seconds=timeout_s)
    try:
        return TCPStore(address.host, address.port, place.world_size, False, timeout, wait_for_workers=False)
    except DistError as error:
        raise ValueError(
            f"rank {place.rank} found another program than rank 0 at {address.host}:{address.port} (from "
            f"{address.origin}): {str(error).splitlines()[0]}"
        ) from None


def _listen(address: Address, is_alone: bool) -> socket.socket:
    _require_known(address)
    listener = _bind(address.port, _interface(address.host, is_alone))
    try:
        if not _is_of_this_machine(address.host):
            _require_that_it_leads_here(address)
    except ValueError:
        listener.close()
        raise
    return listener


def _interface(host: str, is_alone: bool) -> str:
    """The address at which rank 0 listens: that of MASTER_ADDR if it is certain that all ranks know it as the same one.

    That is so for a literal address of this machine, and if all ranks are on this machine. The name of a host may mean
    another address elsewhere (127.0.1.1 here, for one), and an address of another machine is forwarded: then it
    listens on all interfaces, which "" stands for.

    Args:
        is_alone: whether all ranks are on this machine.
    """
    is_literal = True
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        is_literal, found = False, socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    if not (is_literal or is_alone or host == "localhost"):
        return ""
    for family, _, _, _, address in sorted(found, key=lambda entry: entry[0] != socket.AF_INET):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(address)
            return str(address[0])
    return ""


def _bind(port: int, host: str = "") -> socket.socket:
    """A listening socket at port (0: any free one), on all interfaces unless an address is given."""
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=4096)
    except OSError as error:
        raise ValueError(
            f"rank 0 cannot listen at port {port} of {socket.gethostname()}: {os.strerror(error.errno or 0)}; set "
            "MASTER_PORT to a free one"
        ) from None


def _require_known(address: Address) -> None:
    """Raise ValueError for an address that is missing or unknown."""
    if not address.host or not address.port:
        raise ValueError(
            "RANK and WORLD_SIZE are set, but MASTER_ADDR and MASTER_PORT are not both; set them to rank 0's host and "
            "a free port there, or start with torchrun"
        )
    try:
        socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(
            f"{socket.gethostname()} does not know the host {address.host!r} (from {address.origin}): "
            f"{error.strerror}; set MASTER_ADDR to an address of rank 0's machine"
        ) from None


def _is_of_this_machine(host: str) -> bool:
    for family, _, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(address)
            return True
    return False


def _require_that_it_leads_here(address: Address) -> None:
    """Check that an address of another machine leads here.

    It may be forwarded to this one, as into a container; then the listening socket answers.
    """
    try:
        socket.create_connection((address.host, address.port), timeout=_PROOF_S).close()
    except OSError as error:
        raise ValueError(
            f"rank 0, on {socket.gethostname()}, cannot be reached at {address.host}:{address.port} (from "
            f"{address.origin}), which is no address of this machine: {error.strerror or error}; set MASTER_ADDR to "
            "one of rank 0's machine"
        ) from None


def _await_listener(address: Address, rank: int, timeout_s: float) -> None:
    """Wait until somebody listens at the address."""
    start = time.monotonic()
    while True:
        waited = time.monotonic() - start
        try:
            socket.create_connection((address.host, address.port), timeout=5.0).close()
            return
        except ConnectionRefusedError:
            problem, patience = "nobody listens there", timeout_s
        except OSError as error:
            problem, patience = error.strerror or str(error), min(timeout_s, UNREACHABLE_S)
        if waited > patience:
            raise ValueError(
                f"rank {rank}, on {socket.gethostname()}, cannot reach rank 0 at {address.host}:{address.port} (from "
                f"{address.origin}) for {waited:.0f} s: {problem}"
            )
        time.sleep(_RETRY_S)


def _await_all(store: Store, place: Place, timeout_s: float) -> None:
    """Wait for all ranks. The last one to arrive sets a key that releases the others."""
    patience = timeout_s + (place.rank == 0) * _FAREWELL_S
    try:
        store.set(f"drb/arrived/{place.rank}", "")
        if store.add("drb/arrivals", 1) == place.world_size:
            store.set("drb/all", "")
        deadline = time.monotonic() + patience
        while not store.check(["drb/all"]):  # store.wait() prints a stack trace when it gives up
            if time.monotonic() > deadline:
                missing = [r for r in range(place.world_size) if not store.check([f"drb/arrived/{r}"])]
                raise PeerError(
                    f"rank {place.rank}, start: ranks [{first_few(missing)}] of {place.world_size} did not arrive "
                    f"within {timeout_s:g} s (start_timeout_s)"
                )
            time.sleep(_GATE_POLL_S)
    except DistError:
        raise PeerError(f"rank {place.rank}, start: rank 0, which keeps the store, has ended") from None

"""The ranks meet, or one sentence says within seconds why they cannot; torch's own traces never show."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time

import pytest
import torch.distributed as dist

from drb.distributed import rendezvous
from drb.distributed.failure import PeerError
from drb.distributed.launchers import Address, Place
from drb.distributed.rendezvous import open_store
from drb.distributed.world import World, open_world


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def place(rank, world_size=2, host="localhost", port=0):
    return Place(rank, world_size, rank, world_size, "srun", Address("address", host, port, "MASTER_ADDR"))


def meet(places, timeout_s=10.0):
    """Every rank in a thread; what it got or raised."""
    outcomes = [None] * len(places)

    def run(index):
        try:
            outcomes[index] = open_store(places[index], "node", timeout_s)
        except Exception as error:
            outcomes[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(places))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", socket.gethostname()])
def test_ranks_meet(host):
    port = free_port()
    stores = meet([place(rank, 3, host, port) for rank in (2, 0, 1)])
    stores[0].set("key", "value")
    assert [store.get("key") for store in stores] == [b"value"] * 3


def listening_addresses(port):
    """At which addresses of this machine something listens at the port."""
    own = {"127.0.0.1", "127.0.0.2", socket.gethostbyname(socket.gethostname())}
    found = set()
    for address in own:
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=2):
            found.add(address)
    return found


@pytest.mark.parametrize(("host", "local"), [("127.0.0.1", 2), ("127.0.0.1", 1), ("localhost", 1)])
def test_the_store_listens_where_it_is_told(host, local):
    """Not on the network's interfaces, where anyone could stop the run or read its settings."""
    port = free_port()
    ranks = [Place(r, 2, r, local, "srun", Address("address", host, port, "MASTER_ADDR")) for r in range(2)]
    stores = meet(ranks)
    assert all(isinstance(store, dist.TCPStore) for store in stores), stores
    assert listening_addresses(port) == {"127.0.0.1"}


def test_who_does_not_arrive_is_named(capfd):
    port = free_port()
    for error in meet([place(rank, 5, port=port) for rank in (0, 1, 3)], timeout_s=0.5):
        assert isinstance(error, PeerError)
        assert "ranks [2, 4] of 5 did not arrive within 0.5 s (start_timeout_s)" in str(error)
    assert capfd.readouterr().err == ""


def test_a_port_in_use(capfd):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ValueError, match=rf"cannot listen at port {port} of .*: Address already in use; set MASTER_PORT"
        ):
            open_store(place(0, port=port), "node", 5.0)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("rank", [0, 1])
def test_an_unknown_host(rank):
    with pytest.raises(ValueError, match=r"does not know the host 'no.such.host.invalid' \(from MASTER_ADDR\)"):
        open_store(place(rank, host="no.such.host.invalid", port=29500), "node", 30.0)


@pytest.mark.parametrize("rank", [0, 1])
def test_no_address(rank):
    with pytest.raises(ValueError, match="MASTER_ADDR and MASTER_PORT are not both"):
        open_store(place(rank, host=""), "node", 30.0)


def test_nobody_listens(capfd):
    with pytest.raises(ValueError, match=r"rank 1, on .*, cannot reach rank 0 at localhost:\d+ .*nobody listens there"):
        open_store(place(1, port=free_port()), "node", 0.3)
    assert capfd.readouterr().err == ""


def test_a_host_that_cannot_be_reached_is_given_up_earlier(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError(errno.EHOSTUNREACH, "No route to host")

    monkeypatch.setattr(rendezvous, "UNREACHABLE_S", 0.3)
    monkeypatch.setattr(socket, "create_connection", unreachable)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"cannot reach rank 0 at localhost:4711 .*No route to host"):
        open_store(place(1, port=4711), "node", 600.0)
    assert time.monotonic() - start < 5


def test_rank_0_on_another_machine_than_the_address(monkeypatch):
    """Port 1 of this machine stands for the other one's: nobody listens there."""
    connect = socket.create_connection
    monkeypatch.setattr(rendezvous, "_is_of_this_machine", lambda host: False)
    monkeypatch.setattr(socket, "create_connection", lambda _, timeout: connect(("127.0.0.1", 1), timeout))
    with pytest.raises(ValueError, match=r"rank 0, on .*, cannot be reached at localhost:\d+ .*Connection refused"):
        open_store(place(0, port=free_port()), "node", 5.0)


def test_an_address_that_is_forwarded_to_this_machine(monkeypatch):
    monkeypatch.setattr(rendezvous, "_is_of_this_machine", lambda host: False)
    port = free_port()
    assert all(isinstance(store, dist.TCPStore) for store in meet([place(rank, port=port) for rank in (0, 1)]))


def test_one_rank_opens_nothing():
    with open_world(World()) as world:
        assert world.is_main
        assert not dist.is_initialized()

"""Which of a host's sockets count as listening."""

import socket

from support.virtual_clock import VirtualClock

from pyswarm.agent.listening import (
    LASTING_S,
    MAX_PORTS,
    BoundSocket,
    Lasting,
    ListeningPorts,
    bound_sockets,
    read_sockets,
    reported,
)

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0 100 0 0 10 0
   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 102 1 0 100 0 0 10 0
   2: 3535FEA9:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 103 1 0 100 0 0 10 0
   3: 0170A8C0:8B64 0170A8C0:0016 01 00000000:00000000 00:00000000 00000000     0        0 104 1 0 20 4 31 24 -1
   4: 00000000:0017 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 105 1 0 100 0 0 10 0
""".splitlines()
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr
   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 9 1
""".splitlines()
UDP = """\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 8253: 3535FEA9:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 201 2 0 0
 8254: 00000000:0202 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 202 2 0 0
 8255: 0170A8C0:9C40 08080808:0035 01 00000000:00000000 00:00000000 00000000     0        0 203 2 0 0
 8256: 00000000:CA6C 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 204 2 0 0
""".splitlines()
CLIENTS = range(32_768, 61_000)


def ports(protocol: str, lines: list[str]) -> list[int]:
    return [found.port for found in bound_sockets(protocol, lines)]


def test_what_listens_is_found_whatever_its_address_but_for_the_resolver_of_our_own() -> None:
    # After the first connection the kernel lists no more listening ones, and nothing more is read.
    assert ports("tcp", TCP) == [22, 8080]
    assert ports("tcp", TCP6) == [80]
    assert ports("udp", UDP) == [514, 51_820], "a connected socket is a client's"
    assert ports("tcp", []) == []


def test_a_udp_socket_on_a_client_s_port_is_a_server_once_it_stayed() -> None:
    lasting = Lasting()

    def seen(now_s: float, *sockets: BoundSocket) -> list[int]:
        return [found.port for found in lasting.servers(sockets, CLIENTS, now_s)]

    tcp, low = BoundSocket("tcp", 40_000, "1"), BoundSocket("udp", 514, "2")
    vpn, query = BoundSocket("udp", 51_820, "3"), BoundSocket("udp", 40_001, "4")
    assert seen(0, tcp, low, vpn, query) == [40_000, 514]
    # Another socket on the same port begins anew.
    assert seen(LASTING_S, tcp, vpn, BoundSocket("udp", 40_001, "5")) == [40_000, 51_820]
    assert seen(LASTING_S + 1) == []
    assert seen(LASTING_S + 2, vpn) == []


def test_reports_are_in_order_bounded_and_without_the_ports_of_tasks() -> None:
    sockets = [BoundSocket("udp", 53, "1"), BoundSocket("tcp", 8080, "2"), BoundSocket("tcp", 22, "3")]
    assert reported(sockets, []) == ("tcp/22", "udp/53", "tcp/8080")
    assert reported([*sockets, *sockets], [("tcp", 8080), ("tcp", 53)]) == ("tcp/22", "udp/53")
    many = [BoundSocket("tcp", number, "") for number in range(1, 60_000)]
    assert len(reported(many, [])) == MAX_PORTS
    assert reported(many, [])[-1] == f"tcp/{MAX_PORTS}"


async def test_changes_are_told_and_nothing_else() -> None:
    clock, there, ours = VirtualClock(), [BoundSocket("tcp", 22, "1")], set[tuple[str, int]]()
    told: list[tuple[str, ...]] = []

    def read() -> tuple[list[BoundSocket], range]:
        if not there:
            raise OSError(13, "no")
        return list(there), CLIENTS

    watch = ListeningPorts(clock, lambda: ours, lambda: told.append(watch.ports), read)
    for change in (lambda: None, lambda: there.append(BoundSocket("tcp", 80, "2")), lambda: ours.add(("tcp", 22))):
        change()
        await watch.look()
        await watch.look()
    assert told == [("tcp/22",), ("tcp/22", "tcp/80"), ("tcp/80",)]
    there.clear()
    await watch.look()
    assert told[-1] == watch.ports == ("tcp/80",), "what cannot be read leaves what is known"


def test_a_real_listener_is_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        sockets, clients = read_sockets()
        found = {(s.protocol, s.port) for s in sockets}
        assert {("tcp", server.getsockname()[1]), ("udp", other.getsockname()[1])} <= found
        assert other.getsockname()[1] in clients

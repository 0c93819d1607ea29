"""Names: what is answered to whom, and that no packet is too strange to read."""

import struct
from pathlib import Path

import msgspec
import pytest
from dnslib import EDNS0, QTYPE, DNSBuffer, DNSHeader, DNSRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from pyswarm.overlay.dns import messages
from pyswarm.overlay.dns.answers import Answer, Names, may_be_ours, rotated
from pyswarm.overlay.dns.messages import Question, Refusal
from pyswarm.overlay.dns.upstream import ResolvConf
from pyswarm.overlay.registry.model import EndpointEntry, NetworkEntry, OverlayState, ServiceEntry, ServiceNetwork

A, AAAA, PTR, TXT = 1, 28, 12, 16


def endpoint(
    task: str, addr: str, *, service: str = "web", slot: int = 1, network: str = "n1", ready: bool = True
) -> EndpointEntry:
    return EndpointEntry(
        endpoint_id=task,
        network_id=network,
        addr=addr,
        mac="02:42:00:00:00:00",
        node_id="node",
        service_id=f"id-of-{service}",
        service_name=service,
        slot=slot,
        ready=ready,
    )


def state(*endpoints: EndpointEntry) -> OverlayState:
    networks = {
        f"n{i}": NetworkEntry(f"n{i}", f"net{i}", 4096 + i, f"10.0.{i}.0/24", f"10.0.{i}.1", 1450) for i in (1, 2)
    }
    return OverlayState(networks=networks, endpoints={(e.network_id, e.endpoint_id): e for e in endpoints})


STATE = state(
    endpoint("t1", "10.0.1.2", slot=1),
    endpoint("t2", "10.0.1.3", slot=2),
    endpoint("t3", "10.0.1.4", slot=3, ready=False),
    endpoint("t4", "10.0.2.9", service="Db", slot=1, network="n2"),
    endpoint("t5", "10.0.1.9", service="everywhere", slot=0),
)


def ask(name: str, qtype: int = A, networks: frozenset[str] = frozenset({"n1"})) -> Answer | None:
    return Names(STATE).answer(tuple(name.split(".")), qtype, networks)


@pytest.mark.parametrize(
    ("name", "addrs"),
    [
        ("web", ("10.0.1.2", "10.0.1.3")),
        ("tasks.web", ("10.0.1.2", "10.0.1.3")),
        ("web.1", ("10.0.1.2",)),
        ("web.2.t2", ("10.0.1.3",)),
        ("web.3", ()),
        ("everywhere", ("10.0.1.9",)),
        ("everywhere.t5", ("10.0.1.9",)),
    ],
)
def test_names_give_the_addresses_of_ready_tasks(name: str, addrs: tuple[str, ...]) -> None:
    assert ask(name) == Answer(addrs=addrs)


@pytest.mark.parametrize("name", ["db", "tasks.db", "db.1", "web.4", "everywhere.0", "example.com", "", "web.app"])
def test_what_is_not_on_the_askers_networks_is_for_others_to_answer(name: str) -> None:
    assert ask(name) is None


def test_who_is_on_two_networks_sees_both_and_who_is_on_none_sees_nothing() -> None:
    both = frozenset({"n1", "n2"})
    assert ask("db", networks=both) == Answer(addrs=("10.0.2.9",))
    assert ask("web.1", networks=both) == Answer(addrs=("10.0.1.2",))
    assert ask("web", networks=frozenset()) is None


@pytest.mark.parametrize("qtype", [AAAA, TXT, PTR])
def test_a_known_name_has_nothing_but_ipv4_addresses(qtype: int) -> None:
    assert ask("web", qtype) == Answer()


def test_addresses_lead_back_to_tasks() -> None:
    assert ask("3.1.0.10.in-addr.arpa", PTR) == Answer(name="web.2.t2")
    assert ask("9.1.0.10.in-addr.arpa", PTR) == Answer(name="everywhere.t5")
    assert ask("9.2.0.10.in-addr.arpa", PTR) == Answer(rcode=3), "another network's"
    assert ask("200.1.0.10.in-addr.arpa", PTR) == Answer(rcode=3), "nobody's, but of no use to others either"
    for elsewhere in ("8.8.8.8.in-addr.arpa", "x.1.0.10.in-addr.arpa", "999.1.0.10.in-addr.arpa"):
        assert ask(elsewhere, PTR) is None


def test_a_dot_inside_a_label_separates_nothing() -> None:
    assert Names(STATE).answer(("tasks.web",), A, frozenset({"n1"})) is None


def test_forms_of_names_that_the_cluster_gives() -> None:
    assert all(may_be_ours(name.split(".")) for name in ("web", "tasks.web", "web.3"))
    assert not any(may_be_ours(name.split(".")) for name in ("example.com", "a.b.c", "1.0.0.10.in-addr.arpa"))


def test_each_address_comes_first_in_its_turn() -> None:
    assert [rotated(["a", "b", "c"], turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]
    assert rotated([], 5) == []


# --- messages ---


def query(name: str, qtype: str = "A", *, tcp: bool = False, edns: int = 0) -> Question:
    record = DNSRecord.question(name, qtype)
    if edns:
        record.add_ar(EDNS0(udp_len=edns))
    question = messages.read(record.pack(), tcp=tcp)
    assert isinstance(question, Question)
    return question


def test_an_answer_repeats_the_question_as_it_was_asked() -> None:
    question = query("WeB", edns=4096)
    assert question.labels == ("web",)
    reply = DNSRecord.parse(messages.write(question, Answer(), ["10.0.1.2"]))
    assert reply.header.id == question.record.header.id
    assert str(reply.q.qname) == "WeB."
    assert (str(reply.rr[0].rname), str(reply.rr[0].rdata), reply.rr[0].ttl) == ("WeB.", "10.0.1.2", 0)
    assert [rr.rtype for rr in reply.ar] == [QTYPE.OPT]


def test_a_name_that_an_address_leads_to() -> None:
    reply = DNSRecord.parse(messages.write(query("3.1.0.10.in-addr.arpa", "PTR"), Answer(name="web.2.t2"), ()))
    assert str(reply.rr[0].rdata) == "web.2.t2."


@pytest.mark.parametrize(("edns", "limit"), [(0, 512), (100, 512), (1000, 1000), (65535, 1232)])
def test_what_does_not_fit_is_marked(edns: int, limit: int) -> None:
    addrs = [f"10.0.{i // 250}.{i % 250}" for i in range(1000)]
    packet = messages.write(query("web", edns=edns), Answer(), addrs)
    reply = DNSRecord.parse(packet)
    assert limit - 16 < len(packet) <= limit
    assert reply.header.tc
    assert [str(rr.rdata) for rr in reply.rr] == addrs[: len(reply.rr)]
    whole = DNSRecord.parse(messages.write(query("web", tcp=True), Answer(), addrs))
    assert (len(whole.rr), whole.header.tc) == (1000, 0)


def test_what_is_no_question_is_refused_or_passed_over() -> None:
    good = DNSRecord.question("web").pack()
    assert messages.read(b"", tcp=False) == Refusal(None)
    assert messages.read(good[:11], tcp=False) == Refusal(None)
    assert messages.read(good[:2] + b"\x81" + good[3:], tcp=False) == Refusal(None), "an answer"
    for packet, rcode in (
        (good[:-3], messages.FORMERR),
        (good[:4] + b"\0\0" + good[6:], messages.FORMERR),
        (good[:2] + b"\x28" + good[3:], messages.NOTIMP),
        (good[:-2] + b"\0\x03", messages.REFUSED),
    ):
        refusal = messages.read(packet, tcp=False)
        assert isinstance(refusal, Refusal)
        assert refusal.packet is not None
        header = DNSHeader.parse(DNSBuffer(refusal.packet))
        assert (header.id, header.qr, header.rcode) == (struct.unpack("!H", good[:2])[0], 1, rcode)


def test_only_an_answer_to_the_question_counts() -> None:
    question = query("example.com")
    reply = question.record.reply().pack()
    query_id = reply[:2]
    assert messages.answers(reply, query_id, question)
    assert messages.answers(reply[:12] + reply[12:].upper(), query_id, question), "letters' case does not count"
    assert not messages.answers(reply, bytes([query_id[0] ^ 1, query_id[1]]), question)
    assert not messages.answers(question.packet, query_id, question)
    assert not messages.answers(query("example.org").record.reply().pack(), query_id, question)
    assert not messages.answers(reply[:5], query_id, question)


def survives(packet: bytes, tcp: bool) -> None:
    question = messages.read(packet, tcp=tcp)
    if isinstance(question, Question):
        answer = Names(STATE).answer(question.labels, question.qtype, frozenset({"n1"})) or Answer()
        assert len(messages.write(question, answer, answer.addrs)) <= question.limit_bytes
        assert messages.failure(question)[3] & 0xF == messages.SERVFAIL
    elif question.packet is not None:
        assert len(question.packet) == messages.HEADER_BYTES


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600), st.booleans())
def test_noise_is_survived(packet: bytes, tcp: bool) -> None:
    survives(packet, tcp)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(["web", "tasks.web", "3.1.0.10.in-addr.arpa", "a" * 63 + ".b", "."]),
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=6),
    st.binary(max_size=40),
    st.integers(0, 80),
)
def test_broken_questions_are_survived(name: str, changes: list[tuple[int, int]], tail: bytes, cut: int) -> None:
    record = DNSRecord.question(name)
    record.add_ar(EDNS0(udp_len=1232))
    packet = bytearray(record.pack() + tail)
    for at, value in changes:
        packet[at % len(packet)] = value
    survives(bytes(packet[: len(packet) - cut % 30] if cut > 40 else packet), tcp=False)


# --- the host's servers ---


def test_the_hosts_servers_are_read_again_and_never_include_the_resolver(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    servers = ResolvConf(str(path), "169.254.53.53")
    assert servers() == ()
    path.write_text(
        "search x\nnameserver 169.254.53.53\n# nameserver 1.1.1.1\nnameserver 9.9.9.9\nnameserver nine\n"
    )
    assert servers() == (("9.9.9.9", 53),)
    path.write_text("nameserver fe80::1%eth0\nnameserver 10.0.0.1\n" + "nameserver 10.0.0.2\n" * 3)
    assert servers() == (("fe80::1%eth0", 53), ("10.0.0.1", 53), ("10.0.0.2", 53))
    path.unlink()
    assert servers() == ()


# --- virtual IPs and aliases ---


def placed(name: str, vip: str = "", *aliases: str, network: str = "n1") -> ServiceEntry:
    return ServiceEntry(f"id-of-{name}", name, networks=(ServiceNetwork(network, vip, aliases),))


def with_services(*services: ServiceEntry) -> Names:
    return Names(msgspec.structs.replace(STATE, services={s.service_id: s for s in services}))


def test_a_service_with_a_virtual_ip_is_found_by_it_and_its_tasks_by_theirs() -> None:
    names = with_services(placed("web", "10.0.1.250", "Www", "db.inside"))
    n1 = frozenset({"n1"})
    for name in ("web", "www", "db.inside"):
        assert names.answer(tuple(name.split(".")), A, n1) == Answer(addrs=("10.0.1.250",), virtual=True)
        assert names.answer(tuple(name.split(".")), A, frozenset({"n2"})) is None
    for name in ("web", "www"):
        assert names.answer(("tasks", name), A, n1) == Answer(addrs=("10.0.1.2", "10.0.1.3"))
    assert names.answer(("web", "2"), A, n1) == Answer(addrs=("10.0.1.3",))
    assert names.answer(("250", "1", "0", "10", "in-addr", "arpa"), PTR, n1) == Answer(name="web")


def test_without_a_virtual_ip_names_and_aliases_give_the_tasks() -> None:
    names = with_services(placed("web", "", "www"), placed("empty", "", "www"))
    n1 = frozenset({"n1"})
    assert names.answer(("web",), A, n1) == Answer(addrs=("10.0.1.2", "10.0.1.3"))
    assert names.answer(("www",), A, n1) == Answer(addrs=("10.0.1.2", "10.0.1.3"))
    assert names.answer(("empty",), A, n1) == Answer()


def test_services_that_share_an_alias_are_all_in_the_answer() -> None:
    names = with_services(placed("web", "10.0.1.250", "www"), placed("shop", "10.0.1.249", "www"))
    answer = names.answer(("www",), A, frozenset({"n1"}))
    assert answer is not None
    assert set(answer.addrs) == {"10.0.1.249", "10.0.1.250"}

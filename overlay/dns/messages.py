"""DNS messages as the resolver reads and writes them."""

import struct
from collections.abc import Sequence

import msgspec
from dnslib import EDNS0, QTYPE, RCODE, RR, DNSError, DNSHeader, DNSQuestion, DNSRecord
from dnslib import PTR as NameData
from dnslib import A as AddressData

from pyswarm.overlay.dns.answers import Answer

HEADER_BYTES = 12
PLAIN_UDP_BYTES = 512
#: Fits into one packet on every network, so that no answer is lost to fragments.
MAX_UDP_BYTES = 1232
MAX_TCP_BYTES = 65535
#: Names change with every task, and asking again costs a tenth of a millisecond.
TTL_S = 0
NOERROR, FORMERR, SERVFAIL, NOTIMP, REFUSED = 0, 1, 2, 4, 5
_OPT, _IN, _ANY_CLASS = 41, 1, 255
_MALFORMED = (DNSError, BufferError, ValueError, LookupError, struct.error, RecursionError, TypeError)


class Question(msgspec.Struct, frozen=True):
    """A query for one name. ``labels`` are in lower case; ``raw`` is the question as it stands in the packet."""

    packet: bytes
    record: DNSRecord
    labels: tuple[str, ...]
    qtype: int
    raw: bytes
    edns: bool
    limit_bytes: int


class Refusal(msgspec.Struct, frozen=True):
    """A packet that is no question for us; ``packet`` is what to say, if anything."""

    packet: bytes | None


def read(packet: bytes, *, tcp: bool) -> Question | Refusal:
    """Understand a packet, whatever it holds."""
    if len(packet) < HEADER_BYTES or packet[2] & 0x80:
        return Refusal(None)  # an answer to an answer could go on for ever
    try:
        record = DNSRecord.parse(packet)
        if record.header.opcode:
            return _refuse(packet, NOTIMP)
        if len(record.questions) != 1:
            return _refuse(packet, FORMERR)
        asked = record.q
        if asked.qclass not in (_IN, _ANY_CLASS):
            return _refuse(packet, REFUSED)
        size = next((rr.rclass for rr in record.ar if rr.rtype == _OPT), None)
        udp_bytes = PLAIN_UDP_BYTES if size is None else max(PLAIN_UDP_BYTES, min(size, MAX_UDP_BYTES))
        labels = tuple(label.decode("latin-1").lower() for label in asked.qname.label)
        raw = packet[HEADER_BYTES : HEADER_BYTES + sum(len(label) + 1 for label in asked.qname.label) + 5]
        return Question(
            packet, record, labels, asked.qtype, raw, size is not None, MAX_TCP_BYTES if tcp else udp_bytes
        )
    except _MALFORMED:
        return _refuse(packet, FORMERR)


def _refuse(packet: bytes, rcode: int) -> Refusal:
    """Header only: what follows cannot be relied on."""
    flags = 0x8000 | (packet[2] & 0x79) << 8 | 0x80 | rcode
    return Refusal(packet[:2] + struct.pack("!5H", flags, 0, 0, 0, 0))


def write(question: Question, answer: Answer, addrs: Sequence[str]) -> bytes:
    """The answer, with as many of ``addrs`` as fit and a mark when more exist."""
    reply = _reply(question, answer.rcode)
    qname = question.record.q.qname
    if answer.name:
        # Not one string: a label could hold a dot.
        reply.add_answer(RR(qname, QTYPE.PTR, rdata=NameData(answer.name.encode().split(b".")), ttl=TTL_S))
    for addr in addrs:
        reply.add_answer(RR(qname, QTYPE.A, rdata=AddressData(addr), ttl=TTL_S))
    packet = bytes(reply.pack())
    if len(packet) > question.limit_bytes:
        reply.header.tc = 1
        each = 16  # a name that points to the question, and an address
        del reply.rr[max(0, len(reply.rr) - -(-(len(packet) - question.limit_bytes) // each)) :]
        packet = bytes(reply.pack())
    return packet


def failure(question: Question, rcode: int = SERVFAIL) -> bytes:
    """That there is no answer now."""
    return bytes(_reply(question, rcode).pack())


def _reply(question: Question, rcode: int) -> DNSRecord:
    asked = question.record
    header = DNSHeader(id=asked.header.id, qr=1, aa=0, ra=1, rd=asked.header.rd, rcode=rcode)
    reply = DNSRecord(header, q=DNSQuestion(asked.q.qname, asked.q.qtype, asked.q.qclass))
    if question.edns:
        reply.add_ar(EDNS0(udp_len=MAX_UDP_BYTES))
    return reply


def rcode_of(packet: bytes) -> int:
    """The result in an answer's header."""
    return packet[3] & 0x0F


def rcode_name(packet: bytes) -> str:
    """The same in words, for metrics."""
    return str(RCODE.get(rcode_of(packet)))


def answers(packet: bytes, query_id: bytes, question: Question) -> bool:
    """Whether a packet from outside answers what was asked of it; anybody may send us one."""
    if len(packet) < HEADER_BYTES or packet[:2] != query_id or not packet[2] & 0x80:
        return False
    if packet[4:6] == b"\0\0":
        return rcode_of(packet) != NOERROR
    echoed = packet[HEADER_BYTES : HEADER_BYTES + len(question.raw)]
    return echoed.lower() == question.raw.lower()

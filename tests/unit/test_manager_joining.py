"""The joining listener's own decisions: which role a token grants, how often one may try."""

import pytest
from support.virtual_clock import VirtualClock

from pyswarm.common.errors import InvalidArgument, PermissionDenied
from pyswarm.common.joining import CertificateRequest
from pyswarm.common.types import Cluster, JoinTokens, NodeAvailability, NodeRole
from pyswarm.manager.joining import RateLimit, new_member, role_of_token

CLUSTER = Cluster(id="c", join_tokens=JoinTokens(worker="w-token", manager="m-token"))


def request(**fields: str) -> CertificateRequest:
    """What a node sends."""
    values = {"token": "w-token", "csr_pem": "x", "hostname": "h9", "addr": "192.0.2.9", **fields}
    return CertificateRequest(**values)


def test_each_token_grants_its_role_and_no_other_text_any() -> None:
    assert role_of_token(CLUSTER, "w-token") is NodeRole.WORKER
    assert role_of_token(CLUSTER, "m-token") is NodeRole.MANAGER
    for wrong in ("", "w-toke", "W-TOKEN"):
        with pytest.raises(PermissionDenied):
            role_of_token(CLUSTER, wrong)
    with pytest.raises(PermissionDenied):
        role_of_token(Cluster(id="c"), "")


def test_only_a_manager_gets_a_manager_s_address() -> None:
    assert new_member(request(), NodeRole.WORKER).manager_status is None
    manager = new_member(request(availability="drain"), NodeRole.MANAGER)
    assert manager.manager_status is not None
    assert manager.manager_status.addr == "192.0.2.9:2377"
    assert manager.spec.availability is NodeAvailability.DRAIN
    with pytest.raises(InvalidArgument, match="only active, pause and drain"):
        new_member(request(availability="lazy"), NodeRole.WORKER)


def test_no_token_shows_in_a_request_s_repr() -> None:
    assert "w-token" not in repr(request())


async def test_attempts_are_limited_per_client_and_memory_is_bounded() -> None:
    clock = VirtualClock()
    limit = RateLimit(clock, per_s=1.0, burst=3.0, max_clients=10)
    assert [limit.allow("a") for _ in range(5)] == [True, True, True, False, False]
    assert limit.allow("b"), "another client has its own allowance"
    await clock.advance(2.0)
    assert [limit.allow("a") for _ in range(3)] == [True, True, False]
    for number in range(100):
        limit.allow(f"c{number}")
    assert len(limit._buckets) == 10


@pytest.mark.parametrize(
    "fields",
    [
        {"hostname": "h\x1b[2J"}, {"hostname": "a b"}, {"hostname": "h\n"}, {"hostname": "h" * 254},
        {"hostname": ""},
        {"addr": "not-an-address"}, {"addr": "224.0.0.1"}, {"addr": "0.0.0.0"}, {"addr": "2001:db8::1"},
    ],
)  # fmt: skip
def test_a_name_or_an_address_that_is_none_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        new_member(request(**fields), NodeRole.WORKER)
    assert str(caught.value).isprintable()
    assert new_member(request(hostname="Host_1.example.com"), NodeRole.WORKER).description.hostname

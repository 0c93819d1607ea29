"""Members, users and roles of etcd: what the leader manages, on top of the client's calls."""

from collections.abc import Sequence

import msgspec
from aetcd.rpc import auth_pb2, rpc_pb2

from pyswarm.overlay.registry.client import EtcdClient, Link, prefix_end
from pyswarm.overlay.registry.errors import RegistryRefused


class Member(msgspec.Struct, frozen=True):
    """A member as etcd lists it. ``name`` is empty until it has started for the first time."""

    member_id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    learner: bool


class MemberStatus(msgspec.Struct, frozen=True):
    """What one member says about itself."""

    member_id: int
    version: str
    leader_id: int
    """0 while it knows no leader."""
    applied_index: int
    db_size_bytes: int
    learner: bool
    errors: tuple[str, ...]


class EtcdAdmin:
    """Administration through ``client``; needs the root role once authentication is on."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client

    async def members(self) -> tuple[Member, ...]:
        """All members, as the member asked knows them: etcd 3.4 does not confirm this with the others."""
        response = await self._client.call(
            lambda ln, t: ln.cluster.MemberList(rpc_pb2.MemberListRequest(), timeout=t)
        )
        return tuple(
            Member(m.ID, m.name, tuple(m.peerURLs), tuple(m.clientURLs), bool(m.isLearner))
            for m in response.members
        )

    async def add_learner(self, peer_url: str) -> int:
        """Add a member that does not vote yet; its id."""
        request = rpc_pb2.MemberAddRequest(peerURLs=[peer_url], isLearner=True)
        response = await self._client.call(lambda ln, t: ln.cluster.MemberAdd(request, timeout=t))
        return int(response.member.ID)

    async def promote(self, member_id: int) -> None:
        """Make a learner vote. Refused until it has caught up."""
        request = rpc_pb2.MemberPromoteRequest(ID=member_id)
        await self._client.call(lambda ln, t: ln.cluster.MemberPromote(request, timeout=t))

    async def remove(self, member_id: int) -> None:
        """Remove a member; fine if it is gone already."""
        request = rpc_pb2.MemberRemoveRequest(ID=member_id)
        try:
            await self._client.call(lambda ln, t: ln.cluster.MemberRemove(request, timeout=t))
        except RegistryRefused as exc:
            if "member not found" not in str(exc):
                raise

    async def status(self, endpoint: str, timeout_s: float = 1.0) -> MemberStatus:
        """What the member at ``endpoint`` says, asked alone."""

        async def ask(link: Link, deadline_s: float) -> object:
            return await link.maintenance.Status(rpc_pb2.StatusRequest(), timeout=deadline_s)

        response = await self._client.on(self._client.link(endpoint), ask, timeout_s)
        assert isinstance(response, rpc_pb2.StatusResponse)  # noqa: S101 - for the type checker
        return MemberStatus(
            response.header.member_id,
            response.version,
            response.leader,
            response.raftAppliedIndex,
            response.dbSize,
            bool(response.isLearner),
            tuple(response.errors),
        )

    async def clear_no_space(self) -> None:
        """Take back every alarm that says that a quota is used up, whichever member it names."""
        listing = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET)
        response = await self._client.call(lambda ln, t: ln.maintenance.Alarm(listing, timeout=t))
        for raised in response.alarms:
            if raised.alarm == rpc_pb2.NOSPACE:
                await self._deactivate(raised.memberID)

    async def _deactivate(self, member_id: int) -> None:
        request = rpc_pb2.AlarmRequest(
            action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=member_id, alarm=rpc_pb2.NOSPACE
        )
        await self._client.call(lambda ln, t: ln.maintenance.Alarm(request, timeout=t))

    async def enable_auth(self) -> None:
        """Turn authentication on; fine if it is."""
        await self._client.call(
            lambda ln, t: ln.auth.AuthEnable(rpc_pb2.AuthEnableRequest(), timeout=t), timeout_s=10
        )

    async def users(self) -> frozenset[str]:
        """All users."""
        response = await self._client.call(
            lambda ln, t: ln.auth.UserList(rpc_pb2.AuthUserListRequest(), timeout=t)
        )
        return frozenset(response.users)

    async def user_roles(self, user: str) -> frozenset[str]:
        """The roles of one user."""
        request = rpc_pb2.AuthUserGetRequest(name=user)
        response = await self._client.call(lambda ln, t: ln.auth.UserGet(request, timeout=t))
        return frozenset(response.roles)

    async def add_user(self, user: str) -> None:
        """A user that is known by its certificate alone; fine if it exists."""
        request = rpc_pb2.AuthUserAddRequest(name=user, options=auth_pb2.UserAddOptions(no_password=True))
        try:
            await self._client.call(lambda ln, t: ln.auth.UserAdd(request, timeout=t))
        except RegistryRefused as exc:
            if "already exists" not in str(exc):
                raise

    async def delete_user(self, user: str) -> None:
        """Remove a user; fine if it is gone."""
        request = rpc_pb2.AuthUserDeleteRequest(name=user)
        try:
            await self._client.call(lambda ln, t: ln.auth.UserDelete(request, timeout=t))
        except RegistryRefused as exc:
            if "not found" not in str(exc):
                raise

    async def set_roles(self, user: str, roles: Sequence[str]) -> None:
        """Give the user exactly these roles."""
        has = await self.user_roles(user)
        for role in sorted(set(roles) - has):
            grant = rpc_pb2.AuthUserGrantRoleRequest(user=user, role=role)
            await self._client.call(lambda ln, t, r=grant: ln.auth.UserGrantRole(r, timeout=t))  # type: ignore[misc]
        for role in sorted(has - set(roles)):
            revoke = rpc_pb2.AuthUserRevokeRoleRequest(name=user, role=role)
            await self._client.call(lambda ln, t, r=revoke: ln.auth.UserRevokeRole(r, timeout=t))  # type: ignore[misc]

    async def ensure_role(self, role: str, prefix: bytes, write: bool) -> None:
        """A role that may read, or read and write, everything under ``prefix``."""
        try:
            add = rpc_pb2.AuthRoleAddRequest(name=role)
            await self._client.call(lambda ln, t: ln.auth.RoleAdd(add, timeout=t))
        except RegistryRefused as exc:
            if "already exists" not in str(exc):
                raise
        kind = auth_pb2.Permission.READWRITE if write else auth_pb2.Permission.READ
        permission = auth_pb2.Permission(permType=kind, key=prefix, range_end=prefix_end(prefix))
        grant = rpc_pb2.AuthRoleGrantPermissionRequest(name=role, perm=permission)
        await self._client.call(lambda ln, t: ln.auth.RoleGrantPermission(grant, timeout=t))

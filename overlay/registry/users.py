"""Who may do what in etcd: a user for each node, known by its certificate's CN, no passwords.

Workers read the registry's prefix. Managers write it, and are root, because whichever of them leads administers
members and users. What etcd 3.4 does not restrict, and any node may therefore do: list members, make leases,
compact history (watchers then read everything again). A worker cannot change or delete a key, a user or a member.
"""

from collections.abc import Mapping

from pyswarm.common.log import get_logger
from pyswarm.overlay.registry.admin import EtcdAdmin
from pyswarm.overlay.registry.codec import PREFIX, Keys

log = get_logger("registry")
ROOT = "root"
WRITER = "pyswarm-writer"
READER = "pyswarm-reader"


def roles_of(role: str) -> tuple[str, ...]:
    """The etcd roles of a ``manager`` or ``worker``."""
    return (ROOT, WRITER) if role == "manager" else (READER,)


class UserDirectory:
    """Keeps etcd's users equal to the cluster's nodes. One instance per leadership and etcd generation."""

    def __init__(self, admin: EtcdAdmin, prefix: str = PREFIX) -> None:
        self._admin = admin
        self._root = Keys(prefix).root
        self._known: dict[str, str] | None = None

    async def secure(self, roles: Mapping[str, str]) -> None:
        """Set up roles and users and turn authentication on. May be repeated at any time."""
        await self._admin.ensure_role(WRITER, self._root, write=True)
        await self._admin.ensure_role(READER, self._root, write=False)
        await self._admin.add_user(ROOT)
        await self._admin.set_roles(ROOT, (ROOT,))
        self._known = None
        await self.ensure(roles)
        await self._admin.enable_auth()

    async def ensure(self, roles: Mapping[str, str]) -> None:
        """Make the users exactly ``roles`` (node id -> ``manager`` or ``worker``)."""
        if self._known is None:
            # Roles of users that exist are read one by one; from here on only differences are worth a call.
            present = await self._admin.users()
            self._known = dict.fromkeys(present - {ROOT}, "")
        for node_id in [n for n in self._known if n not in roles]:
            await self._admin.delete_user(node_id)
            del self._known[node_id]
            log.info("etcd user removed", node=node_id)
        for node_id, role in roles.items():
            if self._known.get(node_id) == role:
                continue
            if node_id not in self._known:
                await self._admin.add_user(node_id)
            await self._admin.set_roles(node_id, roles_of(role))
            self._known[node_id] = role

"""``--force-new-cluster`` on disk: this node becomes the only member of a new generation of its Raft group.

The moment of the rescue is the replacement of the meta file, in one step: before it the folder is the old group's,
after it the new one's, whatever else was written. The membership entry which the meta file announces is appended
after that, by this start of the node or, had it been interrupted, by the next.

All entries of the local log are kept and count as committed, also those of which this node never heard whether a
majority had them: an acknowledged change that this node has must not be lost, and nobody else is left to ask.
"""

import msgspec

from pyswarm.common.log import get_logger
from pyswarm.manager.raft.disk import Disk
from pyswarm.manager.raft.entries import encode_members
from pyswarm.manager.raft.generation import Forced, Generation
from pyswarm.manager.raft.journal import Journal
from pyswarm.manager.raft.meta import HardState, Meta, save_meta
from pyswarm.manager.raft.types import Member, RaftConfig

log = get_logger("raft")


def rescue(config: RaftConfig, meta: Meta, hard_state: HardState, journal: Journal, disk: Disk) -> Meta:
    """Carry out the rescue that ``config`` asks for, or finish an interrupted one; the meta file as it is now.

    Asking for the same rescue again changes nothing.
    """
    if config.force_new_cluster and meta.generation.id != config.force_new_cluster:
        meta = msgspec.structs.replace(
            meta,
            generation=Generation(meta.generation.number + 1, config.force_new_cluster),
            forced=Forced(journal.last_index + 1, max(hard_state.term, journal.last_term) + 1),
        )
        save_meta(journal.folder, meta, disk)
        log.warning(
            "this manager is the only one of its swarm from now on",
            generation=str(meta.generation),
        )
    forced = meta.forced
    if forced is not None and journal.last_index < forced.index:
        # A term of its own: entries of the old group with this index never pass for this one.
        hard_state.set(max(forced.term, hard_state.term), config.node_id)
        journal.add(encode_members((Member(config.node_id, config.addr),)), forced.index, forced.term)
        journal.sync()
    return meta

"""PySyncObj's private names: the pinned release has all we use, and we use none that is not listed."""

import importlib.metadata
import re
from pathlib import Path
from types import SimpleNamespace

import pysyncobj.syncobj
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

import pyswarm.manager.raft
from pyswarm.manager.raft import names

LISTED = {**names.OVERRIDDEN, **names.CALLED, **names.ATTRIBUTES}
FOLDER = Path(pyswarm.manager.raft.__file__).parent


class Silent(Transport):  # type: ignore[misc]
    """Never connects to anything."""

    def __init__(self) -> None:
        super().__init__(None, None, [])

    @property
    def ready(self) -> bool:
        return True

    def destroy(self) -> None:
        """Nothing is open."""


def stock() -> SyncObj:
    """PySyncObj as it ships, without a network."""
    return SyncObj(Node("x"), [], SyncObjConf(autoTick=False), transport=Silent(), nodeClass=Node)


def test_the_pinned_release_is_installed() -> None:
    assert importlib.metadata.version("pysyncobj") == names.PYSYNCOBJ_VERSION


def test_the_release_has_every_method() -> None:
    for name in (*names.OVERRIDDEN, *names.CALLED):
        assert callable(getattr(SyncObj, name, None)), name


def test_the_release_has_every_attribute() -> None:
    instance = stock()
    for name in names.ATTRIBUTES:
        assert name in vars(instance), name


def test_the_seams_are_there() -> None:
    assert callable(pysyncobj.syncobj.createJournal)
    assert callable(pysyncobj.syncobj.monotonicTime)
    states = SimpleNamespace(**{k: v for k, v in vars(pysyncobj.syncobj._RAFT_STATE).items() if k.isupper()})
    assert (states.FOLLOWER, states.CANDIDATE, states.LEADER) == (0, 1, 2)
    kinds = SimpleNamespace(**{k: v for k, v in vars(pysyncobj.syncobj._COMMAND_TYPE).items() if k.isupper()})
    assert (kinds.REGULAR, kinds.NO_OP, kinds.MEMBERSHIP) == (0, 1, 2)


def test_no_other_private_name_is_used() -> None:
    used = set()
    for path in FOLDER.glob("*.py"):
        if path.name != "names.py":
            used |= set(re.findall(r"_SyncObj__\w+", path.read_text()))
    assert used <= set(LISTED)
    assert {n for n in LISTED if n.startswith("_SyncObj__")} <= used, "a listed name is not used any more"


def test_pysyncobj_is_imported_by_few_modules_and_nothing_unpickles() -> None:
    importers = {
        p.name for p in FOLDER.glob("*.py") if re.search(r"^(import|from) pysyncobj", p.read_text(), re.M)
    }
    assert importers == {"engine.py", "journal.py", "stock.py", "transport.py"}
    for path in FOLDER.glob("*.py"):
        assert not re.search(r"^\s*(import|from) .*pickle", path.read_text(), re.M), path

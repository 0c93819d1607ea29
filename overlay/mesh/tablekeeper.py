"""Keeps one table of nftables as it shall be: changed rather than rewritten, unless another hand was at it."""

import contextlib

from pyswarm.overlay.errors import OverlayError
from pyswarm.overlay.linux.nft import Nft
from pyswarm.overlay.mesh import table as tables
from pyswarm.overlay.mesh.table import Table


class TableKeeper:
    """Not thread-safe: one thread at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loaded: Table | None = None
        self._listing = ""

    def keep(self, want: Table | None) -> int:
        """Have the table, or none; 1 if that took a change, which is one transaction. Raises OverlayError."""
        with Nft() as nft:
            listing = self._listed(nft)
            loaded, self._loaded = self._loaded, None
            intact = loaded is not None and listing == self._listing
            if want is None:
                if listing is not None:
                    nft.run(f"delete table ip {self._name}")
                return int(listing is not None)
            if intact and loaded == want:
                self._loaded = loaded
                return 0
            if intact and loaded is not None:
                nft.run(tables.changes(loaded, want))
            elif listing is None:
                nft.run(tables.rewrite(want))
            else:
                self._write_over(nft, want)
            self._loaded, self._listing = want, self._listed(nft) or ""
            return 1

    def _write_over(self, nft: Nft, want: Table) -> None:
        """What an earlier process wrote, or another hand changed."""
        present = [
            (kind, str(entry[kind]["name"]))
            for entry in nft.listing(f"list table ip {self._name}")
            for kind in ("chain", "set", "map")
            if kind in entry
        ]
        try:
            nft.run(tables.rewrite(want, present))
        except OverlayError:
            # A chain of that name with another hook, or a set with another type.
            nft.run(tables.replace(want))

    def _listed(self, nft: Nft) -> str | None:
        with contextlib.suppress(OverlayError):
            return nft.run(f"list table ip {self._name}")
        return None

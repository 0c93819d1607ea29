"""Volumes of a service in their short form: ``SOURCE:TARGET:OPTIONS``."""

from typing import Any

_PROPAGATIONS = ("rprivate", "private", "rshared", "shared", "rslave", "slave")


def from_short(text: str) -> dict[str, Any]:
    """The long form; raises ValueError."""
    parts = text.split(":")
    if not all(parts):
        raise ValueError(f"invalid spec: {text}: empty section between colons")
    if len(parts) > 3:
        raise ValueError(f"invalid spec: {text}: too many colons")
    if len(parts) == 1:
        return {"type": "volume", "target": text}
    source, target = parts[:2]
    volume: dict[str, Any] = {
        "type": "bind" if source[0] in "./~" else "volume",
        "source": source,
        "target": target,
    }
    options = parts[2].split(",") if len(parts) == 3 else []
    if "ro" in options and "rw" not in options[options.index("ro") :]:
        volume["read_only"] = True
    if found := [option for option in options if option in _PROPAGATIONS]:
        volume["bind"] = {"propagation": found[-1]}
    if "nocopy" in options:
        volume["volume"] = {"nocopy": True}
    return volume

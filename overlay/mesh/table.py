"""A table of nftables as data, and the commands that change one into another. Pure.

A chain that is flushed and filled in one transaction is never seen half-way, by any packet. One that is removed
and made anew is: a packet on its way may find it empty. So what is there is changed, and chains and sets stay the
same objects as long as they are wanted. For the same reason no rule that leads to tasks has a set of its own: it
would be a new one each time. (Measured under 2,900 connections a second: 55,000 changes of a chain of plain rules
lost none, changes of a rule with a set in it one in 500.)
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec


class Chain(msgspec.Struct, frozen=True):
    """``hook`` is empty for a chain that others go to."""

    rules: tuple[str, ...]
    hook: str = ""


class NamedSet(msgspec.Struct, frozen=True):
    """``kind``: set or map. ``type``: as it is declared. ``elements``: key -> value, which is empty for a set."""

    kind: str
    type: str
    elements: Mapping[str, str] = {}


class Table(msgspec.Struct, frozen=True):
    """A table of family ip."""

    name: str
    chains: Mapping[str, Chain]
    sets: Mapping[str, NamedSet]


def rewrite(want: Table, present: Iterable[tuple[str, str]] = ()) -> str:
    """The commands that make the table what it shall be, whatever is in it. ``present`` is what there is: (kind,
    name) of chains, sets and maps."""
    lines = [f"add table ip {want.name}"]
    lines += [_declare_set(want, name) for name in want.sets]
    lines += [_declare_chain(want, name) for name in want.chains]
    stale = [(kind, name) for kind, name in present if name not in (want.chains if kind == "chain" else want.sets)]
    lines += [f"flush chain ip {want.name} {name}" for name in (*want.chains, *_named(stale, "chain"))]
    lines += [f"flush {s.kind} ip {want.name} {name}" for name, s in want.sets.items()]
    lines += [f"flush {kind} ip {want.name} {name}" for kind, name in stale if kind != "chain"]
    for name, named in want.sets.items():
        lines += _elements(want.name, name, "add", _pairs(named, named.elements))
    for name, chain in want.chains.items():
        lines += _rules(want.name, name, chain)
    lines += [f"delete {kind} ip {want.name} {name}" for kind, name in stale]
    return "\n".join(lines)


def replace(want: Table) -> str:
    """The commands that make the table anew. A packet on its way may miss it."""
    return f"add table ip {want.name}\ndelete table ip {want.name}\n{rewrite(want)}"


def changes(have: Table, want: Table) -> str:
    """The commands between two tables of one name whose chains of one name have one hook; empty when they are
    equal."""
    table = want.name
    lines = [_declare_set(want, name) for name in want.sets if name not in have.sets]
    lines += [_declare_chain(want, name) for name in want.chains if name not in have.chains]
    for name, named in want.sets.items():
        before = have.sets[name].elements if name in have.sets else {}
        lines += _elements(table, name, "delete", [k for k, v in before.items() if named.elements.get(k) != v])
        lines += _elements(
            table, name, "add", _pairs(named, {k: v for k, v in named.elements.items() if before.get(k) != v})
        )
    for name, chain in want.chains.items():
        former = have.chains.get(name)
        if former is None or former.rules != chain.rules:
            if former is not None:
                lines.append(f"flush chain ip {table} {name}")
            lines += _rules(table, name, chain)
    gone = [name for name in have.chains if name not in want.chains]
    lines += [f"flush chain ip {table} {name}" for name in gone]
    lines += [f"delete chain ip {table} {name}" for name in gone]
    lines += [f"delete {s.kind} ip {table} {name}" for name, s in have.sets.items() if name not in want.sets]
    return "\n".join(lines)


def _named(objects: Iterable[tuple[str, str]], wanted: str) -> Iterator[str]:
    return (name for kind, name in objects if kind == wanted)


def _declare_set(table: Table, name: str) -> str:
    named = table.sets[name]
    return f"add {named.kind} ip {table.name} {name} {{ {named.type} ; }}"


def _declare_chain(table: Table, name: str) -> str:
    hook = table.chains[name].hook
    return f"add chain ip {table.name} {name}" + (f" {{ type {hook} ; policy accept ; }}" if hook else "")


def _pairs(named: NamedSet, elements: Mapping[str, str]) -> list[str]:
    return [f"{key} : {value}" if named.kind == "map" else key for key, value in elements.items()]


def _elements(table: str, name: str, verb: str, elements: list[str]) -> list[str]:
    return [f"{verb} element ip {table} {name} {{ {', '.join(elements)} }}"] if elements else []


def _rules(table: str, name: str, chain: Chain) -> list[str]:
    return [f"add rule ip {table} {name} {rule}" for rule in chain.rules]

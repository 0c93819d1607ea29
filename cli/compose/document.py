"""The text of a stack file as values that know their lines. The only user of PyYAML's reading half.

PyYAML splits the text into nodes; what they mean is decided here, since its own rules are those of YAML 1.1
(a port written ``22:22`` would be a number to the base of 60).
"""

from typing import Any

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from pyswarm.cli.compose.scalars import resolve
from pyswarm.cli.compose.value import ComposeError, Value, member
from pyswarm.cli.errors import CliError

MAX_FILE_BYTES = 4 * 1024 * 1024
#: Values after aliases are followed; a few lines of aliases to aliases would otherwise fill the memory.
MAX_VALUES = 200_000
_STANDARD = "tag:yaml.org,2002:"
_PLAIN = "plain"
_QUOTED = _STANDARD + "str"
_MERGE = "<<"


class _Nodes(Reader, Scanner, Parser, Composer):
    """PyYAML's loader up to nodes; a scalar's tag says whether it was plain, quoted, or had a tag of its own."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node; an alias stands where it is written, not where what it means is."""
        alias: Any = self.peek_event()  # type: ignore[no-untyped-call]
        node: Any = super().compose_node(parent, index)
        if isinstance(alias, yaml.AliasEvent):
            return type(node)(node.tag, node.value, alias.start_mark, alias.end_mark)
        return node

    def resolve(self, kind: type, _value: Any, implicit: Any) -> str:
        if kind is ScalarNode:
            return _PLAIN if implicit[0] else _QUOTED
        return ""

    def descend_resolver(self, *_: Any) -> None:
        """Nothing depends on the path."""

    def ascend_resolver(self) -> None:
        """Nothing depends on the path."""


def parse(content: bytes, file: str) -> Value:
    """The top-level mapping of a file; raises CliError, mostly with file, line and key."""
    if len(content) > MAX_FILE_BYTES:
        raise CliError(f"{file}: the file has more than {MAX_FILE_BYTES // 1024 // 1024} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content[: exc.start].count(b"\n") + 1
        raise CliError(f"{file}:{line}: this is not YAML: the text is not encoded in UTF-8") from exc
    try:
        nodes = _Nodes(text)
        node = nodes.get_node() if nodes.check_node() else None
        second = nodes.get_event() if nodes.check_node() else None  # type: ignore[no-untyped-call]
        values = _Values(file)
        if node is None:
            raise CliError(f"{file}: the file is empty")
        top = values.build(node, node.start_mark.line + 1, "")
    except yaml.MarkedYAMLError as exc:
        raise _not_yaml(exc, file) from exc
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        character = f"U+{int(exc.character):04X}"
        raise CliError(f"{file}:{line}: this is not YAML: the character {character} is not allowed") from exc
    except RecursionError as exc:
        raise CliError(f"{file}: this is nested too deeply") from exc
    if second is not None:
        line = second.start_mark.line + 1
        raise CliError(f"{file}:{line}: a second document begins here; a stack file is a single one")
    if top.data is None:
        raise CliError(f"{file}: the file is empty")
    if not isinstance(top.data, dict):
        raise ComposeError(top, "", "the top level must be a mapping, such as services: {...}")
    return top


def _not_yaml(exc: yaml.MarkedYAMLError, file: str) -> CliError:
    mark = exc.problem_mark or exc.context_mark
    line = mark.line + 1 if mark is not None else 1
    problem = exc.problem or "it cannot be read"
    if "'\\t'" in problem or (mark is not None and _is_tab_before(mark)):
        return CliError(f"{file}:{line}: this is not YAML: a tab indents the line; use spaces")
    return CliError(f"{file}:{line}: this is not YAML: {' '.join(problem.split())}")


def _is_tab_before(mark: Any) -> bool:
    """Whether the line of ``mark`` is indented with a tab, which PyYAML does not always name as the reason."""
    if mark.buffer is None:
        return False
    start = mark.buffer.rfind("\n", 0, mark.pointer) + 1
    indent = mark.buffer[start : mark.pointer]
    return "\t" in indent[: len(indent) - len(indent.lstrip())]


class _Values:
    """Nodes of one file into values."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._open: set[int] = set()
        self._count = 0

    def build(self, node: Node, line: int, path: str) -> Value:
        """The value of ``node``, which stands at ``line`` under the key ``path``."""
        here = Value(None, self._file, line)
        self._count += 1
        if self._count > MAX_VALUES:
            raise CliError(f"{self._file}: there are more than {MAX_VALUES} values, aliases followed")
        if isinstance(node, ScalarNode):
            return here._replace(data=self._scalar(node, here, path))
        if node.tag not in ("", _STANDARD + "map", _STANDARD + "seq"):
            raise ComposeError(here, path, f"the tag {_shown_tag(node.tag)} is not supported")
        # An alias shares its members with what it means.
        if id(node.value) in self._open:
            raise ComposeError(here, path, "an alias refers to what it stands in, which would never end")
        self._open.add(id(node.value))
        data: Any = None
        if isinstance(node, SequenceNode):
            data = [
                self.build(item, item.start_mark.line + 1, member(path, number))
                for number, item in enumerate(node.value)
            ]
        elif isinstance(node, MappingNode):
            data = self._mapping(node, path)
        self._open.remove(id(node.value))
        return here._replace(data=data)

    def _scalar(self, node: ScalarNode, here: Value, path: str) -> Any:
        if node.tag == _PLAIN:
            return resolve(node.value)
        if node.tag == _QUOTED:
            return node.value
        value = resolve(node.value)
        kinds = {"int": int, "float": float, "bool": bool, "null": type(None)}
        kind = kinds.get(node.tag.removeprefix(_STANDARD))
        if kind is None or not isinstance(value, kind):
            raise ComposeError(here, path, f"the tag {_shown_tag(node.tag)} is not supported here")
        return value

    def _mapping(self, node: MappingNode, path: str) -> dict[str, Value]:
        own: dict[str, Value] = {}
        merged: dict[str, Value] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            here = Value(None, self._file, line)
            key = self._key(key_node, here, path)
            if key == _MERGE and key_node.tag == _PLAIN:
                # What comes first counts; the mapping's own members count most.
                merged = {**self._merged(value_node, here, path), **merged}
                continue
            if key in own:
                raise ComposeError(
                    here, member(path, key), f"this key is given twice, first in line {own[key].line}"
                )
            own[key] = self.build(value_node, line, member(path, key))
        return {**merged, **own}

    def _key(self, node: Node, here: Value, path: str) -> str:
        if not isinstance(node, ScalarNode) or node.tag not in (_PLAIN, _QUOTED):
            raise ComposeError(here, path, "a key must be plain text")
        if node.tag == _PLAIN and not isinstance(resolve(node.value), str):
            raise ComposeError(here, member(path, node.value), "a key must be text: put it in quotes")
        return str(node.value)

    def _merged(self, node: Node, here: Value, path: str) -> dict[str, Value]:
        sources = node.value if isinstance(node, SequenceNode) else [node]
        merged: dict[str, Value] = {}
        for source in sources:
            value = self.build(source, here.line, member(path, _MERGE))
            if not isinstance(value.data, dict):
                raise ComposeError(here, member(path, _MERGE), "only mappings can be merged")
            merged = {**value.data, **merged}
        return merged


def _shown_tag(tag: str) -> str:
    return tag.replace(_STANDARD, "!!")

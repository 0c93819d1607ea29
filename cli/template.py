"""The part of Go's templates that ``--format`` is used with.

Fields (``{{.Spec.Name}}``, ``{{(index .Names 0).First}}``), functions (json, upper, lower, title, join, split,
len, index, print, println), pipes, string and number literals, ``if``/``else``, ``range`` and ``with``,
comparisons ``eq`` and ``ne``.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from pyswarm.cli.errors import CliError

_PIECE = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|`[^`]*`|\(|\)|\||[^\s()|]+)')
#: Begins the token of a field of what stands in parentheses before it: ``(index .Ports 0).Published``.
_FIELD_OF = ")"
_ESCAPES = (("\\t", "\t"), ("\\n", "\n"), ("\\r", "\r"))


class TemplateError(CliError):
    """The template cannot be read, or asks for what is not there."""


class _Block:
    """``keyword`` is if, range, with, print or text; ``other`` follows its else."""

    def __init__(self, keyword: str, text: str) -> None:
        self.keyword = keyword
        self.text = text
        self.body: list[_Block] = []
        self.other: list[_Block] = []


def to_json(value: Any) -> str:
    """JSON as Go writes it: no spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def shown(value: Any) -> str:
    """A value as Go prints it."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + " ".join(shown(v) for v in value) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{k}:{shown(value[k])}" for k in sorted(value)) + "]"
    return str(value)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "upper": lambda v: str(v).upper(),
    "lower": lambda v: str(v).lower(),
    "title": lambda v: str(v).title(),
    "join": lambda values, separator: separator.join(shown(v) for v in values or []),
    "split": lambda text, separator: text.split(separator),
    "len": lambda v: len(v or ""),
    "println": lambda *values: " ".join(shown(v) for v in values) + "\n",
    "print": lambda *values: "".join(shown(v) for v in values),
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, other: first != other,
    "not": lambda v: not v,
    "and": lambda *values: next((v for v in values if not v), values[-1]),
    "or": lambda *values: next((v for v in values if v), values[-1]),
}


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key, "")
        elif isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
            value = value[key]
        else:
            raise TemplateError(f"template: index out of range or not indexable: {key}")
    return value


_FUNCTIONS["index"] = _index


class Template:
    """A parsed ``--format`` text. Raises TemplateError when it cannot be read."""

    def __init__(self, text: str) -> None:
        for written, meant in _ESCAPES:
            text = text.replace(written, meant)
        self._blocks = _parse(text)

    def render(self, data: Any) -> str:
        """The text for ``data``, a mapping of fields."""
        return "".join(_render(block, data, data) for block in self._blocks)

    def fields(self) -> list[str]:
        """The fields it prints, in order: for the header of a table."""
        names: list[str] = []
        for block in self._blocks:
            if block.keyword == "print":
                names.extend(m[1] for m in re.finditer(r"\.([A-Za-z]\w*)", block.text))
        return names


def _parse(text: str) -> list[_Block]:
    root = _Block("root", "")
    stack: list[tuple[_Block, list[_Block]]] = [(root, root.body)]
    end = 0
    trim_next = False
    for match in _PIECE.finditer(text):
        literal = text[end : match.start()]
        literal = literal.lstrip() if trim_next else literal
        literal = literal.rstrip() if match[1] else literal
        trim_next, end = bool(match[3]), match.end()
        if literal:
            stack[-1][1].append(_Block("text", literal))
        code = match[2].strip()
        keyword, _, rest = code.partition(" ")
        if code.startswith("/*"):
            continue
        if keyword in ("if", "range", "with"):
            block = _Block(keyword, rest.strip())
            stack[-1][1].append(block)
            stack.append((block, block.body))
        elif keyword == "else":
            block, _ = _open(stack, "else")
            stack[-1] = (block, block.other)
            if rest.strip():
                raise _bad("{{else if}} is not understood; nest an {{if}} in the {{else}}")
        elif keyword == "end":
            _open(stack, "end")
            stack.pop()
        elif not code:
            raise _bad("missing value for command")
        else:
            stack[-1][1].append(_Block("print", code))
    rest = text[end:]
    if "{{" in rest:
        raise _bad("unclosed action")
    if len(stack) > 1:
        raise _bad("unexpected EOF")
    if rest:
        root.body.append(_Block("text", rest.lstrip() if trim_next else rest))
    _check(root.body)
    return root.body


def _open(stack: list[tuple[_Block, list[_Block]]], word: str) -> tuple[_Block, list[_Block]]:
    if len(stack) == 1:
        raise _bad(f"unexpected {{{{{word}}}}}")
    return stack[-1]


def _check(blocks: list[_Block]) -> None:
    """Find unknown functions now rather than at the first object, of which there may be none."""
    for block in blocks:
        if block.keyword != "text":
            for token in _tokens(block.text):
                if (
                    re.fullmatch(r"[A-Za-z_]\w*", token)
                    and token not in _FUNCTIONS
                    and token not in ("true", "false")
                ):
                    raise _bad(f'function "{token}" not defined')
        _check(block.body)
        _check(block.other)


def _bad(why: str) -> TemplateError:
    return TemplateError(f"template parsing error: {why}")


def _tokens(code: str) -> list[str]:
    tokens: list[str] = []
    position = 0
    while position < len(code.rstrip()):
        match = _TOKEN.match(code, position)
        if match is None:
            raise _bad(f"unexpected {code[position:]!r}")
        closed = position > 0 and code[position - 1] == ")"
        if closed and match[1].startswith(".") and match.start(1) == position:
            tokens.append(_FIELD_OF + match[1])
        else:
            tokens.append(match[1])
        position = match.end()
    return tokens


def _render(block: _Block, data: Any, root: Any) -> str:
    if block.keyword == "text":
        return block.text
    value = _evaluate(_tokens(block.text), data, root)
    if block.keyword == "print":
        return shown(value)
    if block.keyword == "range" and value:
        items = [value[k] for k in sorted(value)] if isinstance(value, dict) else list(value)
        return "".join(_all(block.body, item, root) for item in items)
    if value:
        return _all(block.body, value if block.keyword == "with" else data, root)
    return _all(block.other, data, root)


def _all(blocks: list[_Block], data: Any, root: Any) -> str:
    return "".join(_render(block, data, root) for block in blocks)


def _evaluate(tokens: list[str], data: Any, root: Any) -> Any:
    """A pipeline: each command's value is the last argument of the next."""
    piped: list[Any] = []
    command: list[Any] = []
    position = 0
    while position <= len(tokens):
        token = tokens[position] if position < len(tokens) else "|"
        if token == "|":  # noqa: S105 - a pipe, not a password
            piped = [_call(command + piped)]
            command = []
        elif token == "(":  # noqa: S105
            depth, start = 1, position + 1
            while depth:
                position += 1
                if position >= len(tokens):
                    raise _bad("unclosed left paren")
                depth += {"(": 1, ")": -1}.get(tokens[position], 0)
            command.append(_evaluate(tokens[start:position], data, root))
        elif token.startswith(_FIELD_OF):
            command[-1] = _field(command[-1], token.removeprefix(_FIELD_OF))
        else:
            command.append(_operand(token, data, root))
        position += 1
    return piped[0]


class _Function:
    def __init__(self, name: str) -> None:
        self.name = name


def _call(command: list[Any]) -> Any:
    if not command:
        raise _bad("missing value for command")
    first, *rest = command
    if isinstance(first, _Function):
        try:
            return _FUNCTIONS[first.name](*rest)
        except (TypeError, AttributeError, ValueError) as exc:
            raise TemplateError(f"template: {first.name}: wrong arguments") from exc
    if rest:
        raise _bad(f"{shown(first)} is not a function but has arguments")
    return first


def _operand(token: str, data: Any, root: Any) -> Any:
    if token.startswith(('"', "`")):
        return json.loads(token) if token.startswith('"') else token[1:-1]
    if re.fullmatch(r"-?\d+", token):
        return int(token)
    if token in ("true", "false"):
        return token == "true"  # noqa: S105
    base, path = (root, token[1:]) if token.startswith("$") else (data, token)
    if path.startswith(".") or token == "$":  # noqa: S105
        return _field(base, path)
    return _Function(token)


def _field(value: Any, path: str) -> Any:
    for name in path.strip(".").split("."):
        if not name:
            continue
        if isinstance(value, dict):
            # Go's types have every field; JSON leaves empty ones out.
            value = value.get(name)
        else:
            raise TemplateError(f"template: can't evaluate field {name} in {shown(value)}")
    return value

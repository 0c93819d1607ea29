"""Variables in the values of a stack file: ``$NAME``, ``${NAME}``, ``${NAME:-default}``, ``${NAME-default}``,
``${NAME:?message}``, ``${NAME?message}``, and ``$$`` for a dollar sign.

Values come from the environment alone: docker's stack commands do not read ``.env``.
"""

import re
from collections.abc import Mapping

from pyswarm.cli.compose.value import ComposeError, Value, member

_VARIABLE = re.compile(
    r"\$(?:"
    r"(?P<escaped>\$)"
    r"|(?P<named>[_a-zA-Z][_a-zA-Z0-9]*)(?P<tail>:?[-?])?"
    r"|\{(?P<braced>[_a-zA-Z][_a-zA-Z0-9]*)(?:(?P<operator>:?[-?])(?P<argument>[^}]*))?\}"
    r"|)"
)


class Interpolation:
    """Replaces variables by what ``environment`` says; remembers which of them were needed and not there."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.missing: set[str] = set()

    def apply(self, value: Value, path: str = "") -> Value:
        """The value with all variables replaced, but for those in keys. Raises ComposeError."""
        data = value.data
        if isinstance(data, dict):
            return value._replace(data={key: self.apply(item, member(path, key)) for key, item in data.items()})
        if isinstance(data, list):
            return value._replace(
                data=[self.apply(item, member(path, number)) for number, item in enumerate(data)]
            )
        if not isinstance(data, str) or "$" not in data:
            return value
        parts: list[str] = []
        end = 0
        for match in _VARIABLE.finditer(data):
            parts += data[end : match.start()], self._replaced(match, value, path)
            end = match.end()
        text = "".join([*parts, data[end:]])
        return value._replace(data=text, substituted=text != data)

    def _replaced(self, match: re.Match[str], value: Value, path: str) -> str:
        if match["escaped"]:
            return "$"
        name = match["named"] or match["braced"]
        if name is None:
            raise ComposeError(
                value,
                path,
                f'invalid interpolation format "{value.data}"; you may need to escape any $ with another $',
            )
        if match["tail"]:
            raise ComposeError(
                value,
                path,
                f"${name}{match['tail']} could mean two things: write ${{{name}}} to end the name there, "
                f"or ${{{name}{match['tail']}...}}",
            )
        operator, argument = match["operator"] or "", match["argument"] or ""
        if "${" in argument:
            raise ComposeError(value, path, f"a variable within ${{{name}{operator}...}} is not supported")
        found = self._environment.get(name)
        if found is not None and not (operator.startswith(":") and not found):
            return found
        if operator.endswith("?"):
            raise ComposeError(value, path, f"required variable {name} is missing a value: {argument}")
        if not operator:
            self.missing.add(name)
        return argument

"""A command line as words, as docker's stack commands split ``command: httpd -f``."""

from enum import Enum, auto


class _State(Enum):
    BETWEEN = auto()
    WORD = auto()
    COMMENT = auto()
    DOUBLE = auto()
    SINGLE = auto()


def split(line: str) -> list[str]:
    """Words at blanks. Quotes of both kinds hold words together; a backslash takes the next character as it
    is, but not in single quotes; a word that begins with ``#`` starts a comment. Raises ValueError."""
    words: list[str] = []
    word: list[str] = []
    state = _State.BETWEEN
    characters = iter(line)
    for character in characters:
        if state is _State.COMMENT:
            if character == "\n":
                state = _State.BETWEEN
        elif state is _State.SINGLE or state is _State.DOUBLE:
            if character == ("'" if state is _State.SINGLE else '"'):
                state = _State.WORD
            elif character == "\\" and state is _State.DOUBLE:
                word.append(_escaped(next(characters, "")))
            else:
                word.append(character)
        elif character in " \t\r\n":
            if state is _State.WORD:
                words.append("".join(word))
                word.clear()
            state = _State.BETWEEN
        elif character == "#" and state is _State.BETWEEN:
            state = _State.COMMENT
        elif character in "'\"":
            state = _State.SINGLE if character == "'" else _State.DOUBLE
        else:
            state = _State.WORD
            word.append(_escaped(next(characters, "")) if character == "\\" else character)
    if state in (_State.SINGLE, _State.DOUBLE):
        raise ValueError("a quote is not closed")
    if state is _State.WORD:
        words.append("".join(word))
    return words


def _escaped(character: str) -> str:
    if not character:
        raise ValueError("nothing follows the backslash at the end")
    return character

"""Patterns of topics' names, and an index that finds those a name matches.

A name is words with dots between them. In a pattern the word ``*`` stands for exactly one word, ``#`` for any number of
words, none included, and a last ``>`` for the same as ``#``: RabbitMQ's and ActiveMQ's wildcards.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Generic, TypeVar

from broker.errors import BadName

T = TypeVar("T")

_WILDCARDS = frozenset("*#>")


def is_pattern(name: str) -> bool:
    """True if a word of `name` is a wildcard."""
    if "*" not in name and "#" not in name and ">" not in name:
        return False  # the way of nearly every publish
    return not _WILDCARDS.isdisjoint(name.split("."))


def words_of(pattern: str) -> list[str]:
    """The words of a pattern, with ``#`` for ``>`` and for several ``#`` in a row; `BadName` for a ``>`` elsewhere."""
    words = pattern.split(".")
    if words[-1] == ">":
        words[-1] = "#"
    if ">" in words:
        raise BadName(f"{pattern}: the wildcard > may only be the last word")
    return [word for place, word in enumerate(words) if word != "#" or words[place - 1 : place] != ["#"]]


#: Words that no rule about names can mean: a control character is in no name, so that only a wildcard covers it.
_ANY = ("\x01", "\x01\x02\x03")
#: Wildcards of a pattern that are varied each on its own; more of them are varied together.
_VARIED = 4


def examples(pattern: str) -> list[str]:
    """Names that a pattern matches, such that a rule (``*`` any characters, ``?`` one) that covers them covers all.

    A short and a long word for ``*``; no word, one and two for ``#``.
    """
    choices: dict[str, list[list[str]]] = {
        "*": [[word] for word in _ANY],
        "#": [[], *([word] for word in _ANY), [_ANY[1], _ANY[0]]],
    }
    words = words_of(pattern)
    wild = [word for word in words if word in choices]
    picked: Iterable[tuple[list[str], ...]]
    if len(wild) <= _VARIED:
        picked = product(*(choices[word] for word in wild))
    else:
        picked = [tuple(choices[word][place % len(choices[word])] for word in wild) for place in range(4)]
    found = []
    for pick in picked:
        taken = iter(pick)
        found.append(".".join(one for word in words for one in (next(taken) if word in choices else [word])))
    return found


class _Node:
    """What has been read of some patterns: all that begin with these words."""

    __slots__ = ("children", "many", "values")

    def __init__(self, many: bool = False) -> None:
        self.children: dict[str, _Node] = {}
        #: The last word is ``#``, which takes any further one too.
        self.many = many
        self.values: dict[object, None] = {}


class Patterns(Generic[T]):
    """Values under patterns, as a tree of words.

    A name is read once, word by word, beside all the places in the tree that it may have led to. So the time depends on
    how many words it has and on how many patterns begin as it does, not on how many there are; and however many
    wildcards a pattern has, there is nothing to try twice.
    """

    def __init__(self) -> None:
        self._root = _Node()
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, pattern: str, value: T) -> None:
        """Put `value` under `pattern`; `BadName` if it is none."""
        node = self._root
        for word in words_of(pattern):
            if word not in node.children:
                node.children[word] = _Node(word == "#")
            node = node.children[word]
        self._count += value not in node.values
        node.values[value] = None

    def discard(self, pattern: str, value: T) -> None:
        """Take `value` from under `pattern`, if it is there."""
        path = [self._root]
        words = words_of(pattern)
        for word in words:
            if word not in path[-1].children:
                return
            path.append(path[-1].children[word])
        self._count -= value in path[-1].values
        path[-1].values.pop(value, None)
        for place in range(len(words), 0, -1):
            if path[place].values or path[place].children:
                return
            del path[place - 1].children[words[place - 1]]

    def matching(self, name: str) -> list[T]:
        """The values under the patterns that `name` matches, each once."""
        if not self._count:
            return []
        places: dict[_Node, None] = {}
        _arrive(places, self._root)
        for word in name.split("."):
            following: dict[_Node, None] = {}
            for node in places:
                if node.many:
                    following[node] = None
                for taken in (word, "*"):
                    child = node.children.get(taken)
                    if child is not None:
                        _arrive(following, child)
            places = following
            if not places:
                return []
        found: dict[T, None] = {}
        for node in places:
            found.update(node.values)  # type: ignore[arg-type]  # what `add` has put there
        return list(found)


def _arrive(places: dict[_Node, None], node: _Node) -> None:
    """The words read so far lead to `node`, and past a ``#`` that takes none."""
    places[node] = None
    many = node.children.get("#")
    if many is not None:
        places[many] = None

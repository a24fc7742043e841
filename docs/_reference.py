"""Writes the tables of keys in configuration.rst: from the types, their defaults and the ``#:`` comments beside them.

``python docs/_reference.py`` puts them between the page's markers; a test says that this was done.
"""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from broker import config
from broker.auth import limits
from broker.auth.limits import Bounds, Limits
from broker.config import File
from broker.config_check import MOST, RANGES
from broker.core import policy
from broker.core.policy import Policy, TopicPolicy

PAGE = Path(__file__).with_name("configuration.rst")
#: Each table by the word in its markers, with the module that its type stands in.
TABLES: dict[str, tuple[Any, type[msgspec.Struct]]] = {
    "file": (config, File),
    "queue": (policy, Policy),
    "topic": (policy, TopicPolicy),
    "limits": (limits, Bounds),
    "limits.user": (limits, Limits),
}
_kinds = {bool: "``true`` or ``false``", str: "string"}


def comments(module: Any, struct: type[msgspec.Struct]) -> dict[str, str]:
    """What the ``#:`` lines above each field of `struct` say."""
    lines = inspect.getsource(module).splitlines()
    (body,) = [
        node.body
        for node in ast.parse("\n".join(lines)).body
        if isinstance(node, ast.ClassDef) and node.name == struct.__name__
    ]
    said = {}
    for field in body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            words: list[str] = []
            above = field.lineno - 2
            while lines[above].strip().startswith("#:"):
                words.insert(0, lines[above].strip()[2:].strip())
                above -= 1
            said[field.target.id] = " ".join(words)
    return said


def kind(key: str, hint: Any) -> str:
    """What the value of `key` is, for people."""
    if hint is int:
        least, most = RANGES.get(key, (0, MOST))
        return f"integer, {least} or more" if most == MOST else f"integer, {least} to {most}"
    if hint in _kinds:
        return _kinds[hint]
    if get_origin(hint) is Literal:
        return " or ".join(", ".join(f'``"{word}"``' for word in get_args(hint)).rsplit(", ", 1))
    if get_origin(hint) is tuple:
        return "list of integers"
    if type(None) in get_args(hint):
        return " or ".join(kind(key, one) for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is list:
        return "list"
    return "table"


def default(value: Any) -> str:
    """A default as TOML has it."""
    if value is None or value == "" or isinstance(value, dict | msgspec.Struct):
        return "none"
    return f"``{msgspec.json.encode(value).decode()}``"


def table(module: Any, struct: type[msgspec.Struct]) -> str:
    """The keys of `struct`, in reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 18 22 60", ""]
    lines += ["   * - key", "     - value; default", "     - meaning"]
    hints = get_type_hints(struct)
    said = comments(module, struct)
    for field in msgspec.structs.fields(struct):
        value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
        assert said[field.name], f"{struct.__name__}.{field.name} has no #: comment"
        lines += [
            f"   * - ``{field.name}``",
            f"     - {kind(field.name, hints[field.name])}; {default(value)}",
            f"     - {said[field.name]}",
        ]
    return "\n".join(lines)


def written(page: str) -> str:
    """`page` with its tables as they must be."""
    for word, (module, struct) in TABLES.items():
        begin, end = f".. The table {word} begins: docs/_reference.py writes it.\n", f".. The table {word} ends.\n"
        assert begin in page, begin
        assert end in page, end
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{table(module, struct)}\n\n{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))

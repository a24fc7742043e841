"""Which lines of the conformance list, what the servers' own tests say, are shown, and which are not.

A test that shows a line begins its docstring with the line's number, ``4.1/14``.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

#: How many lines each section has: reading, storing, names, the rest.
SECTIONS = {"4.1": 40, "4.2": 18, "4.3": 14, "4.4": 11}
#: Those that are not shown, and why.
LEFT_OUT = {
    "4.2/10": "client ids: no memcache client has one",
    "4.4/7": "ZooKeeper",
    "4.4/8": "Kestrel's text and thrift ports",
    "4.4/9": "Kestrel's journal files",
}


def shown() -> dict[str, list[str]]:
    """The tests that show each line."""
    found: dict[str, list[str]] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for line in re.findall(r"4\.\d/\d+", ast.get_docstring(node) or ""):
                    found.setdefault(line, []).append(node.name)
    return found


def test_every_line_is_shown_or_left_out_for_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    lines = {f"{section}/{number}" for section, count in SECTIONS.items() for number in range(1, count + 1)}
    covered = shown()
    assert set(covered) & set(LEFT_OUT) == set()
    assert set(covered) | set(LEFT_OUT) == lines
    with capsys.disabled():
        print(f"\nconformance: {len(covered)} of {len(lines)} lines shown, {len(LEFT_OUT)} left out:")
        for line, reason in LEFT_OUT.items():
            print(f"  {line}: {reason}")

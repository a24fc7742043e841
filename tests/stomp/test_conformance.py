"""The list of behaviours: which test stands for which line, and which lines stand for nothing here."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent

#: Lines without a test, and why.
LEFT_OUT: dict[int, str] = {
    21: "limits on connections are the listeners' matter",
    29: "tests/test_tls.py has TLS and clients' certificates, of every front; there are no renegotiation and no PROXY",
    73: "advisory messages are not there",
    74: "bodies are not transformed",
    75: "RabbitMQ's streams are not there; from-seq is",
}


def lines_of(text: str) -> set[int]:
    """The numbers that a docstring names: ``Lines 1, 2 and 3``, ``Line 4``, ``lines 5 to 7``."""
    found: set[int] = set()
    for said in re.findall(r"\b[Ll]ines? ([0-9]+(?:(?:, | and | to |, and )[0-9]+)*)", text):
        for low, high in re.findall(r"([0-9]+)(?: to ([0-9]+))?", said):
            found |= set(range(int(low), int(high or low) + 1))
    return found


def named() -> set[int]:
    """All that the tests' docstrings name."""
    found: set[int] = set()
    for path in (*HERE.glob("test_*.py"), HERE.parent / "auth" / "test_stomp.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                is_here = path.name == Path(__file__).name
                found |= set() if is_here else lines_of(ast.get_docstring(node) or "")
    return found


def test_every_line_has_a_test_or_a_reason() -> None:
    assert sorted(set(range(1, 80)) - named() - set(LEFT_OUT)) == []
    assert sorted(named() & set(LEFT_OUT)) == []


def test_lines_are_read() -> None:
    assert lines_of("Lines 1, 2 and 3; line 5, and lines 7 to 9.") == {1, 2, 3, 5, 7, 8, 9}

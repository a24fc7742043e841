"""Writes http-reference.rst: from the route table, what is said of each endpoint, and the problem types.

``python docs/_http.py`` does it; a test says that it was done.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from broker.http.problems import PROBLEMS
from broker.http.reference import COMMON, DOCS, PARAMETERS, VARIABLES
from broker.http.routes import ROUTES

PAGE = Path(__file__).with_name("http-reference.rst")


def code(text: str) -> str:
    """`text` with its words in backticks as reStructuredText has them."""
    return text.replace("`", "``")


def table(heads: tuple[str, ...], widths: str, rows: Iterable[tuple[str, ...]]) -> str:
    """A table."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in (heads, *rows):
        lines += [f"   {'*' if not number else ' '} - {cell}" for number, cell in enumerate(row)]
    return "\n".join(lines)


def routes() -> Iterable[tuple[str, ...]]:
    """A row for each method of each path."""
    for path, methods in ROUTES.items():
        for method, endpoint in methods.items():
            doc = DOCS[endpoint]
            answers = ", ".join(str(status) for status in sorted(doc.answers))
            names = ", ".join(f"``{name}``" for name in doc.parameters.split())
            yield f"``{method} {path}``", answers, code(doc.says) + (f"; {names}" if names else "")


def written() -> str:
    """The page."""
    parts = [
        "HTTP reference",
        "==============",
        "",
        ".. docs/_http.py writes this page.",
        "",
        "The same as ``/openapi.json`` says, for people. HEAD works wherever GET does. How to use it: :doc:`http`.",
        "",
        "Routes",
        "------",
        "",
        table(("Request", "Answer", "What it does; its parameters"), "38 14 48", routes()),
        "",
        "Names in paths:",
        "",
        table(("Name", "Meaning"), "20 80", ((f"``{name}``", code(says)) for name, (_, says) in VARIABLES.items())),
        "",
        "Parameters",
        "----------",
        "",
        table(("Name", "Meaning"), "20 80", ((f"``{name}``", code(says)) for name, (_, says) in PARAMETERS.items())),
        "",
        "Every route may answer",
        "----------------------",
        "",
        table(("Status", "Meaning"), "20 80", ((str(status), says) for status, says in COMMON.items())),
        "",
        "Problem types",
        "-------------",
        "",
        "The last part of a problem's ``type``; ``GET /problems/<type>`` says the same.",
        "",
        table(("Type", "Meaning"), "24 76", ((f"``{kind}``", code(says)) for kind, says in PROBLEMS.items())),
        "",
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(written())

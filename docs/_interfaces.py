"""The directive ``interface``: what an ``Interface`` of zope's asks of those who provide it.

autodoc documents classes. A zope interface is none, and what it keeps of its methods has lost their types; so the
signatures are read where they were written.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.util.nodes import nested_parse_with_titles

Method = ast.FunctionDef | ast.AsyncFunctionDef


def described(interface: Any) -> str:
    """The interface as the reST that describes it in Python's domain."""
    module = importlib.import_module(interface.__module__)
    (definition,) = [
        node
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.ClassDef) and node.name == interface.__name__
    ]
    members = [_method(node) for node in definition.body if isinstance(node, Method)]
    members += [
        _attribute(node, interface)
        for node in definition.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    body = "\n\n".join([inspect.cleandoc(interface.__doc__), *members])
    return f".. py:class:: {interface.__name__}\n   :module: {module.__name__}\n\n{textwrap.indent(body, '   ')}\n"


def _method(node: Method) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return _described("method", f"{node.name}({ast.unparse(node.args)}){returns}", ast.get_docstring(node) or "")


def _attribute(node: ast.AnnAssign, interface: Any) -> str:
    name = ast.unparse(node.target)
    kind = f"{name}\n   :type: {ast.unparse(node.annotation)}"
    return _described("attribute", kind, interface[name].__doc__)


def _described(what: str, heading: str, text: str) -> str:
    return f".. py:{what}:: {heading}\n\n{textwrap.indent(text, '   ')}"


class InterfaceDirective(Directive):
    """``.. interface:: package.module.IName``."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """The nodes of what `described` says."""
        module, _, name = self.arguments[0].rpartition(".")
        text = described(getattr(importlib.import_module(module), name))
        lines = StringList(text.splitlines(), source=self.arguments[0])
        parent = nodes.section()
        nested_parse_with_titles(self.state, lines, parent, self.content_offset)
        return parent.children


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("interface", InterfaceDirective)
    return {"parallel_read_safe": True}

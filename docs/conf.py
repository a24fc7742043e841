"""Sphinx: ``script/docs`` makes HTML of these pages, and every warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from broker import __version__

project = "twisted-broker"
author = "the twisted-broker authors"
project_copyright = author
version = release = __version__

extensions = ["sphinx.ext.autodoc", "_interfaces"]
#: Docstrings write `names` so; those that a page documents become links.
default_role = "py:obj"
#: Blocks that name no language are not Python.
highlight_language = "text"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"twisted-broker {version}"
html_static_path = ["_static"]
html_copy_source = False
html_show_sphinx = False

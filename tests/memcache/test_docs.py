"""The pages say what there is."""

from __future__ import annotations

import re
from pathlib import Path

from broker.core.level import Level
from broker.memcache.dialect import DIALECTS, Dialect
from broker.memcache.words import _PARSERS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def rows() -> dict[str, list[str]]:
    """The cells of the table of fields, by the field's name."""
    page = (DOCS / "memcache-dialects.rst").read_text()
    table = page.partition("What differs\n")[2].partition("The same in all")[0]
    found = re.findall(r"^   \* - (.*(?:\n     [- ] .*)+)", table, re.MULTILINE)
    cells = [[cell.strip() for cell in row.split("\n     - ")] for row in found]
    return {name.strip("`"): rest for name, *rest in cells[1:]}


def test_the_table_of_dialects_has_every_field_and_a_dash_for_what_is_the_default_s() -> None:
    fields = [field for field in Dialect.__struct_fields__ if field != "name"]
    table = rows()
    assert list(table) == fields
    default, *others = DIALECTS.values()
    for field, (_, *cells) in table.items():
        for dialect, cell in zip(others, cells, strict=True):
            same = getattr(dialect, field) == getattr(default, field)
            assert cell != r"\-" or same, f"{field} of {dialect.name} is not the default's"


def test_replies_in_the_table_are_those_of_the_dialect() -> None:
    for field, cells in rows().items():
        for dialect, cell in zip(DIALECTS.values(), cells, strict=True):
            value = getattr(dialect, field)
            if isinstance(value, bytes) and value and cell != r"\-":
                assert f"``{value.decode().strip()}``" == cell, f"{field} of {dialect.name}"


def test_the_page_names_every_command_and_level() -> None:
    page = (DOCS / "memcache.rst").read_text()
    for word in _PARSERS:
        assert f"``{word.decode()}" in page, word
    for level in Level:
        assert f"``{level.name}``" in page

"""The version of a store's file: made, checked, and raised one script at a time.

``schema/1.sql`` makes version 1, ``schema/2.sql`` would make version 2 out of version 1, and so on; a new file runs
them all, so that an upgraded file cannot differ from a new one.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from broker.errors import ConfigError


def scripts(folder: Traversable | None = None) -> dict[int, str]:
    """Every version's script, in order."""
    folder = folder or files("broker.storage") / "schema"
    found = {int(one.name[:-4]): one for one in folder.iterdir() if re.fullmatch(r"[1-9]\d*\.sql", one.name)}
    return {version: found[version].read_text("utf-8") for version in sorted(found)}


def version(connection: sqlite3.Connection) -> int:
    """The version of an open file; 0: it is empty. Raises `ConfigError` for a file that is not a broker's."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return 0
    if "meta" not in tables or "rec" not in tables:
        raise ConfigError("the data file is an SQLite database, but not a broker's")
    return int(connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()[0])


def check(path: str) -> None:
    """Raise `ConfigError` for a file that is newer than this code, or no broker's; somebody may be using it."""
    if not os.path.exists(path):
        return
    with closing(sqlite3.connect(f"{Path(path).as_uri()}?mode=ro", uri=True)) as connection:
        _check(version(connection), max(scripts()))


def _check(found: int, newest: int) -> None:
    if found > newest:
        raise ConfigError(
            f"the data file has schema version {found}, written by a newer broker; this one reads up to {newest}"
        )


def upgrade(connection: sqlite3.Connection, path: str, steps: dict[int, str] | None = None) -> None:
    """Bring an open file to the newest version; before that, copy one that is older to ``<path>.v<version>``.

    Raises `ConfigError` for a newer file.
    """
    steps = scripts() if steps is None else steps
    newest = max(steps)
    found = version(connection)
    _check(found, newest)
    if 0 < found < newest:
        with closing(sqlite3.connect(f"{path}.v{found}")) as copy:
            connection.backup(copy)
    for step in range(found + 1, newest + 1):
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{steps[step]}\n"  # nosec B608  # a file of ours, and a number
                f"UPDATE meta SET value = {step} WHERE key = 'schema_version';\nCOMMIT;"
            )
        except BaseException:
            connection.rollback()
            raise

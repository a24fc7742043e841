"""The documentation as a whole: it builds without a warning, every page is found, and what it names is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from twisted.scripts._twistd_unix import ServerOptions

from broker.auth.rights import Action
from broker.config import File, MemcacheListener
from broker.core.policy import Policy
from broker.options import Options

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PICTURE = DOCS / "_static/message.svg"


def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    (line,) = re.findall(r"^exec python (-m sphinx .*) build/docs", (ROOT / "script/docs").read_text(), re.MULTILINE)
    done = subprocess.run(
        [sys.executable, *shlex.split(line), str(tmp_path), "--quiet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "IStore" in (tmp_path / "api.html").read_text()
    assert (tmp_path / "_static" / PICTURE.name).exists() or (tmp_path / "_images" / PICTURE.name).exists()


def entries(page: str) -> list[str]:
    """What stands in the toctrees of a page."""
    trees = re.findall(r"^\.\. toctree::\n(?:   :.*\n)*\n((?:   \S.*\n?)+)", page, re.MULTILINE)
    return [line.strip() for tree in trees for line in tree.splitlines()]


def test_every_page_stands_in_the_index() -> None:
    pages = {page.stem for page in DOCS.glob("*.rst")} - {"index"}
    found = entries((DOCS / "index.rst").read_text())
    assert sorted(found) == sorted(pages), (
        "give it a line under its heading in docs/index.rst, and a place in the toctree"
    )


def test_the_readme_names_the_two_commands_and_shows_the_picture() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in ("script/server", "script/test"):
        assert f"\n    {command}\n" in readme
        assert (ROOT / command).stat().st_mode & 0o111
    assert f"]({PICTURE.relative_to(ROOT)})" in readme


def test_the_picture_says_what_it_shows_and_has_colours_for_the_dark() -> None:
    picture = ElementTree.parse(PICTURE).getroot()
    said = {element.get("id"): element.text or "" for element in picture}
    assert picture.get("aria-labelledby") == "title desc"
    assert said["title"]
    assert {"memcache", "STOMP", "HTTP"} <= set(re.findall(r"\w+", said["desc"]))
    assert "@media (prefers-color-scheme: dark)" in PICTURE.read_text()


def rows(page: str) -> list[list[str]]:
    """The cells of each row of the page's tables, without the headings."""
    tables = re.findall(r"^\.\. list-table::\n(?:   :.*\n)+\n((?:   .*\n)+)", page, re.MULTILINE)
    found = []
    for table in tables:
        _, _, *texts = re.split(r"^   \* - ", table, flags=re.MULTILINE)
        found += [[" ".join(cell.split()) for cell in re.split(r"\n     -", text)] for text in texts]
    return found


def test_what_the_page_for_newcomers_from_other_servers_names_is_there() -> None:
    options = {name.replace("_", "-") for known in (Options(), ServerOptions()) for name in known.synonyms}
    structs = (File, MemcacheListener, Policy)
    keys = {*(action.value for action in Action), *(key for struct in structs for key in struct.__struct_fields__)}
    table = rows((DOCS / "coming-from.rst").read_text())
    assert len(table) > 50
    for theirs, _, ours in table:
        assert ours, theirs
        assert "no equivalent" not in ours or "no equivalent, because" in ours, theirs
        for literal in re.findall(r"``([^`]+)``", ours):
            for option in re.findall(r"--([\w-]+)", literal):
                assert option in options, f"{theirs}: there is no --{option}"
            if key := re.fullmatch(r"\[?([a-z_]+)\b( = .*|\]|\..*\])?", literal):
                assert key[1] in keys, f"{theirs}: there is no {key[1]}"

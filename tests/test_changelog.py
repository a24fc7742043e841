"""News fragments: towncrier must take up every file in newsfragments/, or a change is missing from the changelog."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
TYPES = {kind["directory"]: kind for kind in CONFIG["type"]}
FRAGMENTS = sorted({*(ROOT / "newsfragments").iterdir()} - {ROOT / "newsfragments" / name for name in CONFIG["ignore"]})


def draft(folder: Path) -> str:
    """What the next release would say."""
    done = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "next", "--date", "today"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def joined(text: str) -> str:
    return " ".join(text.split())


def test_fragments_are_named_after_their_type() -> None:
    wrong = [file.name for file in FRAGMENTS if not file.suffixes or file.suffixes[0][1:] not in TYPES]
    wrong += [file.name for file in FRAGMENTS if file.suffixes[1:] not in ([], [".rst"])]
    assert not wrong, "newsfragments/README.rst says how they are named"


def test_every_fragment_is_in_the_next_changelog() -> None:
    news = joined(draft(ROOT))
    shown = [file for file in FRAGMENTS if TYPES[file.suffixes[0][1:]]["showcontent"]]
    assert not [file.name for file in shown if f"- {joined(file.read_text())}" not in news]


def test_a_release_says_new_things_first_and_nothing_of_what_is_inside(tmp_path: Path) -> None:
    (tmp_path / "newsfragments").mkdir()
    for name in ("pyproject.toml", CONFIG["template"]):
        (tmp_path / name).write_text((ROOT / name).read_text())
    for kind in TYPES:
        (tmp_path / f"newsfragments/thing.{kind}").write_text(f"A {kind}.\n")
    (tmp_path / "newsfragments/empty.misc").touch()
    assert draft(tmp_path).strip().splitlines() == [
        "next (today)",
        "------------",
        "",
        *("New", "~~~", "", "- A feature.", ""),
        *("Mended", "~~~~~~", "", "- A bugfix.", ""),
        *("Gone, or going", "~~~~~~~~~~~~~~", "", "- A removal.", ""),
        *("Documentation", "~~~~~~~~~~~~~", "", "- A doc."),
    ]

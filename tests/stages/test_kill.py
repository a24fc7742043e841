"""Whatever of a flow is killed, and when: each document has exactly its outputs, and all of it arrives."""

from __future__ import annotations

from pathlib import Path

from tests.stages.killing import KINDS, Run


def test_each_root_has_its_outputs_exactly_once_whatever_is_killed(tmp_path: Path) -> None:
    run = Run(tmp_path, seed=7)
    try:
        found = run.go(kills=10, documents=200)
    finally:
        run.end()
    assert not found.wrong
    assert sum(found.kills.values()) == 10
    assert set(found.kills) == set(KINDS)

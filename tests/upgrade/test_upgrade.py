"""New code without stopping, under load: see `run`. ``script/upgrades`` is the same for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.upgrade.run import Run


def test_nobody_is_refused_and_nothing_is_lost_or_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path)
    try:
        run.go(2)
    finally:
        with capsys.disabled():
            print("\n" + run.report())
    assert not run.flaws, "\n".join(run.flaws)
    # Else nobody was there to be refused, and nothing on loan.
    assert run.ledger.tally["ended"] > 0
    assert min(len(run.ledger.confirmed), len(run.ledger.answered)) > 0

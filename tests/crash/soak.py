"""The command behind ``script/soak``: kills, restarts and checks until it is enough, then a report.

Exit status 0: every promise was kept; 1: not, or the run could not go on. Then the data and the log are kept.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from contextlib import closing
from itertools import takewhile
from pathlib import Path

from tests.crash.run import Run, plan, report, table

#: Kills, if neither a number nor a time is asked for.
KILLS = 200
#: More than anybody waits for: the end is a matter of time then.
ENDLESS = 10**9
#: Flaws shown; there may be one for every message.
SHOWN = 50


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        prog="script/soak",
        description="Kill a broker under load again and again, and check after each restart that nothing is lost, "
        "nothing comes back that was settled, order is kept, and transactions are whole.",
    )
    parser.add_argument("--kills", type=_positive, metavar="N", help=f"end after so many kills (default {KILLS})")
    parser.add_argument("--minutes", type=float, metavar="M", help="end after so many minutes; no limit of kills then")
    parser.add_argument("--seed", type=int, metavar="S", help="repeat the kills of the run with this seed")
    parser.add_argument("--quiet", action="store_true", help="print the report only, not a line after every kill")
    return parser.parse_args(given)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1 is needed")
    return number


def main() -> int:
    """Run, report; the exit status."""
    asked = arguments()
    kills = asked.kills or (ENDLESS if asked.minutes else KILLS)
    started = time.monotonic()
    until = started + asked.minutes * 60 if asked.minutes else float("inf")
    folder = Path(tempfile.mkdtemp(prefix="broker-soak-"))
    run = Run(folder / "broker.sqlite", random.randrange(1_000_000) if asked.seed is None else asked.seed)
    ends = takewhile(lambda end: time.monotonic() < until, plan(run.chance, kills))
    failure: Exception | None = None
    try:
        with closing(run.turns(ends)) as turns:
            for end in turns:
                if not asked.quiet:
                    print(f"{time.monotonic() - started:7.1f} s  {run.kills:4} kills  {end.kind}", flush=True)
                if run.flaws:
                    break
    except Exception as error:
        failure = error
    except KeyboardInterrupt:
        print("interrupted")
    print(f"{table(run)}\n\n{report(run)}")
    for flaw in run.flaws[:SHOWN]:
        print(flaw)
    if failure is None and not run.flaws:
        shutil.rmtree(folder)
        return 0
    print(f"the data and the log are in {folder}", flush=True)
    if failure is not None:
        raise failure
    return 1


if __name__ == "__main__":
    sys.exit(main())

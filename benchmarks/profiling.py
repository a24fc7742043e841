"""Where the broker's time goes in one of the cases: the reactor's thread under cProfile, while the generator works.

The profile makes calls of Python dearer, and calls of C and of the kernel not: what it says of shares is a hint, and
what it says of numbers of calls is exact.
"""

from __future__ import annotations

import pstats
import signal
import sys
import time
from collections.abc import Sequence

from benchmarks.cases import Comparison, Sweep, cases
from benchmarks.measuring import Folder
from benchmarks.peers import Broker
from benchmarks.running import How, begin, compiled, end

#: Lines that are shown.
LINES = 45


class Profiled(Broker):
    """The broker under twistd's own profiler."""

    def command(self) -> Sequence[str]:
        program, *rest = super().command()
        return [program, "--profile=profile", "--profiler=cprofile", "--savestats", *rest]


class ProfiledInMemory(Profiled):
    """The same, with its memory store."""

    options = ("--data=:memory:",)


def main() -> int:
    """Profile one case."""
    known = {case.name: case for case in cases(1_000) if isinstance(case, Comparison | Sweep)}
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in known:
        print(f"profiling: say which case: {' '.join(known)}", file=sys.stderr)
        return 2
    case = known[name]
    load = case.ours if isinstance(case, Comparison) else case.points[len(case.points) // 2].load
    kind = ProfiledInMemory if name.startswith("memory") else Profiled
    with Folder() as folder, Folder() as beside, kind(folder) as server:
        how = How(seconds=float(sys.argv[2]) if len(sys.argv) > 2 else 3.0, generator=compiled(beside))
        found = end(begin(how, server, load), how)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
        time.sleep(0.1)
        done = found["puts"] + found["takes"] if load.counts == "both" else found[load.counts]
        print(f"{name}: {load.protocol} {load.settings}: {done:,} operations, {done / found['seconds']:,.0f}/s")
        stats = pstats.Stats(str(folder / "profile"))
        stats.sort_stats("tottime").print_stats(LINES)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

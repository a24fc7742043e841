"""The broker beside its peers: runs the cases, writes ``results/peers.json`` and the page that shows it.

``script/benchmark`` runs this. Case by case what was measured before is replaced, so that one case can be run anew; the
page says which command measured them all, and which a case that was run anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.cases import Case, Sweep, cases
from benchmarks.limits import LIMITS
from benchmarks.measuring import RESULTS, ROOT, Folder, machine, versions
from benchmarks.page import page, plots
from benchmarks.peers import NotThere, Server
from benchmarks.running import BUSY, How, all_synced, compiled, run, warn

PAGE = ROOT / "docs" / "benchmarks.rst"
STATIC = ROOT / "docs" / "_static"
SYNCS = "syncs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for."""
    options = _options(arguments)
    known = {case.name: case for case in cases(options.backlog)}
    names = [SYNCS, *LIMITS, *known]
    if options.list:
        for name in names:
            print(f"{name:22} {known[name].title if name in known else _titles()[name]}")
        return 0
    wanted = options.only or names
    if unknown := set(wanted) - set(names):
        print(f"benchmark: no such case: {', '.join(sorted(unknown))}; --list names them", file=sys.stderr)
        return 2
    results = options.results / "peers.json"
    # What a run of everything could not measure is not on its page: what stood there was measured by another command.
    kept = results.exists() and (options.only or options.render)
    report = json.loads(results.read_text()) if kept else {"cases": {}}
    failed: list[str] = []
    if not options.render:
        try:
            failed = _measure(wanted, known, options, report)
        except NotThere as error:
            print(f"benchmark: {error}", file=sys.stderr)
            return 1
        options.results.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(report, indent=1) + "\n")
    write(report, options.page, options.static)
    if failed:
        print(f"benchmark: not measured: {', '.join(failed)}; why is said above", file=sys.stderr)
    return 1 if failed else 0


def write(report: Any, where: Path, static: Path) -> None:
    """Write the page and its plots."""
    where.write_text(page(report))
    static.mkdir(parents=True, exist_ok=True)
    for name, drawing in plots(report).items():
        (static / name).write_text(drawing)


def _measure(
    wanted: Sequence[str], known: dict[str, Case], options: argparse.Namespace, report: dict[str, Any]
) -> list[str]:
    """Measure what is wanted into *report*; returns the names of the cases that failed."""
    left: dict[str, None] = {f"{name} (no package)": None for name in peers.NOT_PACKAGED}
    found: dict[str, str] = {}
    kinds: list[type[Server]] = [peers.Broker, *peers.PEERS]
    for kind in kinds:
        try:
            if not options.no_install:
                peers.install(kind)
            found[kind.name] = kind.version()
        except NotThere as error:
            left[f"{kind.name} ({error})"] = None

    notes: list[str] = []
    failed: list[str] = []
    # What is said of a case whose others are as they were.
    anew = {"command": _command(options), "date": _today()} if options.only and "command" in report else {}

    def say(line: str) -> None:
        warn(f"  {line}")

    def note(line: str) -> None:
        say(line)
        notes.append(" ".join(line.split()))

    with Folder() as folder:
        how = How(seconds=options.seconds, rounds=options.rounds, generator=compiled(folder))
        for number, name in enumerate(wanted, 1):
            begun = time.monotonic()
            warn(f"[{number}/{len(wanted)}] {name}")
            notes.clear()
            try:
                if name == SYNCS:
                    report["syncs"] = all_synced(how, say)
                    continue
                if name in LIMITS:
                    rows = LIMITS[name][1](how, options.backlog)
                    report["cases"][name] = {"kind": "Limit", "title": _titles()[name], "rows": rows, **anew}
                else:
                    case = known[name]
                    rows = run(case, how, note)
                    entry: dict[str, Any] = {
                        "kind": type(case).__name__,
                        "title": case.title,
                        "rows": rows,
                        "notes": list(notes),
                        **anew,
                    }
                    if isinstance(case, Sweep):
                        entry |= {"axis": case.axis, "flat": case.flat, "least": case.least}
                    report["cases"][name] = entry
            except (NotThere, OSError, RuntimeError) as error:
                say(f"{name}: {error}")
                failed.append(name)
                continue
            finally:
                warn(f"  {time.monotonic() - begun:.0f} s")
            for row in rows:
                say(_line(row))
    order = [*LIMITS, *known]
    report["cases"] = {name: report["cases"][name] for name in order if name in report["cases"]}
    if anew:
        return failed
    report |= {
        "command": _command(options),
        "date": _today(),
        "machine": machine(),
        "versions": versions(),
        "peers": found,
        "left_out": list(left),
        "seconds": options.seconds,
        "rounds": options.rounds,
    }
    return failed


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def _command(options: argparse.Namespace) -> str:
    """What was said, without where the results go."""
    words = ["script/benchmark", *(f"--only {name}" for name in options.only or ())]
    for name, usual in (("seconds", 2.0), ("rounds", 3), ("backlog", 1_000_000)):
        if (value := getattr(options, name)) != usual:
            words.append(f"--{name} {value:g}" if isinstance(value, float) else f"--{name} {value}")
    return " ".join(words)


def _line(row: dict[str, Any]) -> str:
    if "what" in row:
        return f"{row['what']}: {row['value']} {row['unit']}"
    words = [f"{row['server']:24}", f"{row['x']:>9,}" if "x" in row else "", f"{row['rate']:>11,.0f}/s"]
    if "cpu_us" in row:
        words.append(f"{row['cpu_us']:>8.1f} us each")
    if "ratio" in row:
        words.append(f"ratio {row['ratio']} (must {row.get('must', '-')}, aim {row.get('aim', '-')})")
    if row["generator_share"] > BUSY:
        words.append(f"the generator took {row['generator_share']:.0%} of a processor")
    return " ".join(words)


def _titles() -> dict[str, str]:
    titles = {name: title for name, (title, _) in LIMITS.items()}
    return {SYNCS: "how often each server syncs", **titles}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script/benchmark", description="Measure the broker beside its peers.")
    parser.add_argument("--only", metavar="CASE", action="append", help="run this case; may be said again")
    parser.add_argument("--list", action="store_true", help="name the cases, and run nothing")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each server, by turns (default: 3)")
    parser.add_argument("--backlog", type=int, default=1_000_000, help="the most messages that wait (default: 1000000)")
    parser.add_argument("--no-install", action="store_true", help="leave out what is not there")
    parser.add_argument("--render", action="store_true", help="write the page of what was measured before")
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    parser.add_argument("--page", type=Path, default=PAGE, help=argparse.SUPPRESS)
    parser.add_argument("--static", type=Path, default=STATIC, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())

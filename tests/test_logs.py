"""The log as JSON, one object a line, and what is never in it."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.logger import Logger, LogLevel, textFileLogObserver
from twisted.python import log as legacy
from twisted.python import usage
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile

from broker.logs import FILES, as_json, begin_anew, bounded, in_json
from broker.options import Options
from broker.service import makeService
from tests.auth.support import PASSWORD, entry, everything, write
from tests.clients.support import Http
from tests.support import Twistd
from tests.test_service import Daemon, ask


def logged(text: str) -> list[dict[str, Any]]:
    """The objects of a log; each line is one."""
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert list(line)[:4] == ["time", "level", "namespace", "message"]
    return lines


def one(**event: Any) -> dict[str, Any]:
    """An event as it is written."""
    text = as_json({"log_time": 1_700_000_000.25, "log_level": LogLevel.info, "log_namespace": "broker.x", **event})
    assert text.endswith("}\n")
    assert text.isascii()
    (line,) = logged(text)
    return line


# -- one event


def test_an_event_has_its_time_level_namespace_and_text_and_then_its_own_fields() -> None:
    assert one(log_format="{peer} left {queue}", peer="127.0.0.1:1", queue="grün", count=3) == {
        "time": "2023-11-14T22:13:20.250000+00:00",
        "level": "info",
        "namespace": "broker.x",
        "message": "127.0.0.1:1 left grün",
        "peer": "127.0.0.1:1",
        "queue": "grün",
        "count": 3,
    }


def test_a_field_called_like_ours_gets_an_underscore() -> None:
    line = one(log_format="refused: {message}", message="no", time=5, level="high")
    assert line["message"] == "refused: no"
    assert (line["message_"], line["time_"], line["level_"]) == ("no", 5, "high")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, None),
        (True, True),
        (1.5, 1.5),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (b"a\xff", "a\\xff"),
        (Path("/x"), "/x"),
        ([1, 2], "[1, 2]"),
        ("line\nline\x1b[31m\ud800", "line\nline\x1b[31m\ud800"),
    ],
)
def test_any_value_can_be_a_field(value: object, written: object) -> None:
    assert one(log_format="x", field=value)["field"] == written


def test_a_value_that_has_no_text_does_not_hide_the_event() -> None:
    class Bad:
        def __str__(self) -> str:
            raise ValueError("no text")

    assert "Bad" in one(log_format="still here", field=Bad())["field"]


def test_a_failure_has_its_type_its_message_and_where_it_was() -> None:
    try:
        raise KeyError("what")
    except KeyError:
        failure = Failure()
    line = one(log_format="while trying", log_failure=failure)
    assert line["message"] == "while trying"
    assert (line["failure"]["type"], line["failure"]["message"]) == ("builtins.KeyError", "'what'")
    assert "test_logs.py" in line["failure"]["traceback"]


def test_events_of_twisted_s_older_log_have_no_fields_of_its_own() -> None:
    events: list[Any] = []
    legacy.addObserver(events.append)
    try:
        legacy.msg("an old", "message", system="web", logLevel=logging.WARNING)
    finally:
        legacy.removeObserver(events.append)
    line = json.loads(as_json(events[0]))
    assert line["message"] == "an old message"
    assert set(line) == {"time", "level", "namespace", "message", "logLevel"}


def test_the_observer_is_given_what_loggers_say() -> None:
    said = io.StringIO()
    Logger(namespace="broker.y", observer=in_json(textFileLogObserver(said))).warn("{a}", a=1)
    (line,) = logged(said.getvalue())
    assert (line["level"], line["namespace"], line["message"], line["a"]) == ("warn", "broker.y", "1", 1)


# -- a process


def test_standard_output_is_nothing_but_objects(tmp_path: Path) -> None:
    with Twistd(tmp_path, "--log-format=json") as twistd:
        twistd.until('"message": "ready"')
        twistd.process.terminate()
        twistd.wait()
        lines = logged(twistd.said)
    accepting = {line["front"]: line["where"] for line in lines if "accepts connections" in line["message"]}
    assert set(accepting) == {"memcache", "STOMP", "HTTP"}
    assert any(line["message"].startswith("memcache on 127.0.0.1:") for line in lines)  # else printed
    (closed,) = [line for line in lines if line["message"].startswith("closed ")]
    assert (closed["path"], closed["namespace"]) == (
        str(tmp_path / "broker.sqlite"),
        "broker.storage.sqlite.SQLiteStore",
    )


def test_the_level_holds_for_json_too(tmp_path: Path) -> None:
    with Twistd(tmp_path, "--log-format=json", "--log-level=debug") as twistd:
        twistd.until('"message": "ready"')
        where = json.loads(next(line for line in twistd.said.splitlines() if '"front": "HTTP"' in line))["where"]
        ask(int(where.rpartition(":")[2]), "GET", "/healthz")
        line = json.loads(twistd.until('"level": "debug".*healthz'))
    assert (line["method"], line["path"], line["status"]) == ("GET", "/healthz", 200)


def test_a_log_file_is_begun_anew_at_sigusr1_and_both_are_whole(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, "--log-format=json")
    assert daemon.status == 0, daemon.said
    try:
        port = daemon.http()  # printed: standard output is not the log
        assert ask(port, "GET", "/readyz")[0] == 200
        os.kill(daemon.pid, signal.SIGUSR1)
        old = tmp_path / "twistd.log.1"
        while not old.exists():
            assert ask(port, "GET", "/healthz")[0] == 200
        assert "ready" in [line["message"] for line in logged(old.read_text())]
    finally:
        daemon.end()
    assert "stopped" in [line["message"] for line in logged(daemon.log)]


def test_a_log_file_that_was_moved_away_is_made_again(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    assert daemon.status == 0, daemon.said
    log = tmp_path / "twistd.log"
    try:
        port = daemon.http()
        assert ask(port, "GET", "/readyz")[0] == 200
        log.rename(tmp_path / "twistd.log-20260304")
        os.kill(daemon.pid, signal.SIGUSR1)
        while not log.exists():
            assert ask(port, "GET", "/healthz")[0] == 200
    finally:
        daemon.end()
    assert "stopped" in log.read_text()
    assert sorted(path.name for path in tmp_path.glob("twistd.log*")) == ["twistd.log", "twistd.log-20260304"]


def test_old_log_files_are_not_kept_for_ever(tmp_path: Path) -> None:
    file = LogFile("broker.log", str(tmp_path), rotateLength=100)
    observer = bounded(textFileLogObserver(cast(Any, file)))
    for number in range(FILES + 20):
        file.write(f"{number} {'x' * 100}\n")
    assert len(list(tmp_path.glob("broker.log.*"))) == FILES
    begin_anew(observer)
    assert len(list(tmp_path.glob("broker.log.*"))) == FILES
    assert str(FILES + 19) in (tmp_path / "broker.log.1").read_text()
    file.close()


def test_sigusr1_without_a_log_file_does_not_end_it(tmp_path: Path) -> None:
    with Twistd(tmp_path, "--data=:memory:") as twistd:
        port = twistd.ports()["HTTP"]
        twistd.process.send_signal(signal.SIGUSR1)
        twistd.process.send_signal(signal.SIGHUP)
        twistd.until("SIGHUP: nothing to reload")
        assert ask(port, "GET", "/healthz")[0] == 200


def test_syslog_takes_no_json() -> None:
    options = Options()
    options.parent = usage.Options()
    options.parent.update(rundir=".", syslog=True, nodaemon=False, logfile=None)
    options.parseOptions(["--log-format=json", "--memcache=0", "--stomp=off", "--http=off", "--data=:memory:"])
    with pytest.raises(SystemExit, match=r"^broker: log_format: syslog takes text only"):
        makeService(options)


def test_another_format_is_refused() -> None:
    options = Options()
    options.parseOptions(["--log-format=xml", "--data=:memory:"])
    with pytest.raises(SystemExit, match=r"^broker: log_format: .*xml"):
        makeService(options)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_and_no_body_is_logged(form: str, tmp_path: Path) -> None:
    secrets = {PASSWORD, "a token of bob's", "not-the-password", "BODY-OF-A-MESSAGE"}
    users = write(tmp_path / "users.toml", {"bob": entry(tokens=("a token of bob's",), **everything())})
    with Twistd(tmp_path, f"--log-format={form}", "--log-level=debug", f"--users={users}") as twistd:
        twistd.until('ready"|#info.* ready')
        ports = {name: int(port) for name, port in re.findall(r"(\w+) accepts connections on \S*?:(\d+)", twistd.said)}
        http = Http(ports["HTTP"])
        for said in (f"bob:{PASSWORD}", "bob:not-the-password"):
            coded = base64.b64encode(said.encode()).decode()
            secrets.add(coded)
            http.ask("POST", "/channels/q?msg=BODY-OF-A-MESSAGE", b"", {"Authorization": f"Basic {coded}"})
        http.ask("GET", "/channels/q", None, {"Authorization": "Bearer a token of bob's"})
        http.ask("GET", "/channels/q", None, {"Authorization": "Bearer not-the-password"})
        http.close()
        for password in (PASSWORD, "not-the-password"):
            login = f"bob {password}"
            say(
                ports["memcache"], f"set x 0 0 {len(login)}\r\n{login}\r\nset q 0 0 17\r\nBODY-OF-A-MESSAGE\r\nquit\r\n"
            )
            connect = f"CONNECT\naccept-version:1.2\nhost:x\nlogin:bob\npasscode:{password}\n\n\0"
            say(ports["STOMP"], f"{connect}SEND\ndestination:/queue/q\n\nBODY-OF-A-MESSAGE\0DISCONNECT\n\n\0")
        twistd.process.terminate()
        twistd.wait()
        assert "is bob" in twistd.said
        for secret in secrets:
            assert secret not in twistd.said, secret


def say(port: int, what: str) -> None:
    """Send this, and read until the broker closes."""
    with socket.create_connection(("127.0.0.1", port), Twistd.PATIENCE) as connection:
        connection.sendall(what.encode())
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

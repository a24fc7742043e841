"""``broker config``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from broker.cli import main
from broker.cli.exits import Exit

TEXT = """
memcache = [22122, { listen = "0.0.0.0:22123", flush_all = "off" }]
[defaults]
lease = 60_000
max_message_size = 5_000
[queue."orders.*"]
dead_letter = "dead"
backoff = [1, 2]
[queue."orders.eu.*"]
dead_letter = "dead.eu"
[topic."prices.*"]
retain = 5
[aliases]
all = ["orders", "/topic/prices.eu"]
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "broker.toml"
    file.write_text(TEXT)
    return str(file)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, tuple[object, str]]:
    """What ``broker config show --json`` prints, by key."""
    assert main(["config", "show", "--json", *arguments]) == Exit.DONE
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {row["key"]: (row["value"], row["from"]) for row in rows}


def test_a_right_file_is_counted(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", path]) == Exit.DONE
    assert capsys.readouterr().out == f"{path}: ok, 2 queue patterns, 1 topic pattern, 1 alias\n"


@pytest.mark.parametrize("command", [["check"], ["show", "--config"]])
def test_a_wrong_file_is_one_line_and_a_status(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broker.toml"
    for text, reason in (("[queue.a]\nleese = 1", f'{path}: queue."a".leese: unknown key'), (None, "cannot read")):
        path.write_text(text) if text else path.unlink()
        assert main(["config", *command, str(path)]) == Exit.REFUSED
        out, error = capsys.readouterr()
        assert (out, error.count("\n")) == ("", 1)
        assert error.startswith(f"broker: refused: {reason}")


def test_each_value_says_which_section_it_comes_from(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("orders.eu.1", "/queue/orders.eu.1"):
        found = shown(capsys, "--config", path, name)
        assert found["dead_letter"] == ("dead.eu", '[queue."orders.eu.*"]')
        assert found["backoff"] == ([1, 2], '[queue."orders.*"]')
        assert found["lease"] == (60_000, "[defaults]")
        assert found["ttl"] == (0, "built in")
    found = shown(capsys, "--config", path, "/topic/prices.eu")
    assert found["retain"] == (5, '[topic."prices.*"]')
    assert found["max_message_size"] == (5_000, "[defaults]")
    assert found["overflow"] == ("drop_oldest", "built in")
    assert shown(capsys, "--config", path, "all") == {
        "stands for": (["/queue/orders", "/topic/prices.eu"], "[aliases]")
    }
    assert "stands for" not in shown(capsys, "--config", path, "/topic/all")


def test_without_a_name_it_shows_the_broker_and_the_defaults(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys, "--config", path)
    listener: dict[str, object] = {
        "listen": "0.0.0.0:22123",
        "flush_all": "off",
        "dialect": "default",
        "shutdown": "off",
        "tls": None,
        "proxy": [],
    }
    listener |= dict.fromkeys(("idle_timeout", "refuse_writes_above", "refuse_reads_above"), 0)
    assert found["memcache"] == ([22122, listener], path)
    assert found["stomp"] == (None, "built in")
    assert found["defaults.lease"] == (60_000, "[defaults]")
    assert not {"defaults", "queue", "topic", "aliases"} & set(found)
    assert {where for _, where in shown(capsys).values()} == {"built in"}


def test_columns_are_aligned_and_values_are_as_in_a_file(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--config", path]) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    column = lines[0].index("from")
    assert all(line[column - 2 : column] == "  " and line[column] != " " for line in lines)
    values = {line.split()[0]: line[lines[0].index("value") : column].rstrip() for line in lines}
    said = 'listen = "0.0.0.0:22123", flush_all = "off", dialect = "default", shutdown = "off", idle_timeout = 0, '
    said += "refuse_writes_above = 0, refuse_reads_above = 0, proxy = []"
    assert values["memcache"] == f"[22122, {{ {said} }}]"
    assert (values["http"], values["defaults.paused"]) == ("none", "false")
    assert (values["sync"], values["defaults.lease"]) == ('"full"', "60000")


def test_limits_are_shown_one_by_one_with_where_they_come_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "limits.toml"
    path.write_text("[limits]\nconnections = 5\n[limits.user]\nbytes = 9\n")
    found = shown(capsys, "--config", str(path))
    assert found["limits.connections"] == (5, "[limits]")
    assert found["limits.address_rate"] == (0, "built in")
    assert found["limits.user.bytes"] == (9, "[limits.user]")
    assert "limits" not in found


def test_a_name_that_is_none_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "/topic/"]) == Exit.USAGE
    assert capsys.readouterr().err == "broker: '/topic/': the name is empty\n"


def test_output_that_cannot_be_written_is_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["config", "show"]) == Exit.UNWRITTEN
        monkeypatch.undo()
    assert capfd.readouterr().err == "broker: cannot write: No space left on device\n"

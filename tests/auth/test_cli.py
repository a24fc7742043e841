"""``broker user``, run as a process."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from broker.auth.file import load
from broker.auth.secret import encode, hash_token, verify
from tests.auth.support import entry, write
from tests.support import Twistd

COMMAND = [sys.executable, "-c", "import sys; from broker.cli import main; sys.exit(main())", "user"]


def run(folder: Path, *arguments: str, given: bytes = b"", status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run ``broker user`` in `folder`; it must end with `status`."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        input=given,
        capture_output=True,
        timeout=Twistd.PATIENCE,
        env=_environment(),
    )
    assert done.returncode == status, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("BROKER_")}


def test_a_user_from_beginning_to_end(tmp_path: Path) -> None:
    path = tmp_path / "users.toml"
    run(
        tmp_path,
        "add",
        "alice",
        "--allow",
        "publish,create=queue:a*",
        "--allow=publish=topic:*",
        given=b"open sesame\n",
    )
    assert path.stat().st_mode & 0o777 == 0o600
    (alice,) = load(str(path)).values()
    assert verify(encode("open sesame"), alice.password)
    assert alice.rights.publish == ["queue:a*", "topic:*"]
    assert alice.rights.create == ["queue:a*"]
    run(tmp_path, "passwd", "alice", given="gr\u00fcn\r\n".encode())
    assert verify(encode("gr\u00fcn"), load(str(path))["alice"].password)
    tokens = [run(tmp_path, "token", "alice").stdout.strip() for _ in range(2)]
    assert load(str(path))["alice"].tokens == [hash_token(token) for token in tokens]
    assert run(tmp_path, "list").stdout == (
        "alice (password, tokens: 2)\n    publish: queue:a* topic:*\n    create: queue:a*\n"
    )
    assert json.loads(run(tmp_path, "list", "--json").stdout) == {
        "name": "alice",
        "password": True,
        "tokens": 2,
        "publish": ["queue:a*", "topic:*"],
        "create": ["queue:a*"],
    }
    assert run(tmp_path, "token", "alice", "--revoke").stdout == ""
    assert load(str(path))["alice"].tokens == []
    run(tmp_path, "remove", "alice")
    assert load(str(path)) == {}
    run(tmp_path, "list", status=1)


def test_all_is_every_action_and_a_pattern_is_said_once(tmp_path: Path) -> None:
    run(tmp_path, "add", "robot", "--no-password", "--allow=browse=*", "--allow=all=*")
    (robot,) = load(f"{tmp_path}/users.toml").values()
    assert robot == entry(password="", publish="*", subscribe="*", create="*", browse="*", admin="*")


def test_anonymous_has_no_password_and_gets_none(tmp_path: Path) -> None:
    run(tmp_path, "add", "anonymous", "--allow=browse=*")
    assert run(tmp_path, "list").stdout == "anonymous (no login)\n    browse: *\n"
    assert "has no password" in run(tmp_path, "passwd", "anonymous", given=b"x\n", status=3).stderr
    assert "has no tokens" in run(tmp_path, "token", "anonymous", status=3).stderr


def test_who_may_do_nothing_is_mentioned(tmp_path: Path) -> None:
    assert "alice may do nothing yet" in run(tmp_path, "add", "alice", given=b"x\n").stderr


def test_where_the_file_is(tmp_path: Path) -> None:
    run(tmp_path, "add", "alice", "--users", "other.toml", "--no-password")
    done = subprocess.run(
        [*COMMAND, "list"], cwd=tmp_path, capture_output=True, env={**_environment(), "BROKER_USERS": "other.toml"}
    )
    assert done.stdout == b"alice (no login)\n"


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], b""),
        (["add"], b""),
        (["add", "al ice"], b"x\n"),
        (["add", "a:b"], b"x\n"),
        (["add", "alice"], b""),
        (["add", "alice"], b"\n"),
        (["add", "alice"], b"\xff\n"),
        (["add", "alice"], b"x" * 600),
        (["add", "alice", "x"], b"x\n"),
        (["add", "alice", "--allow", "publish"], b"x\n"),
        (["add", "alice", "--allow", "read=queue:q"], b"x\n"),
        (["add", "alice", "--allow", "publish=q"], b"x\n"),
    ],
)
def test_wrong_usage_is_status_2_and_writes_nothing(arguments: list[str], given: bytes, tmp_path: Path) -> None:
    assert "broker" in run(tmp_path, *arguments, given=given, status=2).stderr
    assert os.listdir(tmp_path) == []


def test_what_is_not_there_is_status_1_and_no_file_status_3(tmp_path: Path) -> None:
    for words in (["passwd", "bob"], ["token", "bob"], ["remove", "bob"], ["list"]):
        assert "users.toml: No such file" in run(tmp_path, *words, given=b"x\n", status=3).stderr
    assert os.listdir(tmp_path) == []
    write(tmp_path / "users.toml", {"alice": entry()})
    for words in (["passwd", "bob"], ["token", "bob"], ["remove", "bob"]):
        assert "there is no user bob" in run(tmp_path, *words, given=b"x\n", status=1).stderr


def test_a_user_who_is_there_is_not_added_again(tmp_path: Path) -> None:
    path = write(tmp_path / "users.toml", {"alice": entry()})
    before = path.read_bytes()
    assert "there is a user alice already" in run(tmp_path, "add", "alice", given=b"x\n", status=3).stderr
    assert path.read_bytes() == before


def test_a_file_with_a_mistake_is_status_3_and_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "users.toml", {})
    path.write_text("[user.alice]\nlevel = 9\n")
    for words in (["add", "bob", "--no-password"], ["list"], ["remove", "alice"]):
        assert "user.alice.level: unknown key" in run(tmp_path, *words, status=3).stderr
    assert path.read_text() == "[user.alice]\nlevel = 9\n"


def test_a_folder_that_is_not_there_is_status_5(tmp_path: Path) -> None:
    done = run(tmp_path, "add", "bob", "--no-password", "--users", "none/users.toml", status=5)
    assert done.stderr == "broker: cannot write none/users.toml: No such file or directory\n"


def _at_a_terminal(folder: Path, *answers: bytes) -> tuple[int, bytes]:
    """``broker user add`` on a terminal; its status, and what the terminal showed."""
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(folder)
        os.execv(COMMAND[0], [*COMMAND, "add", "alice"])
    shown = b""
    try:
        for answer in answers:
            while not shown.endswith(b": "):
                shown += os.read(terminal, 1000)
            shown += b"\n"
            os.write(terminal, answer + b"\n")
        while piece := os.read(terminal, 1000):
            shown += piece
    except OSError:
        pass  # Linux' way to say that the other end is closed
    finally:
        os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def test_a_terminal_is_asked_twice_and_shows_nothing(tmp_path: Path) -> None:
    status, shown = _at_a_terminal(tmp_path, b"open sesame", b"open sesame")
    assert status == 0, shown
    assert b"Password: " in shown
    assert b"sesame" not in shown
    assert verify(encode("open sesame"), load(f"{tmp_path}/users.toml")["alice"].password)


def test_two_passwords_are_none(tmp_path: Path) -> None:
    status, shown = _at_a_terminal(tmp_path, b"open sesame", b"open simsim")
    assert status == 2
    assert b"those were two passwords" in shown
    assert os.listdir(tmp_path) == []


# -- the commands that talk to a broker


def test_publish_and_get_say_who_they_are_by_a_token(tmp_path: Path) -> None:
    run(tmp_path, "add", "robot", "--no-password", "--allow=all=queue:q")
    token = run(tmp_path, "token", "robot").stdout.strip()
    with Twistd(tmp_path, "--data=:memory:", f"--users={tmp_path}/users.toml") as twistd:
        url = f"http://127.0.0.1:{twistd.ports()['HTTP']}"

        def talk(token: str, *words: str) -> tuple[int, bytes, bytes]:
            environment = {**_environment(), "BROKER_URL": url, "BROKER_TOKEN": token}
            done = subprocess.run([*COMMAND[:-1], *words], capture_output=True, env=environment)
            return done.returncode, done.stdout, done.stderr

        assert talk(token, "publish", "q", "hello")[0] == 0
        assert talk(token, "get", "q")[:2] == (0, b"hello")
        assert talk(token, "get", "r")[0] == 3
        status, _, said = talk("", "get", "q")
        assert (status, said) == (3, b"broker: refused: 401 Credentials are needed, and those of a user.\n")
        assert talk("two\nlines", "get", "q")[0] == 2


def test_limits_that_stand_in_the_file_are_listed(tmp_path: Path) -> None:
    alice = entry(publish="*")
    alice.limits = {"messages": 7, "bytes": 0}
    write(tmp_path / "users.toml", {"alice": alice})
    assert run(tmp_path, "list").stdout.endswith("    publish: *\n    limits: bytes=0 messages=7\n")
    assert json.loads(run(tmp_path, "list", "--json").stdout)["limits"] == {"messages": 7, "bytes": 0}

"""The users file."""

from __future__ import annotations

import os
import threading
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.auth import file
from broker.auth.file import MAX_NAME, Entry, RightsEntry, changing, dump, from_dict, load
from broker.auth.rights import Action
from broker.errors import ConfigError
from tests.auth.support import entry, hashed, write

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(
    lambda name: not file._bad_in_name.search(name) and len(name.encode()) <= MAX_NAME and name != "anonymous"
)
patterns = st.lists(st.text(st.characters(codec="utf-8"), min_size=1).map(lambda text: f"queue:{text}"), max_size=3)
entries = st.builds(
    Entry,
    password=st.sampled_from(["", hashed("x")]),
    tokens=st.lists(st.text("0123456789abcdef", min_size=64, max_size=64), max_size=2),
    rights=st.builds(RightsEntry, **{action.value: patterns for action in Action}),
)


@given(st.dictionaries(names, entries, max_size=4))
def test_what_is_written_is_read(users: dict[str, Entry]) -> None:
    assert from_dict(tomllib.loads(dump(users))) == users


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("user = ", "Invalid value (at end of document)"),
        ("users = {}", "users: unknown key"),
        ("user = 1", "user: expected a table for each user, [user.NAME]"),
        ("[user.alice]\npasword = 'x'", "user.alice.pasword: unknown key"),
        ("[user.alice]\npassword = 5", "user.alice.password: expected `str`, got `int`"),
        ("[user.alice]\npassword = 'plain'", "user.alice.password: not a hash as `broker user passwd` writes it"),
        ("[user.alice]\ntokens = ['plain']", "user.alice.tokens[0]: not a SHA-256 as `broker user token` writes it"),
        ("[user.alice.rights]\nread = ['*']", "user.alice.rights.read: unknown key"),
        ("[user.alice.rights]\nbrowse = '*'", "user.alice.rights.browse: expected `array`, got `str`"),
        ("[user.alice.rights]\nbrowse = ['*', 'q']", "user.alice.rights.browse[1]: 'q' is no pattern"),
        ("[user.'al ice']", 'user."al ice": a user\'s name has 1 to 64 bytes'),
        ("[user.'a:b']", 'user."a:b": a user\'s name has 1 to 64 bytes'),
        ("[user.'']", 'user."": a user\'s name has 1 to 64 bytes'),
        (f"[user.{'x' * 65}]", f"user.{'x' * 65}: a user's name has 1 to 64 bytes"),
        ("[user.anonymous]\ntokens = ['" + "0" * 64 + "']", "user.anonymous: anonymous is who names no user"),
    ],
)
def test_a_file_with_a_mistake(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "users.toml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as error:
        load(str(path))
    assert error.value.reason.startswith(f"{path}: {reason}")
    assert error.value.reason.count(str(path)) == 1
    assert "\n" not in error.value.reason
    assert "plain" not in error.value.reason  # it may be somebody's password


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*users\.toml: No such file"):
        load(f"{tmp_path}/users.toml")


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o660, 0o620, 0o601])
def test_a_file_that_others_may_read_or_write_is_refused(mode: int, tmp_path: Path) -> None:
    path = write(tmp_path / "users.toml", {"alice": entry()})
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"others may read or write it \(mode {mode:04o}\)"):
        load(str(path))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640])
def test_the_broker_may_read_it_by_its_group(mode: int, tmp_path: Path) -> None:
    path = write(tmp_path / "users.toml", {"alice": entry()})
    path.chmod(mode)
    assert list(load(str(path))) == ["alice"]


def test_a_new_file_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "users.toml"
    before = os.umask(0)
    try:
        with changing(str(path), make=True) as users:
            users["alice"] = entry()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load(str(path)) == {"alice": entry()}
    assert os.listdir(tmp_path) == ["users.toml"]


def test_a_changed_file_keeps_its_mode_and_a_link_its_place(tmp_path: Path) -> None:
    path = write(tmp_path / "users.toml", {"alice": entry()})
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    with changing(str(link)) as users:
        users["bob"] = entry()
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(load(str(path))) == ["alice", "bob"]


def test_a_change_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "users.toml", {"alice": entry()})
    before = path.read_bytes(), path.stat().st_ino

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(KeyError), changing(str(path)) as users:
        users["bob"] = users["alice"] = users["carol"]
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), changing(str(path)) as users:
        users["bob"] = entry()
    assert (path.read_bytes(), path.stat().st_ino) == before
    assert os.listdir(tmp_path) == ["users.toml"]


def test_it_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "users.toml", {"alice": entry()})
    with open(path, "rb") as reader, changing(str(path)) as users:
        users["bob"] = entry()
        assert b"bob" not in path.read_bytes()
        old = reader.read()
    assert b"bob" not in old
    assert b"bob" in path.read_bytes()


def test_nothing_is_made_where_there_is_nothing_to_change(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"), changing(f"{tmp_path}/users.toml"):
        pass
    assert os.listdir(tmp_path) == []


def test_two_who_change_it_at_once_both_do(tmp_path: Path) -> None:
    path = write(tmp_path / "users.toml", {})

    def add(names: list[str]) -> None:
        for name in names:
            with changing(str(path)) as users:
                users[name] = Entry()

    others = [threading.Thread(target=add, args=([f"{who}{n}" for n in range(20)],)) for who in "abc"]
    for other in others:
        other.start()
    for other in others:
        other.join(30)
    assert len(load(str(path))) == 60

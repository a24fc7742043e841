"""Passwords and tokens as they are kept."""

from __future__ import annotations

import pytest

from broker.auth.secret import (
    MAX_PASSWORD,
    BadSecret,
    check_stored,
    check_stored_token,
    encode,
    hash_password,
    hash_token,
    new_token,
    unknown,
    verify,
)


def test_a_password_is_verified_by_its_hash_alone() -> None:
    stored = hash_password("open sesame ü")
    assert stored.startswith("scrypt$14$8$1$")
    assert "sesame" not in stored
    check_stored(stored)
    assert verify(encode("open sesame ü"), stored)
    assert not verify(encode("open sesame u"), stored)
    assert hash_password("open sesame ü") != stored  # a salt of its own


def test_both_ways_of_writing_a_character_are_one() -> None:
    assert encode("caf\u00e9") == encode("cafe\u0301")


@pytest.mark.parametrize("password", ["", "x" * (MAX_PASSWORD + 1), "a\nb", "a\0b", "\ud800"])
def test_what_is_no_password(password: str) -> None:
    with pytest.raises(BadSecret):
        encode(password)


@pytest.mark.parametrize(
    "stored",
    [
        "secret",
        "scrypt$14$8$1$AAAA",
        "scrypt$14$8$1$AAAA$AAAA",
        "scrypt$10$8$1$" + "A" * 22 + "==$" + "A" * 43 + "=",
        "scrypt$30$8$1$" + "A" * 22 + "==$" + "A" * 43 + "=",
        "scrypt$14$8$1$" + "A" * 22 + "==$" + "A" * 41 + "===",
        "scrypt$14$9$1$" + "A" * 22 + "==$" + "A" * 43 + "=",
        "bcrypt$14$8$1$" + "A" * 22 + "==$" + "A" * 43 + "=",
    ],
)
def test_what_is_no_hash(stored: str) -> None:
    with pytest.raises(BadSecret):
        check_stored(stored)


def test_a_costlier_hash_is_understood() -> None:
    check_stored("scrypt$16$8$1$" + "A" * 22 + "==$" + "A" * 43 + "=")
    assert not verify(b"x", "scrypt$16$8$1$" + "A" * 22 + "==$" + "A" * 43 + "=")


def test_nobodys_password_is_one_like_any_other() -> None:
    check_stored(unknown())
    assert not verify(b"x", unknown())


def test_tokens_are_long_and_kept_as_a_hash() -> None:
    token = new_token()
    assert len(token) >= 43
    assert new_token() != token
    check_stored_token(hash_token(token))
    assert token not in hash_token(token)
    with pytest.raises(BadSecret):
        check_stored_token(token)

"""Files in TOML, and what is wrong with one, in one line that names the key."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from broker.errors import ConfigError


def read(path: str) -> dict[str, Any]:
    """What the file at `path` says; raises `ConfigError`."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def in_our_words(message: str, prefix: str = "") -> str:
    """msgspec's "Object contains unknown field `x` - at `$.defaults`", with the key first; `prefix` is before `$`."""
    what, _, where = message.partition(" - at `$")
    key = (prefix + where.rstrip("`")).lstrip(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", what)
    if unknown:
        return f"{key}.{unknown[1]}: unknown key".lstrip(".")
    return f"{key}: {what[:1].lower()}{what[1:]}"

"""The configuration: what a file may say, what is refused, and what follows for queues and topics."""

from __future__ import annotations

import itertools
import os
import re
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.config import Config, File, MemcacheListener, StompListener, from_dict, load
from broker.config_check import RANGES, TARGETS, common_name
from broker.core.destination import queue, topic
from broker.core.policy import Policies, Policy, Rule, TopicPolicy
from broker.errors import ConfigError
from broker.options import Options
from broker.toml import read

PAGE = Path(__file__).resolve().parent.parent / "docs/configuration.rst"


def config(text: str, folder: Path) -> Config:
    """What a file with this text amounts to."""
    return load(write(text, folder))


def write(text: str, folder: Path) -> str:
    """The path of a file with this text."""
    path = folder / "broker.toml"
    path.write_text(text)
    return str(path)


# -- the file


def test_the_documented_example_has_every_key_of_the_file_and_loads(tmp_path: Path) -> None:
    (example,) = re.findall(r"^\.\. code-block:: toml\n\n((?:   .*\n|\n)+)", PAGE.read_text(), re.MULTILINE)
    path = write(textwrap.dedent(example), tmp_path)
    assert set(read(path)) == set(File.__struct_fields__)
    policies = load(path).policies
    eu = policies.of("orders.eu.1")
    assert (eu.lease, eu.max_attempts, eu.dead_letter, eu.max_on_loan) == (60_000, 5, "orders-dead", 50)
    assert policies.of("orders.us").max_on_loan == 0
    assert not policies.of("readings").durable
    prices = policies.of_topic("prices.eu")
    assert (prices.retain, prices.overflow, prices.max_message_size) == (3_600_000, "disconnect", 1_048_576)
    assert policies.aliases == {"billing": (queue("orders.eu.1"), queue("audit"), topic("prices.eu"))}


def test_every_key_of_a_file_is_understood_and_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    path = write(
        'memcache = [22122, { listen = "0.0.0.0:1", flush_all = "off" }]\n'
        'stomp = ["off", { listen = 0, flavour = "rabbitmq" }]\nhttp = ["127.0.0.1:0"]\n'
        'http_host = ["broker.example"]\ndata = "data"\n'
        'sync = "normal"\nlog_level = "warn"\nallow_anonymous = true\n[defaults]\nlease = 5\nmax_message_size = 9\n',
        tmp_path,
    )
    of_file = load(path)
    assert of_file.memcache == [22122, MemcacheListener("0.0.0.0:1", "off")]
    assert of_file.stomp == ["off", StompListener(0, "rabbitmq")]
    assert (of_file.sync, of_file.defaults.lease, of_file.http_max_message_size) == ("normal", 5, 9)
    options = Options()
    options.parseOptions([f"--config={path}", "--sync=full", "--stomp=1", "--stomp=2"])
    merged = options.config()
    assert (merged.sync, merged.stomp, merged.http) == ("full", ["1", "2"], ["127.0.0.1:0"])
    assert (merged.data, merged.http_max_message_size) == (f"{os.getcwd()}/data", 9)


def test_lingers_limit_holds_for_http_until_somebody_sets_one(tmp_path: Path) -> None:
    assert config("[defaults]\nlease = 5\n", tmp_path).http_max_message_size is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("memcache = ", "Invalid value (at end of document)"),
        ("speed = 9", "speed: unknown key"),
        ("stomp = 61613", "stomp: expected `array | null`, got `int`"),
        ("memcache = [{ flush_all = 'on' }]", "memcache[0]: object missing required field `listen`"),
        ("memcache = [{ listen = 0, flush_all = 'no' }]", "memcache[0].flush_all: 'no' is none of 'on', 'off'"),
        ("memcache = [{ listen = 0, dialect = 'darner' }]", "memcache[0].dialect: 'darner' is none of 'default',"),
        ("status_grace = -1", "status_grace: expected `int` >= 0"),
        ("defaults = 5", "defaults: expected `object`, got `int`"),
        ("[defaults]\nleese = 1", "defaults.leese: unknown key"),
        ("[defaults]\nlease = 'long'", "defaults.lease: expected `int`, got `str`"),
        (
            "stomp = [{ listen = 1, heart_beat_max = 249 }]",
            "stomp[0]: heart_beat_max 249 is below heart_beat_min 250",
        ),
        ("[defaults]\nlease = -1", "defaults.lease: -1 is too small, it must be 0 or more"),
        ("[defaults]\nlease = 9007199254740992", "defaults.lease: 9007199254740992 is too large, it must be 9007"),
        ("[defaults]\nbackoff = [1, -1]", "defaults.backoff: -1 is too small, it must be 0 or more"),
        ("[defaults]\njitter = 101", "defaults.jitter: 101 is too large, it must be 100 or less"),
        (
            "[defaults]\noverflow = 'burst'",
            "defaults.overflow: 'burst' is none of 'reject', 'drop_oldest', 'drop_new'",
        ),
        ("queue = 5", "queue: expected `object`, got `int`"),
        ("[queue]\na = 5", 'queue."a": expected `object`, got `int`'),
        ("[queue.a]\nleese = 1", 'queue."a".leese: unknown key'),
        ("[queue.a]\nlease = 'x'", 'queue."a".lease: expected `int`, got `str`'),
        ('[queue.a]\ndead_letter = "x\\u0001"', 'queue."a".dead_letter: the name holds control characters'),
        ('[queue."a\\nb"]\nlease = 1', 'queue."a\\nb": the name holds control characters'),
        ("[queue.'']\nlease = 1", 'queue."": the name is empty'),
        ("[queue.\"a: invalid enum value 'b'\"]\nc = 1", "queue.\"a: invalid enum value 'b'\".c: unknown key"),
        ("[topic.a]\nlease = 1", 'topic."a".lease: unknown key'),
        ("[topic.a]\nmax_message_size = 0", 'topic."a".max_message_size: 0 is too small, it must be 1 or more'),
        ("[topic.a]\noverflow = 'wait'", "topic.\"a\".overflow: 'wait' is none of 'drop_oldest', 'disconnect'"),
        ("[aliases]\na = 'b'", 'aliases."a": expected `array`, got `str`'),
        ("[aliases]\na = ['b', 5]", 'aliases."a"[1]: expected `str`, got `int`'),
    ],
)
def test_a_mistake_is_named_with_its_key(text: str, reason: str, tmp_path: Path) -> None:
    path = write(text, tmp_path)
    with pytest.raises(ConfigError) as error:
        load(path)
    assert error.value.reason.startswith(f"{path}: {reason}")


@pytest.mark.parametrize("key", sorted({"rate", "retain", *RANGES}))
def test_a_number_may_be_as_small_and_as_large_as_its_range_and_no_more(key: str) -> None:
    least, most = RANGES.get(key, (0, 2**53 - 1))
    for number in (least, most):
        assert getattr(from_dict({"defaults": {key: number}}).defaults, key) == number
    for number in (least - 1, most + 1):
        with pytest.raises(ConfigError, match=f"defaults.{key}: {number} is too"):
            from_dict({"defaults": {key: number}})


def test_ranges_and_targets_are_those_of_keys_there_are() -> None:
    assert {*RANGES, *TARGETS} <= {*Policy.__struct_fields__, *TopicPolicy.__struct_fields__}


# -- sections that contradict each other


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[defaults]\nttl = 2\nmax_ttl = 1", "defaults.ttl (2) is above defaults.max_ttl (1)"),
        (
            "[queue.'a*']\nttl = 9\n[queue.'*bc']\nmax_ttl = 5",
            'for a queue abc, queue."a*".ttl (9) is above queue."*bc".max_ttl (5)',
        ),
        (
            "[queue.'a*']\nlease = 1\n[queue.'*b']\nlease = 2",
            'queue."*b".lease and queue."a*".lease differ, and a name can match both, neither being more specific',
        ),
        (
            "[topic.'a?c']\nretain = 1\n[topic.'ab?']\nretain = 2",
            'topic."a?c".retain and topic."ab?".retain differ, and a name can match both, neither being more specific',
        ),
        (
            "[defaults]\nretain = 5\n[queue.a]\ndurable = false",
            'defaults.retain (5) needs a queue that is kept on disk, and queue."a".durable (false) says that it is not',
        ),
        ("[queue.a]\nretain_bytes = 5\ndurable = false", 'queue."a".retain_bytes (5) needs'),
        (
            "[queue.a]\noverflow = 'wait'",
            'queue."a".overflow ("wait") says what a full queue does, but nothing limits it: say max_messages or max_b',
        ),
        ("[defaults]\noverflow = 'drop_new'", 'defaults.overflow ("drop_new") says'),
        (
            "[queue.a]\ndead_letter = 'b'\n[queue.b]\nexpire_to = 'c'\n[queue.c]\ndead_letter = 'b'",
            'queue."b".expire_to and queue."c".dead_letter: what dies would go round in a circle: b -> c -> b',
        ),
        (
            "[defaults]\ndead_letter = 'd'\n[queue.d]\nexpire_to = 'late'",
            'queue."d".expire_to and defaults.dead_letter: what dies would go round in a circle: d -> late -> d',
        ),
        (
            "[queue.a]\ndead_letter = 'd'\nexpire_to = 'e'\n[queue.e]\nexpire_to = 'a'",
            'queue."a".expire_to and queue."e".expire_to: what dies would go round in a circle: a -> e -> a',
        ),
        ("[aliases]\na = []", 'aliases."a": an alias stands for one destination at least'),
        ("[aliases]\na = ['b', 'a']", 'aliases."a"[1]: a stands for itself'),
        ("[aliases]\na = ['b']\nb = ['c']", 'aliases."a"[0]: b is an alias too: name what it stands for'),
        ("[aliases]\na = ['b', '/queue/b']", 'aliases."a"[1]: /queue/b is there already'),
        ("[aliases]\na = ['/topic/']", 'aliases."a"[0]: the name is empty'),
        ("[aliases]\n'/topic/a' = ['b']", 'aliases."/topic/a": an alias is a queue\'s name: without /topic/'),
        ("[aliases]\na = ['b']\n[queue.c]\ndead_letter = 'a'", 'queue."c".dead_letter: a is an alias: name one queue'),
        ("[aliases]\na = ['b']\n[defaults]\nexpire_to = 'a'", "defaults.expire_to: a is an alias: name one queue"),
    ],
)
def test_a_contradiction_is_named_with_its_keys(text: str, reason: str, tmp_path: Path) -> None:
    path = write(text, tmp_path)
    with pytest.raises(ConfigError) as error:
        load(path)
    assert error.value.reason.startswith(f"{path}: {reason}")


@pytest.mark.parametrize(
    "text",
    [
        # a third section settles what two disagree on
        "[queue.'a*']\nttl = 9\n[queue.'*bc']\nmax_ttl = 5\n[queue.'a*bc']\nttl = 5",
        # equally specific, and no name matches both, or they say the same
        "[queue.'a?']\nlease = 1\n[queue.'b?']\nlease = 2\n[queue.'?a']\npaused = true",
        # a queue's own name ends the way of the dead, and so does a section that says none
        "[defaults]\ndead_letter = 'd'",
        "[defaults]\ndead_letter = 'd'\n[queue.d]\nexpire_to = 'late'\n[queue.late]\ndead_letter = ''",
        # many ways to one place
        "[defaults]\ndead_letter = 'd'\nexpire_to = 'd'\n[queue.a]\ndead_letter = 'b'",
        # what limits the others does not limit this one
        "[defaults]\nmax_messages = 5\noverflow = 'wait'\n[queue.a]\nmax_messages = 0",
        "[queue.a]\ndurable = false\noverflow = 'drop_oldest'",
        "[queue.a]\nexclusive = true\ngroups = true\nfanout_only = true\ndead_letter = 'd'",
        "[aliases]\na = ['b', '/topic/a']",
    ],
)
def test_what_only_looks_like_a_contradiction_is_taken(text: str, tmp_path: Path) -> None:
    config(text, tmp_path)


_patterns = st.text(alphabet="ab*?", max_size=5)


@given(_patterns, _patterns)
def test_a_common_name_is_found_if_there_is_one(first: str, second: str) -> None:
    one, other = (Policies(rules=[Rule(pattern, {"ttl": 1})]) for pattern in (first, second))
    found = common_name(first, second)
    if found is not None:
        assert one.of(found).ttl == other.of(found).ttl == 1
    else:
        names = ("".join(name) for length in range(9) for name in itertools.product("ab", repeat=length))
        assert not any(one.of(name).ttl == other.of(name).ttl == 1 for name in names)


# -- what follows


def test_the_largest_message_is_that_of_any_section() -> None:
    said = {"defaults": {"max_message_size": 5}, "queue": {"a": {"max_message_size": 7}}}
    assert from_dict(said).max_message_size == 7
    assert from_dict({**said, "topic": {"a": {"max_message_size": 9}}}).max_message_size == 9

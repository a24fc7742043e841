"""Siberite's cursors ``queue.cursor``: they read what the queue holds, and what is taken there is gone here as well."""

from __future__ import annotations

import re

from twisted.internet.defer import Deferred

from broker.memcache.dialect import DIALECTS
from tests.memcache.support import Client, FrontTest
from tests.memcache.test_reads import value

END = b"END\r\n"


class CursorTests(FrontTest):
    """Clients of a Siberite that look at lengths."""

    dialect = DIALECTS["siberite"]

    def setUp(self) -> None:
        super().setUp()
        self.put("work", b"1", b"2", b"3", b"4")
        self.says(b"get work.c/peek\r\n", value(b"work", b"1"))

    def boot(self) -> None:
        """The broker ends and begins again over the same store."""
        _ = Deferred.fromCoroutine(self.broker.stop())
        self.setUp_with(self.store)

    def lengths(self, *names: str) -> tuple[int, ...]:
        """What ``stats`` says that waits in each."""
        shown = self.client.send(b"stats\r\n").decode()
        return tuple(int(*re.findall(rf"STAT queue_{re.escape(name)}_items (\d+)", shown)) for name in names)

    def test_its_length_falls_in_the_moment_its_queue_is_read(self) -> None:
        """4.3/9"""
        self.assertEqual(self.lengths("work", "work.c"), (4, 4))
        self.assertEqual(self.client.send(b"get work\r\n"), value(b"work", b"1"))
        self.assertEqual(self.lengths("work", "work.c"), (3, 3))
        self.says(b"get work/open\r\n", value(b"work", b"2"))
        self.assertEqual(self.lengths("work", "work.c"), (2, 3), "what is open in the queue is not settled")
        self.says(b"get work/close\r\n", END)
        self.assertEqual(self.lengths("work", "work.c"), (2, 2))
        self.boot()
        self.assertEqual(self.lengths("work", "work.c"), (2, 2), "both were in one commit")
        self.says(b"get work.c\r\n", value(b"work", b"3"))
        self.assertEqual(self.lengths("work", "work.c"), (2, 1), "what the cursor takes, the queue keeps")

    def test_what_a_flush_of_the_queue_settles_is_gone_for_every_cursor(self) -> None:
        self.says(b"get work.d\r\n", value(b"work", b"1"))
        self.says(b"flush_all\r\n", b"Flushed all queues.\r\n")
        self.put("work", b"5")
        self.says(b"get work.c\r\nget work.d\r\nget work\r\n", value(b"work", b"5") * 3)

    def test_what_is_open_in_it_outlasts_the_read_of_its_queue(self) -> None:
        self.says(b"get work.c/open\r\n", value(b"work", b"1"))
        self.says_to_another(b"get work\r\nget work\r\n", value(b"work", b"1") + value(b"work", b"2"))
        self.says(b"get work.c/close\r\nget work.c\r\n", END + value(b"work", b"3"))

    def test_its_length_is_what_remains_and_what_failed(self) -> None:
        """4.3/12"""
        others = [Client(self.factory), Client(self.factory)]
        for number, other in enumerate(others, 1):
            self.assertEqual(other.send(b"get work.c/open\r\n"), value(b"work", b"%d" % number))
        self.assertEqual(self.lengths("work.c"), (2,))
        for other in others:
            other.go()
            self.clock.advance(0)
        self.assertEqual(self.lengths("work.c"), (4,))
        sent = b"get work.c/open\r\nget work.c/close\r\n"
        self.says(sent * 3, b"".join(value(b"work", b"%d" % number) + END for number in (1, 2, 3)))

    def test_a_flush_and_a_delete_of_it_bring_its_full_length_back(self) -> None:
        """4.3/12"""
        for command in b"flush", b"delete":
            self.says(b"get work.c\r\n" * 3, b"".join(value(b"work", b"%d" % number) for number in (1, 2, 3)))
            self.assertEqual(self.lengths("work", "work.c"), (4, 1))
            self.says(command + b" work.c\r\nget work.c/peek\r\n", END + value(b"work", b"1"))
            self.assertEqual(self.lengths("work", "work.c"), (4, 4))

    def test_where_it_stands_is_kept_over_a_restart(self) -> None:
        """4.3/12"""
        self.says(b"get work.c\r\nget work.d\r\nget work.d/open\r\n", value(b"work", b"1") * 2 + value(b"work", b"2"))
        self.boot()
        self.assertEqual(self.lengths("work", "work.c", "work.d"), (4, 3, 3))
        self.put("work", b"5")
        self.says(b"get work.d\r\nget work.c\r\nget work\r\n", value(b"work", b"2") * 2 + value(b"work", b"1"))
        self.assertEqual(self.lengths("work", "work.c", "work.d"), (4, 3, 3))

"""What ``stats`` shows of the numbers there are."""

from __future__ import annotations

from broker.core.destination import queue
from broker.core.message import Message
from broker.core.stats import OF_BROKER, OF_QUEUE, FrontStats
from broker.memcache import stats
from tests.memcache.support import FrontTest


class StatsTests(FrontTest):
    """Names and numbers."""

    def stats(self) -> dict[str, str]:
        """The lines, taken apart."""
        *lines, end, rest = self.client.send(b"stats\r\n").decode().split("\r\n")
        self.assertEqual((end, rest), ("END", ""))
        names = [line.split(" ")[1] for line in lines]
        self.assertEqual(len(names), len(set(names)), "a name stands there twice")
        return {name: line.partition(f"STAT {name} ")[2] for name, line in zip(names, lines, strict=True)}

    def test_every_number_of_the_broker_is_there_under_a_name_that_is_known_or_its_own(self) -> None:
        shown = self.stats()
        for name in OF_BROKER:
            self.assertIn(stats.NAMES.get(name, name), shown)
        self.assertLessEqual({"curr_items", "total_items", "queue_creates", "delivered", "store_data"}, set(shown))
        self.assertEqual({name for name in shown if not shown[name].replace(".", "").isdigit()}, set())

    def test_every_number_of_a_queue_is_there_under_a_name_that_is_known_or_its_own(self) -> None:
        self.put("work", b"1")
        shown = self.stats()
        for name in OF_QUEUE:
            self.assertIn(f"queue_work_{stats.QUEUE_NAMES.get(name, name)}", shown)
        self.assertLessEqual(
            {"queue_work_items", "queue_work_total_items", "queue_work_consumers", "queue_work_blocked"}, set(shown)
        )

    def test_a_text_is_shown_as_a_number(self) -> None:
        self.put("work", b"1")
        self.assertEqual((self.stats()["trouble"], self.stats()["queue_work_blocked"]), ("0", "0"))
        self.store.hold = True
        _ = self.broker.publish(queue("work"), Message(body=b"2")).addErrback(lambda _: None)
        self.store.fail_commit()
        self.broker._directory.queues["work"].blocked = "dead is full"
        self.assertEqual((self.stats()["trouble"], self.stats()["queue_work_blocked"]), ("1", "1"))

    def test_connections_are_shown_for_each_front_beside_this_listener_s(self) -> None:
        self.broker.stats.fronts = lambda: {"stomp": FrontStats(3, 7)}
        shown = self.stats()
        self.assertEqual((shown["connections_stomp"], shown["connections_opened_stomp"]), ("3", "7"))
        self.assertEqual((shown["curr_connections"], shown["total_connections"]), ("1", "1"))

    def test_flushes_of_a_queue_and_what_is_in_memory_are_counted(self) -> None:
        self.put("work", b"1", b"2")
        self.says(b"get work\r\n", b"VALUE work 0 1\r\n1\r\nEND\r\n")
        shown = self.stats()
        self.assertEqual((shown["queue_work_mem_items"], shown["queue_work_total_flushes"]), ("1", "0"))
        self.assertGreater(int(shown["queue_work_mem_bytes"]), 1)
        self.says(b"flush work\r\nflush none\r\nflush_all\r\nflush work\r\n", b"END\r\nEND\r\nOK\r\nEND\r\n")
        self.assertEqual(self.stats()["queue_work_total_flushes"], "2")
        self.says(b"stats reset\r\n", b"RESET\r\n")
        self.assertEqual(self.stats()["queue_work_total_flushes"], "0")

    def test_the_flushes_of_many_queues_are_not_remembered_for_ever(self) -> None:
        counters = stats.Counters()
        for number in range(25_000):
            counters.flushed(f"q{number}")
        self.assertLessEqual(len(counters.flushes), 10_000)

    def test_a_queue_that_is_empty_is_shown_with_what_happened_in_it(self) -> None:
        self.put("work", b"1")
        self.says(b"get work\r\n", b"VALUE work 0 1\r\n1\r\nEND\r\n")
        shown = self.stats()
        self.assertEqual((shown["queue_work_items"], shown["queue_work_total_items"]), ("0", "1"))
        self.assertEqual((shown["queues"], shown["queues_in_use"]), ("1", "0"))

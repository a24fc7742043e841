"""twistd's ``broker`` command. Every ``twistd --help`` imports this file, so it imports nothing of the broker."""

from twisted.application.service import ServiceMaker

serviceMaker = ServiceMaker(
    "Broker", "broker.service", "A queue and pub/sub server for memcache, STOMP and HTTP clients.", "broker"
)

"""Kafka: the event log, the ledger's topic, and what a producer of events needs."""

from tidemill.adapters.kafka.client import Cluster
from tidemill.adapters.kafka.event_log import KafkaLog
from tidemill.adapters.kafka.feed import KafkaFeed
from tidemill.adapters.kafka.ledger import KafkaLedger
from tidemill.adapters.kafka.topics import create_topic, make_producer

__all__ = ["Cluster", "KafkaFeed", "KafkaLedger", "KafkaLog", "create_topic", "make_producer"]

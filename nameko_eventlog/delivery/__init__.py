"""
Delivery: keep serialised event logs in the outbox, and publish them until they are confirmed.
"""

from nameko_eventlog.amqp.route import Route
from nameko_eventlog.delivery.broker_delivery import BrokerDelivery, Delivery
from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.process import process_stats


__all__ = ["BrokerDelivery", "Delivery", "OutboxEntry", "Route", "process_stats"]

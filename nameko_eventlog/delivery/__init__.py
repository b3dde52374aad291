"""
Delivery: keep serialised event logs in the outbox, and publish them until they are confirmed.
"""

from nameko_eventlog.amqp.route import Route
from nameko_eventlog.delivery.broker_delivery import BrokerDelivery, Delivery, process_stats
from nameko_eventlog.delivery.entry import OutboxEntry


__all__ = ["BrokerDelivery", "Delivery", "OutboxEntry", "Route", "process_stats"]

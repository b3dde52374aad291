"""
The service ``bar`` receives the event logs of ``foo``, and thanks for its payments.
"""

import logging

from nameko.events import event_handler

from nameko_eventlog import EventLogDispatcher


logger = logging.getLogger("bar")
letters = logging.getLogger("bar.letters")


class Bar:
    """
    Listen to ``foo``.
    """

    name = "bar"

    eventlog = EventLogDispatcher()

    @event_handler("foo", "log_event")
    def receive(self, body):
        """
        Take an event log: a Nameko event like any other.
        """
        logger.info("event_log_received", extra={"body": body})

    @event_handler("foo", "payment_taken")
    def thank(self, payload):
        """
        Thank for a payment: a call that another service's call has led to.
        """
        letters.info("customer_thanked", extra={"payment": payload["payment"]})

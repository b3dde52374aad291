"""
The service ``bar`` receives the event logs of ``foo``.
"""

import logging

from nameko.events import event_handler


logger = logging.getLogger("bar")


class Bar:
    """
    Listen to ``foo``.
    """

    name = "bar"

    @event_handler("foo", "log_event")
    def receive(self, body):
        """
        Take an event log: a Nameko event like any other.
        """
        logger.info("event_log_received", extra={"body": body})

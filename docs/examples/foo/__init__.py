"""
The service ``foo`` takes payments, and tells about it in four ways.

``nameko run --config example_config.yaml foo bar`` runs it beside its listener.
"""

import json
import logging

import structlog
from nameko.events import EventDispatcher
from nameko.rpc import rpc
from nameko.timer import timer
from nameko.web.handlers import http

from foo import accounts
from logging_ext import EventLogProcessor
from nameko_eventlog import EventLogDispatcher


structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.filter_by_level,
        structlog.stdlib.add_log_level,
        EventLogProcessor(),
        # The console line is the standard library's business, as are all others.
        structlog.stdlib.render_to_log_kwargs,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=True,
)

logger = logging.getLogger("foo")
log = structlog.stdlib.get_logger("foo")


class Foo:
    """
    Take payments.
    """

    name = "foo"

    eventlog = EventLogDispatcher()
    dispatch = EventDispatcher()

    @http("POST", "/payments/<string:payment>", expected_exceptions=accounts.NotCovered)
    def pay(self, request, payment):
        """
        Take a payment, and log in each of the ways that there are.
        """
        amount = int(request.get_data() or 5)
        # Auto capture has dispatched entrypoint_fired by now.
        logger.info("payment_received", extra={"payment": payment})

        accounts.book(payment, amount)

        log.info("payment_checked", payment=payment, risk="low")

        # Returns when the broker has taken the event log.
        self.eventlog("payment_made", {"payment": payment}, metadata={"tenant": "acme"})
        self.dispatch("payment_taken", {"payment": payment})  # bar thanks for it
        return json.dumps({"payment": payment})

    @rpc
    def balance(self, account):
        """
        Return the balance of an account.
        """
        logger.info("balance_asked", extra={"account": account})
        return accounts.BALANCES.get(account, 0)

    @timer(interval=1)
    def close_books(self):
        """
        Close the books, each second.
        """
        logger.info("books_closed", extra={"accounts": len(accounts.BALANCES)})

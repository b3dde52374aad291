"""
The accounts of ``foo``: a module that knows nothing of Nameko, nor of event logs.
"""

import logging


BALANCES: dict[str, int] = {}
LIMIT = 100

logger = logging.getLogger("foo.accounts")


class NotCovered(Exception):
    """
    The customer has not as much.
    """


def book(payment: str, amount: int) -> None:
    """
    Book a payment.

    Raises:
        NotCovered: If *amount* is above the limit.
    """
    if amount > LIMIT:
        logger.error("payment_refused", extra={"payment": payment, "amount": amount})
        raise NotCovered(f"{amount} is more than {LIMIT}")
    _transfer(payment, "customer", "shop", amount)


def _transfer(payment: str, source: str, target: str, amount: int) -> None:
    _change(payment, source, -amount)
    _change(payment, target, amount)


def _change(payment: str, account: str, amount: int) -> None:
    BALANCES[account] = BALANCES.get(account, 0) + amount
    # Three calls below the entrypoint; whose call it is comes from the worker context.
    logger.info(
        "account_changed", extra={"payment": payment, "account": account, "amount": amount}
    )

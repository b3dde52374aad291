"""
Which Nameko the tests run on.
"""

import importlib.metadata
from typing import Any

from nameko.standalone.events import get_event_exchange


NAMEKO = int(importlib.metadata.version("nameko").partition(".")[0])
"""
The major version, 2 or 3.
"""


def event_exchange(service: str) -> Any:
    """
    Return the exchange of a service's Nameko events.
    """
    return get_event_exchange(service) if NAMEKO == 3 else get_event_exchange(service, {})

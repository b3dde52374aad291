"""
Fixtures: a delivery and what is logged of it, as the tests of `tests.delivery` have them.
"""

from __future__ import annotations

from tests.delivery.conftest import make_delivery as make_delivery
from tests.delivery.conftest import proxied as proxied
from tests.delivery.conftest import received as received
from tests.delivery.conftest import said as said
from tests.delivery.conftest import undelivered as undelivered
from tests.delivery.conftest import uri as uri

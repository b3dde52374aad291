"""
How many examples Hypothesis tries.
"""

import math

from hypothesis import HealthCheck, settings


SHARED = "shared"
"""
The usual profile: how long an example takes says something about the machine, which is shared.
"""

settings.register_profile(
    SHARED, max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
# For one run of several: what is tried does not depend on what they differ in.
settings.register_profile("brief", settings.get_profile(SHARED), max_examples=10)


def examples(count: int) -> int:
    """
    Return how many to try where the full profile's number shall be another.

    Args:
        count: In a full run; a brief one tries a tenth.
    """
    return math.ceil(count * settings().max_examples / 100)

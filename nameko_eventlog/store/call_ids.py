"""
What Nameko makes a call id of: service, entrypoint and a UUID.
"""

from __future__ import annotations


def names_of(call_id: str) -> tuple[str, str]:
    """
    Return the names of the service and the entrypoint; of another id, itself and nothing.

    A service's name may have dots, what comes behind it has none.
    """
    parts = call_id.rsplit(".", 2)
    return (parts[0], parts[1]) if len(parts) == 3 else (call_id, "")

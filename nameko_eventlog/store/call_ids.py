"""
The parts of Nameko's call ids: service, entrypoint and a UUID.
"""

from __future__ import annotations


def names_of(call_id: str) -> tuple[str, str]:
    """
    Return the names of the service and the entrypoint; for any other id, the id and "".

    A service's name may contain dots; the other parts have none.
    """
    parts = call_id.rsplit(".", 2)
    return (parts[0], parts[1]) if len(parts) == 3 else (call_id, "")

"""
Dispatching: build the body of an event log, and encode it for delivery.
"""

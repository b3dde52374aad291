"""
Dispatching: from what a service says, by way of the body, to the bytes that are delivered.
"""

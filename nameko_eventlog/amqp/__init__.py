"""
AMQP: connections, frames, headers and messages, and what of py-amqp and kombu is not documented.
"""

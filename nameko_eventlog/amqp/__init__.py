"""
AMQP: connections, frames, headers and messages.

Only this package uses undocumented parts of py-amqp and kombu.
"""

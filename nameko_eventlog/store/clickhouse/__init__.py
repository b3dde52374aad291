"""
ClickHouse, for event logs that one PostgreSQL cannot hold.
"""

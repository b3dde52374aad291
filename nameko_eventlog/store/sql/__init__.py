"""
SQLite and PostgreSQL, by SQLAlchemy.
"""

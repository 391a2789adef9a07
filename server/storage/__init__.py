"""What matching servers share, in SQLite or PostgreSQL: templates, attempts, tombstones, sessions, deeds under way.

`server.matching` calls it and nobody else. Limits and sessions are here because the storage counts and keeps them.
"""

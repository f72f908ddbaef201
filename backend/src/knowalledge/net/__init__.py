"""Connections: the pooled HTTP client, the Redis client and its scripts, TLS."""

"""Answers kept in memory and Redis, one flight per question, invalidation, and CDN purges."""

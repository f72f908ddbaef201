"""Metrics, logs, traces, health checks and `knowalledge doctor`."""

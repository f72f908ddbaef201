"""A strict simulator of Google's and OpenAI's servers, with exact quotas and faults on demand.

It judges the gateway in tests and benchmarks, so the two share no code.
"""

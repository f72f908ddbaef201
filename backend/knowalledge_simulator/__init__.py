"""The strict provider: what Google's and OpenAI's servers would say, with exact quotas and faults on demand.

It judges the gateway in tests and benchmarks, so it shares no code with it.
"""

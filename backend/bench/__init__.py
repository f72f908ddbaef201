"""The benchmarks: each case starts real processes, measures, and says whether its target is met."""

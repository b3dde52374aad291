"""
The speed of nameko-eventlog beside its peers, as ratios: ``python -m benchmarks``.
"""

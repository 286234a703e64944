"""Careful introduction of a change: feature flags, A/B comparisons, performance baselines."""

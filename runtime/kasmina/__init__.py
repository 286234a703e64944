"""Grow a PyTorch network while it trains, under a lifecycle that is proved before it runs."""

"""Kernels of kinds: what a kind computes, as a formula, and the Triton text that it becomes.

A kind has *maps* `[hidden, d_in]` of the input, and a formula that makes the hidden units of what
they give; or it computes element by element. A kernel applies one kind to the *chunks* (slices of
the features) whose *row* of stacked parameters it is told.
"""

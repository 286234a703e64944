"""Custom ops around the generated Triton kernels, and their PyTorch twins."""

"""Saved runs: one directory that rebuilds the grown architecture and resumes it to the bit."""

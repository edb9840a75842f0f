"""Triton kernels of the attention, imported when one is first used: Triton is optional."""

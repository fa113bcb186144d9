"""Correctness and speed of batched expert mat-vec kernels, against the limit of the hardware."""

__version__ = "0.1.0"

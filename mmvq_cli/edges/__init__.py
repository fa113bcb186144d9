"""Where kernels break: named adversarial cases, and a pairwise cover of everything a problem can vary in."""

from mmvq_cli.edges.case import Edge, EdgeCase
from mmvq_cli.edges.matrix import MATRICES, matrix_suite
from mmvq_cli.edges.pairwise import cover_pairs

__all__ = ["MATRICES", "Edge", "EdgeCase", "cover_pairs", "matrix_suite"]

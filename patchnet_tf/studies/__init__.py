"""Experiments of several runs: comparisons, convergence, features of nuclei."""

"""Benchmarks: figures for the docs, never tests. `make benchmark` runs them all; each module runs alone, too."""

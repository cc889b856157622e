"""ipa-energy: measures the energy of every configuration an adapting inference pipeline could choose.

The library behind the workflow. It never imports snakemake, so that scripts, tests, child processes and other
workflows all use it the same way. Imports point one way: analysis and measurement use serving, meters and
pipelines, which use configuration and record.
"""

__version__ = "0.1.0"

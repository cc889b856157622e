"""From records to an answer: tables, coupling statistics, verdict. Knows nothing of torch or of Snakemake."""

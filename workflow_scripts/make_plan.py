"""Writes plan.csv, every measurement in its randomised run order, from the checked config."""

from ipa_energy.joblog import redirect_to
from ipa_energy.plan import write_plan
from ipa_energy.study import load_study

if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    write_plan(snakemake.output[0], load_study(snakemake.config).plan)

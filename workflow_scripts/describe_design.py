"""Write design.json: which part of the grid is measured, and what the effects of the knobs can be told by."""

import json

from ipa_energy.design import describe
from ipa_energy.files import write_text
from ipa_energy.joblog import redirect_to
from ipa_energy.study import load_study

if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    study = load_study(snakemake.config)
    drawn = {"design": "fraction", "keep": study.settings["fraction"]["keep"], "seed": study.settings["seed"]}
    described = drawn | describe(study.configurations, study.measured)
    write_text(snakemake.output[0], json.dumps(described, indent=2, ensure_ascii=False) + "\n")
    print(described["limitation"])

from snakemake.utils import min_version

min_version("9.17")  # the run order is a `priority:` that depends on wildcards


# A config given with --configfile stands alone; it is not mixed with the default experiment.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


# Another workflow that uses this one as a module has a text of its own.
if workflow.modifier.is_main_snakefile():

    report: "report/workflow.rst"


include: "rules/common.smk"
include: "rules/functions/records.smk"
include: "rules/functions/measuring.smk"
include: "rules/functions/ipa.smk"
include: "rules/functions/targets.smk"
include: "rules/prepare.smk"
include: "rules/profile.smk"
include: "rules/feasible.smk"
include: "rules/measure.smk"
include: "rules/sequential.smk"
include: "rules/external.smk"
include: "rules/aggregate.smk"
include: "rules/coupling.smk"
include: "rules/figures.smk"
include: "rules/explorer.smk"
include: "rules/space.smk"
include: "rules/composition.smk"
include: "rules/adaptation.smk"
include: "rules/live.smk"
include: "rules/error_rates.smk"


rule all:
    input:
        targets,
        power_of_first,

"""IPA's model of a pipeline: profiles, the space of configurations for an input, the optimum, the Pareto front.

The formulation is that of Ghafouri et al., *IPA: Inference Pipeline Adaptation to Achieve High Accuracy and
Cost-Efficiency* (JSys 4(1), 2024), with energy as one more term; ``docs/ipa.md`` follows it term by term. A profile
goes in (:mod:`.profile`), and for an input (rate and SLA) the options of every stage follow (:mod:`.options`). On
these work the space (:mod:`.space`), the solver (:mod:`.solver`), the front (:mod:`.front`) and the baselines
(:mod:`.baselines`).

Adapting over time is simulated by discrete events (:mod:`.simulation`) under a load (:mod:`.workload`,
:mod:`.arrival_times`), with rates predicted (:mod:`.predictors`) and configurations decided (:mod:`.controller`) every
interval. Nothing here imports Snakemake, and nothing but :mod:`.lstm` torch.
"""

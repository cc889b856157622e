"""Hold what IPA composes from stage profiles against what was measured, from profile.csv and measurements.csv.

composition/configurations.csv (predicted and measured figures of every configuration), composition/errors.csv (errors
over configurations), composition/answer.txt (whether IPA can choose by predicted energy), and a figure.
"""

from collections.abc import Mapping
from typing import Any

from ipa_energy.analysis import tables
from ipa_energy.figures import composition as composition_figure
from ipa_energy.figures import style
from ipa_energy.files import write_text
from ipa_energy.ipa.composition import compose
from ipa_energy.ipa.composition_answer import Rule, answer
from ipa_energy.ipa.composition_errors import errors_table
from ipa_energy.ipa.prediction import profile_platform
from ipa_energy.ipa.profile import read_profile
from ipa_energy.ipa.relative_errors import Resampling
from ipa_energy.joblog import redirect_to


def main(
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    *,
    experiment: str,
    ipa: Mapping[str, Any],
    platforms: Mapping[str, Any],
    analysis: Mapping[str, Any],
    seed: int,
) -> None:
    """Predict, compare, decide, draw."""
    how = Resampling(analysis["confidence"], analysis["bootstrap"], seed)
    configurations = compose(
        read_profile(inputs["profile"]),
        tables.read_csv(inputs["measurements"]),
        drop_flags=analysis["drop_flags"],
        confidence=how.confidence,
        platform=profile_platform(ipa, platforms),
    )
    errors = errors_table(configurations, how)
    told = answer(configurations, errors, Rule(min_configurations=analysis["min_configurations"]), how.confidence)
    tables.write_csv(outputs["configurations"], configurations)
    tables.write_csv(outputs["errors"], errors)
    write_text(outputs["answer"], told)
    figure = composition_figure.draw(
        configurations, errors, f"Experiment {experiment}: composed from stage profiles, against measured"
    )
    style.save(figure, [outputs["svg"], outputs["png"]])
    print(told)


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        dict(snakemake.input.items()),
        dict(snakemake.output.items()),
        experiment=snakemake.wildcards.experiment,
        ipa=snakemake.params.ipa,
        platforms=snakemake.params.platforms,
        analysis=snakemake.params.analysis,
        seed=snakemake.params.seed,
    )

"""Draw the profile that IPA works with: time of a batch, throughput and energy of every variant over the batch size."""

from ipa_energy.figures import profile as profile_figure
from ipa_energy.figures import style
from ipa_energy.ipa.profile import read_profile
from ipa_energy.joblog import redirect_to

if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    title = f"Experiment {snakemake.wildcards.experiment}: profile of every stage, one replica at full load"
    figure = profile_figure.draw(read_profile(snakemake.input.profile), title)
    style.save(figure, [snakemake.output.svg, snakemake.output.png])

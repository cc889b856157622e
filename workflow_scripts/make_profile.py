"""Make the profile that IPA works with, from the files of the profiled variants or from a CSV file of the user's.

profile.csv (on base allocations, where the config asks for them), profile/measured.csv (everything, also what failed),
profile/remarks.txt (what was changed, left out or looks odd).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ipa_energy.analysis.tables import write_csv
from ipa_energy.files import write_text
from ipa_energy.ipa.measured_profile import whole_profile
from ipa_energy.ipa.profile import write_profile
from ipa_energy.ipa.settings import allocated
from ipa_energy.joblog import redirect_to


def main(files: Sequence[str], outputs: Mapping[str, str], *, ipa: Mapping[str, Any], usd: Mapping[str, float]) -> None:
    """Read the files, or the one that the config names, and write all of it."""
    table, whole, remarks = whole_profile(files, ipa)
    used = allocated(whole, ipa, usd)
    write_csv(outputs["measured"], table)
    write_profile(used, outputs["profile"])
    told = [*remarks, *used.remarks]
    write_text(outputs["remarks"], "".join(f"{line}\n" for line in told))
    print(f"{len(used.table)} of {len(table)} rows are used; {len(told)} remarks")
    print("\n".join(told))


if __name__ == "__main__":
    redirect_to(snakemake.log[0])
    main(
        list(snakemake.input),
        dict(snakemake.output.items()),
        ipa=snakemake.params.ipa,
        usd=snakemake.params.prices,
    )

"""The page on external logs says what the code says: its example is run here, and all names are in it."""

import re
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import yaml

from ipa_energy.config_schema import config_schema
from ipa_energy.external.align import DELAY_S, DRIFT_SIGMAS, MIN_DRIFT_RECORDS, MIN_EXPLAINED, MIN_MARGIN
from ipa_energy.external.cut import FEW, GAP, NO_OFFSET, NO_OVERLAP, PARTS
from ipa_energy.external.formats import MISSING
from ipa_energy.external.settings import PRESETS, log_settings
from ipa_energy.external.steps import MIN_CLEARNESS
from ipa_energy.external.tables import CLOCK_COLUMNS, COLUMNS, external_tables
from ipa_energy.external.zones import RELATIVE, UNIX

from external_logs import campaign, readings, write_log  # isort: skip

PAGE = (Path(__file__).parents[1] / "docs/external.md").read_text()


def block(kind, number=0):
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[number]


def example(folder):
    """The log and the records of the worked example, and the two tables that are made of them."""
    ran = campaign(12, seed=7, origin_s=datetime(2026, 10, 25, 0, 54, tzinfo=UTC).timestamp())
    time_s, power_w = readings(
        ran.truth, value="mean_before", period_s=1.0, noise_w=1.5, offset_s=7.3, drift=40e-6, seed=7
    )
    zone = ZoneInfo("Europe/Berlin")
    log = write_log(
        folder / "meter.csv",
        time_s,
        power_w,
        header="Time;Active power (W)",
        time=lambda s: datetime.fromtimestamp(s, zone).strftime("%d.%m.%Y %H:%M:%S.%f")[:-4],
        power=lambda w: f"{w:.1f}".replace(".", ","),
        separator=";",
    )
    settings = yaml.safe_load(block("yaml"))["external_logs"]["wall"] | {"files": str(log)}
    records = [(f"records/{number}.json", record) for number, record in enumerate(ran.records)]
    return log, ran, external_tables([log_settings("wall", settings)], records)


def shown(table, columns, digits, rows):
    """Some columns and rows of a table as the page shows them."""
    lines = [columns]
    for _, row in table.iloc[rows].iterrows():
        lines.append([_text(row[name], digits.get(name)) for name in columns])
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines) + "\n"


def _text(value, digits):
    return str(value) if digits is None else f"{value:.{digits}f}"


def example_texts(folder):
    log, ran, (external, clocks) = example(folder)
    lines = log.read_text().splitlines()
    turn = next(at for at, line in enumerate(lines) if "03:00:0" not in line and "02:00:0" in line and at > 5)
    head = "\n".join([lines[0], *lines[turn - 2 : turn + 2]]) + "\n"
    clock_digits = {
        "offset_s": 3,
        "offset_uncertainty_s": 3,
        "drift_ppm": 1,
        "drift_uncertainty_ppm": 1,
        "explained": 3,
    }
    clock = shown(clocks, ["log", "rows", "period_s", "records", "offset_method"], {"period_s": 3}, [0]) + shown(
        clocks, list(clock_digits), clock_digits, [0]
    )
    external["true_j"] = [ran.truth.mean_w(begin, end) * (end - begin) for begin, end in ran.windows]
    columns = ["samples", "mean_w", "gross_j", "true_j", "uncertainty_j", "net_j", "idle_bare_w", "offset_s"]
    digits = {"samples": 0, "mean_w": 2, "gross_j": 1, "true_j": 1, "uncertainty_j": 1, "net_j": 1}
    digits |= {"idle_bare_w": 2, "offset_s": 3}
    energies = shown(external, columns, digits, [0, 1, 5, 11])
    return head, clock, energies, (external["gross_j"] - external["true_j"]) / external["uncertainty_j"]


def test_the_worked_example_is_what_the_code_gives(tmp_path):
    head, clock, energies, errors = example_texts(tmp_path)
    assert head == block("text", 0)
    assert clock == block("text", 1)
    assert energies == block("text", 2)
    assert errors.abs().max() < 2


def test_every_key_preset_column_part_and_flag_is_described():
    keys = config_schema()["properties"]["external_logs"]["additionalProperties"]["properties"]
    names = [*keys, *PRESETS, *COLUMNS, *CLOCK_COLUMNS, *UNIX, *RELATIVE, *PARTS, GAP, FEW, NO_OFFSET, NO_OVERLAP]
    missing = [name for name in names if f"`{name}`" not in PAGE]
    assert not missing, f"docs/external.md lacks {missing}"


def test_columns_of_presets_and_words_for_no_reading_are_told():
    for preset in PRESETS.values():
        for name in (*preset.time, *preset.power):
            assert f"`{name}`" in PAGE
    told = re.search(r"no reading: (.*?)\.", PAGE, re.DOTALL)[1]
    assert set(re.findall(r"`([^`]+)`", told)) == {word for word in MISSING if word}


def test_the_criteria_are_those_of_the_code():
    for text in (
        f"{DELAY_S:g} s",
        f"{DRIFT_SIGMAS:g} standard uncertainties",
        f"{MIN_DRIFT_RECORDS} records",
        f"{MIN_EXPLAINED:.0%}".replace("%", " %"),
        f"at least {MIN_MARGIN:g}",
        f"at least {MIN_CLEARNESS:g}",
    ):
        assert text in PAGE, text

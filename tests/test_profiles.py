"""The shipped profiles: none forgets a setting of the default's, all are understood, all know what measures."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROFILES = {path.parent.name: yaml.safe_load(path.read_text()) for path in sorted(ROOT.glob("profiles/*/config.yaml"))}
CLUSTERS = sorted(PROFILES.keys() - {"default"})


def _measuring_rules():
    """Rules that take the power meter."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    bodies = re.split(r"^(?:rule|checkpoint) (\w+):", text, flags=re.MULTILINE)
    return {name for name, body in zip(bodies[1::2], bodies[2::2], strict=True) if "power_meter=1" in body}


def test_there_are_profiles_for_clusters():
    assert CLUSTERS == ["cluster-generic", "kubernetes", "slurm"]


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_profile_repeats_the_settings_of_the_default(name):
    repeated = {key: PROFILES[name].get(key) for key in PROFILES["default"]}
    assert repeated == PROFILES["default"]


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_profile_gives_every_measuring_rule_the_same_cores_and_the_others_a_time_limit(name):
    assert _measuring_rules() == {"measure_configuration", "profile_variant", "adapt_live"}
    assert PROFILES[name]["set-threads"].keys() == _measuring_rules()
    assert len(set(PROFILES[name]["set-threads"].values())) == 1
    assert PROFILES[name]["default-resources"]["runtime"] > 0


@pytest.mark.parametrize("name", CLUSTERS)
def test_snakemake_understands_every_setting_of_a_profile(checkout, name):
    checkout.configure()
    profile = ("--workflow-profile", f"profiles/{name}")
    command = [sys.executable, "-m", "snakemake", "--configfile", "tiny.yaml", "-n", "-q", "rules", *profile]
    done = subprocess.run(command, check=False, cwd=checkout.folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^measure_configuration\s+1$", done.stdout + done.stderr, re.MULTILINE)


def test_a_setting_that_no_one_knows_is_refused(checkout):
    checkout.configure()
    path = checkout.folder / "profiles/slurm/config.yaml"
    path.write_text(path.read_text() + "slurm-no-such-setting: true\n")
    command = [sys.executable, "-m", "snakemake", "--configfile", "tiny.yaml", "-n", "--workflow-profile"]
    done = subprocess.run(
        [*command, "profiles/slurm"], check=False, cwd=checkout.folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "slurm-no-such-setting" in done.stdout + done.stderr

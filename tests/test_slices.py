"""A study measured in slices: stopped by time, taken up elsewhere, nothing measured twice and nothing lost."""

import io
import re
import signal
import sys
import tarfile
import time

import pytest
import yaml

from conftest import ROOT, make_checkout
from ipa_energy import slices
from ipa_energy.study import load_study
from tiny import tiny_config, wait_for


def configured(checkout):
    stages = tiny_config()["grid"]["stages"]
    stages["classify"]["batch"] = [1, 2]
    profile = checkout.folder / "profiles" / "default" / "config.yaml"
    profile.write_text(profile.read_text().replace("1000/10s", "100/1s"))  # what a run waits for at its end
    return checkout.configure(grid={"stages": stages}, blocks=2)


def run_slice(checkout, archive, expect, stop_when=None):
    """One slice; told to stop (as batch systems do before they kill) as soon as ``stop_when()``."""
    command = [sys.executable, "-m", "ipa_energy.slices", "--configfile", "tiny.yaml", "--archive", str(archive)]
    process = checkout.start(command=[*command, "--minutes", "10"])
    if stop_when is not None:
        wait_for(stop_when, timeout_s=120)
        process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == expect, output[-4000:]
    return output


def contents(checkout):
    return {path.relative_to(checkout.folder): path.read_bytes() for path in checkout.records()}


def test_slices_on_fresh_machines_measure_every_configuration_once(tmp_path):
    archive = tmp_path / "tiny.tar.gz"
    first = make_checkout(tmp_path / "first")
    configured(first)
    output = run_slice(first, archive, expect=3, stop_when=first.records)
    kept = contents(first)
    assert 0 < len(kept) < 4, output
    assert f"{len(kept)} of 4 records" in output and "again to go on" in output

    second = make_checkout(tmp_path / "second")
    configured(second)
    run_slice(second, archive, expect=0)
    everything = contents(second)
    assert len(everything) == 4
    assert {path: everything[path] for path in kept} == kept
    assert (second.folder / "results/tiny/measurements.csv").exists()

    third = make_checkout(tmp_path / "third")
    configured(third)
    output = run_slice(third, archive, expect=0)
    assert "Nothing to be done" in output and contents(third) == everything


def test_an_archive_never_replaces_what_is_there_and_keeps_to_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    here = tmp_path / "results" / "a.json"
    here.write_text("measured here")
    with tarfile.open(tmp_path / "good.tar", "w") as tar:
        for name in ("results/a.json", "results/b.json"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"old"))
    assert slices.unpack("good.tar") == 1
    assert here.read_text() == "measured here" and (tmp_path / "results/b.json").read_text() == "old"

    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        member = tarfile.TarInfo("../outside")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"bad"))
    with pytest.raises(tarfile.OutsideDestinationError):
        slices.unpack("bad.tar")
    assert not (tmp_path.parent / "outside").exists()


def test_a_bad_config_is_said_in_one_message(tmp_path, capsys):
    config = tmp_path / "bad.yaml"
    config.write_text(yaml.safe_dump(tiny_config(blocks=0)))
    assert slices.main(["--configfile", str(config), "--minutes", "1", "--archive", str(tmp_path / "a.tar.gz")]) == 1
    assert "blocks is 0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [config]


def test_the_time_ends_a_slice_and_after_the_grace_a_kill():
    said = []
    began_s = time.monotonic()
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    code = slices.run_until([sys.executable, "-c", deaf], began_s + 1.0, 0.5, said.append)
    assert code == -signal.SIGKILL and time.monotonic() - began_s < 30
    assert [text.split(":")[0] for text in said] == ["time is up", "killed"]

    said.clear()
    code = slices.run_until([sys.executable, "-c", "import time; time.sleep(60)"], time.monotonic(), 20.0, said.append)
    assert code == -signal.SIGTERM and len(said) == 1


def test_the_parts_of_the_reference_study_are_valid_and_as_large_as_they_say():
    folder = ROOT / "config" / "h100"
    plans = {p.name: load_study(yaml.safe_load(p.read_text())) for p in sorted(folder.glob("*.yaml"))}
    page = (folder / "README.md").read_text()
    told = {
        name: int(number)
        for files, numbers in re.findall(r"^\| (`.+?) \| .+ \| ([\d, ]+) \|$", page, re.M)
        for name, number in zip(re.findall(r"`([^`]+)`", files), numbers.split(","), strict=True)
    }
    assert told == {name: len(study.plan) for name, study in plans.items()}
    assert len({study.experiment for study in plans.values()}) == len(plans)
    for study in plans.values():
        assert study.settings["gates"]["min_window_s"] == study.settings["protocol"]["window_s"]
        assert all(c.platform.device == "cuda" for c in study.configurations)

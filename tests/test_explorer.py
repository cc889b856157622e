"""The built page of the explorer: what is inside, that it is safe, and that its data are those of the tables."""

import base64
import hashlib
import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer_tables import HOSTILE, measured, members, page, with_paths
from ipa_energy import digest
from ipa_energy.analysis import tables
from ipa_energy.analysis.aggregate import configurations_table
from ipa_energy.explorer import build
from ipa_energy.explorer.labels import is_energy, label_of
from ipa_energy.explorer.packing import SINGLE_ABOVE, numbers, texts

ROOT = Path(__file__).resolve().parents[1]
OWN = sorted(
    p for p in (ROOT / "workflow_scripts/ipa_energy/explorer").iterdir() if p.suffix in (".js", ".css", ".html")
)


class Elements(HTMLParser):
    """Tags with their attributes, and the text of scripts, as a browser's parser sees them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def no_constant(name):
    raise AssertionError(f"{name} is no JSON")


def data_of(text):
    """The data in a page; fails for a NaN."""
    return json.loads(Elements(text).scripts[0], parse_constant=no_constant)


def unpacked(packed):
    if "same" in packed:
        return np.full(packed["n"], float(packed["same"]))
    return np.frombuffer(base64.b64decode(packed["b64"]), "<" + packed["type"]).astype(float)


def as_texts(packed):
    return [None if code < 0 else packed["levels"][int(code)] for code in unpacked(packed["codes"])]


def paths_of(measurements, ids):
    """The path of each measurement and whether it is a link, as ``panel.js`` puts them together."""
    path, starts = measurements["path"], unpacked(measurements["starts"]).astype(int)
    of = np.repeat(np.arange(len(ids)), np.diff(starts))
    ends = zip(as_texts(path["before"]), as_texts(path["after"]), strict=True)
    marks = zip(unpacked(path["id"]), unpacked(path["link"]), strict=True)
    parts = zip(of, ends, marks, strict=True)
    return [(before + (ids[i] if has_id else "") + after, bool(link)) for i, (before, after), (has_id, link) in parts]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    measurements = with_paths(measured(), folder)
    configurations = configurations_table(measurements, 0.95, [])
    path, _ = page(folder, measurements, configurations, members(configurations))
    return path.read_text(encoding="utf-8"), measurements, configurations


def test_the_page_loads_nothing_and_forbids_the_network(study):
    tags = Elements(study[0]).tags
    policy = next(attrs["content"] for tag, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert "http" not in policy
    assert not any("src" in attrs for _, attrs in tags)
    assert [attrs["href"] for _, attrs in tags if "href" in attrs] == ["data:,"]


def test_only_the_scripts_that_were_put_in_may_run(study):
    policy = re.search(r'Policy" content="([^"]+)"', study[0])[1]
    _, *scripts = Elements(study[0]).scripts
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(hashes) == 2
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes
    assert "script-src 'unsafe-inline'" not in policy


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_our_own_parts_name_no_address(path):
    found = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s'\"]*", path.read_text())
    assert [url for url in found if url != "http://www.w3.org/2000/svg"] == []


def test_the_data_are_those_of_the_tables(study):
    text, _, configurations = study
    data = data_of(text)
    assert data["configuration"] == configurations["configuration"].tolist()
    metrics = {metric["name"]: metric for metric in data["metrics"]}
    for name in ("latency_p99_s", "net_j_per_request", "usd_per_1000_requests", "mean_w", "cores"):
        expected = configurations[name].to_numpy(dtype=float)
        assert np.array_equal(unpacked(metrics[name]["values"]), expected, equal_nan=True)
    assert np.array_equal(
        unpacked(metrics["net_j_per_request"]["hi"]), configurations["net_j_per_request_hi"], equal_nan=True
    )
    assert np.allclose(unpacked(metrics["pas"]["values"]), configurations["pas"], rtol=1e-10, equal_nan=True)
    knobs = {knob["name"]: as_texts(knob) for knob in data["knobs"]}
    assert knobs["detect.batch"] == configurations["detect.batch"].astype(str).tolist()
    cells = [data["cells"][int(cell)] for cell in unpacked(data["cell"])]
    assert cells == configurations[build.CELL].to_numpy().tolist()
    assert unpacked(data["membership"]["net"]["p_only_with"]).tolist() == [0.125] * len(configurations)
    assert "gross" not in data["membership"]


def test_every_measurement_stands_with_its_configuration_once(study):
    text, measurements, configurations = study
    data = data_of(text)["measurements"]
    starts = unpacked(data["starts"]).astype(int)
    states, workloads = as_texts(data["texts"]["state"]), configurations["workload"].tolist()
    assert np.diff(starts).tolist() == [2] * len(configurations)
    assert starts[-1] == len(measurements) == len(states)
    failed = measurements[measurements["state"] == "failed"].iloc[0]  # without energy, so without meters
    at = next(
        i
        for i, c in enumerate(configurations["configuration"])
        if c == failed["configuration"] and workloads[i] == failed["workload"]
    )
    assert sorted(states[starts[at] : starts[at + 1]]) == ["failed", "ok"]


def test_records_below_the_folder_are_links_and_others_keep_their_paths(study, tmp_path, monkeypatch):
    data = data_of(study[0])
    found = paths_of(data["measurements"], data["configuration"])
    assert all(path.startswith("records/") == link for path, link in found)
    assert sum(link for _, link in found) == len(found) / 2
    assert all(path.startswith("/elsewhere/records/") for path, link in found if not link)
    # Relative to the working directory, as Snakemake has them; a path may leave the folder on its way.
    monkeypatch.chdir(tmp_path)
    measurements = measured(blocks=1)
    ways = ["results/x/records/a.json", "results/x/../y/records/a.json", "results/xy/a.json", "../a.json"]
    measurements["path"] = (ways * len(measurements))[: len(measurements)]
    configurations = configurations_table(measurements, 0.95, [])
    made = build.page_data(
        configurations, measurements, None, title="", inputs={}, limitations=[], folder="results/x", confidence=None
    )
    found = set(paths_of(made["measurements"], made["configuration"]))
    assert found == {("records/a.json", True)} | {(way, False) for way in ways[1:]}


def test_hostile_names_neither_end_the_data_nor_make_a_tag(tmp_path):
    measurements = measured(blocks=1).astype({"configuration": "object", "reason": "object"})
    measurements.loc[0, ["configuration", "reason"]] = HOSTILE
    measurements["workload"] = "<!-- <script> @@data@@ \u2028 \x00"
    path, _ = page(tmp_path, measurements, title=f"@@code@@ {HOSTILE}", limitations=[HOSTILE], inputs={HOSTILE: {}})
    text = path.read_text(encoding="utf-8")
    elements = Elements(text)
    plain, _ = page(tmp_path, measured(blocks=1))
    assert [tag for tag, _ in elements.tags] == [tag for tag, _ in Elements(plain.read_text()).tags]
    data = data_of(text)
    assert HOSTILE in data["configuration"]
    assert data["limitations"] == [HOSTILE]
    assert data["cells"][0][1].startswith("<!-- <script> @@data@@")


def test_the_word_estimated_and_random_weights_reach_the_page(study):
    data = data_of(study[0])
    assert set(as_texts(data["evidence"])) == {"measured", "estimated"}
    assert all("random" in cell for cell in data["cells"])
    assert {metric["name"] for metric in data["metrics"] if metric["energy"]} >= {"net_j_per_request", "mean_w"}
    code = "".join(path.read_text() for path in OWN)
    assert 'estimated: "estimated "' in code
    assert "Random weights ran" in code


@pytest.mark.parametrize(
    "name", ["gross_j", "net_j_per_request", "idle_bare_w", "cpu_package_0.net_j", "gpu_0.gross_j"]
)
def test_energy_and_power_are_known_as_such_by_their_names(name):
    assert is_energy(name)
    assert label_of(name).endswith(")")


def test_other_columns_are_no_energy_and_named_with_their_units():
    assert not any(map(is_energy, ("latency_p99_s", "pas", "usd_per_hour", "throughput_rps", "detect.accuracy")))
    assert label_of("latency_p99_s") == "p99 latency (s)"
    assert label_of("detect.accuracy") == "detect accuracy"
    assert label_of("start_delay_s") == "start delay (s)"


@given(st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True), max_size=30))
def test_packed_numbers_come_back_and_what_is_no_number_is_null(values):
    column = pd.Series(values, dtype="float64")
    packed = json.loads(json.dumps(numbers(column), allow_nan=False))
    assert np.array_equal(unpacked(packed), column.where(np.isfinite(column)).to_numpy(), equal_nan=True)


@given(st.lists(st.none() | st.text(max_size=4), max_size=30))
def test_packed_texts_come_back(values):
    assert as_texts(json.loads(json.dumps(texts(pd.Series(values, dtype="object"))))) == values


def test_large_tables_keep_what_decides_in_full_precision():
    column = pd.Series(np.random.default_rng(0).random(SINGLE_ABOVE + 1))
    assert np.array_equal(unpacked(numbers(column, exact=True)), column)
    assert np.allclose(unpacked(numbers(column)), column, rtol=1e-6)
    assert len(numbers(column)["b64"]) * 2 <= len(numbers(column, exact=True)["b64"]) + 8


def test_a_page_without_membership_configurations_or_paths_is_a_page(tmp_path):
    path, _ = page(tmp_path, measured(blocks=1).iloc[:0])
    data = data_of(path.read_text())
    assert data["membership"] is None
    assert data["nothing"].startswith("There is no configuration to show: the tables hold no measurement.")
    path, _ = page(tmp_path, measured(blocks=1, lost=True).drop(columns="path", errors="ignore"))
    data = data_of(path.read_text())
    assert "(72 failed)" in data["nothing"]
    assert "out of memory" in data["nothing"]
    assert data["measurements"]["path"] is None


def test_the_digest_of_analysing_follows_the_page_and_that_of_measuring_does_not(tmp_path, monkeypatch):
    names = {str(path.relative_to(digest._LIBRARY)) for path in digest._files(digest.ANALYSING_CODE)}
    assert {"explorer/build.py", *(f"explorer/{path.name}" for path in OWN)} <= names
    assert not any("explorer" in str(path) for path in digest._files(digest.MEASURING_CODE))
    monkeypatch.setattr(digest, "_LIBRARY", tmp_path)
    (tmp_path / "explorer").mkdir()
    (tmp_path / "explorer/build.py").write_text("x = 1\n")
    for name in ("a.js", "a.css", "a.html"):
        before = digest._digest(["explorer"])
        (tmp_path / "explorer" / name).write_text("one")
        made = digest._digest(["explorer"])
        (tmp_path / "explorer" / name).write_text("two")
        digest._content.cache_clear()  # a process reads each file once
        assert len({before, made, digest._digest(["explorer"])}) == 3


def test_the_script_makes_the_page_of_the_files_of_an_experiment(tmp_path):
    spec = importlib.util.spec_from_file_location("make_explorer", ROOT / "workflow_scripts/make_explorer.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    measurements = measured(blocks=1)
    configurations = configurations_table(measurements, 0.95, [])
    inputs = {name: str(tmp_path / f"{name}.csv") for name in ("configurations", "measurements", "membership")}
    for name, table in zip(inputs, (configurations, measurements, members(configurations)), strict=True):
        tables.write_csv(inputs[name], table)
    inputs["verdict"] = str(tmp_path / "verdict.json")
    Path(inputs["verdict"]).write_text(json.dumps({"limitations": ["Made up."]}))
    output = tmp_path / "explorer.html"
    script.main(inputs, str(output), experiment="x", given={"busy": {"rate_rps": 5, "sla_s": None}}, confidence=0.9)
    data = data_of(output.read_text())
    assert (data["limitations"], data["confidence"]) == (["Made up."], 0.9)
    assert data["inputs"] == [{"name": "busy", "rate_rps": 5, "sla_s": None}]
    assert data["membership"] is not None

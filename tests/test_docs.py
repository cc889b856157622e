"""The docs say what the code says: generated pages, links, flags, files, pinned versions."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement

import ipa_energy
from ipa_energy import reference
from ipa_energy.gates import MEANING
from ipa_energy.study import config_schema, load_study

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
READ = [path for path in (ROOT / "README.md", ROOT / "config/README.md", ROOT / "CHANGELOG.md") if path.exists()] + DOCS

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def _name(path):
    return str(path.relative_to(ROOT))


def _anchors(path):
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", _FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _table_cells(page, column):
    """What stands in backticks in one column of all tables of a page."""
    rows = re.findall(r"^\| (.+) \|$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    cells = [row.split(" | ")[column] for row in rows if row.count(" | ") >= column]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def _outputs_of_rules():
    """Output paths of all rules, relative to the experiment's folder."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    outputs = re.findall(r"^    output:\n((?:        .*\n|\n)+)", text, re.MULTILINE)
    return {path for block in outputs for path in re.findall(r'"results/\{experiment\}/([^"]+)"', block)}


def _pins():
    """Version by package that requirements.lock installs for the Python and the system of environment.yaml."""
    environment = default_environment() | {
        "python_version": "3.11",
        "python_full_version": "3.11.9",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    pins = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line and not line.startswith(("#", " ", "-")):
            requirement = Requirement(line.removesuffix("\\").strip())
            if requirement.marker is None or requirement.marker.evaluate(environment):
                (specifier,) = requirement.specifier
                pins[requirement.name.lower()] = specifier.version
    return pins


def test_the_generated_pages_are_up_to_date_with_the_schemas():
    late = [path.name for path in reference.outdated()]
    assert not late, f"{', '.join(late)} differ from the schemas; run: {reference.COMMAND}"


def test_an_outdated_page_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "DOCS", tmp_path)
    for path, text in reference.pages().items():
        path.write_text(text)
    assert reference.outdated() == []
    (tmp_path / "config.md").write_text((tmp_path / "config.md").read_text() + "A key that is no more.\n")
    (tmp_path / "record.md").unlink()
    assert sorted(path.name for path in reference.outdated()) == ["config.md", "record.md"]


def test_every_key_that_a_config_may_have_is_in_the_reference():
    def leaves(data, path=""):
        if not isinstance(data, dict):
            return {path}
        return {leaf for key, value in data.items() for leaf in leaves(value, f"{path}.{key}" if path else key)}

    page = (ROOT / "docs/config.md").read_text()
    for config in sorted((ROOT / "config").glob("*.yaml")):
        for leaf in leaves(yaml.safe_load(config.read_text())):
            general = re.sub(r"^workloads\.[^.]+\.", "workloads.{name}.", leaf)
            general = re.sub(r"^grid\.stages\.[^.]+\.", "grid.stages.{stage}.", general)
            general = re.sub(r"^(ipa\.inputs|ipa\.adaptation\.loads)\.[^.]+\.", r"\1.{name}.", general)
            general = re.sub(r"^ipa\.batches\..*", "ipa.batches", general)
            assert f"`{general}`" in page, f"{config.name}: {leaf}"


def test_every_key_of_the_config_is_described_in_a_whole_sentence():
    # In YAML's {...} form, a comma ends a description that has no quotes around it.
    for row in reference.rows(config_schema()):
        description = row.schema.get("description", "")
        assert description.endswith("."), f"{row.path}: {description!r} in config/schemas/config.schema.yaml"


def test_allowed_values_are_told_as_the_schema_has_them():
    assert reference.allowed({"type": "integer", "minimum": 1, "maximum": 8}) == "integer, at least 1 and at most 8"
    assert reference.allowed({"type": ["number", "null"], "exclusiveMinimum": 0}) == "number, above 0 or null"
    assert reference.allowed({"enum": ["cpu", "cuda"]}) == "one of `cpu`, `cuda`"
    many = {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"type": "string"}}
    assert reference.allowed(many) == "list (not empty, no value twice), each text"
    assert reference.allowed({"oneOf": [{"type": "null"}, {"type": "object"}]}) == "mapping or null"


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("energy.gross_j", "J"),
        ("energy.net_j_per_request", "J/request"),
        ("energy.mean_w", "W"),
        ("service.latency.p99_s", "s"),
        ("service.throughput_rps", "requests/s"),
        ("cost.usd_per_1000_requests", "US$ per 1000 requests"),
        ("quality.sampler_cpu_s", "core seconds"),
        ("service.completed", ""),
    ],
)
def test_units_follow_from_names(path, unit):
    assert reference.unit(path) == unit


@pytest.mark.parametrize("page", READ, ids=_name)
def test_relative_links_lead_somewhere(page):
    for target in _LINK.findall(_FENCED.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{_name(page)} links to {target}"
        if anchor:
            assert anchor in _anchors(path), f"{_name(page)} links to {target}, and {_name(path)} has no such heading"


def test_every_flag_is_explained():
    flags = _table_cells("measuring.md", 0)
    assert set(MEANING) <= set(flags), f"docs/measuring.md lacks {sorted(set(MEANING) - set(flags))}"


def test_the_thresholds_of_the_gates_are_those_of_the_config():
    page = (ROOT / "docs/measuring.md").read_text()
    for key, schema in config_schema()["properties"]["gates"]["properties"].items():
        row = re.search(rf"^\| .* \| `gates\.{key}` \| (.+) \|$", page, re.MULTILINE)
        assert row, f"docs/measuring.md has no row for gates.{key}"
        assert row[1].removesuffix(" s") == f"{schema['default']:g}", f"default of gates.{key} in docs/measuring.md"


def test_the_files_in_the_docs_are_those_that_the_rules_make():
    named = set(
        re.findall(r"^\| `([^`]+)` \| [^|]+ \| `\w+` \|$", (ROOT / "docs/outputs.md").read_text(), re.MULTILINE)
    )
    assert named == _outputs_of_rules()


def test_the_columns_in_the_docs_are_those_of_the_tables():
    from ipa_energy.analysis import aggregate, coupling, effects, tables
    from ipa_energy.plan import COLUMNS
    from ipa_energy.record import Reading

    empty = tables.measurements_table(Reading((), ()), {"core_hour_usd": 0.04, "gpu_hour_usd": 2.5})
    text = (ROOT / "docs/outputs.md").read_text()
    for columns in (empty.columns, aggregate.METRICS, coupling.COLUMNS, effects.COLUMNS, COLUMNS):
        missing = [column for column in columns if f"`{column}`" not in text]
        assert not missing, f"docs/outputs.md lacks {missing}"


def test_the_columns_of_ipas_tables_are_in_the_docs():
    from ipa_energy.ipa import adaptation_study, composition_errors, live_report, measured_profile, simulation_check
    from ipa_energy.ipa.profile_report import ALLOCATION_COLUMNS

    text = (ROOT / "docs/ipa-outputs.md").read_text() + (ROOT / "docs/ipa.md").read_text()
    tables = (measured_profile.MORE_COLUMNS, adaptation_study.COLUMNS, live_report.COLUMNS, live_report.ERROR_COLUMNS)
    cells = {"pipeline", "workload", "host", "weights", "meters"}  # told as "the cell"
    for columns in (*tables, ALLOCATION_COLUMNS, composition_errors.COLUMNS, simulation_check.ERROR_COLUMNS):
        known = [column.removesuffix("_lo").removesuffix("_hi") for column in columns if column not in cells]
        missing = [column for column in known if f"`{column}`" not in text]
        assert not missing, f"docs/ipa-outputs.md lacks {missing}"


def test_the_columns_of_the_tables_behind_the_verdict_are_in_the_docs():
    from ipa_energy.analysis import evidence, generality, joint, knob_variance, objectives, saving_rows, tradeoff

    text = (ROOT / "docs/verdict-tables.md").read_text()
    cells = {"pipeline", "workload", "host", "weights", "meters"}
    sides = re.compile(r"(baseline|choice)(_accuracy|_latency_p99_s|_cost|_energy_j_per_request)")
    tables = (evidence.MATCHED, evidence.PARTIAL, evidence.LEFT, joint.SUMMARY_COLUMNS, tradeoff.COLUMNS)
    tables += (tradeoff.MEMBER_COLUMNS, objectives.COLUMNS, objectives.SUFFICIENT_COLUMNS, saving_rows.COLUMNS)
    for columns in (*tables, knob_variance.COLUMNS, generality.COLUMNS):
        known = {sides.sub(r"\1", column) for column in columns if column not in cells}
        bounds = {c for c in known if c.removesuffix("_lo").removesuffix("_hi") in known - {c}}
        missing = [column for column in sorted(known - bounds) if f"`{column}`" not in text]
        assert not missing, f"docs/verdict-tables.md lacks {missing}"


def test_the_number_of_measurements_of_each_config_is_told():
    told = dict(
        re.findall(r"^\| `([\w-]+\.yaml)` \| [^|]+ \| (\d+) \|$", (ROOT / "config/README.md").read_text(), re.M)
    )
    plans = {
        path.name: len(load_study(yaml.safe_load(path.read_text())).plan) for path in (ROOT / "config").glob("*.yaml")
    }
    assert {name: int(number) for name, number in told.items()} == plans


def test_conda_users_get_the_versions_of_the_lock_file():
    *_, from_pip = yaml.safe_load((ROOT / "environment.yaml").read_text())["dependencies"]
    pins = _pins()
    wanted = [Requirement(line) for line in from_pip["pip"]]
    assert {str(r) for r in wanted} == {f"{r.name}=={pins[r.name.lower()]}" for r in wanted}


def test_conda_users_get_all_dependencies():
    *_, from_pip = yaml.safe_load((ROOT / "environment.yaml").read_text())["dependencies"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {Requirement(line).name.lower() for line in project["dependencies"]}
    assert needed == {Requirement(line).name.lower() for line in from_pip["pip"]}


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"] == ipa_energy.__version__
    assert citation["license"] == project["license"]
    assert f"## {ipa_energy.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_citation_has_what_the_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["type"] == "software"
    (paper,) = citation["references"]
    assert "IPA" in paper["title"]
    assert any("2308.12871" in entry["value"] for entry in paper["identifiers"])


@pytest.mark.parametrize("page", READ, ids=_name)
def test_no_figure_is_left_to_be_filled_in(page):
    assert not re.search(r"@[A-Z_]{3,}@|to be measured|TBD", page.read_text())

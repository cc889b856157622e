"""What comes from elsewhere runs no code and writes nowhere else; nothing of ours listens on a network."""

import ast
import html.parser
import json
import os
import pickle
import re
import stat
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from snakemake.common.configfile import load_configfile

from conftest import ROOT, make_checkout
from ipa_energy.config_schema import config_schema
from ipa_energy.ipa import lstm
from ipa_energy.lock import measurement_lock
from ipa_energy.names import LABEL, NAME, as_label, printable
from ipa_energy.owner import owner_pid
from ipa_energy.pipelines import zoo
from ipa_energy.pipelines.base import Weights
from ipa_energy.pipelines.weights import default_weights, load_model, weights_file
from ipa_energy.record import read_records, write_record
from ipa_energy.serving import preload
from ipa_energy.serving.processes import connect_to_server, server_address
from ipa_energy.study import ConfigError, load_study
from meter_fixtures import STUBS, unshare_mount
from synthetic_records import synthetic_study, video_grid, write_study
from tiny import descendants, tiny_config

BAD_NAMES = (
    *("a;b", "../x", "..", ".a", "-a", "a/b", "a\\b", "a b", "$(id)", "a`b", "a|b", "a&b", "a>b", "*", "~", "{x}"),
    *("", "a\n", "a\nb", "a\x00b", "a\x1b[31m", "<b>", "a'b", 'a"b', "x" * 300),
)


class Evil:
    """Unpickled, it leaves a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


# Weights


@pytest.mark.parametrize("write", [torch.save, lambda thing, file: file.write_bytes(pickle.dumps(thing, protocol=2))])
def test_a_pickle_in_the_place_of_weights_runs_nothing(tmp_path, write):
    mark = tmp_path / "ran"
    file = weights_file("resnet18", tmp_path)
    write({"fc.weight": Evil(mark)}, file)
    with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights_only|Unsupported"):
        load_model("classify", "resnet18", Weights("pretrained", None, tmp_path))
    assert not mark.exists()
    torch.load(file, weights_only=False) if write is torch.save else pickle.loads(file.read_bytes())
    assert mark.exists(), "the file was harmless"


def test_a_pickle_in_the_place_of_a_predictor_runs_nothing(tmp_path):
    mark, file, settings = tmp_path / "ran", tmp_path / "predictor.pt", tmp_path / "predictor.json"
    torch.save({"weight_ih_l0": Evil(mark)}, file)
    settings.write_text("{}")
    with pytest.raises(ValueError, match="predictor"):
        lstm.load(file, settings)
    assert not mark.exists()


def test_published_weights_come_over_https_and_carry_a_hash():
    for task in ("detect", "classify"):
        for variant in zoo.accuracies(task):
            assert re.fullmatch(r"https://download\.pytorch\.org/\S+-[0-9a-f]{8,}\.pth", default_weights(variant).url)


# Names in the config


def _ipa(config, **section):
    config["ipa"] = {"inputs": {"one": {"rate_rps": 1}}} | section


NAMED = {
    "experiment": lambda c, name: c.update(experiment=name),
    "pipeline": lambda c, name: c.update(pipeline=name),
    "hosts": lambda c, name: c.update(hosts={name: None}),
    "grid.stages": lambda c, name: c["grid"]["stages"].update({name: c["grid"]["stages"].pop("detect")}),
    "grid.stages.detect.variant": lambda c, name: c["grid"]["stages"]["detect"].update(variant=[name]),
    "grid.platform.device": lambda c, name: c["grid"].update(platform={"device": [name]}),
    "grid.platform.precision": lambda c, name: c["grid"].update(platform={"precision": [name]}),
    "workloads": lambda c, name: c.update(workloads={name: {"kind": "saturated"}}),
    "meters.use": lambda c, name: c.update(meters={"use": [name]}),
    "external_logs": lambda c, name: c.update(external_logs={name: {"files": "log.csv"}}),
    "analysis.energy_from": lambda c, name: c["analysis"].update(energy_from=name),
    "ipa.inputs": lambda c, name: c.update(ipa={"inputs": {name: {"rate_rps": 1}}}),
    "ipa.batches": lambda c, name: _ipa(c, batches={name: [1]}),
    "ipa.fa2_high": lambda c, name: _ipa(c, fa2_high={"detect": name}),
    "ipa.adaptation.loads": lambda c, name: _ipa(c, adaptation={"loads": {name: {"pattern": "bursty"}}}),
    "ipa.adaptation.methods": lambda c, name: _ipa(c, adaptation={"methods": [name]}),
    "ipa.adaptation.predictors": lambda c, name: _ipa(c, adaptation={"predictors": [name]}),
    "ipa.adaptation.live.load": lambda c, name: _ipa(c, adaptation={"live": {"load": name}}),
}


@pytest.mark.parametrize("key", NAMED)
def test_no_name_in_a_config_means_anything_to_a_shell_or_a_file_system(key):
    for name in BAD_NAMES:
        config = tiny_config()
        NAMED[key](config, name)
        with pytest.raises(ConfigError) as refused:
            load_study(config)
        lines = [line for line in str(refused.value).splitlines() if key in line]
        assert lines, f"{name!r}: {refused.value}"
        assert any(repr(name)[:40] in line for line in lines)
        assert printable(str(refused.value).replace("\n", " ")) == str(refused.value).replace("\n", " ")


def test_every_name_that_a_config_gives_itself_is_held_against_a_pattern():
    """A section of free names that is new has to say which it takes, and to join the list above."""

    def free(schema, path=""):
        for key, sub in schema.get("properties", {}).items():
            yield from free(sub, f"{path}.{key}" if path else key)
        extra = schema.get("additionalProperties")
        if isinstance(extra, dict):
            yield path, schema.get("propertyNames", {}).get("pattern")
            yield from free(extra, f"{path}.*")

    found = dict(free(config_schema()))
    assert {path for path in found if "*" not in path} <= {*NAMED, "external_logs"}
    checked_by_code = {"grid.stages", "ipa.batches", "ipa.fa2_high"}
    # File names, compared with those of the log's files and used for nothing else.
    checked_by_code |= {"external_logs.*.time.start_utc"}
    assert {path for path, pattern in found.items() if pattern is None} == checked_by_code


def test_the_workflow_refuses_such_a_name_before_any_job(tmp_path):
    checkout = make_checkout(tmp_path / "checkout")
    config = tiny_config(workloads={"a; touch ran": {"kind": "saturated"}})
    (checkout.folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    output = checkout.run("-n", expect=1)
    assert "workloads is 'a; touch ran'; allowed: text that matches" in output
    assert not (checkout.folder / "ran").exists()


def test_a_config_is_code_to_snakemake_and_data_to_us(tmp_path):
    """As docs/security.md says: who sends a config to be run sends a program."""
    mark, file = tmp_path / "ran", tmp_path / "config.yaml"
    file.write_text(f"__use_yte__: true\nexperiment: ?open({str(mark)!r}, 'w').name\n")
    with pytest.raises(ConfigError, match=r"experiment is .[?]open"):
        load_study(tiny_config() | yaml.safe_load(file.read_text()))
    assert not mark.exists()
    load_configfile(str(file))
    assert mark.exists()


# Records from elsewhere


@pytest.fixture
def record():
    return synthetic_study("coupled", list(video_grid())[:1], blocks=1)[0]


def _place(record, path):
    *parents, last = path.split("/")
    for key in parents:
        record = record[int(key) if key.isdigit() else key]
    return record, last


@pytest.mark.parametrize(
    "path",
    [
        *("identity/experiment", "identity/configuration_id", "identity/workload", "identity/repetition"),
        *("identity/configuration/pipeline", "identity/configuration/stages/0/stage"),
        *("identity/configuration/stages/1/variant", "identity/configuration/platform/device"),
        *("provenance/host", "provenance/machine", "energy/domains/0/domain", "energy/domains/0/meter"),
    ],
)
def test_a_record_with_a_name_that_means_something_elsewhere_is_refused_by_name(tmp_path, record, path):
    part, key = _place(record, path)
    for name in ("../../x", "<script>", "a\x1b]0;b\x07", "=cmd()", "$a$", "a\nb", ""):
        part[key] = name
        write_record(tmp_path / "r.json", record)
        (line,) = read_records([tmp_path / "r.json"]).refused
        assert line.startswith(f"{tmp_path / 'r.json'}: {re.sub('/[0-9]+', '', path)} is {name!r}; allowed: ")


def test_a_host_with_a_strange_name_is_measured_under_one_that_records_may_carry():
    assert as_label("node-7.example.org") == "node-7.example.org"
    for name in ("<b>", "", "\x1b[31m", "a$b", "x" * 400):
        assert LABEL.fullmatch(as_label(name))


def test_every_id_that_a_config_can_lead_to_is_a_name():
    config = tiny_config(experiment="a" * 63, blocks=2, anchor=True)
    for stage in ("detect", "classify"):
        config["grid"]["stages"][stage] |= {"variant": list(zoo.accuracies(stage)), "batch": [1]}
    study = load_study(config)
    assert all(NAME.fullmatch(name) for measurement in study.plan for name in measurement.key)


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m$x_{"


class _Page(html.parser.HTMLParser):
    """Elements, and attributes that run code, of a page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.handlers = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.handlers += [name for name, value in attrs if name.startswith("on") or "javascript:" in (value or "")]


def test_texts_of_alien_records_stay_texts_in_pages_figures_and_on_the_terminal(tmp_path):
    """Through the real workflow: every free text of a folder of records says what it would run."""
    checkout = make_checkout(tmp_path / "checkout")
    records = synthetic_study("coupled", list(video_grid())[::4], blocks=2)
    records += synthetic_study("coupled", list(video_grid())[1:2], blocks=2, state="failed", reason=HOSTILE)
    for one in records:
        one["provenance"] |= {"cpu": HOSTILE, "kernel": HOSTILE}
        if one["energy"]:
            one["energy"] |= {"boundary": HOSTILE}
            for domain in one["energy"]["domains"]:
                domain |= {"boundary": HOSTILE, "method": HOSTILE}
            one["energy"]["unavailable"] = [{"meter": HOSTILE, "reason": HOSTILE}]
    write_study(tmp_path / "records", records)
    evil = json.loads(json.dumps(records[0]))
    evil["identity"]["workload"] = "../../../escaped"
    write_record(tmp_path / "records/evil.json", evil)
    checkout.configure(records=str(tmp_path / "records"))
    output = checkout.run()
    results = checkout.folder / "results/tiny"
    assert "evil.json" in (results / "refused.csv").read_text()
    assert not list(tmp_path.rglob("*escaped*"))
    for page in ("explorer.html", "coupling/pairwise.html"):
        text = (results / page).read_text()
        found = _Page(text)
        assert found.elements.count("script") == {"explorer.html": 3, "coupling/pairwise.html": 0}[page]
        assert "img" not in found.elements
        assert not found.handlers
    for shown in ("summary.txt", "answer.md"):
        text = (results / shown).read_text()
        assert "\x1b" not in text
        assert "<script" not in text
        assert "<img" not in text
    assert "\x1b[31m" not in output


def test_what_the_lock_says_of_its_holder_does_nothing_to_a_terminal(tmp_path, monkeypatch):
    lock = tmp_path / "lock"
    monkeypatch.setenv("IPA_ENERGY_LOCK", str(lock))
    said = []

    class EnoughError(Exception):
        pass

    def enough():
        if said:
            raise EnoughError

    with measurement_lock("one", print, lambda: None):
        facts = json.loads(lock.read_text())
        lock.write_text(json.dumps(facts | {"what": HOSTILE}))
        with pytest.raises(EnoughError), measurement_lock("two", said.append, enough):
            pass
    assert "\x1b" not in said[0] and "alert(1)" in said[0]


# The source


FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "os.system", "os.popen", "tempfile.mktemp", "subprocess.getoutput"),
    *("subprocess.getstatusoutput", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all"),
    *("pd.read_pickle", "joblib.load", "joblib.dump", "torch.hub.load", "torch.hub.load_state_dict_from_url"),
    *("socket.create_server", "socket.create_connection"),
}
FORBIDDEN_IMPORTS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "socketserver", "http.server", "xmlrpc"}


def complaints(source):
    """Calls and imports in Python source that would run or believe what comes from elsewhere."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"line {node.lineno}: import {name}" for name in names if name in FORBIDDEN_IMPORTS)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in FORBIDDEN_CALLS or given.get("shell", "False") != "False":
            yield f"line {node.lineno}: {name}"
        if name == "torch.load" and given.get("weights_only") != "True":
            yield f"line {node.lineno}: torch.load without weights_only"
        if given.get("allow_pickle", "False") != "False":
            yield f"line {node.lineno}: allow_pickle"
        if name.endswith((".extract", ".extractall")) and given.get("filter") != "'data'" and ".str." not in name:
            yield f"line {node.lineno}: {name} without filter"
        if "AF_INET" in ast.unparse(node):
            yield f"line {node.lineno}: a socket of a network"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "subprocess.run('ls', shell=True)",
        "os.system(name)",
        "yaml.load(text, Loader=yaml.Loader)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "tar.extractall(folder)",
        "socket.socket(socket.AF_INET)",
    ],
)
def test_the_look_at_the_source_finds_what_it_looks_for(source):
    assert list(complaints(source))


def test_no_source_of_ours_runs_or_believes_what_comes_from_elsewhere():
    found = []
    for path in [*(ROOT / "workflow_scripts").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        found += [f"{path.relative_to(ROOT)}: {one}" for one in complaints(path.read_text())]
    assert not found, "\n".join(found)


def test_no_rule_has_a_shell_or_a_run_block():
    for path in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")]:
        assert not re.search(r"^\s+(shell|run):", path.read_text(), re.MULTILINE), path


# Sockets and memory


@dataclass
class Watch:
    """What all processes below one of ours hold, looked at again and again while the block runs."""

    root: int
    network: set = field(default_factory=set)
    unix: set = field(default_factory=set)
    shared: dict = field(default_factory=dict)
    looks: int = 0
    commands: set = field(default_factory=set)

    def look(self):
        self.looks += 1
        for pid in [self.root, *descendants(self.root)]:
            try:
                process = psutil.Process(pid)
                command = " ".join(process.cmdline())
                for one in process.net_connections(kind="inet"):
                    # Snakemake's plugin for Slurm asks that at its start, on a host that has it.
                    asks_slurm = command == "scontrol show config" and one.raddr
                    if not asks_slurm:
                        self.network.add((command[:120], one.type, one.laddr, one.status))
                for one in process.net_connections(kind="unix"):
                    if one.laddr and not one.laddr.startswith(("@", "\0")):
                        self.unix.add(one.laddr)
                self.commands.add(command)
            except psutil.Error:
                continue
        for path in Path("/dev/shm").rglob("*"):
            try:
                self.shared[str(path)] = path.lstat()
            except OSError:
                continue

    def __enter__(self):
        self._before = {str(path) for path in Path("/dev/shm").rglob("*")}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)
        self._thread.start()
        return self

    def _go(self):
        while not self._over.wait(0.05):
            self.look()

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def assert_private(self):
        assert self.looks > 20
        assert not self.network
        for address in self.unix:
            folder = Path(address).parent.stat()
            assert stat.S_IMODE(folder.st_mode) & 0o077 == 0, address
        for path, facts in self.shared.items():
            if path in self._before or facts.st_uid != os.getuid():
                continue
            # joblib's folders are empty until it closes them; what matters is who may put something into them.
            others = 0o022 if stat.S_ISDIR(facts.st_mode) else 0o077
            assert stat.S_IMODE(facts.st_mode) & others == 0, path


def test_the_watch_sees_a_port_that_listens_and_a_socket_in_an_open_folder(tmp_path):
    code = (
        "import socket, sys, time\n"
        "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n"
        f"u = socket.socket(socket.AF_UNIX); u.bind({str(tmp_path / 'open.sock')!r})\n"
        "time.sleep(3)"
    )
    tmp_path.chmod(0o755)
    with subprocess.Popen([sys.executable, "-c", code]) as child, Watch(child.pid) as watch:
        child.wait()
    assert watch.network and str(tmp_path / "open.sock") in watch.unix
    with pytest.raises(AssertionError):
        watch.assert_private()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a detector and a classifier want a core each")
def test_nothing_listens_on_a_network_while_the_workflow_measures_adapts_live_and_judges(tmp_path):
    checkout = make_checkout(tmp_path / "checkout")
    live = {"load": "small", "seconds": 10, "first": 20, "methods": ["ipa"]}
    checkout.configure(
        meters={"use": ["nvml", "rapl", "zeus", "estimate"]},
        ipa={
            "inputs": {"some": {"rate_rps": 2, "sla_s": 5}},
            "replicas": 1,
            "adaptation": {
                "loads": {"small": {"pattern": "bursty", "scale": 0.1, "seconds": 60}},
                "predictors": ["reactive"],
                "seeds": 1,
                "live": live,
            },
        },
    )
    run = checkout.start("results/tiny/adaptation/live/ipa.run1.json", "results/tiny/verdict.json")
    with Watch(run.pid) as watch:
        output, _ = run.communicate(timeout=600)
    assert run.returncode == 0, output[-4000:]
    for module in ("ipa_energy.measurement", "ipa_energy.live", "ipa_energy.profiling", "ipa_energy.serving.preload"):
        assert any(module in command for command in watch.commands), module
    watch.assert_private()


@pytest.mark.skipif(util.find_spec("zeus") is None, reason="Zeus (the extra `zeus`) is not installed")
def test_zeus_and_its_helpers_listen_on_no_network():
    command = unshare_mount()
    if isinstance(command, str):
        pytest.skip(f"no mount namespace of our own for Zeus's fixed paths: {command}")
    driver = [*command, sys.executable, str(STUBS / "zeus_driver.py"), "rapl", "3", "31"]
    path = os.pathsep.join([str(STUBS.parent), os.environ.get("PYTHONPATH", "")])
    child = subprocess.Popen(driver, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": path})
    with child, Watch(child.pid) as watch:
        assert child.wait(timeout=120) == 0
    assert any("zeus_server" in command for command in watch.commands)
    watch.assert_private()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act for another user")
def test_another_user_cannot_have_the_preload_server_start_anything(tmp_path):
    mark = tmp_path / "ran"
    tmp_path.chmod(0o777)
    ours = connect_to_server(["json"], "test_security")
    address = server_address(owner_pid(), "test_security")
    message = {"target": "pathlib:Path.touch", "arguments": str(mark)}
    code = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s.settimeout(10)\n"
        f"s.connect('\\0' + {address!r})\n"
        "try:\n"
        f"    socket.send_fds(s, [{json.dumps(message).encode()!r}], [1, 2])\n"
        "    print('answer', s.recv(100))\n"
        "except OSError as error:\n"
        "    print('refused', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(("refused", "answer b''"))
    assert not mark.exists()
    assert preload.peer_uid(ours) == 0
    ours.close()


def test_what_workflows_of_all_users_share_is_safe_from_links(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("kept")
    link = tmp_path / "lock"
    link.symlink_to(victim)
    monkeypatch.setenv("IPA_ENERGY_LOCK", str(link))
    with pytest.raises(OSError, match=r"symbolic links|Too many"), measurement_lock("one", print, lambda: None):
        pass
    assert victim.read_text() == "kept"

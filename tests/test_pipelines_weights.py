"""Deciding on weights, fetching and loading them: real files, torch hub's own download and hash check, no internet."""

import hashlib
from pathlib import Path

import pytest
import torch
from torchvision import models

from ipa_energy.pipelines import weights
from ipa_energy.pipelines.base import Weights
from ipa_energy.pipelines.weights import WeightsError, decide, load_model

GRID = {"detect": ["ssdlite320_mobilenet_v3_large"], "classify": ["squeezenet1_1"]}
FROZEN = "fasterrcnn_mobilenet_v3_large_320_fpn"


def random(seed=0) -> Weights:
    return Weights("random", seed, Path("nowhere"))


def states_equal(one, other) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == name2 and torch.equal(a, b) for (name, a), (name2, b) in pairs)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Put randomly initialised weights of the variants where their URLs lead, under names with the right hash."""
    remote = tmp_path / "server"
    remote.mkdir()

    def publish(variant: str, seed: int = 1) -> Path:
        task = "detect" if variant in models.list_models(module=models.detection) else "classify"
        plain = remote / variant
        torch.save(load_model(task, variant, random(seed)).state_dict(), plain)
        digest = hashlib.sha256(plain.read_bytes()).hexdigest()
        file = plain.rename(remote / f"{variant}-{digest[:8]}.pth")
        monkeypatch.setattr(weights.default_weights(variant).value, "url", file.as_uri())
        return file

    return publish


@pytest.fixture
def offline(monkeypatch):
    """Send every download to a port on which nobody listens."""

    def unreachable(*variants: str) -> None:
        for variant in variants:
            url = f"http://127.0.0.1:9/models/{variant}-01234567.pth"
            monkeypatch.setattr(weights.default_weights(variant).value, "url", url)

    return unreachable


@pytest.mark.parametrize("variant", ["squeezenet1_1", "googlenet"])
def test_random_weights_depend_on_the_seed_alone(variant) -> None:
    torch.manual_seed(5)
    one = load_model("classify", variant, random(3))
    torch.manual_seed(6)
    assert states_equal(one, load_model("classify", variant, random(3)))
    assert not states_equal(one, load_model("classify", variant, random(4)))
    assert not one.training


def test_random_weights_leave_the_global_random_state_and_torch_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model("classify", "squeezenet1_1", random(3))
    assert torch.equal(torch.rand(3), expected)
    assert "get_state_dict" not in vars(models.SqueezeNet1_1_Weights)
    layer = torch.nn.Linear(2, 2)
    layer.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.ones(2)})
    assert layer.weight.sum() == 4


def test_random_and_pretrained_models_do_the_same_arithmetic(server, tmp_path) -> None:
    """Layer by layer, for a detector whose builder freezes batch norms only when given weights."""
    folder = tmp_path / "weights"
    server(FROZEN)
    weights.fetch(FROZEN, folder)
    pretrained = load_model("detect", FROZEN, Weights("pretrained", 0, folder))
    assert "FrozenBatchNorm2d" in str(pretrained)
    assert str(pretrained) == str(load_model("detect", FROZEN, random()))


def test_published_weights_are_fetched_checked_and_loaded(server, tmp_path) -> None:
    folder = tmp_path / "weights"
    files = [server(variant).name for variants in GRID.values() for variant in variants]
    decision = decide(GRID, "auto", folder, seed=9)
    assert decision["weights"] == "pretrained"
    assert decision["seed"] is None
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)
    for task, (variant,) in GRID.items():
        loaded = load_model(task, variant, Weights("pretrained", 9, folder))
        assert states_equal(loaded, load_model(task, variant, random(1)))
        assert not loaded.training


def test_files_in_the_folder_need_no_server(server, tmp_path) -> None:
    file = server("squeezenet1_1")
    folder = tmp_path / "weights"
    folder.mkdir()
    file.rename(folder / file.name)
    assert decide({"classify": ["squeezenet1_1"]}, "pretrained", folder, 0)["weights"] == "pretrained"


def test_a_download_with_the_wrong_content_is_refused(server, tmp_path) -> None:
    file = server("squeezenet1_1")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    folder = tmp_path / "weights"
    with pytest.raises(WeightsError, match=r"squeezenet1_1.*not in the folder.*invalid hash value"):
        decide({"classify": ["squeezenet1_1"]}, "pretrained", folder, 0)
    assert list(folder.iterdir()) == []


def test_a_damaged_file_is_replaced_by_a_whole_one_or_refused(server, tmp_path) -> None:
    file = server("squeezenet1_1")
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / file.name).write_bytes(b"damaged")
    weights.fetch("squeezenet1_1", folder)
    assert (folder / file.name).read_bytes() == file.read_bytes()
    (folder / file.name).write_bytes(b"damaged")
    file.unlink()
    with pytest.raises(WeightsError, match="are damaged"):
        weights.fetch("squeezenet1_1", folder)
    assert (folder / file.name).read_bytes() == b"damaged"


def test_offline_the_whole_run_takes_random_weights_and_the_log_says_why(server, offline, tmp_path, capsys) -> None:
    server(GRID["detect"][0])
    offline(*GRID["classify"])
    decision = decide(GRID, "auto", tmp_path / "weights", seed=9)
    assert (decision["weights"], decision["seed"]) == ("random", 9)
    assert "pretrained weights of squeezenet1_1 are not in the folder" in capsys.readouterr().out


def test_the_first_failure_ends_the_downloads(offline, tmp_path, capsys) -> None:
    offline("ssdlite320_mobilenet_v3_large", "squeezenet1_1")
    decide(GRID, "auto", tmp_path, seed=9)
    assert capsys.readouterr().out.count("Downloading") == 1


def test_pretrained_weights_that_cannot_be_had_are_an_error_that_says_what_to_do(offline, tmp_path) -> None:
    offline("squeezenet1_1")
    with pytest.raises(WeightsError) as caught:
        decide({"classify": ["squeezenet1_1"]}, "pretrained", tmp_path, seed=9)
    for part in ("squeezenet1_1", "http://127.0.0.1:9/models/", str(tmp_path), "squeezenet1_1-01234567.pth"):
        assert part in str(caught.value)


def test_random_weights_are_asked_of_nobody(tmp_path) -> None:
    assert decide(GRID, "random", tmp_path / "weights", 4) == {
        "weights": "random",
        "seed": 4,
        "reason": "random weights were asked for",
    }
    assert not (tmp_path / "weights").exists()


def test_another_wish_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'best'.*auto, pretrained, random"):
        decide(GRID, "best", "nowhere", 0)


def test_the_decision_is_the_same_whichever_variants_led_to_it(offline, server, tmp_path) -> None:
    offline("ssdlite320_mobilenet_v3_large", "resnet18")
    assert decide(GRID, "auto", tmp_path, 9) == decide({"classify": ["resnet18"]}, "auto", tmp_path, 9)
    server("squeezenet1_1")
    server("shufflenet_v2_x0_5")
    one, other = ["squeezenet1_1"], ["shufflenet_v2_x0_5", "squeezenet1_1"]
    assert decide({"classify": one}, "auto", tmp_path, 9) == decide({"classify": other}, "pretrained", tmp_path, 9)


def test_a_provided_variant_is_identified_by_what_its_weights_are(server, tmp_path) -> None:
    random_weights = weights.provide("squeezenet1_1", {"weights": "random", "seed": 4, "reason": ""}, tmp_path / "w")
    assert random_weights == {"variant": "squeezenet1_1", "weights": "random", "seed": 4}
    assert not (tmp_path / "w").exists()
    file = server("squeezenet1_1")
    assert weights.provide("squeezenet1_1", {"weights": "pretrained", "seed": None, "reason": ""}, tmp_path / "w") == {
        "variant": "squeezenet1_1",
        "weights": "pretrained",
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }


def test_loading_never_downloads_and_names_the_missing_file(server, tmp_path) -> None:
    file = server("squeezenet1_1")
    with pytest.raises(FileNotFoundError, match=rf"{file.name}.*--forcerun prepare_weights"):
        load_model("classify", "squeezenet1_1", Weights("pretrained", 0, tmp_path / "weights"))
    assert not (tmp_path / "weights").exists()


def test_a_weights_file_that_would_run_code_is_refused(server, tmp_path) -> None:
    file = server("squeezenet1_1")
    torch.save({"features.0.weight": Path("anything but tensors")}, file)
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        load_model("classify", "squeezenet1_1", Weights("pretrained", 0, file.parent))


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'best'.*pretrained, random"):
        load_model("classify", "squeezenet1_1", Weights("best", 0, Path("nowhere")))

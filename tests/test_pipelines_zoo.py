"""Pipelines by name and the table of published accuracies."""

import re
import subprocess
import sys

import pytest

from ipa_energy import pipelines
from ipa_energy.pipelines import zoo


def test_pipelines_are_found_by_name() -> None:
    assert pipelines.names() == ("video",)
    video = pipelines.get("video")
    assert (video.name, video.stage_names) == ("video", ("detect", "classify"))


def test_an_unknown_pipeline_is_refused_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"'audio'.*video"):
        pipelines.get("audio")


def test_an_unknown_stage_is_refused_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"'track'.*detect, classify"):
        pipelines.get("video").variants("track")


def test_reading_a_pipeline_and_planning_its_frames_loads_no_framework() -> None:
    code = (
        "import sys; from ipa_energy import pipelines; from ipa_energy.pipelines import frames, weights\n"
        "video = pipelines.get('video'); video.variants('detect'); video.buffers({'crops_per_frame': 1})\n"
        "frames.frames_digest({'frames': {'source': 'bundled'}, 'seed': 0})\n"
        "weights.decide({'detect': ['ssd300_vgg16']}, 'random', 'nowhere', 0)\n"
        "print(sorted({'torch', 'torchvision', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_table_is_that_of_the_installed_torchvision() -> None:
    assert zoo.entries() == zoo.installed_entries(), "run python -m ipa_energy.pipelines.zoo --write"


def test_writing_the_entries_gives_the_table(tmp_path) -> None:
    zoo.write(tmp_path / "zoo.csv", zoo.entries())
    assert (tmp_path / "zoo.csv").read_bytes() == zoo.TABLE.read_bytes()


def test_every_task_has_its_models_and_every_file_its_hash() -> None:
    tasks = [entry.task for entry in zoo.entries()]
    assert (tasks.count("detect"), tasks.count("classify")) == (12, 80)
    assert all(re.search(r"-[0-9a-f]{8,}\.pth$", entry.file) for entry in zoo.entries())


def test_accuracies_are_the_published_fractions_with_their_source() -> None:
    resnet18 = zoo.accuracies("classify")["resnet18"]
    assert resnet18.value == 0.69758
    assert resnet18.metric == "acc@1"
    assert re.fullmatch(
        r"torchvision \d+\.\d+ weights ResNet18_Weights.IMAGENET1K_V1, acc@1 on ImageNet-1K", resnet18.source
    )
    assert zoo.accuracies("detect")["ssdlite320_mobilenet_v3_large"].value == 0.213
    assert all(0 < accuracy.value < 1 for task in ("detect", "classify") for accuracy in zoo.accuracies(task).values())


def test_the_map_of_a_detector_of_persons_only_has_a_metric_of_its_own() -> None:
    metrics = {variant: accuracy.metric for variant, accuracy in zoo.accuracies("detect").items()}
    assert metrics.pop("keypointrcnn_resnet50_fpn") == "box_map_person"
    assert set(metrics.values()) == {"box_map"}

"""The stages of the pipeline `video`, on small real models with seeded random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from ipa_energy import pipelines
from ipa_energy.configuration import StageKnobs
from ipa_energy.pipelines import regions, video_stages
from ipa_energy.pipelines.base import StageSetup, Weights
from ipa_energy.pipelines.frames import make_frames
from ipa_energy.pipelines.weights import default_weights, load_model

VIDEO = pipelines.get("video")
FINDS_MANY = "ssdlite320_mobilenet_v3_large"  # with random weights, every anchor is above its threshold
FINDS_NOTHING = "fasterrcnn_mobilenet_v3_large_320_fpn"  # with random weights, no score reaches its threshold
WEIGHTS = Weights("random", 11, Path("nowhere"))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Frames as replicas see them: mapped read-only."""
    path = tmp_path_factory.mktemp("frames") / "frames.npy"
    np.save(path, make_frames("bundled", 4, 320, 240, seed=3))
    return np.load(path, mmap_mode="r")


def setup(stage, variant, crops=2, precision="fp32"):
    return StageSetup(StageKnobs(stage, variant, 3, 1, 1), "cpu", precision, WEIGHTS, crops)


def rows(*values):
    return np.array(values, dtype=np.uint32)


def output(stage, slots, crops=2, fill=77):
    buffer = VIDEO.buffers({"crops_per_frame": crops})[VIDEO.stage_names.index(stage)]
    return np.full((slots, *buffer.shape), fill, dtype=buffer.dtype)


def detect(frames, variant, sources, slots, *, crops=2, precision="fp32"):
    crops_out = output("detect", 6, crops)
    runner = VIDEO.build_runner(setup("detect", variant, crops, precision=precision), frames, crops_out)
    return crops_out, runner(rows(*sources), rows(*slots))


def classify(crops_in, variant, sources, slots, precision="fp32"):
    ids = output("classify", 6, crops_in.shape[1], fill=-1)
    runner = VIDEO.build_runner(setup("classify", variant, crops_in.shape[1], precision=precision), crops_in, ids)
    assert runner(rows(*sources), rows(*slots)) == 0
    return ids


def reference_crop(frame, region):
    """A crop by floating-point resampling, whatever the runner uses."""
    left, top, right, bottom = region
    image = torch.tensor(np.array(frame[top:bottom, left:right]), dtype=torch.float64).permute(2, 0, 1)
    return functional.interpolate(image[None], (224, 224), mode="bilinear", antialias=True)[0].numpy()


@pytest.fixture(scope="module")
def crops():
    """Crops of photographs, in slots of two."""
    return make_frames("bundled", 10, 224, 224, seed=4).transpose(0, 3, 1, 2).reshape(5, 2, 3, 224, 224).copy()


def test_detect_writes_the_given_slots_and_no_others(frames) -> None:
    crops_out, _ = detect(frames, FINDS_MANY, sources=(2, 0), slots=(5, 1))
    assert (crops_out[[0, 2, 3, 4]] == 77).all()
    assert all(crops_out[slot].std() > 10 for slot in (5, 1))


def sharpened(model):
    """The detector with heads so large that scores and boxes differ, which with random weights they hardly do."""
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(1e5)
    return model


def test_detect_crops_the_detections_with_the_highest_scores(frames) -> None:
    crops_out = output("detect", 2, crops=3)
    runner = video_stages.DetectRunner(setup("detect", FINDS_MANY, crops=3), frames, crops_out)
    sharpened(runner._placed.model)
    assert runner(rows(1), rows(0)) == 0
    model = sharpened(load_model("detect", FINDS_MANY, WEIGHTS))
    with torch.inference_mode():
        found = model([torch.tensor(np.array(frames[1])).permute(2, 0, 1) / 255])[0]
    assert found["scores"][0] > found["scores"][-1] + 0.1
    best_first = sorted(range(len(found["scores"])), key=lambda i: -float(found["scores"][i]))[:3]
    for place, index in enumerate(best_first):
        x1, y1, x2, y2 = found["boxes"][index].tolist()
        region = (int(np.floor(x1)), int(np.floor(y1)), int(np.ceil(x2)), int(np.ceil(y2)))
        # Rounding differs with the memory format and may move an edge by one pixel.
        assert np.abs(crops_out[0, place] - reference_crop(frames[1], region)).mean() < 3


def test_where_nothing_is_found_the_centre_of_the_frame_fills_up_and_is_counted(frames) -> None:
    crops_out, filled = detect(frames, FINDS_NOTHING, sources=(0, 3), slots=(2, 4))
    assert filled == 4
    for source, slot in ((0, 2), (3, 4)):
        expected = reference_crop(frames[source], regions.centre(320, 240))
        for crop in crops_out[slot]:
            assert np.abs(crop - expected).max() <= 1.5


def test_a_batch_gives_the_crops_that_its_frames_give_alone(frames) -> None:
    together, alone = output("detect", 3), output("detect", 3)
    runner = video_stages.DetectRunner(setup("detect", FINDS_MANY), frames, together)
    sharpened(runner._placed.model)
    runner(rows(0, 1, 2), rows(0, 1, 2))
    runner._outputs = torch.from_numpy(alone)
    for row in range(3):
        runner(rows(row), rows(row))
    assert np.abs(together.astype(int) - alone).mean(axis=(2, 3, 4)).max() < 3


def test_the_resampling_that_gpus_use_gives_the_crop_that_cpus_make(frames) -> None:
    region = torch.tensor(np.array(frames[0][20:220, 30:130])).permute(2, 0, 1)
    by_bytes = video_stages.resized(region).to(torch.int16)
    by_floats = video_stages.resized_as_float(region).to(torch.int16)
    assert by_floats.shape == (3, 224, 224)
    assert (by_bytes - by_floats).abs().max() <= 1


# Unlike most models, these tell pictures apart with random weights. Published at 224 px and at 240 px.
@pytest.mark.parametrize("variant", ["efficientnet_b0", "efficientnet_b1"])
def test_classify_gives_the_class_of_the_published_preprocessing(crops, variant) -> None:
    ids = classify(crops, variant, sources=(3, 1), slots=(0, 5))
    assert (ids[1:5] == -1).all()
    model, published = load_model("classify", variant, WEIGHTS), default_weights(variant).transforms()
    size = published.crop_size[0]
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (published.mean, published.std))
    for source, slot in ((3, 0), (1, 5)):
        for crop, class_id in zip(crops[source], ids[slot], strict=True):
            image = functional.interpolate(torch.tensor(crop)[None] / 255, (size, size), mode="bilinear")[0]
            with torch.inference_mode():
                scores = model(((image - mean) / std)[None])[0]
            # Near ties may be decided by rounding; anything else is another image or another preprocessing.
            assert scores[class_id] >= scores.max() - 1e-3 * (scores.max() - scores.min())


def test_a_batch_gives_the_classes_that_its_crops_give_alone(crops) -> None:
    together = classify(crops, "efficientnet_b0", sources=(0, 1, 2, 3, 4), slots=(4, 3, 2, 1, 0))
    assert len(np.unique(together[:5])) > 4
    for row in range(5):
        alone = classify(crops, "efficientnet_b0", sources=(row,), slots=(0,))
        np.testing.assert_array_equal(together[4 - row], alone[0])
    assert (together[5] == -1).all()


def test_runners_leave_their_inputs_alone(crops) -> None:
    before = crops.copy()
    classify(crops, "squeezenet1_1", sources=(0, 1), slots=(0, 1))
    np.testing.assert_array_equal(crops, before)


@pytest.mark.parametrize("variant", [FINDS_MANY, FINDS_NOTHING])
def test_detect_runs_in_bf16(frames, variant) -> None:
    crops_out, filled = detect(frames, variant, sources=(0, 1), slots=(0, 1), precision="bf16")
    assert filled == (4 if variant == FINDS_NOTHING else 0)
    assert crops_out[0].std() > 10


def test_classify_computes_in_bf16_when_asked(crops) -> None:
    runner = video_stages.ClassifyRunner(
        setup("classify", "squeezenet1_1", precision="bf16"), crops, output("classify", 6)
    )
    dtypes = []
    runner._placed.model.features[0].register_forward_hook(lambda *args: dtypes.append(args[2].dtype))
    runner(rows(0), rows(0))
    assert dtypes == [torch.bfloat16]


def test_reading_mapped_frames_warns_of_nothing(frames, recwarn) -> None:
    assert not frames.flags.writeable
    detect(frames, FINDS_MANY, sources=(0,), slots=(0,))
    assert [str(warning.message) for warning in recwarn] == []


def test_a_runner_describes_itself_for_the_record(crops) -> None:
    runner = VIDEO.build_runner(setup("classify", "resnet18"), crops, output("classify", 6))
    facts = json.loads(json.dumps(runner.describe()))
    assert facts == {
        "variant": "resnet18",
        "parameters": 11689512,
        "weights": "random",
        "weights_file": None,
        "seed": 11,
        "device": "cpu",
        "precision": "fp32",
        "memory_format": "channels_last",
        "threads": 1,
        "input_px": 224,
    }


def test_unknown_stages_variants_and_precisions_are_refused(crops) -> None:
    with pytest.raises(KeyError, match=r"'track'.*detect, classify"):
        VIDEO.build_runner(setup("track", "resnet18"), crops, crops)
    with pytest.raises(KeyError, match="'resnet18' is no model for detect"):
        VIDEO.build_runner(setup("detect", "resnet18"), crops, crops)
    with pytest.raises(ValueError, match=r"'fp8'.*fp32, bf16"):
        VIDEO.build_runner(setup("classify", "resnet18", precision="fp8"), crops, crops)

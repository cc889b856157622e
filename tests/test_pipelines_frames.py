"""The photographs that requests carry."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ipa_energy.pipelines import frames
from ipa_energy.pipelines.frames import FramesError, frames_digest, make_frames


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three pictures of one colour each, in names whose order isn't that of their making."""
    for name, colour in (("b.png", "red"), ("c.JPG", "lime"), ("a.webp", "blue")):
        Image.new("RGB", (90, 60), colour).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def settings(source, **changes):
    return {"frames": {"source": str(source), "count": 4, "width": 64, "height": 48} | changes, "seed": 7}


def colours(made) -> set[str]:
    return {("red", "green", "blue")[int(frame.mean(axis=(0, 1)).argmax())] for frame in made}


def test_bundled_frames_have_the_asked_shape_and_look_like_photographs() -> None:
    made = make_frames("bundled", 6, 160, 96, seed=1)
    assert (made.shape, made.dtype) == ((6, 96, 160, 3), np.uint8)
    # Noise has a neighbour correlation of 0 and flat colour no deviation; photographs have neither.
    for frame in made:
        grey = frame.astype(float).mean(axis=2)
        assert grey.std() > 10
        assert np.corrcoef(grey[:, 1:].ravel(), grey[:, :-1].ravel())[0, 1] > 0.7
    assert len({frame.tobytes() for frame in made}) == 6


def test_every_bundled_frame_is_a_cut_of_a_shipped_photograph() -> None:
    photographs = [np.asarray(Image.open(path).convert("RGB")) for path in frames._bundled()]
    histograms = [np.histogramdd(photo.reshape(-1, 3), bins=4, range=[(0, 256)] * 3)[0] > 0 for photo in photographs]
    for frame in make_frames("bundled", 6, 64, 48, seed=2):
        used = np.histogramdd(frame.reshape(-1, 3), bins=4, range=[(0, 256)] * 3)[0] / (64 * 48)
        # Resampling rings at edges, so that a little may fall outside the colours of the photograph.
        assert max(used[present].sum() for present in histograms) > 0.98


def test_frames_are_a_function_of_source_size_and_seed(folder) -> None:
    made = make_frames("bundled", 3, 64, 48, seed=5)
    np.testing.assert_array_equal(made, make_frames("bundled", 3, 64, 48, seed=5))
    assert (made != make_frames("bundled", 3, 64, 48, seed=6)).any()


def test_more_frames_leave_the_first_ones_as_they_were() -> None:
    np.testing.assert_array_equal(make_frames("bundled", 2, 64, 48, 5), make_frames("bundled", 5, 64, 48, 5)[:2])


def test_all_pictures_of_a_folder_take_turns(folder) -> None:
    assert colours(make_frames(str(folder), 3, 64, 48, seed=0)) == {"red", "green", "blue"}


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16", "1", "LA"])
def test_pictures_of_any_mode_become_rgb(tmp_path, mode) -> None:
    grey = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1)))
    grey = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    grey.save(tmp_path / ("x.tif" if mode in ("CMYK", "I;16") else "x.png"))
    made = make_frames(str(tmp_path), 1, 64, 48, seed=0)
    assert made.shape == (1, 48, 64, 3)
    assert 0.2 < made.mean() / 255 < 0.8
    assert made.std() > 20


def test_a_picture_is_turned_upright_as_its_exif_data_say(tmp_path) -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = (255, 0, 0)  # red above
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    upright = frames._read(tmp_path / "x.png")
    assert upright.getpixel((20, 35)) == (255, 0, 0)
    assert upright.getpixel((20, 5)) == (0, 0, 0)


def test_cuts_span_half_to_all_of_the_largest_region_at_seeded_places_and_are_mirrored_at_times() -> None:
    ramp = np.zeros((100, 400, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, 400).astype(np.uint8)  # column
    picture = Image.fromarray(ramp)
    made = np.stack([frames._cut(picture, 20, 10, np.random.default_rng(seed)) for seed in range(200)]).astype(float)
    first, last = made[:, 5, 0, 0], made[:, 5, -1, 0]
    spans = np.abs(last - first) / 255 * 400 * 20 / 19  # columns covered; the largest cut has 200
    assert 95 < spans.min() < 110
    assert 190 < spans.max() < 205
    assert 60 < (last < first).sum() < 140
    assert np.minimum(first, last).std() > 20


def test_unreadable_pictures_are_named_and_left_out(folder, capsys) -> None:
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    whole = (folder / "b.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert colours(make_frames(str(folder), 10, 64, 48, seed=0)) == {"red", "green", "blue"}
    printed = capsys.readouterr().out
    assert printed.count("broken.jpg: ") == 1
    assert printed.count("cut.png: ") == 1


def test_a_folder_without_a_readable_picture_is_refused(tmp_path) -> None:
    with pytest.raises(FramesError, match=r"holds no pictures.*\.jpg"):
        make_frames(str(tmp_path), 1, 64, 48, 0)
    (tmp_path / "x.png").write_text("no picture")
    with pytest.raises(FramesError, match="none of the 1 pictures"):
        make_frames(str(tmp_path), 1, 64, 48, 0)
    with pytest.raises(FramesError, match="no folder"):
        make_frames(str(tmp_path / "nowhere"), 1, 64, 48, 0)


def test_the_digest_follows_settings_seed_and_the_pictures_of_the_folder(folder) -> None:
    before = frames_digest(settings(folder))
    assert before == frames_digest(settings(folder))
    assert before != frames_digest(settings(folder, width=65))
    assert before != frames_digest(settings(folder) | {"seed": 8})
    assert before != frames_digest(settings("bundled"))
    (folder / "notes.txt").write_text("still no picture")
    assert before == frames_digest(settings(folder))
    Image.new("RGB", (90, 61), "red").save(folder / "d.png")
    assert before != frames_digest(settings(folder))


def test_the_script_saves_frames_and_their_hash_without_torch(tmp_path) -> None:
    script = Path(__file__).parents[1] / "workflow_scripts" / "prepare_frames.py"
    code = f"""
import runpy, sys
from types import SimpleNamespace as Space
frames = {{"source": "bundled", "count": 2, "width": 64, "height": 48}}
job = Space(log=["job.log"], params=Space(frames=frames, seed=3), output=Space(frames="f.npy", digest="f.json"))
runpy.run_path({str(script)!r}, init_globals={{"snakemake": job}}, run_name="__main__")
sys.exit("torch" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.json", "f.npy", "job.log"]
    saved = np.load(tmp_path / "f.npy", mmap_mode="r")
    np.testing.assert_array_equal(saved, make_frames("bundled", 2, 64, 48, 3))
    assert json.loads((tmp_path / "f.json").read_text())["sha256"] == hashlib.sha256(saved.tobytes()).hexdigest()

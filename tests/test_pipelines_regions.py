"""Which regions of a frame become crops."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ipa_energy.pipelines import regions

edges = st.floats(-1e4, 1e4) | st.sampled_from([float("nan"), float("inf"), -float("inf")])
detections = st.integers(0, 12).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float32, (n, 4), elements=edges.map(np.float32)),
        hnp.arrays(np.float32, (n,), elements=st.floats(0, 1, width=32) | st.just(float("nan"))),
    )
)


@given(detections, st.integers(1, 5), st.integers(3, 900), st.integers(3, 900))
def test_any_detections_give_at_most_the_limit_of_regions_inside_the_frame(found, limit, width, height) -> None:
    chosen = regions.best(*found, limit, width, height)
    assert len(chosen) <= limit
    for left, top, right, bottom in chosen:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert right - left >= min(regions.MIN_PX, width)
        assert bottom - top >= min(regions.MIN_PX, height)


@given(st.permutations([0.1, 0.3, 0.5, 0.7, 0.9]), st.integers(1, 7))
def test_the_highest_scores_come_first(scores, limit) -> None:
    boxes = np.array([[20 * i, 10, 20 * i + 15, 30] for i in range(5)], dtype=np.float32)
    chosen = regions.best(boxes, np.array(scores), limit, 100, 100)
    best_first = sorted(range(5), key=lambda i: -scores[i])[:limit]
    assert chosen == [(20 * i, 10, 20 * i + 15, 30) for i in best_first]


def test_a_detection_without_area_in_the_frame_counts_as_not_found_and_the_next_best_steps_in() -> None:
    nan = float("nan")
    boxes = np.array([[5, 5, 5, 50], [90, 5, 99, 4], [120, 0, 130, 10], [nan, 0, 9, 9], [0, 0, 20, 20]])
    assert regions.best(boxes, np.array([0.9, 0.8, 0.7, 0.6, 0.5]), 2, 100, 100) == [(0, 0, 20, 20)]


def test_edges_are_clamped_and_rounded_outwards() -> None:
    assert regions.best(np.array([[-5.5, 10.2, 30.1, 500.0]]), np.ones(1), 1, 100, 80) == [(0, 10, 31, 80)]


def test_a_detection_of_a_few_pixels_is_widened_and_stays_in_the_frame() -> None:
    corner = np.array([[98.0, 50.0, 99.0, 51.0]])
    assert regions.best(corner, np.ones(1), 1, 100, 100) == [(92, 46, 100, 54)]


def test_the_centre_is_the_largest_square_in_the_middle() -> None:
    assert regions.centre(640, 480) == (80, 0, 560, 480)
    assert regions.centre(33, 50) == (0, 8, 33, 41)

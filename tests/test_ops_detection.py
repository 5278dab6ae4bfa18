"""NonMaxSuppression against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import pytest

import loopnest
from tests.graphs import make_model, onnxruntime, tensor

INT64 = onnx.TensorProto.INT64


def nms_model(
    boxes: np.ndarray, scores: np.ndarray, limit: int, overlap: float, lowest: float | None, center: int
) -> onnx.ModelProto:
    constants = {"limit": np.array(limit), "overlap": np.array(overlap, np.float32)}
    if lowest is not None:
        constants["lowest"] = np.array(lowest, np.float32)
    node = oh.make_node("NonMaxSuppression", ["boxes", "scores", *constants], ["y"], center_point_box=center)
    return make_model([node], {"boxes": boxes.shape, "scores": scores.shape}, ["y"], constants, opset=11)


def random_boxes(batch: int, count: int, classes: int, *, center: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    corners, sizes = random.uniform(0, 5, (batch, count, 2)), random.uniform(0, 2, (batch, count, 2))
    boxes = np.concatenate([corners, sizes if center else corners + sizes], -1).astype(np.float32)
    return boxes, np.round(random.uniform(0, 1, (batch, classes, count)), 1).astype(np.float32)


@pytest.mark.parametrize("count", [1, 7, 8, 33, 200])
@pytest.mark.parametrize("center", [0, 1])
def test_random_boxes_with_equal_scores(count: int, center: int) -> None:
    boxes, scores = random_boxes(2, count, 3, center=bool(center))
    model = nms_model(boxes, scores, 20, 0.3, 0.4, center)
    feeds = {"boxes": boxes, "scores": scores}
    np.testing.assert_array_equal(loopnest.compile(model)(**feeds), onnxruntime(model, feeds)[0])


@pytest.mark.parametrize(("limit", "lowest"), [(0, None), (3, None), (5, 2.0), (1000, 0.0)])
def test_limits_and_thresholds(limit: int, lowest: float | None) -> None:
    boxes, scores = random_boxes(1, 30, 2, center=False)
    model = nms_model(boxes, scores, limit, 0.5, lowest, 0)
    feeds = {"boxes": boxes, "scores": scores}
    np.testing.assert_array_equal(loopnest.compile(model)(**feeds), onnxruntime(model, feeds)[0])


def test_more_boxes_than_a_vector_are_selected() -> None:
    boxes, scores = random_boxes(1, 300, 2, center=False)
    boxes[..., 2:] = boxes[..., :2] + 0.1
    model = nms_model(boxes, scores, 200, 0.2, None, 0)
    feeds = {"boxes": boxes, "scores": scores}
    selected = loopnest.compile(model)(**feeds)
    assert len(selected) > 100
    np.testing.assert_array_equal(selected, onnxruntime(model, feeds)[0])


def test_what_follows_is_planned_for_the_count() -> None:
    boxes, scores = random_boxes(1, 40, 1, center=False)
    model = nms_model(boxes, scores, 40, 0.3, 0.2, 0)
    model.graph.node.append(oh.make_node("Gather", ["y", "column"], ["numbers"], axis=1))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2), "column"))
    model.graph.output.append(tensor("numbers", None, INT64))
    f = loopnest.compile(model)
    for seed in (1, 2, 1):
        boxes, scores = random_boxes(1, 40, 1, center=False, seed=seed)
        selected, numbers = f(boxes, scores)
        assert 0 < len(selected) < 40
        np.testing.assert_array_equal(numbers, selected[:, 2])


def test_shapes_that_do_not_fit() -> None:
    boxes, scores = random_boxes(1, 5, 1, center=False)
    with pytest.raises(loopnest.LoopnestError, match="boxes .* and scores"):
        loopnest.compile(nms_model(boxes, scores[..., :4], 3, 0.5, None, 0))(boxes, scores[..., :4])

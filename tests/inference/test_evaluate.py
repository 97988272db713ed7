"""Figures of a classifier against counts by hand."""

import json

import pytest
import torch

import cifar10
from cifar10.core.errors import SettingError
from cifar10.data import CLASSES
from cifar10.inference import evaluate as evaluation
from cifar10.runs import result as results
from cifar10.training.metrics import Predictions, detailed_scores


def test_classes_and_confusion_are_counted():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 3, 1, 0, 2])
    scores = detailed_scores(Predictions(torch.eye(10)[predicted] * 9, labels), CLASSES)
    assert scores["per_class"]["airplane"] == pytest.approx(2 / 3, abs=1e-6)
    assert scores["per_class"]["automobile"] == 0.5
    assert scores["per_class"]["bird"] == 1
    assert scores["confusion"][0][3] == 1
    assert scores["confusion"][1][0] == 1
    assert sum(map(sum, scores["confusion"])) == 6


def test_calibration_is_the_mean_distance_of_confidence_from_accuracy():
    """Eight answers of confidence 0.95, of which six are right; two of 0.55, both right."""

    def logits(confidence: float) -> torch.Tensor:
        chances = torch.full((10,), (1 - confidence) / 9)
        chances[0] = confidence
        return chances.log()

    said = torch.stack([logits(0.95)] * 8 + [logits(0.55)] * 2)
    labels = torch.tensor([0] * 6 + [1] * 2 + [0, 0])
    error = detailed_scores(Predictions(said, labels), CLASSES)["calibration_error"]
    assert error == pytest.approx(0.8 * abs(0.95 - 0.75) + 0.2 * abs(0.55 - 1), abs=1e-4)


def test_evaluating_twice_gives_the_digits_of_the_run(trained):
    settings, precision, _ = evaluation.evaluation_settings(trained)
    for place in (trained, trained / "best.ckpt"):
        model = cifar10.load(place)
        _, batches = evaluation.open_split(settings, "test")
        scores, said = evaluation.evaluate(model, batches, precision, views=False)
        expected = results.read_result(trained / results.RESULT_FILE)["test"]
        assert {key: scores[key] for key in expected} == expected
        assert scores["images"] == len(said.logits) == 500


def test_the_val_split_gives_the_digits_of_the_best_epoch(trained):
    settings, precision, _ = evaluation.evaluation_settings(trained)
    _, batches = evaluation.open_split(settings, "val")
    scores, _ = evaluation.evaluate(cifar10.load(trained), batches, precision, views=True)
    expected = results.read_result(trained / results.RESULT_FILE)["val"]
    assert {key: scores[key] for key in expected if key in scores} == {
        key: value for key, value in expected.items() if key != "epoch"
    }
    assert scores["mirrored"] != scores["six_views"]


def test_a_split_that_was_not_held_out_is_refused(settings):
    with pytest.raises(SettingError, match="trained on all training images"):
        evaluation.open_split(settings("data=sample", "data.val_size=0")["data"], "val")


def test_an_evaluation_is_valid_json(tmp_path):
    evaluation.write_evaluation(tmp_path / "new", {"loss": float("nan")})
    assert json.loads((tmp_path / "new" / "evaluation.json").read_text()) == {"loss": None}


@pytest.mark.parametrize("told", [[], ["data.dir=/big"]])
def test_the_data_is_where_this_machine_has_it_unless_the_run_was_told(told, tmp_path, settings):
    config = settings("data.dir=/big", "data.val_size=100")
    record = {"status": "running", "overrides": told, "config": config}
    results.write_result(tmp_path, record)
    (tmp_path / "best.ckpt").touch()
    data, precision, _ = evaluation.evaluation_settings(tmp_path)
    assert data["dir"] == ("/big" if told else settings()["data"]["dir"])
    assert (data["val_size"], precision) == (100, "auto")

"""`cifar10 evaluate`: metrics of a trained model, against its run's and against hand counts."""

import json
import shutil

import pytest
import torch

import cifar10
from cifar10.core.errors import SettingError
from cifar10.data import CLASSES
from cifar10.inference.evaluate import evaluate, format_scores
from cifar10.inference.splits import how_tested, read_split
from cifar10.runs.result import RESULT_FILE, read_result, write_result
from cifar10.training.metrics import Predictions, detailed_scores


def test_scores_per_class_and_confusion_match_hand_counts():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 3, 1, 0, 2])
    scores = detailed_scores(Predictions(torch.eye(10)[predicted] * 9, labels), CLASSES)
    assert {name: scores["per_class"][name] for name in CLASSES[:5]} == {
        "airplane": {"images": 3, "precision": 0.666667, "recall": 0.666667, "f1": 0.666667},
        "automobile": {"images": 2, "precision": 1, "recall": 0.5, "f1": 0.666667},
        "bird": {"images": 1, "precision": 1, "recall": 1, "f1": 1},
        "cat": {"images": 0, "precision": 0, "recall": None, "f1": None},
        "deer": {"images": 0, "precision": None, "recall": None, "f1": None},
    }
    assert scores["confusion_normalized"][0][:4] == [0.666667, 0, 0, 0.333333]
    assert scores["confusion_normalized"][3] == [None] * 10
    top = {"images": 6, "loss": 0.0, "top1": 0.66, "top3": 1.0, "top5": 1.0}
    printed = format_scores(top | scores).splitlines()
    assert next(line.split() for line in printed if line.startswith("cat")) == [
        *("cat", "none", "0.00%", "-", "-")
    ]
    assert scores["confusion"][0][3] == 1
    assert scores["confusion"][1][0] == 1
    assert sum(map(sum, scores["confusion"])) == 6


def test_calibration_error_is_the_mean_distance_of_confidence_from_accuracy():
    """Eight predictions of confidence 0.95, of which six are right; two of 0.55, both right."""

    def logits(confidence: float) -> torch.Tensor:
        probabilities = torch.full((10,), (1 - confidence) / 9)
        probabilities[0] = confidence
        return probabilities.log()

    all_logits = torch.stack([logits(0.95)] * 8 + [logits(0.55)] * 2)
    labels = torch.tensor([0] * 6 + [1] * 2 + [0, 0])
    error = detailed_scores(Predictions(all_logits, labels), CLASSES)["calibration_error"]
    assert error == pytest.approx(0.8 * abs(0.95 - 0.75) + 0.2 * abs(0.55 - 1), abs=1e-4)


def test_scores_equal_those_of_the_run_and_are_printed_and_saved(cifar, trained, tmp_path):
    code, out, _ = cifar("evaluate", trained, "--views", "--out", tmp_path / "scores")
    assert code == 0
    expected = read_result(trained / RESULT_FILE)["test"]
    saved = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    assert {key: saved[key] for key in expected} == expected
    assert saved["images"] == 500
    lines = out.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    printed = dict(line.rsplit(maxsplit=1) for line in lines if line)
    assert printed["top-1"] == f"{expected['top1']:.2%}"
    assert printed["top-1, flip TTA"] == f"{saved['mirrored']['top1']:.2%}"
    assert printed["top-1, 6-view TTA"] == f"{saved['six_views']['top1']:.2%}"
    shares, counts = (line.split()[1:] for line in lines if line.startswith("cat "))
    cat = saved["per_class"]["cat"]
    figures = (cat[key] for key in ("precision", "recall", "f1"))
    assert shares == ["50", *("-" if value is None else f"{value:.2%}" for value in figures)]
    assert counts == [*map(str, saved["confusion"][3])]
    figures = {path.stem for path in (tmp_path / "scores").glob("*.png")}
    assert figures == {"confusion", "per_class", "reliability", "mistakes"}


def test_val_scores_equal_those_of_the_best_epoch(trained):
    tested = how_tested(trained, "val")
    images, _ = read_split(tested, "val")
    batches = images.batches(tested.data["batch_size"])
    model = cifar10.load(trained / "best.ckpt")
    scores, _ = evaluate(model, batches, tested.precision, views=False)
    expected = read_result(trained / RESULT_FILE)["val"]
    assert {key: scores[key] for key in expected if key != "epoch"} == {
        key: value for key, value in expected.items() if key != "epoch"
    }


def test_a_confusion_matrix_wider_than_the_terminal_is_not_printed():
    names = [f"class {number}" for number in range(40)]
    logits, labels = torch.eye(40), torch.arange(40)
    top = {"images": 40, "loss": 0.0, "top1": 1.0, "top3": 1.0, "top5": 1.0}
    lines = format_scores(top | detailed_scores(Predictions(logits, labels), names)).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].split() == ["class", "39", "1", "100.00%", "100.00%", "100.00%"]


def test_a_model_without_validation_images_has_no_val_scores(trained, settings):
    data = settings("data=sample", "data.val_size=0")["data"]
    with pytest.raises(SettingError, match="trained on all training images"):
        read_split(how_tested(trained)._replace(data=data), "val")


@pytest.mark.parametrize("overrides", [[], ["data.dir=/big"]])
def test_the_data_folder_is_the_local_one_unless_the_run_set_it(overrides, tmp_path, settings):
    config = settings("data.dir=/big", "data.val_size=100")
    write_result(tmp_path, {"status": "running", "overrides": overrides, "config": config})
    (tmp_path / "best.ckpt").touch()
    tested = how_tested(tmp_path)
    assert tested.data["dir"] == ("/big" if overrides else settings()["data"]["dir"])
    assert (tested.data["val_size"], tested.precision) == (100, "auto")


def test_a_checkpoint_without_its_result_has_no_val_scores(cifar, trained, tmp_path):
    copy = shutil.copy(trained / "best.ckpt", tmp_path / "copy.ckpt")
    code, _, err = cifar("evaluate", copy, "--split", "val")
    assert code == 2
    assert "which records the validation images" in err
    assert not list(tmp_path.glob("evaluation*"))


def test_a_link_in_a_run_is_not_written_through(cifar, trained, tmp_path):
    copy, victim = shutil.copytree(trained, tmp_path / "copy"), tmp_path / "victim"
    victim.mkdir()
    for name in ("evaluation-test", "figures"):
        shutil.rmtree(copy / name, ignore_errors=True)
        (copy / name).symlink_to(victim)
    code, _, err = cifar("evaluate", copy)
    assert (code, "evaluation-test: is a symbolic link; name a folder" in err) == (2, True), err
    code, _, err = cifar("report", copy)
    assert (code, "the report could not be drawn" in err) == (2, True), err
    assert [*victim.iterdir()] == []


@pytest.mark.parametrize("split", ["test", "val"])
def test_predictions_have_the_official_index(split, cifar, trained, sample, tmp_path):
    table = tmp_path / "new" / "each.csv"
    out = ("--out", tmp_path / "out", "--predictions", table)
    assert cifar("evaluate", trained, "--split", split, *out)[0] == 0
    labels = sample.test_labels if split == "test" else sample.train_labels
    rows = [line.split(",")[:2] for line in table.read_text().splitlines()]
    assert rows[0] == ["index", "label"]
    assert all(CLASSES[labels[int(index)]] == label for index, label in rows[1:])
    assert len({index for index, _ in rows[1:]}) == (500 if split == "test" else 200)


def test_a_network_that_outputs_nan_is_an_error(cifar, broken_run):
    code, _, err = cifar("evaluate", broken_run)
    assert (code, err) == (
        2,
        "error: the network outputs NaN or infinity; its weights are corrupted\n",
    )


def test_a_run_whose_data_names_no_batch_size_is_evaluated(cifar, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    result = json.loads((copy / RESULT_FILE).read_text())
    del result["config"]["data"]["batch_size"]
    (copy / RESULT_FILE).write_text(json.dumps(result))
    assert cifar("evaluate", copy)[0] == 0


@pytest.mark.parametrize("damage", [{"config": None}, {"config": {"data": 3}}, {"precision": "x"}])
def test_a_damaged_result_is_reported_in_one_line(damage, cifar, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    result = json.loads((copy / RESULT_FILE).read_text()) | damage
    (copy / RESULT_FILE).write_text(json.dumps(result))
    code, _, err = cifar("evaluate", copy)
    assert code == 2
    assert err.startswith(f"error: {copy}/result.json") and err.count("\n") == 1

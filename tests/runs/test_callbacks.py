"""What a run logs: TensorBoard's curves and HPARAMS page, metrics.csv, the test logits."""

import csv
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter

from cifar10.runs.callbacks import History, Hyperparameters, Stopwatch, TestLogits, to_floats
from cifar10.runs.components import build_components

SCORES = {f"{split}/{m}" for split in ("val", "test") for m in ("loss", "top1", "top3", "top5")}
SHOWN = {f"{split}/{m}" for split in ("val", "test") for m in ("loss", "top1")}


@pytest.fixture(scope="module")
def events(finished):
    return EventAccumulator(str(finished.folder)).Reload()


def test_tensorboard_has_the_curves(events, finished):
    curves = set(events.Tags()["scalars"])
    assert SCORES | {"train/loss", "train/top1", "train/lr", "train/images_per_second"} <= curves
    # Two epochs, two points: no invented first value.
    assert len(events.Scalars("val/loss")) == 2
    top1 = finished.result["test"]["top1"]
    assert events.Scalars("test/top1")[-1].value == pytest.approx(top1)
    rates = [event.value for event in events.Scalars("train/lr")]
    assert len(rates) == 8
    peak = 0.2 * 8
    expected = [0.07 * min((s + 1) / (peak + 1), (8 - s) / (8 - peak)) for s in range(8)]
    assert rates == pytest.approx(expected, rel=1e-5)


def test_the_hparams_page_has_settings_and_scores(events):
    def page(tag):
        content = events.summary_metadata[tag].plugin_data.content
        return plugin_data_pb2.HParamsPluginData.FromString(content)

    names = {m.name.tag for m in page("_hparams_/experiment").experiment.metric_infos}
    assert names == SHOWN
    shown = page("_hparams_/session_start_info").session_start_info.hparams
    assert shown["optimizer.lr"].number_value == 0.07
    assert shown["model"].string_value == "Small"
    assert shown["seed"].number_value == 0
    assert not any("dir" in name for name in shown)


@pytest.mark.parametrize(
    ("trial", "first", "name"),
    [
        ("", {"data.val_size", "seed", "optimizer.lr"}, ""),
        ("lr=0.1 seed=1", {"seed", "optimizer.lr"}, "lr=0.1 s1 (rates)"),
    ],
)
def test_settings_that_were_typed_or_vary_come_first(trial, first, name, tiny, tmp_path):
    typed = ["optimizer.lr=0.1", "data.val_size=100", "seed=1"]
    folder = tmp_path / "rates" / "run"
    parts = build_components(tiny(*typed), folder, typed=typed, trial=trial)
    callback = next(c for c in parts.trainer.callbacks if isinstance(c, Hyperparameters))
    with SummaryWriter(tmp_path / "events") as writer:
        callback.add_trial(writer._get_file_writer())
    metadata = EventAccumulator(str(tmp_path / "events")).Reload().summary_metadata
    pages = {
        tag: plugin_data_pb2.HParamsPluginData.FromString(value.plugin_data.content)
        for tag, value in metadata.items()
    }
    columns = pages["_hparams_/experiment"].experiment.hparam_infos
    assert {column.name for column in columns if column.differs} == first
    assert pages["_hparams_/session_start_info"].session_start_info.group_name == name


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_rates_of_long_runs_are_thinned_evenly(accumulate, monkeypatch):
    monkeypatch.setattr("cifar10.runs.callbacks.MAX_RATES", 8)
    history = History()
    for step in range(40):
        optimizer = SimpleNamespace(param_groups=[{"lr": step / 100}])
        trainer = SimpleNamespace(
            global_step=step,
            current_epoch=step // 10,
            num_training_batches=10,
            optimizers=[optimizer],
        )
        for batch in range(accumulate):
            trainer.num_training_batches = 10 * accumulate
            index = accumulate * (step % 10) + batch
            history.on_train_batch_start(trainer, None, None, index)
    assert history.rates == [[step / 10, step / 100] for step in range(0, 40, 8)]


def test_metrics_csv_has_the_same_curves(finished):
    with (finished.folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["val/loss"]) for row in rows if row["val/loss"]]
    assert losses == pytest.approx([e["val/loss"] for e in finished.result["history"]], abs=1e-6)


def test_metrics_are_rounded_and_those_of_single_steps_left_out():
    metrics = {"val/loss": torch.tensor(1 / 3), "val/top1": 0.5, "train/loss_step": 1.0}
    assert to_floats(metrics) == {"val/loss": 0.333333, "val/top1": 0.5}
    assert to_floats(metrics, "train/") == {}


def test_the_stopwatch_continues_within_an_epoch():
    first, second = Stopwatch(), Stopwatch()
    first.training, first.images = 5.0, 100
    second.load_state_dict(first.state_dict())
    assert second.images_per_second == 20
    assert (second.training, second.images) == (5.0, 100)
    assert Stopwatch().images_per_second is None


@pytest.mark.parametrize("images", [7, 9, 10])
def test_logits_of_several_ranks_are_joined_in_the_order_of_the_test_set(images, monkeypatch):
    """Two ranks take turns within a batch of six images and a smaller last one."""
    logits = torch.arange(images * 2.0).view(images, 2)
    batches = [logits[:6], logits[6:]]
    ranks = [[batch[rank::2] for batch in batches if len(batch) > rank] for rank in range(2)]

    class Trainer:
        world_size = 2

    def gather(parts, _):
        parts[:] = ranks

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    callback = TestLogits()
    callback.on_test_start(Trainer(), None)
    for part in ranks[0]:
        callback.on_test_batch_end(Trainer(), torch.nn.ReLU(), part, None, 0)
    callback.on_test_end(Trainer(), None)
    assert torch.equal(torch.cat(callback.batches), logits)

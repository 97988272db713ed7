"""Runs grouped over seeds, and the Markdown table of recipes made of the groups."""

import json

from cifar10.sweeps.grouping import find_runs, group_over_seeds
from tools.recipe_table import as_markdown


def result(seed, top1, overrides=(), status="ok", training=60.0, **more):
    return {
        "status": status,
        "overrides": [*overrides, f"seed={seed}"],
        "seed": seed,
        "epochs": 4,
        "commit": "0123456789" * 4,
        "precision": {"value": "32-true"},
        "data": {"train": 45000, "val": 5000, "test": 10000},
        "versions": {"torch": "2.14.1"},
        "device": "A CPU, 2 threads",
        "settings": {"seed": seed, **dict(o.split("=") for o in overrides if "hydra" not in o)},
        "started": f"2026-01-01T00:00:{len(overrides):02d}",
        "seconds": {"training": training},
        "test": {"loss": 0.5, "top1": top1, "top3": 0.96, "top5": 0.99},
    } | more


def sizes(runs):
    return [len(group.runs) for group in group_over_seeds(runs)]


def test_the_recipe_table_has_mean_and_sample_deviation():
    runs = [result(0, 0.80, training=50), result(1, 0.82, training=70), result(2, 0.84)]
    runs += [result(0, 0.70, ["optimizer=sgd"]), result(1, 0.1, status="failed")]
    lines = as_markdown(runs).splitlines()
    assert lines[2] == (
        "| `python train.py` | 4 | 60 s | 82.00% ± 2.00% | 96.00% ± 0.00% | 99.00% ± 0.00% "
        "| 0.5000 ± 0.0000 | 3 |"
    )
    assert lines[3].startswith("| `python train.py optimizer=sgd` | 4 | 60 s | 70.00% |")
    assert "A CPU, 2 threads, 32-true, torch 2.14.1" in lines[5]
    assert lines[-1] == "1 not finished."


def test_runs_that_differ_only_in_seed_and_hydras_settings_are_one_group():
    runs = [
        result(0, 0.8, ["hydra.run.dir=a", "optimizer.lr=0.1"]),
        result(1, 0.8, ["optimizer.lr=0.1", "hydra.run.dir=b", "sweep.run=2"]),
        result(0, 0.8, ["data.val_seed=1"]),
    ]
    runs[1]["seed"] = runs[1]["settings"]["seed"] = 1
    del runs[1]["settings"]["sweep.run"]
    table = as_markdown(runs)
    assert "80.00% ± 0.00%" in table
    assert "`python train.py optimizer.lr=0.1`" in table
    assert "`python train.py data.val_seed=1`" in table
    assert len([line for line in table.splitlines() if line.startswith("| `")]) == 2


def test_the_latest_of_several_runs_with_one_seed_counts():
    runs = [result(seed, v, started=str(n)) for n, (seed, v) in enumerate([(0, 1), (0, 2), (1, 4)])]
    (group,) = group_over_seeds(runs)
    assert group.values("test", "top1") == [2, 4]


def test_a_removed_setting_separates_runs_only_where_it_changed_something():
    runs = [result(seed, 0.8) for seed in range(3)]
    runs[1]["settings"]["data.crops"] = "[32]"
    runs[2]["settings"]["data.crops"] = "[28]"
    runs[2]["overrides"].insert(0, "data.crops=[28]")
    rows = as_markdown(runs).splitlines()[2:4]
    assert rows[0].endswith("| 2 |")
    assert rows[1].startswith("| `python train.py 'data.crops=[28]'`")


def test_runs_with_different_callbacks_or_trainer_flags_are_separate_groups():
    best = {"best": {"monitor": "val/loss"}}
    ema = best | {"ema": {"_target_": "lightning.EMA", "decay": 0.9}}
    runs = [
        result(0, 0.8, config={"callbacks": best}),
        result(1, 0.8, config={"callbacks": best}),
        result(0, 0.8, config={"callbacks": ema}),
        result(0, 0.8, config={"callbacks": {}}),
        result(0, 0.8, config={"callbacks": best}),
    ]
    runs[2]["overrides"].append("+callbacks.ema={_target_:lightning.EMA,decay:0.9}")
    runs[3]["overrides"].append("~callbacks.best")
    runs[4]["overrides"].append("+trainer.gradient_clip_val=1")
    runs[4]["settings"]["trainer.gradient_clip_val"] = 1
    assert sizes(runs) == [2, 1, 1, 1]
    runs[2]["overrides"][-1] = "callbacks=ema"
    assert sizes(runs) == [2, 1, 1, 1]


def test_a_callback_whose_class_has_moved_does_not_separate_runs():
    runs = [
        result(seed, 0.8, config={"callbacks": {"last": {"_target_": f"{module}.LastCheckpoint"}}})
        for seed, module in enumerate(("cifar10.last", "cifar10.runs.last_checkpoint"))
    ]
    assert sizes(runs) == [2]


def test_settings_of_different_networks_are_compared_where_they_differ():
    def run(seed, **settings):
        named = {key.replace("_", "."): value for key, value in settings.items()}
        return result(seed, 0.8, settings=named)

    runs = [run(0, model="ConvNet", model_dropout=0.1), run(0, model="AirNet", model_width=64)]
    assert [set(group.settings) for group in group_over_seeds(runs)] == [{"model"}, {"model"}]
    runs.append(run(0, model="AirNet", model_width=128))
    convnet, *airnets = group_over_seeds(runs)
    assert convnet.settings == {"model": "ConvNet"}
    assert [group.settings["model.width"] for group in airnets] == [64, 128]


def test_a_run_whose_settings_changed_when_it_resumed_is_another_recipe():
    runs = [result(0, 0.8), result(1, 0.8, resumed=[{"overrides": ["resume=z"]}])]
    assert sizes(runs) == [2]
    runs.append(result(2, 0.8, resumed=[{"overrides": ["trainer.max_epochs=9"]}]))
    assert sizes(runs) == [2, 1]


def test_results_are_found_below_folders_and_unreadable_ones_reported(tmp_path, caplog):
    for name in ("a", "b/c"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "other.json").write_text("{}")
        (folder / "result.json").write_text(json.dumps(result(len(name), 0.5)))
    (tmp_path / "result.json").write_text("")
    assert [found["seed"] for found in find_runs([tmp_path])] == [1, 3]
    assert "result.json" in caplog.text and caplog.text.count("skipped") == 1


def test_other_images_and_other_classes_of_one_name_are_separate_groups():
    runs = [
        result(n, 0.8, data={"name": "folder", "digest": digest}) for n, digest in enumerate("aab")
    ]
    assert sizes(runs) == [2, 1]
    runs = [
        result(n, 0.8, config={"model": {"_target_": f"{module}.Net"}})
        for n, module in enumerate(("mine", "mine", "yours"))
    ]
    assert sizes(runs) == [2, 1]

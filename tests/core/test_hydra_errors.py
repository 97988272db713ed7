"""Wrong settings on the command line: one line that says what to do, before anything is written."""

import pytest

from cifar10.core.errors import SettingError
from cifar10.core.hydra_errors import report_errors, to_user_error
from cifar10.runs.signals import Interrupted

LINES = {
    "optimizer.lrr=1": "optimizer.lrr=1: unknown setting; did you mean optimizer.lr?",
    "data.batchsize=8": "data.batchsize=8: unknown setting; did you mean data.batch_size?",
    "trainer.max_epoch=3": "trainer.max_epoch=3: unknown setting; did you mean trainer.max_epochs?",
    "optimiser=adamw": "optimiser=adamw: unknown setting; did you mean optimizer?",
    "sed=1": "sed=1: unknown setting; did you mean seed?",
    "+trainer.max_epoch=3": "unknown setting; did you mean trainer.max_epochs?",
    "trainer.gradient_clip_val=1": "gradient_clip_val=1: not in the YAML files; add it with "
    "+trainer.gradient_clip_val=1",
    "model=resnet5000": "unknown model 'resnet5000'; choose from airnet, convnet, ",
    "model=null": "model=null: unknown model 'null'; choose from airnet, ",
    "experiment=94": "experiment=94: unknown experiment '94'; choose from airbench94, airnet94, ",
    "logger=1": "logger=1: unknown logger '1'; choose from csv, mlflow, tensorboard, wandb",
    "logger=null": "choose from csv, mlflow, tensorboard, wandb; use ~logger to disable it",
    "logger=[1]": "unknown logger '[1]'; choose from csv, mlflow, tensorboard, wandb",
    "logger=[csv, null]": "unknown logger '[csv, null]'; choose from csv, mlflow, tensorboard",
    "logger=[[csv]]": "unknown logger '[[csv]]'; choose from csv, mlflow, tensorboard, wandb",
    "model=[1e3]": "unknown model '[1e3]'; choose from airnet, convnet, ",
    "experiment=[true]": "unknown experiment '[true]'; choose from airbench94, airnet94, ",
    "callbacks=[1]": "callbacks=[1]: unknown callbacks '[1]'; choose from default",
    "hydra/launcher=1": "hydra/launcher=1: unknown hydra/launcher '1'; see --hydra-help",
    "data=mnist": "unknown data 'mnist'; choose from cifar10, folder, sample, torchvision",
    "keep_hardest=[0.5]": "keep_hardest=[0.5]: removed in 0.2: every epoch trains on all images",
    "data.crops=[28]": "data.crops=[28]: removed in 0.2: data.sizes trains on smaller images",
    "callbacks.gallery=null": "replaced in 0.2 by report=true or report=false",
    "+keep_hardest=[0.5]": "keep_hardest=[0.5]: unknown setting; removed in 0.2",
    "~callbacks.gallery": "~callbacks.gallery: replaced in 0.2",
    "callbacks.ema.decay=0.9": "ema is not chosen; add callbacks=ema",
    "callbacks.lr_monitor.x=1": "lr_monitor is not chosen; add callbacks=lr_monitor",
    "logger.wandb.project=x": "logger.wandb.project=x: wandb is not chosen; add logger=wandb",
    "optimizer._target_=torch.optim.SGD": "optimizer.ns_steps=3: unknown setting; it comes from "
    "configs/optimizer/muon.yaml; choose another file with optimizer=NAME or remove the key with "
    "~optimizer.ns_steps",
    "data.batch_size=0": "data.batch_size=0: must be at least 1",
    "optimizer.lr=": "optimizer.lr='': must be a number",
    "trainer.precision=8": "trainer.precision=8: must be one of auto, 32-true",
    "optimizer.lr=${nothing}": "nothing",
    "optimizer.lr=???": "optimizer.lr: required; add optimizer.lr=VALUE",
    "data=folder": "data.dir: required; add data.dir=VALUE",
    "a=[": "a=[: ",
    f"seed={'[' * 500}": "…: ",
    "--seed=5": "--seed=5: unknown option; write settings without dashes: seed=5",
    "--seed": "--seed: unknown option; see --help",
    "--cfg=everything": "argument --cfg/-c: invalid choice: 'everything'",
    "hydra.job_logging.root.level=LOUD": "hydra.job_logging: Unknown level: 'LOUD'",
    "hydra.job_logging.handlers.console.class=no.Class": "Cannot resolve 'no.Class'",
    "hydra.job_logging.version=7": "hydra.job_logging: Unsupported version: 7",
    "hydra.hydra_logging.root.level=LOUD": "hydra.job_logging: Unknown level: 'LOUD'",
    "hydra.run.dirr=x": "hydra.run.dirr=x: unknown setting of Hydra; see --hydra-help",
    "hydra.mode=foo": "hydra.mode",
    "resume=nowhere": "resume=nowhere: no run to resume; result.json not found",
    "resume=auto": "resume=auto: also needs hydra.run.dir=FOLDER",
    "hydra.run.dir=''": "hydra.run.dir='': must name a folder",
}


@pytest.mark.parametrize("typed", LINES)
def test_a_wrong_setting_is_one_line_and_nothing_is_written(typed, type_in, tmp_path):
    code, stderr = type_in(typed)
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert LINES[typed] in stderr
    assert code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variable", ["HYDRA_FULL_ERROR", "CIFAR10_TRACEBACK"])
@pytest.mark.parametrize("words", [["optimizer.lr="], ["resume=nowhere"]])  # before and in the run
def test_an_error_ends_the_run_with_a_traceback_if_asked_for(
    variable, words, type_in, tmp_path, monkeypatch
):
    monkeypatch.setenv(variable, "1")
    code, stderr = type_in("data=sample", *words)
    assert code == 2
    assert ("Traceback" in stderr) == (variable == "CIFAR10_TRACEBACK")
    assert stderr.splitlines()[-1].startswith(f"error: {words[0]}")
    assert list(tmp_path.iterdir()) == []


def test_a_key_of_a_class_that_was_chosen_without_its_file_can_be_removed(type_in):
    keys = ("ns_steps", "norm_every", "adam_lr", "adam_betas", "adam_weight_decay")
    removed = [f"~optimizer.{key}" for key in keys]
    code, stderr = type_in("optimizer._target_=torch.optim.SGD", *removed, "trainer.max_epochs=0")
    assert (code, "trainer.max_epochs=0" in stderr) == (2, True)


def test_a_folder_below_a_file_is_one_line(type_in, tmp_path):
    (tmp_path / "file").write_text("")
    code, stderr = type_in("data=sample", "hydra.run.dir=file/run")
    assert code == 1
    assert stderr == "error: file/run: Not a directory\n"


def test_a_log_that_cannot_be_written_is_one_line(type_in, tmp_path):
    (tmp_path / "run" / "train.log").mkdir(parents=True)
    code, stderr = type_in("data=sample", "hydra.run.dir=run")
    assert code == 1
    assert stderr == f"error: {tmp_path / 'run' / 'train.log'}: Is a directory\n"


def test_a_folder_that_holds_a_run_is_left_alone(type_in, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    code, stderr = type_in("data=sample", "hydra.run.dir=run")
    assert code == 1
    assert "already holds a run" in stderr
    assert stderr.count("\n") == 1
    assert (tmp_path / "run" / "result.json").read_text() == "precious"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failed_clean_up_after_a_signal_stays_the_signal():
    """OmegaConf's clean-up fails when a signal arrives while it copies a node."""
    with pytest.raises(Interrupted), report_errors():
        try:
            raise Interrupted(15)
        finally:
            raise KeyError("defaults")


def test_sys_exit_in_user_code_is_reported(capsys):
    with pytest.raises(SystemExit) as end, report_errors():
        raise SettingError("model: it called exit") from SystemExit(0)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: model: it called exit\n"


def test_an_error_in_the_users_code_is_not_taken_for_a_mistyped_option():
    words = ["--config-dir", "my configs", "model=mine", "optimizer={lr: 0.1}", "logger=[csv]"]
    for error in (ValueError("one value per channel"), TypeError("one value per channel")):
        assert to_user_error(error, words) is None

"""Networks, schedules and callbacks of a user, for test_continuing."""

from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from tests.network import Small


class Named(Small):
    """Dropout by the name of a layer."""

    def __init__(self, dropout: float, rates: dict, num_classes: int = 10):
        super().__init__(dropout, num_classes)
        self[3].p = rates.get("3", rates.get("layer.3", 0.9))


class Steps(LambdaLR):
    """The factor of the largest key, a fraction of the training or -1, that is passed."""

    def __init__(self, optimizer, factors: dict[float, float], total_steps: int):
        passed = sorted(factors)
        super().__init__(
            optimizer,
            lambda step: [factors[key] for key in passed if key * total_steps <= step][-1],
        )


class ExtraState(Small):
    def get_extra_state(self):
        return {"seen": 1}

    def set_extra_state(self, state): ...


class OfNormalImages(Small):
    def forward(self, images):
        assert images.abs().max() < 3, "images must be normalised"
        return super().forward(images)


class Whitened(Small):
    """Initialised by the inverse of a covariance that a few images leave singular."""

    def __init__(self, dropout: float, num_classes: int = 10):
        super().__init__(dropout, num_classes)
        self.register_buffer("scale", 0 * self[0].bias[0].detach())

    def init_from_images(self, images):
        self.scale.fill_(0.0 if len(images) > 8 else float("nan"))

    def forward(self, images):
        return super().forward(images) + self.scale


class Stops(Callback):
    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop |= trainer.current_epoch == 1


class Freezes(Callback):
    def setup(self, trainer, module, stage):
        module.network[0].requires_grad_(False)


class Probe(Callback):
    def on_fit_start(self, trainer, module):
        module.probe = nn.Linear(2, 2)


class Circular(Callback):
    def on_train_start(self, *_):
        try:
            raise ValueError("of itself")
        except ValueError as error:
            raise error from error


class Uploads(Callback):
    def on_test_end(self, trainer, module):
        assert trainer.checkpoint_callback.best_model_path.endswith("best.ckpt")


class LastCheckpointLog(Callback):
    def state_dict(self):
        return {"seen": 1}


class Writes(Callback):
    def __init__(self, dirpath: str):
        self.dirpath = dirpath

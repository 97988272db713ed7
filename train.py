"""Train a CIFAR-10 classifier and evaluate it on the test set.

    python train.py                            the default recipe
    python train.py trainer.max_epochs=100     change a setting
    python train.py --multirun seed=0,1,2      one run per value

`python train.py --help` lists all settings; cifar10/launch.py does the work.
"""

from cifar10.train import cli

if __name__ == "__main__":
    cli()

"""What a search draws settings from: Hydra's sweeps as Optuna's distributions."""

from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from cifar10.core.errors import SettingError, one_line

if TYPE_CHECKING:
    import optuna


def optuna_module() -> Any:
    try:
        import optuna
    except ImportError:
        raise SettingError(
            'sweep.trials: a search needs Optuna: pip install -e ".[sweep]"'
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def distribution(override: Override) -> "optuna.distributions.BaseDistribution":
    """What a search draws a setting from.

    An interval gives floats, `int(interval(a, b))` and a range of whole numbers whole ones;
    `tag(log, interval(a, b))` is even in the logarithm; of a list, each value stands for
    itself, as it was typed.

    Raises:
        SettingError: there is nothing to draw from.
    """
    kinds = optuna_module().distributions
    sweep = override.value()
    try:
        if isinstance(sweep, IntervalSweep):
            whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)
            kind = kinds.IntDistribution if whole else kinds.FloatDistribution
            return kind(sweep.start, sweep.end, log="log" in sweep.tags)
        if isinstance(sweep, RangeSweep):
            values = sorted(sweep.range())
            step = abs(sweep.step)
            whole = all(isinstance(value, int) for value in values)
            kind = kinds.IntDistribution if whole else kinds.FloatDistribution
            return kind(values[0], values[-1], step=step)
        return kinds.CategoricalDistribution(list(override.sweep_string_iterator()))
    except (ValueError, IndexError) as error:
        raise SettingError(f"{override.input_line}: {one_line(error)}") from error


def text(value: Any) -> str:
    """A drawn value as an override: floats to four digits, so that folders' names stay readable."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)

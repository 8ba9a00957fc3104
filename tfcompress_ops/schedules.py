"""How sparse a model is to be at each training step, for `tfc.callbacks.Pruning`."""

import abc
import dataclasses
import numbers
from typing import Any


class Schedule(abc.ABC):
    """A sparsity for each training step, changed every `frequency` steps.

    Attributes:
        begin_step: Step of the optimizer at which pruning begins, >= 0.
        end_step: Step of the last change, or `None`: there is always a next one.
        frequency: Steps between changes, >= 1.
    """

    begin_step: int
    end_step: int | None
    frequency: int

    def __post_init__(self) -> None:
        _check_step("begin_step", self.begin_step, 0)
        _check_step("frequency", self.frequency, 1)
        if self.end_step is not None:
            _check_step("end_step", self.end_step, 0)
            if self.end_step < self.begin_step:
                raise ValueError(
                    f"`end_step` must not come before `begin_step`; received {self.end_step} and "
                    f"{self.begin_step}."
                )

    @abc.abstractmethod
    def __call__(self, step: int) -> float:
        """The fraction of zeros at a step from `begin_step` on."""

    def last_change(self, step: int) -> int | None:
        """The last step up to `step` at which the zeros change, or `None` before the first.

        They do at `begin_step`, every `frequency` steps from there, and at `end_step`.
        """
        if self.end_step is not None and step >= self.end_step:
            return self.end_step
        if step < self.begin_step:
            return None
        return step - (step - self.begin_step) % self.frequency


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """The same sparsity from `begin_step` on; the smallest weights of each change's moment go.

    Args:
        sparsity: Fraction of zeros, 0 <= sparsity < 1.
        begin_step: Step at which they become zero, >= 0.
        end_step: Step of the last change, or `None`.
        frequency: Steps between changes, >= 1. A weight that is zero stays so.

    Raises:
        ValueError: If an argument is out of range, or the schedule ends before it begins.

    Example:
        >>> Constant(0.5, begin_step=100)(1000)
        0.5
    """

    sparsity: float
    begin_step: int = 0
    end_step: int | None = None
    frequency: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sparsity("sparsity", self.sparsity)

    def __call__(self, step: int) -> float:
        """The sparsity."""
        del step
        return self.sparsity


@dataclasses.dataclass(frozen=True)
class Polynomial(Schedule):
    """A sparsity that rises fast at first, when there are many weights to spare, then slowly.

        s(t) = final + (initial - final) * (1 - (t - begin) / (end - begin)) ** power

    and `final` from `end_step` on. `power=3` is the cubic of Zhu and Gupta.

    Args:
        initial_sparsity: Fraction of zeros at `begin_step`, 0 <= initial_sparsity < 1.
        final_sparsity: Fraction of zeros from `end_step` on, not below `initial_sparsity`.
        begin_step: Step of the first change, >= 0.
        end_step: Step of the last, > `begin_step`.
        power: Positive number.
        frequency: Steps between changes, >= 1.

    Raises:
        ValueError: If an argument is out of range, or the schedule ends before it begins.

    Example:
        >>> schedule = Polynomial(0.0, 0.8, begin_step=0, end_step=1000)
        >>> [round(schedule(step), 3) for step in (0, 500, 1000, 2000)]
        [0.0, 0.7, 0.8, 0.8]

    References:
        Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
        compression", 2017, equation 1.
    """

    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    power: float = 3.0
    frequency: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sparsity("initial_sparsity", self.initial_sparsity)
        _check_sparsity("final_sparsity", self.final_sparsity)
        if self.end_step is None or self.end_step == self.begin_step:
            raise ValueError(
                f"`end_step` must come after `begin_step`; received {self.end_step} and "
                f"{self.begin_step}. Use tfc.schedules.Constant to prune at once."
            )
        if self.final_sparsity < self.initial_sparsity:
            raise ValueError(
                "`final_sparsity` must not be below `initial_sparsity`, since zeros stay zero; "
                f"received {self.final_sparsity} and {self.initial_sparsity}."
            )
        if isinstance(self.power, bool) or not self.power > 0:
            raise ValueError(f"`power` must be a positive number; received {self.power!r}.")

    def __call__(self, step: int) -> float:
        """The sparsity of a step."""
        share = (step - self.begin_step) / (self.end_step - self.begin_step)
        left: float = (1 - min(1.0, max(0.0, share))) ** self.power
        return self.final_sparsity + (self.initial_sparsity - self.final_sparsity) * left


def _check_step(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"`{name}` must be an integer >= {least}; received {value!r}.")


def _check_sparsity(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(
            f"`{name}` must be a fraction of zeros, 0 <= {name} < 1; received {value!r}."
        )

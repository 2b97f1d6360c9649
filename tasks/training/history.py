"""A model's history: how often it was unlearned since it was last trained from scratch."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.common.errors import EvidenceError
from tasks.common.settings import Method

FROM_SCRATCH: tuple[Method, ...] = ("retrain", "short_retrain")
"""Methods that reuse nothing of the previous model, neither weights nor answers."""


@dataclass(frozen=True)
class History:
    """What happened to a model since it was last trained from scratch."""

    unlearnings: int
    """one after the other, each starting from the model of the one before"""
    forgotten: int
    """training records that these unlearnings made it forget"""
    trained: int
    """records that it was trained on"""

    def __post_init__(self) -> None:
        """Refuse impossible counts."""
        if self.unlearnings < 0 or not 0 <= self.forgotten <= self.trained or self.trained < 1:
            raise EvidenceError(
                f"got a model's history of {self.unlearnings} unlearnings, {self.forgotten} of "
                f"{self.trained} records forgotten; expected counts, and no more forgotten than "
                "trained on; release the batch again"
            )

    @property
    def share(self) -> float:
        """The share of its training records that it had to forget."""
        return self.forgotten / self.trained

    def after(self, method: Method, forgotten: int, retained: int) -> History:
        """The history of the model that a method makes from this one.

        Args:
            method: `unlearn.method`.
            forgotten: training records of the forget set.
            retained: training records that are left.
        """
        if method in FROM_SCRATCH:
            return History(0, 0, retained)
        return History(self.unlearnings + 1, self.forgotten + forgotten, self.trained)

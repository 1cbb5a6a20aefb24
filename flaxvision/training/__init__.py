"""Training: recipes, compiled steps and epochs, metrics, histories, checkpoints."""

from typing import TYPE_CHECKING

from flaxvision._lazy import attach

if TYPE_CHECKING:
    from flaxvision.training._evaluate import evaluate, predict
    from flaxvision.training._fit import Progress, fit, train_cohort
    from flaxvision.training.batches import epoch_order
    from flaxvision.training.history import History, Result, Timing
    from flaxvision.training.metrics import Metrics
    from flaxvision.training.progress import ProgressBar
    from flaxvision.training.recipe import Recipe

__all__ = [
    "History",
    "Metrics",
    "Progress",
    "ProgressBar",
    "Recipe",
    "Result",
    "Timing",
    "epoch_order",
    "evaluate",
    "fit",
    "predict",
    "train_cohort",
]

__getattr__ = attach(
    __name__,
    {
        **dict.fromkeys(("evaluate", "predict"), "_evaluate"),
        **dict.fromkeys(("Progress", "fit", "train_cohort"), "_fit"),
        **dict.fromkeys(("History", "Result", "Timing"), "history"),
        "Metrics": "metrics",
        "epoch_order": "batches",
        "ProgressBar": "progress",
        "Recipe": "recipe",
    },
)

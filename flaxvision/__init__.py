"""flaxvision fills experiment tables: it trains the cells together, reports them, and exports the networks.

Importing it is quick: JAX and everything else is imported when first used.
"""

from typing import TYPE_CHECKING

from flaxvision._lazy import attach

if TYPE_CHECKING:
    from flaxvision import data, layers, models, report, runtime, sweep, training
    from flaxvision.errors import UserError
    from flaxvision.models import load_model, save_model
    from flaxvision.training import History, Metrics, Recipe, Result, evaluate, fit, predict

__version__ = "0.1.0"

__all__ = [
    "History",
    "Metrics",
    "Recipe",
    "Result",
    "UserError",
    "data",
    "evaluate",
    "fit",
    "layers",
    "load_model",
    "models",
    "predict",
    "report",
    "runtime",
    "save_model",
    "sweep",
    "training",
]

__getattr__ = attach(
    __name__,
    {
        "UserError": "errors",
        **dict.fromkeys(("load_model", "save_model"), "models"),
        **dict.fromkeys(("History", "Metrics", "Recipe", "Result", "evaluate", "fit", "predict"), "training"),
    },
    modules=("data", "layers", "models", "report", "runtime", "sweep", "training"),
)


def __dir__() -> list[str]:
    return __all__

"""Networks: the reports' by name, or your own; parameter counts, summaries and weights files."""

from typing import TYPE_CHECKING

from flaxvision._lazy import attach

if TYPE_CHECKING:
    from flaxvision.models._summary import LayerRow, Summary, count_parameters, summary
    from flaxvision.models.build import Build
    from flaxvision.models.files import load_model, save_model
    from flaxvision.models.registry import create, list_models

__all__ = [
    "Build",
    "LayerRow",
    "Summary",
    "count_parameters",
    "create",
    "list_models",
    "load_model",
    "save_model",
    "summary",
]

__getattr__ = attach(
    __name__,
    {
        **dict.fromkeys(("LayerRow", "Summary", "count_parameters", "summary"), "_summary"),
        "Build": "build",
        **dict.fromkeys(("load_model", "save_model"), "files"),
        **dict.fromkeys(("create", "list_models"), "registry"),
    },
)

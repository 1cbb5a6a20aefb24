"""Networks: the reports' by name, or your own; parameter counts, summaries and weights files."""

from flaxvision.models.build import Build
from flaxvision.models.files import load_model, save_model
from flaxvision.models.registry import create, list_models
from flaxvision.models.summary import LayerRow, Summary, count_parameters, summary

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

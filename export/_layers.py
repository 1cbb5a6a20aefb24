"""The layers of a network in other worlds: the registry, complete."""

from export import _activations, _moving, _plain, _weighted  # noqa: F401 (they register their rows)
from export._rows import check_layers, check_pixels, check_registry, places

check_registry()

__all__ = ["check_layers", "check_pixels", "places"]

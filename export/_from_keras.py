"""Keras models into ours, as `flaxvision.models` has it."""

from flaxvision.models._from_keras import from_keras

__all__ = ["from_keras"]

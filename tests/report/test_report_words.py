"""A recipe in words: nothing that was set is left out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import report_examples as examples

from flaxvision.report.words import recipe_words
from flaxvision.sweep import parse_spec
from flaxvision.sweep.trials import expand

SETTINGS = {
    "optimizer": "adam", "beta2": 0.987, "epsilon": 3e-7, "learning_rate": 0.0123, "schedule": "cosine",
    "warmup_epochs": 1.5, "batch_size": 77, "epochs": 3, "label_smoothing": 0.17, "augment": ["crop", "flip"],
    "crop_padding": 5, "rotation": 11.0, "mixup": 0.31, "ema": 0.97, "precision": "float64", "select": "best",
    "early_stopping": 4, "pixels": "signed",
}  # fmt: skip


def words_of(table: dict) -> str:
    trial = expand(parse_spec(table))[0]
    result = examples.learning_rates(Path())
    winner = dataclasses.replace(result.winner, config=dict(trial.settings), seed=trial.seed)
    return " ".join(recipe_words(dataclasses.replace(result, winner=winner)))


def test_every_setting_is_said():
    table = {"dataset": "glyphs", "model": "mlp", "data": {"limit": 128}, "sizes": {"hidden": [9]}, "recipe": SETTINGS}
    text = words_of(table)
    said = ["mlp (hidden [9]) on glyphs", "limit 128", "adam, learning rate 0.0123, cosine schedule", "beta2 0.987"]
    said += ["epsilon 3e-07", "Batches of 77", "3 epochs", "label smoothing 0.17", "cropped at random", "by 5 pixels"]
    said += ["mirrored at random", "rotation 11", "mixup 0.31", "ema 0.97", "precision float64", "−1 to 1"]
    said += ["the epoch with the best", "after 4 epochs", "warmup epochs 1.5"]
    assert [words for words in said if words not in text] == []


def test_the_plainest_recipe_and_what_varies():
    text = words_of({"dataset": "glyphs", "model": "mlp"})
    assert "SGD, learning rate" in text
    assert "nothing is augmented" in text
    assert "learning rate (1, 0.1, 0.01, 0.001)" in text


@pytest.mark.parametrize("changes", [{"winner": None}, {}])
def test_without_a_recipe_nothing_is_said(changes):
    assert recipe_words(dataclasses.replace(examples.learning_rates(Path()), **changes)) == []

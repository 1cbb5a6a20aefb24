"""A trial's configuration: its data set, its network and its recipe.

A spec, `--set` and a grid name settings by bare names; `TrialConfig.of` sorts them, and nothing else does.
"""

from __future__ import annotations

import dataclasses

from flaxvision.sweep.spec import Settings, described
from flaxvision.training.recipe import field_names


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """A data set as `flaxvision.data.load` takes it; None: not given. `inputs.load_dataset` checks the values.

    `drawn` is called `examples` there: in a spec that is a duration of the recipe.
    """

    dataset: str = described(
        "which data set", "a name that flaxvision data lists, images:FOLDER, npz:FOLDER or tfds:NAME"
    )
    validation: float | None = described(
        "share of the training examples to hold out, by which the winner is then chosen",
        "above 0 and below 1; 0: none",
        default=None,
    )
    validation_seed: int | None = described(
        "seed by which these examples are drawn (left out: 0)", "0 or more", default=None
    )
    limit: int | None = described("how many examples of every split to use", "1 or more", default=None)
    size: int | str | tuple[int, int] | None = described(
        "what images of images:FOLDER are converted to, and in which size glyphs are drawn; elsewhere a check",
        "pixels a side, such as 32, or width and height, such as '64x48'",
        default=None,
    )
    channels: int | None = described(
        "channels of these images", "1 (grey), 3 (colour); of images:FOLDER also 4 (with alpha)", default=None
    )
    fit: str | None = described(
        "how images of images:FOLDER come to size (left out: crop)", "crop, pad, stretch", default=None
    )
    skip_damaged: bool | None = described(
        "leave out images of images:FOLDER that cannot be read, and say so, in place of an error", default=None
    )
    stream: bool | None = described(
        "go through examples block by block, so that each is read once an epoch (left out: if they are more than the "
        "memory has room for)",
        default=None,
    )
    drawn: int | None = described(
        "training examples to draw of glyphs or glyphs47, and a fifth for testing", "1 or more", default=None
    )

    @classmethod
    def of(cls, settings: Settings) -> DataConfig:
        """The data set of settings by their bare names; others are passed over."""
        given: Settings = {key: settings[key] for key in DATA_KEYS if key in settings}
        given |= {key: tuple(value) for key, value in given.items() if isinstance(value, list)}  # which can be hashed
        return cls(**given)

    @property
    def options(self) -> Settings:
        """What is given beside the data set's name."""
        given = {key: getattr(self, key) for key in DATA_KEYS[1:]}
        return {key: value for key, value in given.items() if value is not None}


@dataclasses.dataclass(frozen=True, slots=True)
class ModelConfig:
    """A network as `flaxvision.models.create` takes it."""

    name: str
    arguments: Settings  # beside shape, classes and seed: `init`, and what the network's function takes


@dataclasses.dataclass(frozen=True, slots=True)
class TrialConfig:
    """What is trained on what, and how."""

    data: DataConfig
    model: ModelConfig
    recipe: Settings  # of `Recipe`, but the seed
    settings: Settings  # all of that by bare names, as given: also a value that is the default is part of a trial's id

    @classmethod
    def of(cls, settings: Settings) -> TrialConfig:
        """The configuration of settings by their bare names."""
        tables = tables_of(settings)
        return cls(DataConfig.of(settings), ModelConfig(settings["model"], tables["sizes"]), tables["recipe"], settings)


DATA_KEYS = tuple(field.name for field in dataclasses.fields(DataConfig))
RECIPE_KEYS = tuple(name for name in field_names() if name != "seed")


def table_of(key: str) -> str:
    """The table of a spec in which a setting stands: "data", "recipe" or "sizes", or "" at the top.

    >>> table_of("limit"), table_of("momentum"), table_of("hidden"), table_of("model")
    ('data', 'recipe', 'sizes', '')
    """
    if key in ("dataset", "model"):
        return ""
    return "data" if key in DATA_KEYS else "recipe" if key in field_names() else "sizes"


def tables_of(settings: Settings) -> dict[str, Settings]:
    """Settings by their tables, of which some may be empty."""
    tables: dict[str, Settings] = {"": {}, "data": {}, "sizes": {}, "recipe": {}}
    for key, value in settings.items():
        tables[table_of(key)][key] = value
    return tables

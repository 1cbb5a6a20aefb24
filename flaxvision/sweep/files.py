"""Where a sweep reads and writes."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Self

from flaxvision._files import WINNER
from flaxvision.sweep.spec import config_hash

if TYPE_CHECKING:
    from flaxvision.data import Dataset
    from flaxvision.sweep.parts import Part

LEAVING = ("*.safetensors", "*.onnx", "*.onnx.data", "*.keras", "README.md", "check.py", "example.npz", "parity.*")
ARRAYS = "arrays:"  # how the name of a data set begins that was given in Python


@dataclasses.dataclass(frozen=True, slots=True)
class GivenData:
    """A data set that was given in Python: in this process as it is, for others in a file of the run."""

    checksum: str  # of the examples; two are equal if these are
    path: Path | None = dataclasses.field(default=None, compare=False)
    dataset: Dataset | None = dataclasses.field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """That of a data set in memory."""
        from flaxvision.identity import checksum_of

        return cls(config_hash(checksum_of(dataset)), None, dataset)

    @classmethod
    def stored(cls, directory: Path) -> Self | None:
        """That of a run; None if it was trained on no such data set."""
        from flaxvision.data.stored import read_dataset

        path = RunFiles(directory).data_set
        if not path.exists():
            return None
        dataset = read_dataset(path)
        return dataclasses.replace(cls.of(dataset), path=path)

    def __reduce__(self) -> tuple[type[GivenData], tuple[str, Path | None]]:
        return GivenData, (self.checksum, self.path)

    def kept(self, path: Path) -> Self:
        """The same once the file `path` holds it."""
        from flaxvision.data.stored import write_dataset

        if path != self.path:
            write_dataset(self.load(), path)
        return dataclasses.replace(self, path=path)

    def load(self) -> Dataset:
        """The data set."""
        from flaxvision.data.stored import read_dataset

        if self.dataset is not None:
            return self.dataset
        assert self.path is not None  # it was stored before it was sent
        return read_dataset(self.path)


@dataclasses.dataclass(frozen=True, slots=True)
class DataFolders:
    """Where data sets are read, see `flaxvision.data.load`."""

    raw_dir: str | None = None
    data_dir: str | None = None
    given: GivenData | None = None  # what "arrays:NAME" is
    loaded: GivenData | None = None  # the data set of all trials, whatever its name, as another process has loaded it


@dataclasses.dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of a run."""

    directory: Path  # the run directory
    data: DataFolders = DataFolders()  # which its trials read
    part: Part | None = None  # which this process fills; None: all of it

    def weights(self, trial_id: str) -> Path:
        """A trial's weights file."""
        return self.directory / "trials" / f"{trial_id}.safetensors"

    def history(self, trial_id: str) -> Path:
        """A trial's history file."""
        return self.directory / "trials" / f"{trial_id}.npz"

    def start(self, path: str) -> Path:
        """The copy of a weights file from which trials start."""
        return self.directory / "start" / f"{config_hash(path)}.safetensors"

    @property
    def checkpoints(self) -> Path:
        """The folder of the states of trials that are not over."""
        return self.directory / "checkpoints"

    @property
    def pretrained(self) -> Path:
        """The weights that the [pretrain] stage leaves."""
        return self.directory / "pretrain.safetensors"

    @property
    def winner(self) -> Path:
        """The weights of the winner, in the folder of all that leaves the run."""
        return self.directory / WINNER

    def forget_winner(self) -> None:
        """Delete what the winner's folder holds of an earlier winner; files of the user's own stay."""
        for path in [path for pattern in LEAVING for path in self.winner.parent.glob(pattern)]:
            path.unlink()
        with contextlib.suppress(OSError):  # others are there, or there is no folder
            self.winner.parent.rmdir()

    @property
    def data_set(self) -> Path:
        """The data set, where it was given in Python."""
        return self.directory / "data.npz"

    @property
    def code(self) -> Path:
        """The folder of copies of the user's own code."""
        return self.directory / "code"

    @property
    def about(self) -> Path:
        """What is known of the run beside its spec and its trials."""
        return self.directory / "run.json"

"""Report B1: a small convolutional classifier of MNIST, its loss every 500 iterations and its confusion matrix.

    python experiments/mnist_classifier.py --raw-dir DATA

Two blocks of convolution, BatchNorm, ReLU, max-pool and dropout, two linear layers; Adam 0.001, batches of 32, 4
epochs, PyTorch's initialisation; 3 seeds, and 3 in PyTorch. Some 5 minutes on one CPU core; `--quick`
takes made data and seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from common import Study, read_options
from figures import draw_confusions
from rows import means_by_epoch
from sweeps import after, dataset_of, fill, torch_runs

import flaxvision as fv
from flaxvision.report import most_confused
from flaxvision.training.confusion import confusion_pairs

EVERY = 500  # iterations a printed loss is the mean of
PUBLISHED_LOSSES = ((0.416, 0.183, 0.150), (0.108, 0.106, 0.101), (0.079, 0.086, 0.080), (0.069, 0.070, 0.067))
PUBLISHED_ERROR = (4, 9)  # the most confused pair: true class, predicted class
ABOUT = """
The report's network and settings, several seeds. It prints no optimiser and no rate: Adam 0.001 is
identified by its losses, which are compared but have no tolerance; PyTorch trains the same. Rows of the confusion
matrix are true classes, columns predicted ones; it is that of the seed whose accuracy is nearest to the mean.
"""


class Losses(NamedTuple):
    """Losses of every step beside the means that report B prints of them, three an epoch."""

    printed: Sequence[Sequence[float]]  # (epochs, 3)
    ours: np.ndarray  # (seeds, steps)
    peer: np.ndarray | None = None  # PyTorch's
    what: str = "mean loss"
    note: str = ""  # on the last of them

    def means(self, every: int, epochs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is printed, ours and PyTorch's: (epochs, 3), and twice (seeds, epochs, 3), PyTorch's maybe of none."""
        ours, theirs = (
            np.zeros((0, epochs, 3)) if steps is None else means_by_epoch(steps, every, epochs)[..., :3]
            for steps in (self.ours, self.peer)
        )
        return np.array(self.printed[:epochs]), ours, theirs


def main(arguments: list[str] | None = None) -> None:
    options = read_options("mnist_classifier", __doc__, arguments, seeds=3)
    study = Study(options, "B1", "A small convolutional classifier of MNIST", ABOUT)
    (runs,) = fill(study, "mnist-net").values()
    peer = torch_runs(options, runs)
    data = dataset_of(options, runs.config)

    accuracies = runs.last("test_top1")
    study.row("test accuracy", accuracies, **runs.published(), peer=after(peer, "test_top1"))
    study.row("parameters", runs.parameters, "", **runs.published("parameters"))
    losses = Losses(PUBLISHED_LOSSES, runs["step_loss"], peer.get("step_loss"))
    every, epochs = 2 if options.quick else EVERY, runs["test_top1"].shape[1]
    explain_losses(study, *losses.means(every, epochs))
    compare_losses(study, "loss", {"": losses}, every, epochs)

    confusions = runs.confusions()
    judge_confused_pair(study, confusions, data.classes)
    typical = int(np.abs(accuracies - accuracies.mean()).argmin())
    show_confusion(study, confusions[typical], data.classes, f"Seed {typical}, {accuracies[typical]:.2f} % correct")
    study.text("Layers", f"```\n{fv.models.summary(runs.models()[0])}\n```")
    study.write()


def explain_losses(study: Study, published: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Do they lie below the printed ones, and PyTorch's as well?"""

    def below(losses: np.ndarray) -> str:
        share = 100 * (losses.mean(axis=0) / published - 1)
        return f"{(share < 0).sum()} of {share.size} lie below the report's (mean difference {share.mean():+.1f} %)"

    alike = len(theirs) and (theirs.mean(axis=0) < published).mean() > 0.5
    why = " So the library is not what makes them lower, but something that the report does not print." if alike else ""
    peers = f"; of PyTorch's, {below(theirs)}" if len(theirs) else ""
    study.text("The losses", f"Of our mean losses, {below(ours)}{peers}.{why}")


def compare_losses(study: Study, name: str, panels: Mapping[str, Losses], every: int, epochs: int) -> None:
    """A row, and a point of the figure, for each mean that the report prints."""
    solid, dashed = {}, {}
    for title, losses in panels.items():
        printed, ours, theirs = losses.means(every, epochs)
        for epoch, i in np.ndindex(printed.shape):
            what = f"{losses.what}, epoch {epoch + 1}, iterations {i * every + 1} to {(i + 1) * every}"
            known = {"published": float(printed[epoch, i]), "note": losses.note if (epoch, i) == (3, 2) else ""}
            study.row(what, ours[:, epoch, i], "", peer=theirs[:, epoch, i], **known)
        solid[title], dashed[title] = {"": ours.reshape(len(ours), -1)}, {"report": printed.ravel()}
    per_epoch = losses.ours.shape[1] // epochs
    x = np.add.outer(per_epoch * np.arange(epochs), every * np.arange(1, 4)).ravel()
    look = {"xlabel": "iteration", "x": x, "dashed_means": "report", "solid_means": "flaxvision", "log": True}
    caption = f"Training loss, mean of every {every} iterations: the report's and ours."
    study.lines(name, caption, solid, f"training loss, mean of {every}", dashed=dashed, **look)


def judge_confused_pair(study: Study, confusions: np.ndarray, classes: tuple[str, ...]) -> None:
    """Is the report's most frequent error that of every seed (supported), of none (not supported), or of some?"""
    hits = [counts[PUBLISHED_ERROR] == (counts * ~np.eye(len(counts), dtype=bool)).max() for counts in confusions]
    worst = [most_confused(confusion_pairs(confusion), classes) for confusion in confusions]
    found = "; ".join(f"seed {seed}: {error}" for seed, error in enumerate(worst))
    counts = ", ".join(str(int(confusion[PUBLISHED_ERROR])) for confusion in confusions)
    evidence = f"so in {sum(hits)} of {len(hits)} seeds ({found}); 4 taken for 9: {counts} times"
    study.claim("the most frequent error is a 4 taken for a 9", hits, evidence)


def show_confusion(study: Study, confusion: np.ndarray, classes: tuple[str, ...], title: str) -> None:
    rows = [(f"**{name}**", *map(int, counts)) for name, counts in zip(classes, confusion, strict=True)]
    named = f"{title}. Most confused: {most_confused(confusion_pairs(confusion), classes)}."
    study.table("Confusion matrix", ("true \\ predicted", *classes), rows, named)
    study.figure("confusion", draw_confusions({title: confusion}, classes), named)


if __name__ == "__main__":
    main()

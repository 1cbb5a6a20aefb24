"""Report B1: a small convolutional classifier of MNIST, its loss every 500 iterations and its confusion matrix.

    python experiments/mnist_classifier.py --raw-dir DATA

Two blocks of convolution, BatchNorm, ReLU, max-pool and dropout, two linear layers; Adam 0.001, batches of 32, 4
epochs, PyTorch's initialisation; 3 seeds, and 3 in PyTorch. Some 5 minutes on one CPU core; `--quick`
takes made data and seconds.

Found: 98.82 ± 0.04 % against the report's 98.81 (PyTorch 98.83 ± 0.13), with losses some 6 % below the report's
(PyTorch's 4 %); a 4 taken for a 9 is the most frequent error of none of the seeds.
"""

from __future__ import annotations

import numpy as np
from common import Study, judge, means_of, read_options
from figures import draw_confusions, draw_lines
from sweeps import dataset_of, fill, torch_runs

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


def main(arguments: list[str] | None = None) -> None:
    """Train, compare, write the tables and figures."""
    options = read_options("mnist_classifier", __doc__, arguments, seeds=3)
    study = Study(options, "B1", "A small convolutional classifier of MNIST", ABOUT)
    (runs,) = fill(study, "mnist-net").values()
    peer = torch_runs(options, runs)
    data = dataset_of(options, runs.config)

    accuracies = runs.last("test_top1")
    theirs = 100 * peer["test_top1"][:, -1] if peer else ()
    study.row("test accuracy", accuracies, **runs.published(), peer=theirs)
    study.row("parameters", runs.parameters, "", **runs.published("parameters"))
    per_epoch = -(-len(data.train) // runs.config["batch_size"])
    losses = runs["step_loss"]
    every = 2 if options.quick else EVERY
    compare_losses(study, losses, peer.get("step_loss", np.zeros((0, losses.shape[1]))), every, per_epoch)

    confusions = runs.confusions()
    judge_confused_pair(study, confusions, data.classes)
    typical = int(np.abs(accuracies - accuracies.mean()).argmin())
    show_confusion(study, confusions[typical], data.classes, f"Seed {typical}, {accuracies[typical]:.2f} % correct")
    study.text("Layers", f"```\n{fv.models.summary(runs.models()[0])}\n```")
    study.write()


def compare_losses(study: Study, ours: np.ndarray, theirs: np.ndarray, every: int, per_epoch: int) -> None:
    """A row and a point of the figure for each mean that the report prints; ours and PyTorch's are (seeds, steps)."""
    epochs = ours.shape[1] // per_epoch
    published = np.array(PUBLISHED_LOSSES[:epochs]).ravel()

    def means(runs: np.ndarray) -> np.ndarray:
        """(seeds, means)."""
        found = [np.array(means_of(losses, every, per_epoch))[:, :3].ravel() for losses in runs]
        return np.array(found).reshape(len(runs), len(published))

    ours, theirs = means(ours), means(theirs)
    places = [(epoch, i) for epoch in range(epochs) for i in range(3)]
    for place, (epoch, i) in enumerate(places):
        where = f"epoch {epoch + 1}, iterations {i * every + 1} to {(i + 1) * every}"
        peer = theirs[:, place] if len(theirs) else ()
        study.row(f"mean loss, {where}", ours[:, place], "", published=published[place], peer=peer)

    def below(losses: np.ndarray) -> str:
        share = 100 * (losses.mean(axis=0) / published - 1)
        return f"{(share < 0).sum()} of {len(share)} lie below the report's (mean difference {share.mean():+.1f} %)"

    alike = bool(len(theirs)) and (theirs.mean(axis=0) < published).mean() > 0.5
    why = " So the library is not what makes them lower, but something that the report does not print." if alike else ""
    peers = f"; of PyTorch's, {below(theirs)}" if len(theirs) else ""
    study.text("The losses", f"Of our mean losses, {below(ours)}{peers}.{why}")
    figure = draw_lines(
        {"": {"": ours}},
        f"training loss, mean of {every}",
        xlabel="iteration",
        x=np.array([epoch * per_epoch + (i + 1) * every for epoch, i in places]),
        dashed={"": {"report": published}},
        dashed_means="report",
        solid_means="flaxvision",
        log=True,
    )
    study.figure("loss", figure, f"Training loss, mean of every {every} iterations: the report's and ours.")


def judge_confused_pair(study: Study, confusions: np.ndarray, classes: tuple[str, ...]) -> None:
    """Is the report's most frequent error that of every seed (supported), of none (not supported), or of some?"""
    errors = [confusion * ~np.eye(len(confusion), dtype=bool) for confusion in confusions]
    hits = [bool(counts[PUBLISHED_ERROR] == counts.max()) for counts in errors]
    worst = [most_confused(confusion_pairs(confusion), classes) for confusion in confusions]
    found = "; ".join(f"seed {seed}: {error}" for seed, error in enumerate(worst))
    counts = ", ".join(str(int(confusion[PUBLISHED_ERROR])) for confusion in confusions)
    evidence = f"so in {sum(hits)} of {len(hits)} seeds ({found}); 4 taken for 9: {counts} times"
    study.claim("the most frequent error is a 4 taken for a 9", judge(hits), evidence)


def show_confusion(study: Study, confusion: np.ndarray, classes: tuple[str, ...], title: str) -> None:
    """The confusion matrix as table and picture."""
    rows = [(f"**{name}**", *map(int, counts)) for name, counts in zip(classes, confusion, strict=True)]
    named = f"{title}. Most confused: {most_confused(confusion_pairs(confusion), classes)}."
    study.table("Confusion matrix", ("true \\ predicted", *classes), rows, named)
    study.figure("confusion", draw_confusions({title: confusion}, classes), named)


if __name__ == "__main__":
    main()

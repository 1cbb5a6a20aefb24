"""Report D: a decoder behind the frozen, pretrained encoder gives handwritten characters back.

    python experiments/emnist_autoencoder.py --raw-dir DATA

The hold-out table of three optimisers, then the final runs: Adam 0.001, and SGD 0.01, which the report says had won
the hold-out and then failed to converge. Some 25 minutes on one CPU core; `--quick` takes made data and seconds.
"""

from __future__ import annotations

import numpy as np
from common import Study, read_options
from emnist_common import DIGITS_ONLY, QUICK, is_lower, judge_epochs, lowest, table
from matplotlib.figure import Figure
from rows import mean_and_error, number, with_error
from sweeps import Arrays, Runs, dataset_of, fill, torch_runs

import flaxvision as fv
from flaxvision.report import COLUMN, figure_style, new_figure

PUBLISHED_EPOCH = 14  # of that loss, counted from 0
PUBLISHED_PARAMETERS = 12869  # derived
TOLERANCE = 1.5  # of the loss, from PyTorch on the same data
SHOWN = 10  # characters
ABOUT = """
Trained on {:,} images in place of 52,640 and behind an encoder of ours, from MNIST's digits, so our numbers are
judged by plain PyTorch on the same images behind the same encoder. Loss: squared error summed over pixels. A run has
*failed to converge* if its last epoch is no better than the best constant image, the mean of the images it is tested
on.
"""


def main(arguments: list[str] | None = None) -> None:
    options = read_options("emnist_autoencoder", __doc__, arguments, seeds=5)
    few = 1 if options.quick else 3
    study = Study(options, "D", "47 characters: an autoencoder behind a frozen encoder", ABOUT)
    holdout = fill(study, table("emnist-autoencoder"), quick=QUICK)
    longer = table("emnist-autoencoder", epochs=15, validation=0)
    final = fill(study, longer, only={"optimizer": ["Adam 0.001", "SGD 0.01"]}, quick=QUICK)
    adam, sgd = final["Adam 0.001"], final["SGD 0.01"]
    held, everything = (dataset_of(options, runs.config) for runs in (holdout["SGD 0.1"], adam))
    study.about = ABOUT.format(len(everything.train))
    validation, test = held.splits["validation"], everything.test
    holdout_peers = {  # of the first, seeds differ
        name: torch_runs(options, runs, None if name == "SGD 0.1" else 1) for name, runs in holdout.items()
    }
    final_peers = {name: torch_runs(options, runs, few, quick=runs is sgd) for name, runs in final.items()}

    study.row("parameters", adam.parameters, "", published=PUBLISHED_PARAMETERS, tolerance=0)
    add_rows(study, "val", validation, holdout, holdout_peers)
    add_rows(study, "test", test, final, final_peers)
    losses = adam["test_loss"]
    study.row("final, Adam 0.001: last test loss", losses[:, -1], "")
    study.row("final, Adam 0.001: best epoch, from 0", losses.argmin(axis=1), "", published=PUBLISHED_EPOCH)
    judge_black(study, validation, holdout["SGD 0.1"], holdout_peers["SGD 0.1"])
    judge_holdout(study, holdout)
    judge_epochs(study, {"Adam 0.001": adam}, {"Adam 0.001": holdout["Adam 0.001"]}, ("loss",))
    judge_final(study, test, sgd, final_peers["SGD 0.01"])
    draw_reconstructions(study, test, {**final, "SGD 0.1": holdout["SGD 0.1"]})
    panels = {"hold-out, validation loss": ("val", holdout, validation), "final, test loss": ("test", final, test)}
    draw_losses(study, panels)
    study.write()


def constant_losses(split: fv.data.Split) -> tuple[float, float]:
    """The loss of the best constant image, the mean, and that of a black one."""
    pixels = split.images.reshape(len(split), -1) / 255
    return float(pixels.var(axis=0).sum()), float((pixels**2).sum(axis=1).mean())


def failures(split: fv.data.Split, losses: np.ndarray) -> np.ndarray:
    """Of every seed whether it failed to converge; losses are (seeds, epochs)."""
    return ~(losses[:, -1] < constant_losses(split)[0])


def add_rows(study: Study, where: str, split: fv.data.Split, runs: dict[str, Runs], peers: dict[str, Arrays]) -> None:
    """Smallest losses; held to PyTorch's where all runs shared one fate."""
    stage, name = ("hold-out", "validation") if where == "val" else ("final", "test")
    for optimizer, found in runs.items():
        ours = found[f"{where}_loss"]
        theirs = peers[optimizer][f"{where}_loss"] if peers[optimizer] else np.zeros((0, ours.shape[1]))
        failed, failed_there = failures(split, ours), failures(split, theirs)
        one_fate = len({*failed.tolist(), *failed_there.tolist()}) == 1
        note = f"{DIGITS_ONLY}; failed: {counted(failed)}"
        note += f", PyTorch {counted(failed_there)}" if len(theirs) else ""
        if len(theirs) > 1:
            error = np.hypot(*(mean_and_error(runs.min(axis=1))[1] for runs in (ours, theirs)))
            note += f"; standard error of the difference: {number(float(error))}"
        known = found.published(f"{where}_loss")["published"] if (stage, optimizer) != ("final", "SGD 0.01") else None
        judged = {"published": known, "peer_tolerance": TOLERANCE if one_fate else None, "note": note}
        what = f"{stage}, {optimizer}: smallest {name} loss"
        study.row(what, ours.min(axis=1), "", peer=theirs.min(axis=1), **judged)


def counted(seeds: np.ndarray) -> str:
    """How many seeds it is true of, such as "2 of 5"."""
    return f"{int(seeds.sum())} of {len(seeds)}"


def judge_black(study: Study, split: fv.data.Split, runs: Runs, peer: Arrays) -> None:
    (mean, black), published = constant_losses(split), runs.published("val_loss")["published"]
    failed = failures(split, runs["val_loss"])
    also = f" (PyTorch {counted(failures(split, peer['val_loss']))}; {by_seed(peer)})" if peer else ""
    study.claim(
        "SGD 0.1 fails to converge (validation loss 111.1)",
        failed,
        f"fails for {counted(failed)} seeds; smallest losses {by_seed(runs)}{also}. On our validation split a black "
        f"image scores {black:.1f}, {abs(published - black):.1f} from the published loss, and the "
        f"best constant image {mean:.1f}",
    )


def by_seed(runs: Arrays) -> str:
    return ", ".join(f"{loss:.1f}" for loss in lowest(runs, "val"))


def judge_holdout(study: Study, runs: dict[str, Runs]) -> None:
    sgd, adam = (lowest(runs[optimizer], "val") for optimizer in ("SGD 0.01", "Adam 0.001"))
    study.claim(
        "SGD 0.01 has the smallest validation loss (22.67, Adam 23.9)",
        is_lower(sgd - adam),
        f"{with_error(sgd)} against {with_error(adam)}, lower for {counted(sgd < adam)} seeds; difference "
        f"{with_error(sgd - adam, sign=True)} (two standard errors asked for)",
    )


def judge_final(study: Study, split: fv.data.Split, runs: Runs, peer: Arrays) -> None:
    failed, last = failures(split, runs["test_loss"]), runs.last("test_loss")
    also = f", and {counted(failures(split, peer['test_loss']))} in PyTorch" if peer else ""
    study.claim(
        "SGD 0.01 fails to converge in its final run",
        failed,
        f"fails for {counted(failed)} seeds{also}; last test losses {last.min():.1f} to {last.max():.1f}, the best "
        f"constant image scores {constant_losses(split)[0]:.1f}",
    )


def draw_reconstructions(study: Study, split: fv.data.Split, runs: dict[str, Runs]) -> None:
    """Originals, the first image of classes at even distances, above what seed 0 makes of them."""
    present = np.unique(split.labels)
    classes = present[np.linspace(0, len(present) - 1, SHOWN).astype(int)]
    images = np.stack([split.images[split.labels == label][0] for label in classes])
    outputs = {optimizer: fv.predict(found.models()[0], images) for optimizer, found in runs.items()}
    study.figure(
        "reconstructions",
        draw_images({"original": images / 255, **outputs}),
        "Test images and what seed 0 makes of them: Adam 0.001 and SGD 0.01 after 15 epochs on all training images, "
        "SGD 0.1 after the 10 of the hold-out.",
    )


def draw_losses(study: Study, panels: dict[str, tuple[str, dict[str, Runs], fv.data.Split]]) -> None:
    """Loss curves, with the constant images that a decoder should beat."""
    solid, dashed, levels = {}, {}, {}
    for title, (where, runs, split) in panels.items():
        solid[title] = {optimizer: found[f"{where}_loss"] for optimizer, found in runs.items()}
        dashed[title] = {optimizer: found["train_loss"] for optimizer, found in runs.items()}
        levels[title] = dict(zip(("best constant", "black image"), constant_losses(split), strict=True))
    caption = "Loss over epochs, and that of two constant images. Training losses are running means over the epoch."
    look = {"dashed": dashed, "solid_means": "validation or test", "levels": levels}
    study.lines("losses", caption, solid, "squared error an image", **look)


def draw_images(rows: dict[str, np.ndarray]) -> Figure:
    """Rows of images, named at the left."""
    with figure_style():
        columns = len(next(iter(rows.values())))
        side = (COLUMN - 0.7) / columns
        figure = new_figure(COLUMN, side * len(rows))
        figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
        for line, (name, images) in zip(figure.subplots(len(rows), columns, squeeze=False), rows.items(), strict=True):
            for axes, image in zip(line, images, strict=True):
                axes.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
    return figure


if __name__ == "__main__":
    main()

"""Report D: 47 handwritten characters, from scratch and behind a frozen pretrained encoder.

    python experiments/emnist_holdout.py --raw-dir DATA

Both hold-out tables, the final runs, and what choosing the epoch on the test set adds to their scores. Some 35 minutes
on 2 CPU cores (estimated); `--quick` takes made data and seconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import emnist_common as emnist
import numpy as np
from common import Study, read_options
from rows import mean_std, with_error
from sweeps import Arrays, Runs, dataset_of, fill, torch_runs

from flaxvision.training.metrics import metric_of

WAYS = ("scratch", "pretrained")  # the encoder learns, or is pretrained and frozen
OPTIMIZERS = ("Adam 0.001", "SGD 0.1", "SGD 0.01")
PUBLISHED_PARAMETERS = {32: 8751, 64: 11311}  # by width; derived
CHOSEN = {"scratch": "Adam 0.001", "pretrained": "SGD 0.1"}  # by the report, with 64 units
PUBLISHED_FINAL = {  # five runs, each at its epoch of smallest test loss
    "scratch": {
        "loss": (0.5804, 0.6645, 0.6150, 0.5489, 0.5796),
        "top1": (0.8117, 0.7826, 0.7972, 0.8159, 0.8039),
        "top3": (0.9631, 0.9546, 0.9593, 0.9660, 0.9651),
        "epoch": (19, 16, 18, 18, 19),  # counted from 0
    },
    "pretrained": {
        "loss": (0.9610, 0.9483, 0.9204, 0.9362, 0.9254),
        "top1": (0.7064, 0.7134, 0.7147, 0.7131, 0.7147),
        "top3": (0.9072, 0.9108, 0.9144, 0.9114, 0.9140),
        "epoch": (18, 19, 19, 18, 19),
    },
}
PUBLISHED_SECONDS = {"scratch": 385, "pretrained": 230}  # of one run
LABELS = {"loss": "loss", "top1": "top-1", "top3": "top-3"}
CHANCE = float(np.log(47))  # loss of 47 equal probabilities
TRAINED = CHANCE - 0.02  # below, a run counts as trained
LOWEST_OF_FIVE = 1.16  # standard deviations that the lowest of 5 normal numbers is expected below their mean
TOLERANCE = 1.5  # points of accuracy from PyTorch on the same data
ABOUT = """
Trained on {:,} images in place of 52,640, so our numbers are judged by plain PyTorch on the same images. The
pretrained encoder is ours, from MNIST's digits. Hold-out: smallest loss within 10 epochs on a fifth of the training
images. Differences are paired by seed; one counts where it is larger than two standard errors.
"""
Cell = tuple[str, int, str]  # way, width, optimiser


def main(arguments: list[str] | None = None) -> None:
    options = read_options("emnist_holdout", __doc__, arguments, seeds=5)
    quick = options.quick
    few = 1 if quick else min(3, options.seeds)  # for what takes long: the hold-out tables and PyTorch
    study = Study(options, "D", "47 characters: from scratch and behind a pretrained encoder", ABOUT)
    holdout, final_models = emnist.table("emnist-holdout"), emnist.table("emnist-final")
    cells = fill(study, holdout, seeds=few, only={"hidden": ["64"]} if quick else {}, quick=emnist.QUICK)
    if not quick:  # not every seed leaves chance
        cells |= fill(study, holdout, only={"optimizer": ["SGD 0.1"], "encoder": ["scratch"]})
    grid: dict[Cell, Runs] = {}
    peers: dict[Cell, Arrays] = {}
    for (width, optimizer, way), found in sorted(cells.items(), key=lambda item: WAYS.index(item[0][2])):
        grid[way, int(width), optimizer] = found
        peers[way, int(width), optimizer] = torch_runs(options, found, None if len(found.outcomes) > few else 1)

    final = fill(study, final_models, quick=emnist.QUICK, executor="loop")  # one after the other: they are timed
    honest = fill(study, final_models, quick=emnist.QUICK, validation=emnist.HELD_OUT)  # by which to choose the epoch
    only = {"variant": ["scratch"]}
    relu = fill(study, final_models, only=only, quick=emnist.QUICK, inner_activation="relu")["scratch"]
    final_peers = {way: torch_runs(options, found, few, quick=way == "pretrained") for way, found in final.items()}
    study.about = ABOUT.format(len(dataset_of(options, final["scratch"].config).train))

    for width, counted in PUBLISHED_PARAMETERS.items():
        if found := grid.get(("scratch", width, "Adam 0.001")):
            study.row(f"H={width}: parameters", found.parameters, "", published=counted, tolerance=0)
    add_holdout(study, grid, peers)
    for way in WAYS:
        add_final(study, way, final[way], final_peers[way])
    add_activations(study, final["scratch"], relu)
    add_choices(study, final, honest)
    judge_chance(study, grid)
    judge_unsteady(study, grid, peers)
    judge_holdout(study, grid)
    emnist.judge_epochs(study, final, honest, ("loss", "top1"))
    judge_best_run(study, final)
    judge_encoders(study, final)
    draw(study, grid, final, honest)
    study.write()


def add_holdout(study: Study, grid: Mapping[Cell, Runs], peers: Mapping[Cell, Arrays]) -> None:
    """Both hold-out tables, number by number and as the report has them."""
    tables: dict[str, dict[int, list[str]]] = {}
    for (way, width, optimizer), runs in grid.items():
        published = runs.published("val_loss")["published"]
        ours, peer = emnist.lowest(runs, "val"), emnist.lowest(peers[way, width, optimizer], "val")
        stuck, stuck_there = ours > TRAINED, peer > TRAINED
        notes = [emnist.DIGITS_ONLY] if way == "pretrained" else []
        if stuck.any() or stuck_there.any():
            there = f", PyTorch {stuck_there.sum()} of {len(peer)}" if len(peer) else ""
            notes.append(f"never leaves chance, ln 47: {stuck.sum()} of {len(ours)} seeds{there}")
        what = f"hold-out, {way}, H={width}, {optimizer}: validation loss"
        study.row(what, ours, "", published=published, peer=peer, note="; ".join(notes))
        tables.setdefault(way, {}).setdefault(width, []).append(f"{mean_std(ours)} ({published})")
    for way, rows in tables.items():
        title = f"Hold-out, {way}: smallest validation loss, ours (published)"
        study.table(title, ("units", *OPTIMIZERS), [(width, *cells) for width, cells in rows.items()])


def add_final(study: Study, way: str, runs: Runs, peer: Arrays) -> None:
    """The final runs: as published, at the epoch of the smallest test loss, and at the last epoch."""
    published = PUBLISHED_FINAL[way]
    also = f"; {emnist.DIGITS_ONLY}" if way == "pretrained" else ""
    chosen = {"best epoch": emnist.best_epochs, "last epoch": emnist.last_epochs}
    for (when, epochs_of), (metric, label) in itertools.product(chosen.items(), LABELS.items()):
        known, unit = {}, "" if metric == "loss" else "%"
        if when == "best epoch":
            values = metric_of(f"test_{metric}").scale * np.array(published[metric])
            note = f"published {mean_std(values, unit)}, 5 runs{also}"
            known = {"published": float(values.mean()), "note": note}
        ours, theirs = (emnist.score(x, metric, epochs_of(x)) if x else () for x in (runs, peer))
        tolerance = TOLERANCE if metric != "loss" else None
        study.row(f"{way}, {when}: test {label}", ours, unit, peer=theirs, peer_tolerance=tolerance, **known)
    ours, theirs = (emnist.best_epochs(x) if x else () for x in (runs, peer))
    epochs = published["epoch"]
    known = {"published": float(np.mean(epochs)), "note": f"published {min(epochs)} to {max(epochs)}{also}"}
    study.row(f"{way}: best epoch, from 0", ours, "", peer=theirs, **known)
    known = {"published": PUBLISHED_SECONDS[way], "peer": peer["seconds"] if peer else ()}
    known["note"] = "another machine; ours one after the other, without compilation"
    study.row(f"{way}: time of a run", runs.seconds, "s", **known)


def add_activations(study: Study, identity: Runs, relu: Runs) -> None:
    """No activation after the third convolution, as printed, or a ReLU, as others have it."""
    cells = []
    for metric, label in LABELS.items():
        ours, other = (runs.last(f"test_{metric}") for runs in (identity, relu))
        cells.append((label, with_error(ours), with_error(other), with_error(other - ours, sign=True)))
    study.table(
        "The activation that the report does not print",
        ("test, last epoch", "none (as printed)", "ReLU", "difference"),
        cells,
        "From scratch, Adam 0.001, 20 epochs; mean ± standard error, accuracies in %. Parameter counts are the same.",
    )


def add_choices(study: Study, final: dict[str, Runs], honest: dict[str, Runs]) -> None:
    cells = []
    for way in WAYS:
        last = emnist.last_epochs(final[way])
        for images, runs, against, epochs in (
            ("all", final[way], "last epoch", last),
            ("without the validation split", honest[way], "last epoch", last),
            ("without the validation split", honest[way], "best on validation", emnist.best_epochs(honest[way], "val")),
        ):
            loss, top1, top3 = (emnist.added(runs, metric, epochs) for metric in LABELS)
            cells.append((way, images, against, *(with_error(values, sign=True) for values in (loss, top1, top3))))
        what = "added by choosing the epoch on the test set"
        study.row(f"{way}: loss {what}", loss, "", note="not on the validation split")
        study.row(f"{way}: top-1 {what}", top1, "points", note="not on the validation split")
    study.table(
        "What choosing the epoch on the test set adds",
        ("encoder", "training images", "against", "loss", "top-1 (points)", "top-3 (points)"),
        cells,
        "The test score at the epoch of the smallest test loss, less that at another epoch of the same run; mean ± "
        "standard error over seeds.",
    )


def judge_chance(study: Study, grid: Mapping[Cell, Runs]) -> None:
    runs = [found for (way, _, optimizer), found in grid.items() if (way, optimizer) == ("scratch", "SGD 0.01")]
    losses = np.concatenate([emnist.lowest(found, "val") for found in runs])
    accuracy = np.concatenate([found["val_top1"].max(axis=1) for found in runs])
    study.claim(
        "3.851 is how far SGD 0.01 trains the network from scratch",
        losses < TRAINED,
        f"3.851 is chance: ln 47 = {CHANCE:.4f} is the loss of 47 equal probabilities. Smallest validation losses of "
        f"{len(losses)} runs: {losses.min():.4f} to {losses.max():.4f}; none has more than {100 * accuracy.max():.1f} "
        f"% right, where guessing gives {100 / 47:.1f} %. (A run counts as trained {CHANCE - TRAINED:.2f} below "
        "chance.)",
    )


def judge_unsteady(study: Study, grid: Mapping[Cell, Runs], peers: Mapping[Cell, Arrays]) -> None:
    evidence, trained = [], []
    for (way, width, optimizer), library in itertools.product(grid, ("ours", "PyTorch")):
        runs = (grid if library == "ours" else peers)[way, width, optimizer]
        if runs and (way, optimizer) == ("scratch", "SGD 0.1"):
            losses = emnist.lowest(runs, "val")
            trained += (losses < TRAINED).tolist()
            evidence.append(f"{width} units, {library}: {', '.join(f'{loss:.3f}' for loss in losses)}")
    study.claim(
        "SGD 0.1 trains it from scratch",
        trained,
        f"in {sum(trained)} of {len(trained)} runs; the others stay at chance, {CHANCE:.3f}, and the report has one of "
        f"each width. Smallest validation loss by seed: {'; '.join(evidence)}",
    )


def judge_holdout(study: Study, grid: Mapping[Cell, Runs]) -> None:
    for way, optimizer in CHOSEN.items():
        losses = {cell[1:]: emnist.lowest(runs, "val") for cell, runs in grid.items() if cell[0] == way}
        chosen = losses.pop((64, optimizer))
        (width, name), other = min(losses.items(), key=lambda item: float(item[1].mean()))
        study.claim(
            f"{way}: {optimizer} with 64 units has the smallest validation loss",
            emnist.is_lower(chosen - other),
            f"{with_error(chosen)}; next is {name} with {width} units, {with_error(other)}; difference "
            f"{with_error(chosen - other, sign=True)}",
        )


def judge_best_run(study: Study, final: dict[str, Runs]) -> None:
    evidence = []
    for way, runs in final.items():
        for whose, losses in (("published", PUBLISHED_FINAL[way]["loss"]), ("ours", emnist.lowest(runs, "test"))):
            std = float(np.std(losses, ddof=1)) if len(losses) > 1 else np.nan
            below = (float(np.mean(losses)) - min(losses)) / std
            evidence.append(f"{way}, {whose}: {min(losses):.4f} of {mean_std(losses)} ({below:.2f})")
    study.claim(
        "the curves of the run with the lowest loss show how the model learns",
        "not supported",
        "they show the best of 5, below the mean by construction: the lowest of 5 normal numbers is expected "
        f"{LOWEST_OF_FIVE} standard deviations below. Lowest loss, mean and deviation, and how many deviations lie "
        f"between: {'; '.join(evidence)}. The mean of all runs stands beside it in the figure",
    )


def judge_encoders(study: Study, final: dict[str, Runs]) -> None:
    scratch, pretrained = (final[way] for way in WAYS)
    loss, top1 = (scratch.last(metric) - pretrained.last(metric) for metric in ("test_loss", "test_top1"))
    published = [np.subtract(*(np.mean(PUBLISHED_FINAL[way][metric]) for way in WAYS)) for metric in ("loss", "top1")]
    study.claim(
        "training from scratch beats the frozen pretrained encoder",
        emnist.is_lower(loss),
        f"last epoch: loss {with_error(loss, sign=True)}, top-1 {with_error(top1, sign=True)} points; published, best "
        f"epoch: {published[0]:+.3f} and {100 * published[1]:+.2f}. Our encoder knows digits only; the report's is not "
        "published",
    )
    share = final["pretrained"].seconds / final["scratch"].seconds
    study.claim(
        "a frozen encoder trains faster",
        emnist.is_lower(share - 0.9),
        f"{with_error(share)} of the time from scratch, {len(share)} runs each, one after the other (below 0.9 is "
        f"asked for); published {PUBLISHED_SECONDS['pretrained'] / PUBLISHED_SECONDS['scratch']:.2f}",
    )


def draw(study: Study, grid: Mapping[Cell, Runs], final: dict[str, Runs], honest: dict[str, Runs]) -> None:
    lowest = {way: int(runs["test_loss"].min(axis=1).argmin()) for way, runs in final.items()}
    rows_of = {"mean of runs": dict.fromkeys(WAYS, slice(None)), "lowest-loss run": lowest}
    solid, dashed = {}, {}
    for (which, rows), (metric, label) in itertools.product(rows_of.items(), LABELS.items()):
        scale, title = (1, f"{label}, {which}") if metric == "loss" else (100, f"{label} (%), {which}")
        for panels, split in ((solid, "test"), (dashed, "train")):
            panels[title] = {way: scale * final[way][f"{split}_{metric}"][rows[way]] for way in WAYS}
    caption = "Final models: the mean of all runs beside the run with the lowest test loss "
    caption += f"(seeds {lowest['scratch']} and {lowest['pretrained']}), which the report shows. "
    caption += "Training values are running means over the epoch."
    study.lines("learning_curves", caption, solid, "", dashed=dashed, columns=3)
    holdout = {
        title: {o: runs["val_loss"] for (w, width, o), runs in grid.items() if (w, width) == (way, 64)}
        for way, title in (("scratch", "from scratch"), ("pretrained", "pretrained, frozen encoder"))
    }
    caption = (
        f"Hold-out with 64 units: the loss on the validation split, a line a seed. Chance is ln 47 = {CHANCE:.3f}."
    )
    levels = {"from scratch": {"ln 47": CHANCE}}
    study.lines("holdout", caption, holdout, "validation loss", levels=levels, each=True)
    study.figure(
        "epoch_choice",
        emnist.draw_choices(honest),
        "The test loss of every run (lines) and their mean (dots) at three epochs: the last, the best on a validation "
        "split, and the best on the test set itself. Both panels span the same difference.",
    )


if __name__ == "__main__":
    main()

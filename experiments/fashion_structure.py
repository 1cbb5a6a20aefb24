"""Report E, width and depth: a base, a deeper and a wider network on Fashion-MNIST, and the gradients of the base.

    python experiments/fashion_structure.py --raw-dir DATA

Some 65 minutes on 2 CPU cores (5 for each run of the base, 25 for each of the others). What is trained is kept in
runs/fashion_structure, so that a second call goes on where the first one stopped. `--big-seeds 3` trains the deeper and
the wider network as often as the base (one run of them decides no claim), `--epochs 50` trains less; `--quick` takes
made data and seconds.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from common import Study, read_options
from figures import draw_lines
from rows import means_over
from sweeps import Runs, fill

import flaxvision as fv
from flaxvision.report import colors

MEGABYTES = {  # input, forward/backward, params, total
    "base": (0.00, 0.02, 1.29, 1.31),
    "deeper": (0.00, 0.06, 11.36, 11.43),
    "wider": (0.00, 0.05, 11.15, 11.21),
}
STEPS = ("gradient_mean", "step_loss")  # of each step: the report's sum of mean gradients, and the loss
LOWEST = {"base": 50, "deeper": 30, "wider": 50}  # about the epoch of the smallest test loss
ABOUT = """
ReLU networks of linear layers, plain SGD at 0.01, batches of 64 in the stored order, PyTorch's initialisation. The base
network is trained with more seeds than the two big ones, which cost ten times as much.
"""

Structures = dict[str, Runs]


def main(arguments: list[str] | None = None) -> None:
    flags = {
        "--epochs": {"type": int, "default": 200, "help": "epochs of every run (default 200)"},
        "--big-seeds": {"type": int, "default": 1, "help": "runs of deeper and wider, at most --seeds (default 1)"},
    }
    options = read_options("fashion_structure", __doc__, arguments, seeds=3, extra=flags)
    big_seeds = min(options.extra.big_seeds, options.seeds)
    study = Study(options, "E", "Width and depth on Fashion-MNIST, and gradients", ABOUT)
    epochs, table = options.extra.epochs, "fashion-structure"
    small, big = {"variant": ["base"]}, {"variant": ["deeper", "wider"]}
    runs = fill(study, table, only=small, epochs=epochs) | fill(study, table, only=big, epochs=epochs, seeds=big_seeds)
    gradients = fill(study, table, only=small, epochs=1, record_gradients=True)["base"]

    add_sizes(study, runs)
    add_accuracies(study, runs)
    judge_overfitting(study, runs)
    judge_stability(study, runs)
    judge_gradients(study, gradients)
    draw(study, runs, gradients)
    study.write()


def add_sizes(study: Study, structures: Structures) -> None:
    summaries = {name: fv.models.summary(runs.models()[0]) for name, runs in structures.items()}
    for name, runs in structures.items():
        study.row(f"parameters, {name}", runs.parameters, "", **runs.published("parameters"))
    rows = []
    for name, summary in summaries.items():
        sizes = summary.megabytes
        study.row(f"memory, {name}", sizes["total"], "MB", published=MEGABYTES[name][3])
        cells = [f"{ours:.2f} ({theirs:.2f})" for ours, theirs in zip(sizes.values(), MEGABYTES[name], strict=True)]
        rows.append((name, *cells))
    study.table(
        "Memory of one example in MB, ours (published)",
        ("structure", "input", "forward/backward", "params", "total"),
        rows,
        "Forward/backward counts every output, the flattened image included, twice at 4 bytes; 1 MB is 2^20 bytes.",
    )
    blocks = [f"{name}\n\n{summary}" for name, summary in summaries.items()]
    study.text("Layers", "```text\n" + "\n\n\n".join(blocks) + "\n```")


def add_accuracies(study: Study, runs: Structures) -> None:
    for name, run in runs.items():
        study.row(f"test accuracy, {name}", run.last("test_top1"), **run.published())
    base = runs["base"]
    study.row("test accuracy after epoch 1, base", 100 * base["test_top1"][:, 0], published=71.5)
    study.row("test loss after epoch 1, base", base["test_loss"][:, 0], "", published=0.7928)
    seconds = base.seconds / base["test_loss"].shape[1]
    study.row("time of one epoch and its evaluation, base", seconds, "s", published=5.67, note="other hardware")


def claim(study: Study, runs: Structures, statement: str, holds: Iterable[bool], evidence: str) -> None:
    """Judge a statement about all structures, of which a single run decides nothing."""
    single = [name for name, run in runs.items() if len(run.outcomes) == 1]
    if single:
        evidence += f"; {' and '.join(single)} ran once, which decides nothing"
    study.claim(statement, "not decided" if single else holds, evidence)


def judge_overfitting(study: Study, runs: Structures) -> None:
    """Where the test loss is smallest, and how far it rises afterwards."""
    lowest = {name: run["test_loss"].argmin(axis=1) + 1 for name, run in runs.items()}
    rise = {name: 100 * (run["test_loss"][:, -1] / run["test_loss"].min(axis=1) - 1) for name, run in runs.items()}
    rows = []
    for name, run in runs.items():
        study.row(f"epoch of the smallest test loss, {name}", lowest[name], "epoch", published=LOWEST[name])
        loss, learned, right = (run[metric].mean(axis=0) for metric in ("test_loss", "train_loss", "train_top1"))
        near = np.flatnonzero(loss <= 1.01 * loss.min()) + 1
        at_end = (f"{loss[-1]:.3f}", f"{rise[name].mean():+.0f} %", f"{learned[-1]:.3f}", f"{100 * right[-1]:.2f}")
        rows.append((name, f"{loss.min():.3f}", f"{near[0]} to {near[-1]}", *at_end))
    at_end = ("test loss at the end", "rise", "training loss at the end", "training accuracy (%)")
    study.table("Overfitting", ("structure", "smallest test loss", "epochs within 1 % of it", *at_end), rows)

    places = ", ".join(f"{name} {values.mean():.0f}" for name, values in lowest.items())
    rises = ", ".join(f"{name} {values.mean():+.0f} %" for name, values in rise.items())
    near = (abs(values.mean() - LOWEST[name]) <= 10 for name, values in lowest.items())
    statement = "the test loss is smallest near epoch 50 (base), 30 (deeper) and 50 (wider)"
    claim(study, runs, statement, near, f"smallest at epoch {places}. Rule: within 10 epochs")
    evidence = f"from its smallest to the end: {rises}. Rule: every run rises by 5 % or more"
    rising = np.concatenate(list(rise.values())) >= 5
    claim(study, runs, "afterwards the test loss rises: the networks overfit", rising, evidence)
    others = ("base", "wider")
    earlier = [lowest["deeper"].mean() < lowest[name].mean() for name in others]
    evidence = f"smallest test loss at epoch {places}; rise {rises}. Rule: earlier, and a larger rise, than both others"
    more = [rise["deeper"].mean() > rise[name].mean() for name in others]
    claim(study, runs, "the deeper network overfits faster", earlier + more, evidence)


def judge_stability(study: Study, runs: Structures) -> None:
    """Standard deviation of the changes from epoch to epoch in the second half of training."""
    changes: dict[str, dict[str, float]] = {}
    for key, scale in (("test_top1", 100), ("test_loss", 1)):
        halves = {name: run[key][:, -(run[key].shape[1] // 2) - 1 :] for name, run in runs.items()}
        changes[key] = {name: scale * float(np.diff(half).std(axis=1).mean()) for name, half in halves.items()}
    study.table(
        "Stability: standard deviation of the change from epoch to epoch, second half of training",
        ("structure", "test accuracy (points)", "test loss"),
        [(name, f"{changes['test_top1'][name]:.3f}", f"{changes['test_loss'][name]:.4f}") for name in runs],
        "A network whose training loss is near zero hardly moves any more, however stable it was before.",
    )

    points = ", ".join(f"{name} {value:.3f}" for name, value in changes["test_top1"].items())
    losses = ", ".join(f"{name} {value:.4f}" for name, value in changes["test_loss"].items())
    evidence = f"standard deviation of the change from epoch to epoch: test accuracy {points} points; test loss "
    evidence += f"{losses}. Rule: wider's is the largest by more than 10 %, in both"
    worst = (values["wider"] > 1.1 * max(values["base"], values["deeper"]) for values in changes.values())
    claim(study, runs, "the wider network is the least stable", worst, evidence)


def judge_gradients(study: Study, steps: Runs) -> None:
    """Whether the loss rises once the sum of mean gradients rises again."""
    count = steps["gradient_mean"].shape[1]
    window = max(1, count // 18)  # 52 steps
    mean, loss = (means_over(steps[key], window) for key in STEPS)
    lowest = mean.argmin(axis=1)[:, None]
    before = np.take_along_axis(loss, lowest, 1)[:, 0]

    def correlations(until: int) -> str:
        pairs = zip(steps["gradient_mean"][:, :until], steps["step_loss"][:, :until], strict=True)
        return ", ".join(f"{np.corrcoef(mean, loss)[0, 1]:+.2f}" for mean, loss in pairs)

    study.claim(
        "the mean gradient rises again, so the loss rises",
        loss[:, -1] > before,
        f"in means of {window} steps the sum of mean gradients is lowest near step "
        f"{window * (lowest.mean() + 0.5):.0f} and goes from {mean.min(axis=1).mean():.5f} there to "
        f"{mean[:, -1].mean():.5f} at the epoch's end, while the loss goes from {before.mean():.3f} to "
        f"{loss[:, -1].mean():.3f}. Correlation of the two over steps, a value a seed: {correlations(100)} in the "
        f"first 100, {correlations(count)} in the epoch. A tensor's mean adds up signs: it is neither the gradient's "
        "size nor its direction. Rule: the loss at the epoch's end is above that at the lowest mean gradient",
    )


def draw(study: Study, runs: Structures, gradients: Runs) -> None:
    metrics = (("Loss", "loss", 1), ("Accuracy (%)", "top1", 100))
    train, test = (
        {title: {name: scale * run[f"{split}_{key}"] for name, run in runs.items()} for title, key, scale in metrics}
        for split in ("train", "test")
    )
    figure = draw_lines(test, "", dashed=train)
    for values, color in zip(test["Loss"].values(), colors(list(runs)), strict=True):
        mean = values.mean(axis=0)
        figure.axes[0].plot(mean.argmin() + 1, mean.min(), "o", color=color, markersize=3.5)
    study.figure("curves", figure, "Loss and accuracy over epochs; dots mark the smallest test loss")

    steps = gradients["gradient_mean"].shape[1]
    for name, count, window in (("gradient", min(100, steps), 1), ("gradient_epoch", steps, max(1, steps // 67))):
        mean, loss = (means_over(gradients[key][:, :count], window) for key in STEPS)
        places = window * (np.arange(mean.shape[1]) + 0.5) + 0.5
        panels = {"Sum of mean gradients (thousandths)": {"": 1000 * mean}, "Loss": {"": loss}}
        what = f"the first {count} steps" if window == 1 else f"the first epoch, means of {window} steps"
        caption = f"Sum over tensors of the mean gradient, and the loss, of {what}"
        study.lines(name, caption, panels, "", xlabel="step", x=places)


if __name__ == "__main__":
    main()

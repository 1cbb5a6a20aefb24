"""Report B2's claims, an experiment and a verdict each; run by `mnist_ablations.py`."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from ablation_networks import CLIPPED, DEPTHS, EQUAL, NETWORKS, SIX, THRESHOLDS, Estimate, Network, all_of
from common import Study
from figures import draw_lines
from flax import nnx
from jax import lax
from rows import means_over

import flaxvision as fv
from flaxvision.layers import Chain, Context

CONVOLUTIONS = ((28, 3, 1, 1), (28, 5, 2, 1), (28, 5, 0, 1), (28, 6, 0, 2), (28, 3, 0, 2), (7, 5, 2, 2))  # H, F, P, S


def judge_clearing(study: Study, pairs: Mapping[str, tuple[Network, ...]], smooth: int) -> None:
    """What happens when gradients are not cleared: optimiser -> (runs with clearing, runs without)."""
    study.claim(
        "gradients that are not cleared accumulate, which spoils training",
        all_of((cleared.accuracy - kept.accuracy).inside() for cleared, kept in pairs.values()),
        "; ".join(f"{name}: {one.accuracy} % cleared, {other.accuracy} % not" for name, (one, other) in pairs.items())
        + "; the sum of all gradients is momentum 1: no step is ever forgotten (in JAX gradients are return values, so "
        "nothing is there to clear, and the sum has to be asked for)",
    )
    caption = "Two layers, gradients cleared before each step, and never cleared."
    draw_pairs(study, "clearing", pairs, ("cleared", "not cleared"), smooth, caption)


def draw_pairs(
    study: Study, figure: str, pairs: Mapping[str, tuple[Network, ...]], names: tuple[str, ...], smooth: int, about: str
) -> None:
    """Training losses of pairs of networks, means of `smooth` steps."""
    panels = {
        title: {name: means_over(run["step_loss"], smooth) for name, run in zip(names, pair, strict=True)}
        for title, pair in pairs.items()
    }
    points = max(curve.shape[1] for lines in panels.values() for curve in lines.values())
    x = smooth * np.arange(1, points + 1)
    study.lines(figure, about, panels, f"training loss, mean of {smooth}", xlabel="iteration", x=x, log=True)


@functools.partial(jax.jit, static_argnums=0)
def both_modes(graphdef: nnx.GraphDef, state: nnx.State, batches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Predicted classes in evaluation and in training mode, each (batches, B), of images (batches, B, H, W, C)."""

    def predict(position: jax.Array) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graphdef, state, copy=True)  # training mode moves BatchNorm's running statistics
        x = model.preprocess(batches[position], model.dtype)
        training = Context(train=True, key=jax.random.fold_in(jax.random.key(0), position))
        return model(x).argmax(axis=-1), model(x, training).argmax(axis=-1)

    return lax.map(predict, jnp.arange(len(batches)))


def judge_modes(study: Study, runs: Mapping[str, Network], test: fv.data.Split) -> None:
    rows, verdicts = [], []
    for name, run in runs.items():
        for batch in (32, 2):
            count = len(test) // batch * batch
            batches, labels = (x[:count].reshape(-1, batch, *x.shape[1:]) for x in (test.images, test.labels))
            modes = [jax.device_get(both_modes(*nnx.split(model), batches)) for model in run.models()]
            right, wrong = (Estimate.of(np.array([100 * (m[i] == labels).mean() for m in modes])) for i in (0, 1))
            changed = Estimate.of(np.array([100 * (one != other).mean() for one, other in modes]))
            rows.append((name, batch, right, wrong, changed))
            verdicts.append(changed.inside())
    numbers = "{}, batches of {}: {} % in evaluation mode, {} % in training mode"
    statement = "dropout and BatchNorm differ between training and evaluation"
    study.claim(statement, all_of(verdicts), "; ".join(numbers.format(*row) for row in rows))
    header = ("network", "batch", "evaluation mode (%)", "training mode (%)", "predictions that change (%)")
    study.table("Test accuracy in both modes", header, rows)


def dense_layers(model: Chain) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernel (inputs, outputs) and bias of every linear layer."""
    linear = [layer for _, layer in model.named_layers() if isinstance(layer, nnx.Linear)]
    return [(np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])) for layer in linear]


def saturated(model: Chain, images: np.ndarray) -> float:
    """Percent of a sigmoid network's hidden outputs where the slope is below a tenth of its maximum."""
    x = images.reshape(len(images), -1) / 255
    slopes = []
    for kernel, bias in dense_layers(model)[:-1]:
        x = scipy.special.expit(x @ kernel + bias)
        slopes.append(x * (1 - x))
    return 100 * float(np.mean(np.concatenate(slopes, axis=1) < 0.025))


def judge_sigmoid(study: Study, runs: Mapping[str, Network], images: np.ndarray, smooth: int) -> None:
    before, after, decades, at_end = {}, {}, {}, {}
    for depth in DEPTHS:
        sigmoid, sizes = (networks[f"{depth} layers, sigmoid"] for networks in (runs, NETWORKS))
        starts = [fv.models.create("mlp", init="torch", seed=seed, **sizes) for seed in range(study.options.seeds)]
        for found, models in ((before, starts), (after, sigmoid.models())):
            found[depth] = Estimate.of(np.array([saturated(model, images) for model in models]))
        for name, run in (("ReLU", runs[f"{depth} layers"]), ("sigmoid", sigmoid)):
            for found, steps in ((decades, slice(smooth)), (at_end, slice(-smooth, None))):
                norms = run["gradient_norm"][:, steps].mean(axis=1)
                found[name, depth] = Estimate.of(np.log10(norms[:, 0] / norms[:, -1]))
    shallow, deep = min(DEPTHS), max(DEPTHS)
    study.claim(
        "sigmoid saturates",
        all_of((after[depth] - before[depth]).inside() for depth in DEPTHS),
        "hidden outputs where the slope is below a tenth of its maximum, before and after training: "
        + "; ".join(f"{depth} layers {before[depth]} and {after[depth]} %" for depth in DEPTHS),
    )
    study.claim(
        "sigmoid's gradients vanish with depth",
        all_of((decades[more] - decades["sigmoid", deep]).inside() for more in (("sigmoid", shallow), ("ReLU", deep))),
        f"log10 of the first layer's gradient norm over the last one's, in the first {smooth} steps: "
        + "; ".join(f"{n} layers: sigmoid {decades['sigmoid', n]}, ReLU {decades['ReLU', n]}" for n in DEPTHS)
        + f"; with {before[deep]} % saturated at the start, the slope of 0.25 at most is enough for it. In the last "
        f"{smooth} steps (above 0 the first layer's is the larger): "
        + "; ".join(f"{n} layers: sigmoid {at_end['sigmoid', n]}" for n in DEPTHS),
    )
    names = {"ReLU": f"{deep} layers", "sigmoid": f"{deep} layers, sigmoid"}
    panels = {
        f"{title} {smooth} steps": {n: runs[key]["gradient_norm"][:, steps].mean(axis=1) for n, key in names.items()}
        for title, steps in (("First", slice(smooth)), ("Last", slice(-smooth, None)))
    }
    caption = f"Norm of the gradient of each layer, {deep} layers."
    study.lines("gradients", caption, panels, "gradient norm", xlabel="layer, from the image on", log=True)


def judge_59_and_85(study: Study, runs: Mapping[str, Network]) -> None:
    """Does any depth give the report's accuracies? A guess at their cause: a ReLU after the last layer too."""
    pairs = {n: (runs[f"{n} layers"].accuracy, runs[f"{n} layers, sigmoid"].accuracy) for n in DEPTHS}
    lost = {int((shares[-1] == 0).sum()) for shares in runs[CLIPPED]["test_per_class"]}
    dead = " or ".join(map(str, sorted(lost)))
    study.claim(
        "a network reaches 85 % with ReLU and 59 % with sigmoid (read in this order)",
        all_of(x.inside(n - EQUAL, n + EQUAL) for pair in pairs.values() for x, n in zip(pair, (85, 59), strict=True)),
        "; ".join(f"{depth} layers: {relu} and {sigmoid} %" for depth, (relu, sigmoid) in pairs.items())
        + f"; with a ReLU after the last layer too: {runs[CLIPPED].accuracy} %, {dead} of 10 classes are never right",
    )


def steps_to(losses: np.ndarray, threshold: float, window: int) -> float:
    """The step at which the mean of the last `window` losses first is below a threshold; infinite: never."""
    means = np.convolve(losses, np.ones(window) / window, mode="valid")
    below = np.flatnonzero(means < threshold)
    return float(below[0] + window) if len(below) else math.inf


def judge_speed(study: Study, pairs: Mapping[str, tuple[Network, Network]], smooth: int) -> None:
    """How many more steps a network with sigmoid takes to a training loss than the same with ReLU, seed by seed."""
    rows, faster, six = [], [], []
    for name, pair in pairs.items():
        cells = [name]
        for threshold in THRESHOLDS:
            steps = [np.array([steps_to(x, threshold, smooth) for x in run["step_loss"]]) for run in pair]
            reached = bool(np.isfinite(steps).all())
            relu, sigmoid = (np.minimum(x, pair[0]["step_loss"].shape[1]) for x in steps)
            ratio = Estimate.of(sigmoid / relu)  # at least, where a network never got there
            cells.append(f"{'' if reached else '≥ '}{ratio}")
            if threshold == THRESHOLDS[1]:
                faster.append(ratio.inside(1.0))
                six.append(ratio.inside(*SIX) if reached else "not decided")
        rows.append(cells)
    evidence = f"steps to a training loss of {THRESHOLDS[1]} (mean of {smooth} steps), sigmoid over ReLU: "
    evidence += "; ".join(f"{cells[0]}: {cells[2]}" for cells in rows)
    study.claim("ReLU converges faster than sigmoid", all_of(faster), evidence)
    evidence += "; 6 is what Krizhevsky et al. (2012) print for ReLU against tanh on CIFAR-10"
    study.claim("ReLU converges about six times faster", all_of(six), evidence)
    header = ("network", *(f"to {threshold}" for threshold in THRESHOLDS))
    note = f"Mean of {smooth} steps below a training loss; ≥: some network with sigmoid does not get there in 4 epochs."
    study.table("Steps with sigmoid over steps with ReLU", header, rows, note)
    draw_pairs(study, "speed", pairs, ("ReLU", "sigmoid"), smooth, "Training loss with ReLU and with sigmoid.")


def product_error(model: Chain, images: np.ndarray) -> float:
    """The largest difference of a probability between a network and the one linear map that its layers multiply to."""
    (kernel, bias), *others = dense_layers(model)
    for factor, offset in others:
        kernel, bias = kernel @ factor, bias @ factor + offset
    logits = images.reshape(len(images), -1) / 255 @ kernel + bias
    return float(np.abs(scipy.special.softmax(logits, axis=1) - fv.predict(model, images)).max())


def judge_depth(study: Study, runs: Mapping[str, Network], images: np.ndarray) -> None:
    one = runs["1 layer"].accuracy
    plain = {depth: runs[f"{depth} layers, no activation"] for depth in (2, 3)}
    error = max(product_error(model, images) for run in plain.values() for model in run.models())
    study.claim(
        "without an activation depth buys nothing",
        all_of((run.accuracy - one).inside(-math.inf, EQUAL) for run in plain.values()),
        f"1 layer {one} %; "
        + "; ".join(f"{n} layers {r.accuracy} %, with ReLU {runs[f'{n} layers'].accuracy} %" for n, r in plain.items())
        + f"; the layers multiplied out to one give the same probabilities to {error:.1g}",
    )


def judge_batch_norm(study: Study, runs: Mapping[str, Network]) -> None:
    gains = {n: runs[f"{n} layers, BatchNorm"].accuracy - runs[f"{n} layers"].accuracy for n in DEPTHS}
    study.claim(
        "BatchNorm helps more as depth grows (two against three layers)",
        (gains[3] - gains[2]).inside(),
        "points of accuracy gained: "
        + "; ".join(f"{n} layers {gain}" for n, gain in gains.items())
        + f"; three layers gain {gains[3] - gains[2]} more than two, six {gains[6] - gains[3]} more than three",
    )


def judge_width(study: Study, runs: Mapping[int, Network], split: fv.data.Split) -> None:
    """Memory, and accuracy on training and test images, by the width of the hidden layer."""
    test = {width: run.last("test_top1") for width, run in runs.items()}
    evaluated = {width: [fv.evaluate(model, split) for model in run.models()] for width, run in runs.items()}
    train = {width: np.array([100 * float(each.top1) for each in found]) for width, found in evaluated.items()}
    gaps = {width: Estimate.of(train[width] - test[width]) for width in runs}
    narrow, wide = min(runs), max(runs)
    sizes = [fv.models.summary(run.models()[0]).megabytes["params"] for run in runs.values()]
    study.claim(
        "more parameters cost memory",
        bool(all(np.diff(sizes) > 0)),
        "; ".join(f"{run.parameters:,}: {mb:.2f} MB" for run, mb in zip(runs.values(), sizes, strict=True))
        + "; gradients take as much again, Adam's two means twice as much",
    )
    evidence = "gap in points: " + "; ".join(f"{width} units {gap}" for width, gap in gaps.items())
    statement = "more parameters overfit: the gap between training and test accuracy grows"
    study.claim(statement, (gaps[wide] - gaps[narrow]).inside(), evidence)
    evidence = "; ".join(f"{width} units {run.accuracy} %" for width, run in runs.items())
    falls = (runs[narrow].accuracy - runs[wide].accuracy).inside()
    study.claim("more parameters overfit: test accuracy falls", falls, evidence)
    lines = {"training": np.stack(list(train.values()), axis=1), "test": np.stack(list(test.values()), axis=1)}
    figure = draw_lines({"": lines}, "accuracy (%)", xlabel="hidden units", x=np.array(list(runs)))
    (axes,) = figure.axes
    axes.set_xscale("log")
    axes.set_xticks(list(runs), [f"{width:,}" for width in runs])
    axes.minorticks_off()
    study.figure("width", figure, "Accuracy after 4 epochs on training and on test images, one hidden layer.")


def judge_convolution(study: Study, runs: Mapping[str, Network]) -> None:
    dense, conv, pool = (runs[name] for name in ("2 layers, BatchNorm", "convolution", "convolution, max-pool"))
    for statement, small, large, low, high in (
        ("convolution needs fewer parameters for more accuracy", conv, dense, 0.0, math.inf),
        ("pooling cuts parameters at equal accuracy", pool, conv, -EQUAL, EQUAL),
    ):
        gain = small.accuracy - large.accuracy
        verdict = gain.inside(low, high) if small.parameters < large.parameters else "not supported"
        numbers = [f"{run.parameters:,} parameters {run.accuracy} %" for run in (small, large)]
        study.claim(statement, verdict, f"{' against '.join(numbers)}: {gain} points")


def judge_output_size(study: Study) -> None:
    with_padding, without = "(H − F + 2P)/S + 1", "(H − F)/S + 1"
    rows = []
    for side, kernel, padding, stride in CONVOLUTIONS:
        layer = functools.partial(nnx.Conv, 1, 1, (kernel, kernel), strides=(stride, stride), padding=padding)
        image = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
        found = jax.eval_shape(lambda x, layer=layer: layer(rngs=nnx.Rngs(0))(x), image).shape[1]
        formulas = (side - kernel + 2 * padding) / stride + 1, (side - kernel) / stride + 1
        rows.append((side, kernel, padding, stride, found, *formulas))
    for statement, column in ((with_padding, 5), (f"{without} (the answer that forgets P)", 6)):
        wrong = [row for row in rows if math.floor(row[column]) != row[4]]
        cases = "; ".join("H={}, F={}, P={}, S={}".format(*row) + f": {row[4]}, not {row[column]:g}" for row in wrong)
        evidence = f"rounded down, right in {len(rows) - len(wrong)} of {len(rows)} cases"
        study.claim(f"the output size is {statement}", not wrong, evidence + (f" ({cases})" if wrong else ""))
    header = ("H", "F", "P", "S", "Flax", with_padding, without)
    study.table("Side of a convolution's output", header, [[f"{cell:g}" for cell in row] for row in rows])

"""Report A, exercise 2-5: tr(AB) = tr(BA), and what it says about tr(WAWᵀ) for W with WWᵀ = I.

    python experiments/trace_identity.py

Draws random matrices, in float32 and float64: the first identity for rectangular A and B, the second for square W, and
for W with fewer rows than columns, whose trace a gradient ascent (optax, each step brought back to orthonormal rows by
a QR decomposition) maximises. Under a minute on 2 CPU cores; `--quick` takes seconds.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import Study, read_options
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flaxvision.report import INK, OKABE_ITO, PAGE, End, colors, figure_style, label_ends, new_figure, plain_logarithmic

IDENTITIES = ("tr(AB) = tr(BA)", "tr(WAWᵀ) = tr(A)")
DTYPES = ("float32", "float64")
ROUNDING = 10  # times eps: what counts as equal
RATE = 0.1  # of the ascent, for eigenvalues of about 1
NAMED = 1e-9  # gap at which the ascents are named
FLOOR = 1e-14  # below, the ascents show rounding only
DASHES = (0, (2.5, 1.5))


def main(arguments: list[str] | None = None) -> None:
    options = read_options("trace_identity", __doc__, arguments, seeds=5)
    sizes, draws, columns, steps = (2, 4, 8, 16, 32, 64, 128), 100, 6, 1000
    if options.quick:
        sizes, draws, columns, steps = (2, 8), 20, 2, 200
    about = f"Each seed draws {draws} matrices of every size, their entries standard normal. An error is relative to "
    about += "the largest trace that matrices of these norms can have, in units of the type's rounding error eps."
    study = Study(options, "A, exercise 2-5", "Traces: two identities, and a maximum", about)
    study.config |= {"sizes": sizes, "draws": draws, "columns": columns, "steps": steps, "rate": RATE}

    seeds = range(options.seeds)
    errors = {  # (seeds, sizes, identities)
        dtype: np.array([[identity_errors(seed, size, draws, dtype) for size in sizes] for seed in seeds])
        for dtype in DTYPES
    }
    for i, identity in enumerate(IDENTITIES):
        for dtype, found in errors.items():
            study.row(f"largest error of {identity}, {dtype}", found[:, :, i].max(axis=1), "eps")
    maxima = [Maximum.measure(seed, columns, draws, steps) for seed in seeds]
    judge(study, errors, maxima)
    tabulate(study, maxima)
    study.figure(
        "traces",
        draw(sizes, errors, maxima[0]),
        "Left: with square W both identities hold up to rounding at every size (worst of all draws and seeds). Middle: "
        "with fewer rows tr(WAWᵀ) depends on W; random W stay below the sum of A's k largest eigenvalues, and gradient "
        "ascent reaches it; with all rows every W gives tr(A). Right: the ascents, step by step (seed 0).",
    )
    print(study.write())


def identity_errors(seed: int, size: int, draws: int, dtype: str) -> list[float]:
    """The largest error of each identity over so many random matrices, in units of eps."""
    random, shapes = np.random.default_rng(seed), ((size, 2 * size), (2 * size, size), (size, size), (size, size))
    with jax.enable_x64(dtype == "float64"):
        a, b, square, w = (jnp.asarray(random.standard_normal((draws, *shape)), dtype) for shape in shapes)
        errors = _errors(a, b, square, orthonormal_rows(w))
        return [float(error) / float(jnp.finfo(dtype).eps) for error in errors]


@jax.jit
def _errors(a: jax.Array, b: jax.Array, square: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    swapped = jnp.abs(trace(a @ b) - trace(b @ a)) / (norm(a) * norm(b))  # |tr(AB)| <= |A| |B|
    turned = jnp.abs(trace(w @ square @ w.mT) - trace(square)) / (norm(square) * norm(w))  # |tr(A)| <= |A| |I|
    return swapped.max(), turned.max()


trace = functools.partial(jnp.trace, axis1=-2, axis2=-1)
norm = functools.partial(jnp.linalg.norm, axis=(-2, -1))


@jax.jit
def orthonormal_rows(a: jax.Array) -> jax.Array:
    """W of the shape of `a`, with W Wᵀ = I, whose rows span those of `a`."""
    return jnp.linalg.qr(a.mT)[0].mT


@functools.partial(jax.jit, static_argnames="steps")
def ascend(a: jax.Array, w: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
    """Gradient ascent of tr(W A Wᵀ) over W with orthonormal rows: the last W, and the trace before each step."""
    optimizer = optax.sgd(RATE)
    descent = jax.value_and_grad(lambda w: -trace(w @ a @ w.T))

    def step(carry: tuple, _: None) -> tuple[tuple, jax.Array]:
        w, state = carry
        value, gradient = descent(w)
        updates, state = optimizer.update(gradient, state)
        return (orthonormal_rows(optax.apply_updates(w, updates)), state), -value

    (w, _), traces = jax.lax.scan(step, (w, optimizer.init(w)), length=steps)
    return w, traces


@dataclasses.dataclass(frozen=True)
class Maximum:
    """tr(WAWᵀ) over W with k = 1 … n orthonormal rows, for one symmetric A; the first axis is k."""

    random: np.ndarray  # (n, draws): of random W
    ascent: np.ndarray  # (n, steps): of gradient ascent
    sine: np.ndarray  # (n,): of the angle between the rows that ascent found and the k first eigenvectors
    sums: np.ndarray  # (n,): of the k largest eigenvalues; the last is tr(A)

    @classmethod
    def measure(cls, seed: int, n: int, draws: int, steps: int) -> Maximum:
        """Draw A, and W for every k; ascend from the first W."""
        generator = np.random.default_rng(seed)
        a = generator.standard_normal((n, n))
        a = (a + a.T) / 2
        values, vectors = (x[..., ::-1] for x in np.linalg.eigh(a))  # the largest first
        random, ascent, sine = [], [], []
        for k in range(1, n + 1):
            with jax.enable_x64(True):
                w = orthonormal_rows(jnp.asarray(generator.standard_normal((draws, k, n))))
                last, traces = ascend(jnp.asarray(a), w[0], steps)
            random.append(np.trace(np.asarray(w) @ a @ np.asarray(w.mT), axis1=-2, axis2=-1))
            ascent.append(np.asarray(traces))
            outside = np.asarray(last) @ vectors[:, k:]  # what the k first eigenvectors do not explain
            sine.append(np.linalg.norm(outside, 2) if k < n else 0.0)
        return cls(np.array(random), np.array(ascent), np.array(sine), np.cumsum(values))


def judge(study: Study, errors: dict[str, np.ndarray], maxima: list[Maximum]) -> None:
    statements = ("tr(AB) = tr(BA)", "tr(WAWᵀ) = tr(A) for square W with WWᵀ = I, so every orthogonal W maximises it")
    for i, statement in enumerate(statements):
        most = max(float(array[:, :, i].max()) for array in errors.values())
        evidence = f"largest error {most:.2g} eps over all sizes, seeds and both types ({ROUNDING} eps count as equal)"
        study.claim(statement, most <= ROUNDING, evidence)
    first = maxima[0]
    equal, scatter = ROUNDING * np.finfo("float64").eps * np.abs(first.sums).max(), np.ptp(first.random[-1])
    study.claim(
        "arg max tr(WAWᵀ) = tr(A)",
        "not supported" if scatter <= equal else "not decided",
        f"that is the maximum; the arg max is a set of matrices, here all orthogonal ones: "
        f"{first.random.shape[1]} different W give one trace, {first.sums[-1]:.4f}, with a scatter of {scatter:.0e}",
    )
    off = max(np.abs(m.random[:-1] - m.sums[-1]).max() for m in maxima)
    evidence = f"with fewer rows than columns the two differ by up to {off:.3g}: W must be square"
    study.claim("WWᵀ = I is enough for tr(WAWᵀ) = tr(A)", bool(off <= equal), evidence)


def tabulate(study: Study, maxima: list[Maximum]) -> None:
    first = maxima[0]
    gaps = np.abs([m.ascent[:, -1] - m.sums for m in maxima]).max(axis=0)
    sines = np.max([m.sine for m in maxima], axis=0)
    rows = zip(first.random, first.ascent[:, -1], first.sums, gaps, sines, strict=True)
    excess = max((m.random - m.sums[:, None]).max() for m in maxima)
    study.table(
        "W with k orthonormal rows, symmetric A",
        ("k", "random W", "gradient ascent", "k largest eigenvalues", "largest gap", "largest sine"),
        [
            (k + 1, f"{w.min():.4f} to {w.max():.4f}", f"{end:.4f}", f"{most:.4f}", f"{gap:.0e}", f"{sine:.0e}")
            for k, (w, end, most, gap, sine) in enumerate(rows)
        ],
        "tr(WAWᵀ) for seed 0; over all seeds, the gap between ascent and eigenvalues, and the sine of the angle "
        "between the rows of W and the first k eigenvectors. No random W exceeds the sum by more than "
        f"{excess:.0e}: the maximum is the sum of the k largest eigenvalues, and their eigenvectors reach it.",
    )


def draw(sizes: tuple[int, ...], errors: dict[str, np.ndarray], maximum: Maximum) -> Figure:
    n, steps = maximum.ascent.shape
    rows = np.arange(1, n + 1)
    with figure_style():
        figure = new_figure(PAGE, 2.3)
        left, middle, right = figure.subplots(1, 3)

        identities, named = [], min(2, len(sizes) - 1)
        for i, name in enumerate(("tr(AB)", "tr(WAWᵀ)")):
            for dtype, dashes, side in zip(DTYPES, ("-", DASHES), ("right", "left"), strict=True):
                worst = errors[dtype][:, :, i].max(axis=0)
                left.plot(sizes, worst, color=OKABE_ITO[i], linestyle=dashes)
                if i:  # the dashes mean the same below
                    write_beside(left, dtype, sizes[named], worst[named], side, OKABE_ITO[i])
            identities.append(End(sizes[-1], worst[-1], name, OKABE_ITO[i]))
        left.set_xscale("log", base=2)
        left.set_xticks(sizes, [str(size) for size in sizes], minor=False)
        left.set(xlabel="size of the matrices", ylabel="largest error (eps)")
        left.set(xlim=(sizes[0], sizes[-1]), ylim=(0, None))
        left.set_title("Square W: equal up to rounding", loc="left")
        label_ends([(left, identities)], "")

        middle.plot(np.repeat(rows, maximum.random.shape[1]), maximum.random.ravel(), ".", ms=2, color=OKABE_ITO[0])
        middle.plot(rows, maximum.sums, color=OKABE_ITO[1])
        middle.plot(rows, maximum.ascent[:, -1], "o", ms=4.5, mfc="none", color=INK)
        low, high = middle.get_ylim()
        middle.set_ylim(low, high + 0.35 * (high - low))  # room for the names
        names = {"line: sum of k largest eigenvalues": OKABE_ITO[1], "rings: gradient ascent": INK}
        for line, (name, color) in enumerate({**names, "dots: random W": OKABE_ITO[0]}.items()):
            look = {"transform": middle.transAxes, "va": "top", "fontsize": 7, "color": color}
            middle.text(0.03, 0.98 - 0.09 * line, name, **look)
        middle.set(xlabel="rows of W, k", xticks=rows)
        middle.set_title(f"tr(WAWᵀ), A of {n} × {n}", loc="left")

        gaps = maximum.sums[:, None] - maximum.ascent
        crossings = 1 + np.array([int((gap > NAMED).sum()) for gap in gaps[:-1]])  # the steps at which NAMED is reached
        for k, color in zip(rows[:-1], colors([str(k) for k in rows]), strict=False):  # with all rows there is no gap
            places = np.flatnonzero(gaps[k - 1] > FLOOR)
            right.plot(places + 1, gaps[k - 1][places], color=color)
            apart = np.log(crossings / crossings[k - 1])
            room = {"left": apart[apart > 0].min(initial=np.inf), "right": -apart[apart < 0].max(initial=-np.inf)}
            write_beside(right, str(k), crossings[k - 1], NAMED, max(room, key=room.__getitem__), color)
        right.set(xscale="log", yscale="log", xlabel="step of the ascent", xlim=(1, steps))
        for axis in (right.xaxis, right.yaxis):
            plain_logarithmic(axis)
        right.set_title("Maximum − tr(WAWᵀ), a line a k", loc="left")
    return figure


def write_beside(axes: Axes, text: str, x: float, y: float, side: str, color: str) -> None:
    """Write left of a point (the text's "right" side is there), or right of it."""
    look = {"textcoords": "offset points", "ha": side, "va": "center", "fontsize": 7, "color": color}
    axes.annotate(text, (x, y), (-3 if side == "right" else 3, 0), **look)


if __name__ == "__main__":
    main()

"""(h) Every form of a convolution over a grid of shapes: where the rule that chooses one is wrong, and by how much."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable

import numpy as np
from common import Options, Study
from rows import number

MISTAKE = 1.15  # times the fastest form that the chosen one may take before it counts as wrong
ABOUT = """
One convolution, its values and both gradients, in every form that computes it; all forms take and give maps with the
batch first, so those with the batch last pay here for transpositions that a network may save. A rule is called wrong
where the form that it chooses takes more than 1.15 times as long as the fastest.
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """A convolution."""

    examples: int
    side: int
    inputs: int
    outputs: int  # 0: depthwise
    kernel: int = 3
    stride: int = 1

    def __str__(self) -> str:
        channels = f"{self.inputs} → {self.outputs}" if self.outputs else f"{self.inputs} depthwise"
        return f"{self.examples} x {self.side}², {channels}, {self.kernel} x {self.kernel}, stride {self.stride}"


WIDTHS = ((32, 16), (16, 32), (8, 64), (32, 64), (16, 128), (8, 256))  # (side, channels)
CASES = (
    *(Case(128, side, 3, outputs) for side, outputs in ((32, 16), (32, 64))),
    *(Case(examples, side, width, width) for examples in (32, 128) for side, width in WIDTHS),
    *(Case(128, side, width, 2 * width, stride=2) for side, width in WIDTHS[:4]),
    *(Case(64, 14, inputs, outputs) for inputs, outputs in ((8, 16), (16, 8), (24, 24), (48, 12))),
    *(Case(64, side, width, 0, stride=stride) for side, width in ((32, 96), (8, 384)) for stride in (1, 2)),
    *(Case(64, 16, inputs, outputs, 1) for inputs, outputs in ((16, 96), (144, 24))),
    Case(32, 14, 8, 16, 5),
)


def run(options: Options) -> None:
    from flaxvision.ops.policy import Policy

    study = Study(options, "", "Forms of convolutions", ABOUT)
    policy = Policy.for_training("cpu")
    repeats = 1 if options.quick else options.extra.repeats
    rows, wrong = [], 0
    for case in CASES[:1] if options.quick else CASES:
        times, chosen = milliseconds(case, policy, repeats)
        fastest = min(times, key=lambda name: times[name])
        loss = times[chosen] / times[fastest]
        wrong += loss > MISTAKE
        others = ", ".join(f"{name} {number(ms)}" for name, ms in sorted(times.items(), key=lambda item: item[1]))
        rows.append(
            (str(case), chosen, number(times[chosen]), fastest if loss > MISTAKE else "", f"{loss:.2f}", others)
        )
        print(rows[-1], flush=True)
    header = ("", "chosen", "ms", "faster", "times the fastest", "all forms, ms")
    study.table(f"The rule is wrong in {wrong} of {len(rows)} cases", header, rows, f"Medians of {repeats} calls.")
    study.write()


def milliseconds(case: Case, policy: object, repeats: int) -> tuple[dict[str, float], str]:
    """Each form's time by its name, measured in turn, and the name of the form that is chosen."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from flaxvision.ops.compiled import library
    from flaxvision.ops.compiled.convolution import computes
    from flaxvision.ops.convolution import convolve, form_of
    from flaxvision.ops.maps import Maps
    from flaxvision.ops.policy import Form
    from flaxvision.ops.windows import Window

    groups = 1 if case.outputs else case.inputs
    side, pad = (case.side, case.side), (case.kernel // 2, case.kernel // 2)
    window = Window(side, (case.kernel, case.kernel), (case.stride, case.stride), (pad, pad))
    shape = (case.kernel, case.kernel, case.inputs // groups, case.outputs or case.inputs)
    random = np.random.default_rng(0)
    sizes = (case.examples, *side, case.inputs), shape, (case.examples, *window.count, shape[3])
    arrays = [jnp.asarray(random.standard_normal(size, np.float32)) for size in sizes]

    def native(x: jax.Array, w: jax.Array) -> jax.Array:
        axes = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, w, window.strides, window.pads, dimension_numbers=axes, feature_group_count=groups
        )

    def called(form: Form) -> Callable[..., object]:
        def in_form(x: jax.Array, w: jax.Array) -> jax.Array:
            return native(x, w) if form is Form.NATIVE else convolve(Maps(x), w, window, form).first()

        @jax.jit
        def step(x: jax.Array, w: jax.Array, g: jax.Array) -> object:
            y, pull = jax.vjp(in_form, x, w)
            return y, pull(g)

        return step

    forms = [Form.NATIVE] if groups == 1 else [Form.NATIVE, Form.GROUPS]
    forms += [Form.PATCHES, Form.BATCH_LAST] if groups == 1 else []
    forms += [Form.WINOGRAD] if groups == 1 and case.kernel in (3, 5) and case.stride == 1 else []
    forms += [Form.COMPILED] if computes(shape, window, groups) and library.ready() else []
    steps = {form: called(form) for form in forms}
    took: dict[str, list[float]] = {form.name: [] for form in forms}
    for turn in range(repeats + 1):
        for form, step in steps.items():
            began = time.perf_counter()
            jax.block_until_ready(step(*arrays))
            if turn:  # the first one compiles
                took[form.name].append(1e3 * (time.perf_counter() - began))
    chosen = form_of(sizes[0], shape, window, jnp.dtype("float32"), policy).name
    return {name: statistics.median(values) for name, values in took.items()}, chosen

"""(h) Every form of a convolution over a grid of shapes: where the rule that chooses one is wrong, and by how much."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from common import Options, Study, commit
from rows import number

if TYPE_CHECKING:
    from flaxvision.ops.policy import Form, Policy
    from flaxvision.ops.windows import Window

MISTAKE = 1.15  # times the fastest form that the chosen one may take before it counts as wrong
ABOUT = """
One convolution, its values and both gradients, in every form that computes it. Maps lie as the form wants them, with
the batch last for BATCH_LAST, which its neighbors in a network have, too, and first for all others. The rule is judged
twice, with the kernels in C++ (form COMPILED) and as it is without a compiler. It is wrong where the form that it
chooses takes more than 1.15 times as long as the fastest.
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
    *(Case(64, 31, inputs, outputs) for inputs, outputs in ((24, 64), (64, 24), (12, 64), (16, 32), (24, 32))),
    *(Case(64, 16, inputs, outputs) for inputs, outputs in ((8, 128), (128, 16), (24, 256))),
    *(Case(64, side, width, width) for side in (2, 3, 4, 5, 7) for width in (64, 256)),
    *(Case(64, side, width, 0, stride=stride) for side, width in ((32, 96), (8, 384)) for stride in (1, 2)),
    *(Case(64, 16, inputs, outputs, 1) for inputs, outputs in ((16, 96), (144, 24))),
    *(Case(32, 14, inputs, outputs, 5) for inputs, outputs in ((8, 16), (16, 64), (32, 64))),
)


def run(options: Options) -> None:
    """Time what times.json in the results lacks, until `--minutes` are over, and judge by the rule as it now is."""
    import flaxvision as fv
    from flaxvision.ops.policy import CPU_COMPILED, CPU_TRAINING

    fv.runtime.prepare()  # as wherever flaxvision trains
    began, file = time.monotonic(), options.out / "times.json"
    repeats = 1 if options.quick else options.extra.repeats
    times = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for case in CASES[:1] if options.quick else CASES:
        if str(case) in times or (options.extra.minutes and time.monotonic() - began > 60 * options.extra.minutes):
            continue
        times[str(case)] = {"commit": commit(), "repeats": repeats, "ms": milliseconds(case, repeats)}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(times, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(case, times[str(case)]["ms"], flush=True)
    study = Study(options, "", "Forms of convolutions", ABOUT)
    measured = {case: times[str(case)]["ms"] for case in CASES if str(case) in times}
    for policy, words in ((CPU_COMPILED, "with kernels in C++"), (CPU_TRAINING, "without a compiler")):
        rows = [judged(case, forms, policy) for case, forms in measured.items()]
        wrong = sum(bool(faster) for _, _, _, faster, *_ in rows)
        header = ("", "chosen", "ms", "faster", "times the fastest", "all forms, ms")
        taken = " and ".join(sorted({f"{one['repeats']}" for one in times.values()}))
        note = f"Medians of {taken} calls."
        study.table(f"The rule {words}: wrong in {wrong} of {len(rows)} cases", header, rows, note)
    print(study.write())


def judged(case: Case, times: dict[str, float], policy: Policy) -> tuple[str, ...]:
    """A row: what the rule chooses by a policy, and what is faster."""
    from flaxvision.ops.convolution import form_of

    shape, kernel, window = sizes_of(case)
    chosen = form_of(shape, kernel, window, np.dtype("float32"), policy).name
    known = {name: ms for name, ms in times.items() if policy.compiled or name != "COMPILED"}
    fastest = min(known, key=lambda name: known[name])
    loss = known[chosen] / known[fastest]
    others = ", ".join(f"{name} {number(ms)}" for name, ms in sorted(known.items(), key=lambda item: item[1]))
    return str(case), chosen, number(known[chosen]), fastest if loss > MISTAKE else "", f"{loss:.2f}", others


def sizes_of(case: Case) -> tuple[tuple[int, ...], tuple[int, ...], Window]:
    """Shapes of the input and of the kernel, and where its windows lie."""
    from flaxvision.ops.windows import Window

    pad = (case.kernel // 2, case.kernel // 2)
    window = Window((case.side, case.side), (case.kernel, case.kernel), (case.stride, case.stride), (pad, pad))
    kernel = (case.kernel, case.kernel, case.inputs if case.outputs else 1, case.outputs or case.inputs)
    return (case.examples, case.side, case.side, case.inputs), kernel, window


def milliseconds(case: Case, repeats: int) -> dict[str, float]:
    """Each form's time by its name, measured in turn."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from flaxvision.ops.compiled import library
    from flaxvision.ops.compiled.convolution import computes
    from flaxvision.ops.convolution import convolve
    from flaxvision.ops.maps import Maps
    from flaxvision.ops.policy import Form

    shape, kernel, window = sizes_of(case)
    groups = 1 if case.outputs else case.inputs
    random = np.random.default_rng(0)
    sizes = shape, kernel, (case.examples, *window.count, kernel[3])
    arrays = [jnp.asarray(random.standard_normal(size, np.float32)) for size in sizes]

    def native(x: jax.Array, w: jax.Array) -> jax.Array:
        axes = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, w, window.strides, window.pads, dimension_numbers=axes, feature_group_count=groups
        )

    def called(form: Form) -> Callable[..., object]:
        def in_form(x: jax.Array, w: jax.Array) -> jax.Array:
            if form is Form.NATIVE:
                return native(x, w)
            last = form is Form.BATCH_LAST
            y = convolve(Maps(x, last), w, window, form)
            return y.last() if last else y.first()

        @jax.jit
        def step(x: jax.Array, w: jax.Array, g: jax.Array) -> object:
            y, pull = jax.vjp(in_form, x, w)
            return y, pull(g)

        return step

    forms = [Form.NATIVE] if groups == 1 else [Form.NATIVE, Form.GROUPS]
    forms += [Form.PATCHES, Form.BATCH_LAST] if groups == 1 else []
    forms += [Form.WINOGRAD] if groups == 1 and case.kernel in (3, 5) and case.stride == 1 else []
    forms += [Form.COMPILED] if computes(kernel, window, groups) and library.ready() else []
    steps = {form: called(form) for form in forms}
    x, w, g = arrays
    given = {form: arrays for form in forms} | {Form.BATCH_LAST: [x.transpose(3, 1, 2, 0), w, g.transpose(3, 1, 2, 0)]}
    took: dict[str, list[float]] = {form.name: [] for form in forms}
    for turn in range(repeats + 1):
        for form, step in steps.items():
            began = time.perf_counter()
            jax.block_until_ready(step(*given[form]))
            if turn:  # the first one compiles
                took[form.name].append(1e3 * (time.perf_counter() - began))
    return {name: round(statistics.median(values), 3) for name, values in took.items()}

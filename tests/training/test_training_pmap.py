"""Data-parallel training by pmap on eight forced CPU devices, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import slow

SCRIPT = textwrap.dedent("""
    import json, sys
    import jax, numpy as np
    import flaxvision as fv
    from flaxvision.models.files import variables

    precision, examples, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    random = np.random.default_rng(0)
    def split(n):
        return random.integers(0, 256, (n, 12, 12, 1)).astype(np.uint8), random.integers(0, 10, n)
    data = fv.data.from_arrays(*split(examples), *split(37), classes=[str(c) for c in range(10)])
    sgd = {"learning_rate": 0.05, "momentum": 0.9}
    more = json.loads(sys.argv[4])
    recipe = fv.Recipe(batch_size=batch, steps=examples // batch, precision=precision, seed=1, **sgd, **more)
    one, many = [
        fv.fit(fv.models.create("mnist_net", input_shape=(12, 12, 1)), data, recipe, devices=n) for n in (1, 8)
    ]
    a, b = variables(one.model), variables(many.model)
    print(json.dumps({
        "devices": jax.local_device_count(),
        "difference": max(float(np.abs(a[k] - b[k]).max()) for k in a),
        "moved": min(float(np.abs(a[k]).max()) for k in a),
        "confusion": bool(np.array_equal(one.history["test_pairs"], many.history["test_pairs"])),
        "counted": int(many.history["test_pairs"][:, 2].sum()),
        "right": float(many.history["train_top1"][0] * examples),
    }))
""")


MIXED = {
    "mixup": 0.5, "cutmix": 1.0, "cutout": 0.3, "rotation": 10.0, "translation": 0.2, "brightness": 0.2,
    "contrast": 0.2, "class_weights": "balanced", "ema": 0.9, "label_smoothing": 0.1, "augment": ["crop"],
    "crop_padding": 2, "pixels": "standard",
}  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "examples", "batch", "tolerance", "settings"),
    [
        ("float64", 5 * 20, 5, 1e-10, {}),
        slow("default", 64 * 20, 64, 1e-4, {}),  # with seed 0 a max-pool meets a tie that float32 breaks otherwise
        slow("float64", 32 * 100, 32, 1e-8, {}),  # a hundred quick steps: once, they waited for each other for ever
        slow("float64", 20 * 20, 20, 1e-10, MIXED),  # shares of 3, of 2 and of none
    ],
)
def test_eight_devices_equal_one_with_full_uneven_and_empty_shares(precision, examples, batch, tolerance, settings):
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_cpu_use_fusion_emitters=false",
        "JAX_ENABLE_X64": str(int(precision == "float64")),
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # most of the time is compiling for eight devices
    }
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        SCRIPT,
        precision,
        *map(str, (examples, batch)),
        json.dumps(settings),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["devices"] == 8
    assert result["difference"] <= tolerance
    assert result["moved"] > 0
    assert result["counted"] == 37
    assert result["right"] == pytest.approx(round(result["right"]), abs=1e-6)  # all examples count, in training too
    if precision == "float64":
        assert result["confusion"]

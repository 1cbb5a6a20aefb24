"""Members over devices: four forced CPU devices in a process of their own, against one."""

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
    from pathlib import Path
    import jax, numpy as np
    import flaxvision as fv
    from flaxvision.models.files import variables
    from flaxvision.training import Population, Recipe, run, train_cohort
    from flaxvision.training.checkpoint import Keep

    name, settings, folder = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    random = np.random.default_rng(0)
    def split(n):
        return random.integers(0, 256, (n, 12, 12, 1)).astype(np.uint8), random.integers(0, 4, n)
    data = fv.data.from_arrays(*split(32), *split(20), classes=[*"abcd"])
    models = [fv.models.create(name, input_shape=(12, 12, 1), num_classes=4, seed=k, **settings) for k in range(7)]
    recipes = [Recipe(epochs=3, batch_size=16, seed=k, learning_rate=0.01 * (k + 1), momentum=0.5) for k in range(7)]

    def bits(results):
        return [[np.asarray(x).tobytes() for x in (*variables(one.model).values(), *one.history.arrays.values())]
                for one in results]

    where = []  # the devices of each member, or of all of them, in each epoch
    steps = run.Run._steps
    def spy(self, members):
        leaves = jax.tree.leaves(self.states.pick(lambda state: state.step))
        where.append([sorted(device.id for device in leaf.devices()) for leaf in leaves] + [len(self.states)])
        return steps(self, members)
    run.Run._steps = spy

    class Killed(BaseException):
        pass
    def kill(progress):
        if progress.step >= 5:
            raise Killed

    single = [fv.fit(model, data, recipe, devices=1) for model, recipe in zip(models, recipes)]
    found = {}
    del where[:]
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    vmapped = Population(models, data, recipes, mode="vmap")
    vmapped.train(1)
    del compiled[:]
    vmapped.train()
    found |= {"vmapped": where[:], "compiled": sum("backend_compile" in event for event in compiled)}
    alone = [each for k in (0, 4)
             for each in train_cohort(models[k:k + 2], data, recipes[k:k + 2], mode="vmap", devices=1)]
    vmapped = list(vmapped.results().values())
    found["equal to its devices' cohorts"] = bits(vmapped[:2] + vmapped[4:6]) == bits(alone)
    off = [np.subtract(one.history["test_loss"], other.history["test_loss"]) for one, other in zip(single, vmapped)]
    found["off"] = float(np.abs(off).max())

    def story(**options):
        seen = Population(models, data, recipes, mode="vmap", **options)
        if not seen.epoch:
            seen.train(1)
            seen.keep([2, 3, 6])
            seen.copy(6, 2)
            seen.set(3, learning_rate=0.5)
        seen.train()
        return bits(seen.results().values())

    if sys.argv[4] == "long":
        del where[:]
        separate = train_cohort(models, data, recipes, mode="loop")
        found |= {"separate": where[:], "equal to single runs": bits(separate) == bits(single)}
        keep = Keep(folder / "kept", 0, {"trials": "a"})
        try:
            story(checkpoint=keep, callbacks=[kill])
        except Killed:
            pass
        del where[:]
        found |= {"resumed": story(checkpoint=keep) == story(), "kept": where[0]}
        shared = train_cohort(models[:2], data, recipes[:2], mode="vmap", devices="batch")
        off = np.subtract(shared[0].history["test_loss"], single[0].history["test_loss"])
        found["batch"] = float(np.abs(off).max())
    print(json.dumps(found))
""")


@pytest.mark.parametrize("how", ["short", slow("long")])
def test_members_go_over_devices(how, tmp_path):
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [sys.executable, "-W", "error", "-c", SCRIPT, "mlp", json.dumps({"hidden": [8]}), str(tmp_path), how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["vmapped"] == [[[0, 1, 2, 3], 8]] * 3  # two each, one of them a copy
    assert found["compiled"] == 0
    assert found["equal to its devices' cohorts"]
    assert found["off"] < 1e-4
    if how == "long":
        assert found["separate"] == [[[0], [1], [2], [3], [0], [1], [2], 7]] * 3  # in turn
        assert found["equal to single runs"]
        assert found["kept"] == [[0, 1, 2, 3], 4]
        assert found["resumed"]
        assert found["batch"] < 1e-4

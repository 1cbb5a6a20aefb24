"""The same training on one core, on another one, and on two, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

AFFINITY = hasattr(os, "sched_getaffinity")
SCRIPT = """
import hashlib, json, os, sys
os.sched_setaffinity(0, json.loads(sys.argv[1]))
import numpy as np
import flaxvision as fv
from flaxvision.models.files import variables

random, found = np.random.default_rng(0), {}
images, labels = random.integers(0, 256, (600, 28, 28, 1), np.uint8), np.arange(600) % 10
data = fv.data.from_arrays(images[:512], labels[:512], images[512:], labels[512:])
for name in ("mlp", "strided_cnn"):  # a weight gradient of the second is summed by as many threads as there are cores
    result = fv.fit(fv.models.create(name), data, fv.Recipe(batch_size=256, epochs=2, learning_rate=0.01))
    digest = hashlib.sha256(b"".join(np.asarray(value).tobytes() for value in variables(result.model).values()))
    found[name] = digest.hexdigest(), result.history["step_loss"].tolist()
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not AFFINITY or len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_which_core_changes_no_bit_and_how_many_only_the_last_ones():
    one, other = sorted(os.sched_getaffinity(0))[:2]
    jobs = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(cores)], stdout=subprocess.PIPE, text=True)
        for cores in ([one], [other], [one, other])
    ]
    first, second, both = (json.loads(job.communicate()[0]) for job in jobs)
    assert first == second
    for name, (_, losses) in both.items():
        np.testing.assert_allclose(losses, first[name][1], rtol=1e-5)
        assert losses[-1] != losses[0]

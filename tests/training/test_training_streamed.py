"""Data sets above the memory: the order of their examples, the numbers that it gives, and what is read ahead."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

import flaxvision as fv
from flaxvision.data import stream as module
from flaxvision.data.dataset import Split
from flaxvision.data.stream import Stream, streamed
from flaxvision.errors import UserError
from flaxvision.identity import checksum_of
from flaxvision.training import ahead
from flaxvision.training.batches import block_order, epoch_order
from flaxvision.training.callbacks import Progress

pytestmark = pytest.mark.quick
SEED, EPOCH = np.uint32(3), np.uint32(2)


@pytest.mark.parametrize(
    ("examples", "block", "blocks"), [(1, 1, 1), (97, 10, 3), (100, 10, 3), (97, 1, 8), (97, 200, 2), (97, 10, 99)]
)
def test_a_window_holds_its_blocks(examples, block, blocks):
    """By a second way: sets of NumPy's."""
    order = np.asarray(epoch_order(SEED, EPOCH, examples, Stream(block, blocks)))
    number = -(-examples // block)
    turns = np.asarray(block_order(SEED, EPOCH, number)).tolist()
    assert sorted(turns) == list(range(number))
    assert sorted(order.tolist()) == list(range(examples))
    for first in range(0, number, blocks):
        rows = {r for b in turns[first : first + blocks] for r in range(b * block, min((b + 1) * block, examples))}
        assert set(order[: len(rows)].tolist()) == rows
        order = order[len(rows) :]


def test_orders_differ_by_epoch_and_seed_and_mix_within_a_window():
    stream = Stream(10, 4)
    orders = [np.asarray(epoch_order(np.uint32(s), np.uint32(e), 400, stream)) for s in (0, 1) for e in (0, 1)]
    assert len({order.tobytes() for order in orders}) == 4
    for order in orders:
        windows = order.reshape(10, 40)
        assert all(len(set((window[:10] // 10).tolist())) > 1 for window in windows)  # of several blocks


def test_the_same_order_gives_the_same_numbers(make_dataset):
    """Bit for bit those of the resident path that is given the examples of two epochs in this order."""
    data = make_dataset((6, 6, 1), 3, train=96, test=30)
    model = fv.models.create("linear", input_shape=(6, 6, 1), num_classes=3)
    recipe = fv.Recipe(epochs=2, batch_size=8, learning_rate=0.1, momentum=0.5, seed=5)
    ours = fv.fit(model, dataclasses.replace(data, stream=Stream(7, 3)), recipe)
    order = np.concatenate([epoch_order(np.uint32(5), np.uint32(epoch), 96, Stream(7, 3)) for epoch in (0, 1)])
    resident = dataclasses.replace(data, train=data.train[order])
    theirs = fv.fit(model, resident, dataclasses.replace(recipe, epochs=1, shuffle=False))
    np.testing.assert_array_equal(ours.history["step_loss"].ravel(), theirs.history["step_loss"].ravel())
    jax.tree.map(np.testing.assert_array_equal, nnx.state(ours.model), nnx.state(theirs.model))
    assert (ours.history["step_loss"] != fv.fit(model, data, recipe).history["step_loss"]).any()


def test_the_choice(make_dataset, monkeypatch):
    data = make_dataset((32, 32, 1), 2)
    assert streamed(data) is data
    monkeypatch.setattr(module, "memory", lambda: 400_000.0)  # of 364,544 bytes of examples
    found = streamed(data)
    assert found.stream == Stream(1024, 128)
    said = "streamed: an epoch that is shuffled takes blocks of 1,024 neighbouring examples"
    assert found.source.notes[-1].startswith(said)
    assert streamed(data, False) is data
    assert checksum_of(found) != checksum_of(data)
    assert checksum_of(dataclasses.replace(found, stream=None)) == checksum_of(data)
    monkeypatch.setattr(module, "memory", lambda: 500_000.0)
    assert streamed(data).stream is None
    assert streamed(data, True).stream == found.stream
    with pytest.raises(UserError, match="stream is 'yes': give true or false, or leave it out"):
        streamed(data, "yes")


def test_what_comes_next_is_read(make_dataset, tmp_path, monkeypatch):
    """Each block once an epoch, a window before it is needed."""
    data = make_dataset((6, 6, 1), 3, train=96, test=30)
    np.save(tmp_path / "x.npy", data.train.images)
    images = np.load(tmp_path / "x.npy", mmap_mode="r").view(np.ndarray)
    data = dataclasses.replace(data, train=Split(images[8:], data.train.labels[8:]), stream=Stream(4, 5))
    recipe = fv.Recipe(epochs=2, batch_size=8, seed=5)
    read: list[tuple[int, ...]] = []
    monkeypatch.setattr(ahead.os, "posix_fadvise", lambda file, start, length, advice: read.append((start, length)))
    monkeypatch.setattr(ahead.threading.Thread, "start", lambda thread: thread.run())
    (callback,) = ahead.read_ahead(data, [recipe])
    counts = []
    for step in (0, 1, 2, 3, 10, 11, 12, 22):  # of 11 an epoch, 20 examples a window
        callback(Progress(step, 22, 1, 8))
        counts.append(len(read))
    assert counts == [10, 10, 10, 15, 22, 32, 32, 32]
    header = (tmp_path / "x.npy").stat().st_size - 96 * 36
    for epoch, found in enumerate((read[:22], read[22:])):
        blocks = np.asarray(block_order(np.uint32(5), np.uint32(epoch), 22)).tolist()
        assert found == [(header + (8 + 4 * block) * 36, 4 * 36) for block in blocks[: len(found)]]
    assert ahead.read_ahead(dataclasses.replace(data, stream=None), [recipe]) == []
    assert ahead.read_ahead(make_dataset((6, 6, 1), 3), [recipe]) == []

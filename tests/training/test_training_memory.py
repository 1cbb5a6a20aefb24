"""What runs hold of a data set: no copy where JAX can read it, one for all runs where it cannot."""

from __future__ import annotations

import gc
import weakref

import jax
import numpy as np
import pytest

import flaxvision as fv
from flaxvision._cache import shared_cache
from flaxvision._memory import empty
from flaxvision.data.dataset import Dataset, Source, Split
from flaxvision.training import engine, run, scoring
from flaxvision.training.preparing import place

CPU = jax.devices("cpu")[:1]


def split(examples, *, on_boundary):
    shape = examples, 8, 8, 1
    images = empty(shape) if on_boundary else np.empty(examples * 64 + 129, np.uint8)[1 : examples * 64 + 1]
    images = images.reshape(shape)
    images[...] = np.random.default_rng(examples).integers(0, 256, shape)
    return Split(images, np.arange(examples, dtype=np.int32) % 2)


def dataset(*, on_boundary=True, validation=True):
    parts = {name: split(count, on_boundary=on_boundary) for name, count in (("train", 96), ("test", 40))}
    held = split(24, on_boundary=on_boundary) if validation else None
    return Dataset("made", parts["train"], parts["test"], ("a", "b"), Source("arrays", "0", None), held)


def lies_at(array):
    return array.unsafe_buffer_pointer() if isinstance(array, jax.Array) else array.ctypes.data


@pytest.mark.parametrize(("shape", "dtype"), [((3, 5), np.float32), ((1,), np.uint8), ((2, 4), np.int32)])
def test_arrays_begin_on_a_boundary(shape, dtype):
    made = empty(shape, dtype)
    assert (made.shape, made.dtype) == (shape, dtype)
    assert lies_at(made) % 64 == 0


def test_arrays_on_a_boundary_are_not_copied():
    data = dataset(validation=False)
    placed = place(data, tuple(CPU))
    assert lies_at(placed.train[0]) == lies_at(data.train.images)
    assert lies_at(placed.held_out[0]) == lies_at(data.test.images)
    assert placed.ranges == {"test": range(40)}


def test_two_held_out_splits_are_joined_once():
    data = dataset()
    placed = place(data, tuple(CPU))
    assert placed.ranges == {"validation": range(24), "test": range(24, 64)}
    expected = np.concatenate([data.validation.images, data.test.images])
    np.testing.assert_array_equal(placed.held_out[0], expected)
    assert placed.held_out[0].nbytes + placed.train[0].nbytes <= sum(s.images.nbytes for s in data.splits.values())


def test_runs_at_the_same_time_share_and_leave_nothing():
    data = dataset(on_boundary=False)
    first, second = place(data, tuple(CPU)), place(data, tuple(CPU))
    assert first is second
    assert lies_at(first.train[0]) != lies_at(data.train.images)
    assert place(dataset(on_boundary=False), tuple(CPU)) is not first
    gone = weakref.ref(first)
    del first, second
    gc.collect()
    assert gone() is None


def test_a_run_holds_no_examples_after_its_end():
    data = dataset(on_boundary=False)
    model = fv.models.create("linear", input_shape=(8, 8, 1), num_classes=2)
    held = [place(data, tuple(CPU))]
    gone = weakref.ref(held[0])
    result = fv.fit(model, data, fv.Recipe(epochs=1, batch_size=32), devices=CPU)
    held.clear()
    gc.collect()
    assert gone() is None
    assert result.history.epochs == 1


def test_what_an_image_folder_gives_is_trained_on_without_a_copy(tmp_path):
    from PIL import Image

    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(3):
            Image.new("L", (8, 8), 40 * i).save(tmp_path / name / f"{i}.png")
    data = fv.data.load(f"images:{tmp_path}")
    assert lies_at(place(data, tuple(CPU)).train[0]) == lies_at(data.train.images)


@pytest.mark.slow
def test_compiled_programs_of_earlier_networks_are_let_go(monkeypatch):
    """Here all but those of the last two; without that a process grows with each network that it trains."""
    monkeypatch.setattr(run, "engine_for", shared_cache(2)(engine.Engine))
    monkeypatch.setattr(engine, "evaluation_for", shared_cache(2)(scoring.evaluation_for._function))
    data, programs = dataset(validation=False), []
    for width in range(2, 7):
        model = fv.models.create("mlp", input_shape=(8, 8, 1), num_classes=2, hidden=[width])
        fv.fit(model, data, fv.Recipe(epochs=1, batch_size=32))
        del model
        gc.collect()
        programs.append(len(CPU[0].client.live_executables()))
    assert programs[0] < programs[1] <= programs[3]
    assert programs[4] <= programs[3]

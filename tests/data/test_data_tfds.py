"""Sets that tensorflow-datasets prepared: `tfds:NAME`."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from flaxvision import data
from flaxvision.data._stamp import stamp
from flaxvision.data.prepared import _file_format, _quiet
from flaxvision.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 5, 6, 3), np.uint8)
LABELS = np.tile([0, 1, 2, 0], 5)
NAMES = ["cat", "dog", "emu"]
CLASSES = tfds.features.ClassLabel(names=NAMES)
PLAIN = {"image": tfds.features.Image(shape=(5, 6, 3)), "label": CLASSES}


class Pets(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A set as users write them."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent
    name = "pets"

    def __init__(self, features, splits, **settings):
        self.features, self.splits = features, splits
        super().__init__(file_format=_file_format(), **settings)

    def _info(self):
        features = tfds.features.FeaturesDict(self.features)
        return self.dataset_info_from_configs(features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(examples) for name, examples in self.splits.items()}

    def _generate_examples(self, examples):
        yield from enumerate(examples)


def png(pixels):
    """A file, which tfds keeps as it is: to encode arrays it needs TensorFlow."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    file.seek(0)
    return file


def examples(numbers, **more):
    return [{"image": png(IMAGES[n]), "label": LABELS[n], **more} for n in numbers]


def prepare(folder, splits, features=PLAIN):
    with _quiet():
        builder = Pets(features, splits, data_dir=folder)
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_dir=folder / "downloads", download_config=config)
    return Path(builder.data_dir)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    features = {**PLAIN, "id": tfds.features.Text()}
    splits = {
        "train": examples(range(12), id="a"),
        "validation": examples(range(12, 16), id="b"),
        "test": examples(range(16, 20), id="c"),
        "extra": examples([0], id="d"),
    }
    prepare(folder, splits, features)
    return folder


def test_a_prepared_set_in_another_process(pets):
    """Without TensorFlow, to the pixel, in the order of the records."""
    code = (
        "import sys, json, flaxvision as fv; s = fv.data.load('tfds:pets', data_dir=sys.argv[1]); "
        "assert 'tensorflow' not in sys.modules; parts = s.splits; "
        "print(json.dumps({'images': {k: v.images.tolist() for k, v in parts.items()}, 'labels': {k: v.labels.tolist() "
        "for k, v in parts.items()}, 'classes': s.classes, 'notes': s.source.notes, 'note': s.source.note}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(pets)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    for split, part in (("train", slice(12)), ("validation", slice(12, 16)), ("test", slice(16, 20))):
        np.testing.assert_array_equal(found["images"][split], IMAGES[part])
        np.testing.assert_array_equal(found["labels"][split], LABELS[part])
    assert found["classes"] == NAMES
    assert found["note"] == ""
    assert found["notes"][:2] == ["left out: the split extra", "left out: id of each example"]


def test_where_sets_lie(pets, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(pets))
    assert data.load("tfds:pets:1.0.0", limit=3).source.counts == (("train", 3), ("validation", 3), ("test", 3))
    monkeypatch.setenv("FLAXVISION_DATA_DIR", str(tmp_path))  # which does not hold it
    assert data.load("tfds:pets").input_shape == (5, 6, 3)
    assert "tfds:NAME" in data.list_datasets()
    before = stamp("tfds:pets")
    assert before == stamp("tfds:pets", data_dir=pets)
    (pets / "pets" / "1.0.0" / "more").touch()
    assert stamp("tfds:pets") != before
    (pets / "pets" / "1.0.0" / "more").unlink()


def test_without_a_test_split(tmp_path):
    prepare(tmp_path / "one", {"train": examples(range(20))})
    one = data.load("tfds:pets", data_dir=tmp_path / "one")
    assert np.bincount(one.train.labels).tolist() == [8, 4, 4]
    assert np.bincount(one.test.labels).tolist() == [2, 1, 1]
    assert {image.tobytes() for split in one.splits.values() for image in split.images} == {x.tobytes() for x in IMAGES}
    assert one.source.note == "test split: a fifth of the training examples of each class, since there is no other"
    prepare(tmp_path / "two", {"train": examples(range(12)), "validation": examples(range(12, 20))})
    two = data.load("tfds:pets", data_dir=tmp_path / "two")
    assert two.source.counts == (("train", 12), ("test", 8))
    assert two.source.note == "test split: the validation split, since there is no other"


BOXES = {"image": PLAIN["image"], "box": tfds.features.BBoxFeature()}
ANY = {"image": tfds.features.Image(shape=(None, None, 3)), "label": CLASSES}


@pytest.mark.parametrize(
    ("splits", "features", "message"),
    [
        (
            {"train": [{"image": png(IMAGES[0]), "box": tfds.features.BBox(0.0, 0.0, 1.0, 1.0)}]},
            BOXES,
            r"no feature is of the kind 'class label' among box \(BBoxFeature\), image \(Image\): tfds:NAME reads",
        ),
        (
            {"train": [{"image": png(IMAGES[n][: 5 - n]), "label": 0} for n in range(2)]},
            ANY,
            r"images of train differ in size, \(5, 6, 3\) and \(4, 6, 3\): save them as files, FOLDER/CLASS/…, and",
        ),
        ({"test": examples(range(4))}, PLAIN, "tfds:pets has no split train but test: name a set that has one"),
    ],
)
def test_what_cannot_be_read(tmp_path, splits, features, message):
    prepare(tmp_path, splits, features)
    with pytest.raises(UserError, match=message) as caught:
        data.load("tfds:pets", data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_not_there(pets, tmp_path, monkeypatch):
    monkeypatch.delenv("FLAXVISION_DATA_DIR", raising=False)
    for name, folder, message in (
        ("tfds:mnist", pets, r"not prepared in .*: type tfds build mnist --data_dir=FOLDER --file_format=array_record "
                             r"where TensorFlow is installed, then --data-dir FOLDER, or type mnist, which needs no"),
        ("tfds:pets:2.0.0", pets, r"not prepared in .*, which has version 1\.0\.0: type tfds build pets:2\.0\.0"),
        ("tfds:pets/small", pets, "tfds:pets/small is not prepared in"),
        ("tfds:", pets, "'tfds:' names no set: type tfds:NAME, tfds:NAME/CONFIG or tfds:NAME:1.0.0"),
        ("tfds:../pets", pets, "names no set"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message) as caught:
            data.load(name, data_dir=folder)
        assert "\n" not in str(caught.value)
    home = prepare(tmp_path, {"train": examples(range(8)), "test": examples(range(4))})
    described = home / "dataset_info.json"
    info = described.read_text()
    described.write_text(info.replace(f'"fileFormat": "{_file_format()}"', '"fileFormat": "tfrecord"'))
    with pytest.raises(UserError, match=r"is in tfrecord, which only TensorFlow reads: prepare it again in another"):
        data.load("tfds:pets", data_dir=tmp_path)
    for damaged in ("{", info.replace('"name": "pets"', '"name": 3')):
        described.write_text(damaged)
        with pytest.raises(UserError, match=r"1\.0\.0 cannot be read .*: remove that folder and prepare the set again"):
            data.load("tfds:pets", data_dir=tmp_path)
    described.write_text(info)
    for file in home.glob(f"*-train.{_file_format()}*"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"cannot be read .*: remove that folder and prepare the set again"):
        data.load("tfds:pets", data_dir=tmp_path)
    for config in ("big", "small"):
        (tmp_path / "many" / "pets" / config / "1.0.0").mkdir(parents=True)
        (tmp_path / "many" / "pets" / config / "1.0.0" / "features.json").touch()
    with pytest.raises(UserError, match=r"several configurations in .*: type tfds:pets/big or tfds:pets/small"):
        data.load("tfds:pets", data_dir=tmp_path / "many")

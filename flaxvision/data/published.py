"""The published data sets: their files, where they are downloaded from, their checksums and how to decode them.

URLs, sizes and sha256 of the downloads are those that tensorflow-datasets registers. Checksums of the decompressed
files recognize an original however it was compressed again; none are known for EMNIST.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from flaxvision.data.cifar import parse_cifar, unpickle_cifar
from flaxvision.data.examples import check_labels
from flaxvision.data.idx import parse_idx, unpack_npz
from flaxvision.data.locate import Format
from flaxvision.errors import UserError

Arrays = tuple[np.ndarray, np.ndarray]  # images uint8 (N, H, W, C) and labels int64 (N,)


@dataclasses.dataclass(frozen=True, slots=True)
class Download:
    """One file on the web and which of the set's files it holds."""

    url: str
    size: int  # bytes
    sha256: str
    files: tuple[tuple[str, str], ...]  # (file name, its path inside the archive; "" when it is not an archive)


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """A published data set."""

    name: str
    files: Mapping[str, tuple[str, ...]]  # split -> the names of its files, in the order that `decode` takes them
    counts: Mapping[str, int]  # split -> images in the official set
    shape: tuple[int, int, int]  # (H, W, C)
    classes: tuple[str, ...]
    downloads: tuple[Download, ...]
    decode: Callable[[Mapping[str, bytes]], Arrays]
    digests: Mapping[str, str]  # file name -> "algorithm:hex" of the official file, decompressed
    folder: str  # a pattern of the names, of letters and digits alone, that people give the folder or the archive
    others: tuple[Format, ...] = ()  # other forms in which people have the files
    upright: bool = True  # False where the published images are transposed
    first_label: int = 0

    @property
    def file_names(self) -> tuple[str, ...]:
        """The names of all files, train first."""
        return tuple(name for names in self.files.values() for name in names)

    @property
    def formats(self) -> tuple[Format, ...]:
        """The forms in which people have the files, the published one first."""
        return (Format(self.file_names), *self.others)

    def arrays(self, contents: Mapping[str, bytes], split: str) -> Arrays:
        """Upright images and labels from 0 of one split, checked; `contents` maps file names to decompressed bytes."""
        images, labels = self.decode({name: contents[name] for name in self.files[split]})
        where = " and ".join(self.files[split])
        if len(images) != len(labels):
            raise UserError(f"{self.name}: {where} hold {len(images)} images but {len(labels)} labels")
        if images.shape[1:] != self.shape or not len(images):
            raise UserError(f"{self.name}: {where}: images are {images.shape}, not (N, {str(self.shape)[1:]}")
        labels = labels.astype(np.int64) - self.first_label
        check_labels(f"{self.name}: {self.files[split][-1]}", labels, len(self.classes))
        return images if self.upright else images.swapaxes(1, 2), labels


def _decode_idx(contents: Mapping[str, bytes]) -> Arrays:
    (images, image_bytes), (labels, label_bytes) = contents.items()
    return parse_idx(image_bytes, 3, images)[..., None], parse_idx(label_bytes, 1, labels)


def _decode_cifar(contents: Mapping[str, bytes]) -> Arrays:
    images, labels = zip(*(parse_cifar(content, name) for name, content in contents.items()), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _idx_files(prefix: str, train: str, test: str) -> dict[str, tuple[str, ...]]:
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return {
        split: tuple(f"{prefix}{part}-{kind}" for kind in kinds) for split, part in (("train", train), ("test", test))
    }


def _pickled_cifar(contents: Mapping[str, bytes]) -> Mapping[str, bytes]:
    return {f"{name}.bin": unpickle_cifar(content, name) for name, content in contents.items()}


def _mnist_like(
    name: str, base_url: str, classes: tuple[str, ...], folder: str, facts: Mapping[str, tuple[int, str, str]]
) -> Published:
    return Published(
        name=name,
        files=_idx_files("", "train", "t10k"),
        counts={"train": 60_000, "test": 10_000},
        shape=(28, 28, 1),
        classes=classes,
        downloads=tuple(
            Download(f"{base_url}/{file}.gz", size, sha256, ((file, ""),)) for file, (size, sha256, _) in facts.items()
        ),
        decode=_decode_idx,
        digests={file: f"sha256:{digest}" for file, (_, _, digest) in facts.items()},
        folder=folder,
        others=(Format((f"{name}.npz",), unpack_npz),),
    )


def _emnist(part: str, counts: tuple[int, int], classes: str, first_label: int) -> Published:
    files = _idx_files(f"emnist-{part}-", "train", "test")
    return Published(
        name=f"emnist_{part}",
        files=files,
        counts=dict(zip(("train", "test"), counts, strict=True)),
        shape=(28, 28, 1),
        classes=tuple(classes),
        downloads=(
            Download(
                "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
                561_753_746,
                "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e",
                tuple((name, f"gzip/{name}.gz") for names in files.values() for name in names),
            ),
        ),
        decode=_decode_idx,
        digests={},
        folder=rf"emnist({part})?(data(set)?|gzip)?",
        upright=False,
        first_label=first_label,
    )


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
BALANCED = DIGITS + LETTERS + "abdefghnqrt"  # EMNIST's 47 classes, in the order of its labels

_CIFAR_FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}

PUBLISHED: dict[str, Published] = {
    published.name: published
    for published in (
        _mnist_like(
            "mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
            tuple(DIGITS),
            "mnist(data(set|base)?|master)?",
            {  # file: bytes of the .gz, its sha256, sha256 of what it holds
                "train-images-idx3-ubyte": (
                    9_912_422,
                    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                ),
                "train-labels-idx1-ubyte": (
                    28_881,
                    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                ),
                "t10k-images-idx3-ubyte": (
                    1_648_877,
                    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                ),
                "t10k-labels-idx1-ubyte": (
                    4_542,
                    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                ),
            },
        ),
        _mnist_like(
            "fashion_mnist",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            (
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            "fashion(mnist)?(data(set)?|master)?",
            {
                "train-images-idx3-ubyte": (
                    26_421_880,
                    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                ),
                "train-labels-idx1-ubyte": (
                    29_515,
                    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                ),
                "t10k-images-idx3-ubyte": (
                    4_422_102,
                    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                ),
                "t10k-labels-idx1-ubyte": (
                    5_148,
                    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                ),
            },
        ),
        _emnist("balanced", (112_800, 18_800), BALANCED, first_label=0),
        _emnist("letters", (124_800, 20_800), LETTERS, first_label=1),
        Published(
            name="cifar10",
            files=_CIFAR_FILES,
            counts={"train": 50_000, "test": 10_000},
            shape=(32, 32, 3),
            classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            downloads=(
                Download(
                    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                    170_052_171,
                    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                    tuple((name, f"cifar-10-batches-bin/{name}") for names in _CIFAR_FILES.values() for name in names),
                ),
            ),
            decode=_decode_cifar,
            digests={  # as MXNet's gluon.data.vision.CIFAR10 checks them
                "data_batch_1.bin": "sha1:aadd24acce27caa71bf4b10992e9e7b2d74c2540",
                "data_batch_2.bin": "sha1:c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
                "data_batch_3.bin": "sha1:1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
                "data_batch_4.bin": "sha1:aab85764eb3584312d3c7f65fd2fd016e36a258e",
                "data_batch_5.bin": "sha1:26e2849e66a845b7f1e4614ae70f4889ae604628",
                "test_batch.bin": "sha1:67eb016db431130d61cd03c7ad570b013799c88c",
            },
            folder="cifar10(?!0).*",
            others=(
                Format(
                    tuple(name.removesuffix(".bin") for names in _CIFAR_FILES.values() for name in names),
                    _pickled_cifar,
                ),
            ),
        ),
    )
}

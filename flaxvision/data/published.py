"""The published data sets: their files, where they are downloaded from, their checksums and how to decode them.

URLs, sizes and sha256 of the downloads are those that tensorflow-datasets registers. Checksums of the decompressed
files recognize an original however it was compressed again; none are known for EMNIST and KMNIST.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from flaxvision.data.cifar import parse_cifar, unpickle_cifar
from flaxvision.data.examples import check_labels
from flaxvision.data.idx import parse_idx, unpack_npz
from flaxvision.data.locate import Format
from flaxvision.data.svhn import parse_svhn
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
    def most_bytes(self) -> int:
        """So many bytes each of its files may have, decompressed: four times the published images, labels and all."""
        return 4 * max(self.counts.values()) * (math.prod(self.shape) + 2) + 2**20

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


def _decode_cifar100(contents: Mapping[str, bytes]) -> Arrays:
    ((name, content),) = contents.items()
    return parse_cifar(content, name, labels=2)


def _decode_svhn(contents: Mapping[str, bytes]) -> Arrays:
    ((name, content),) = contents.items()
    return parse_svhn(content, name)


def _idx_files(prefix: str, train: str, test: str) -> dict[str, tuple[str, ...]]:
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return {
        split: tuple(f"{prefix}{part}-{kind}" for kind in kinds) for split, part in (("train", train), ("test", test))
    }


def _pickled_cifar(contents: Mapping[str, bytes]) -> Mapping[str, bytes]:
    return {f"{name}.bin": unpickle_cifar(content, name) for name, content in contents.items()}


def _pickled_cifar100(contents: Mapping[str, bytes]) -> Mapping[str, bytes]:
    keys = ("coarse_labels", "fine_labels")
    return {f"{name}.bin": unpickle_cifar(content, name, keys) for name, content in contents.items()}


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
        digests={file: f"sha256:{digest}" for file, (_, _, digest) in facts.items() if digest},
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

CIFAR100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant "
    "flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man "
    "maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree "
    "plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train "
    "trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)

_CIFAR_FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
_SVHN_FILES = {  # bytes, sha256
    "train_32x32.mat": (182_040_794, "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"),
    "test_32x32.mat": (64_275_384, "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"),
}

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
        _mnist_like(
            "kmnist",
            "http://codh.rois.ac.jp/kmnist/dataset/kmnist",
            ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
            "(kmnist|kuzushijimnist)(data(set)?|master)?",
            {
                "train-images-idx3-ubyte": (
                    18_165_135,
                    "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
                    "",
                ),
                "train-labels-idx1-ubyte": (
                    29_497,
                    "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
                    "",
                ),
                "t10k-images-idx3-ubyte": (
                    3_041_136,
                    "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
                    "",
                ),
                "t10k-labels-idx1-ubyte": (
                    5_120,
                    "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
                    "",
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
        Published(
            name="cifar100",
            files={"train": ("train.bin",), "test": ("test.bin",)},
            counts={"train": 50_000, "test": 10_000},
            shape=(32, 32, 3),
            classes=tuple(CIFAR100.split()),
            downloads=(
                Download(
                    "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                    168_513_733,
                    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                    tuple((name, f"cifar-100-binary/{name}") for name in ("train.bin", "test.bin")),
                ),
            ),
            decode=_decode_cifar100,
            digests={  # as MXNet's gluon.data.vision.CIFAR100 checks them
                "train.bin": "sha1:e207cd2e05b73b1393c74c7f5e7bea451d63e08e",
                "test.bin": "sha1:8fb6623e830365ff53cf14adec797474f5478006",
            },
            folder="cifar100.*",
            others=(Format(("train", "test"), _pickled_cifar100),),
        ),
        Published(
            name="svhn",
            files={"train": ("train_32x32.mat",), "test": ("test_32x32.mat",)},
            counts={"train": 73_257, "test": 26_032},
            shape=(32, 32, 3),
            classes=tuple(DIGITS),
            downloads=tuple(
                Download(f"http://ufldl.stanford.edu/housenumbers/{name}", size, sha256, ((name, ""),))
                for name, (size, sha256) in _SVHN_FILES.items()
            ),
            decode=_decode_svhn,
            digests={name: f"sha256:{sha256}" for name, (_, sha256) in _SVHN_FILES.items()},
            folder="svhn(cropped)?(data(set)?)?|housenumbers",
        ),
    )
}

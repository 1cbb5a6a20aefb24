"""Under which terms data sets were published, as far as their authors say."""

from __future__ import annotations

from flaxvision.data.dataset import Dataset

NONE_STATED = "none stated by its authors"
OWN = "not known to flaxvision: whoever collected the data can say"
GENERATED = "drawn by flaxvision (Apache-2.0)"
_EMNIST = f"{NONE_STATED}; it is made of NIST Special Database 19, a work of the US government"
_CIFAR = f"{NONE_STATED}, who ask for a citation of Krizhevsky, Learning Multiple Layers of Features (2009)"
LICENSES = {
    "mnist": "CC BY-SA 3.0; Yann LeCun and Corinna Cortes",
    "fashion_mnist": "MIT; Zalando SE",
    "kmnist": "CC BY-SA 4.0; ROIS-DS Center for Open Data in the Humanities",
    "emnist_balanced": _EMNIST,
    "emnist_letters": _EMNIST,
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "svhn": "for non-commercial use only; Netzer et al. (2011)",
}


def license_of(dataset: Dataset) -> str:
    """The license of a data set, in words.

    >>> import flaxvision as fv
    >>> license_of(fv.data.load("two_clusters"))
    'drawn by flaxvision (Apache-2.0)'
    """
    if dataset.source.kind == "generated":
        return GENERATED
    return LICENSES.get(dataset.name, OWN) if dataset.published else OWN

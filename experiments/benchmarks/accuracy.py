"""(f) Do the convolutions that train fast on a CPU reach the accuracy of XLA's own?"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from common import Options, Study, cached
from rows import mean_std, plus_minus

import flaxvision as fv

FORMS = {"flaxvision": "auto", "XLA's own": "native"}  # name -> Recipe.conv
ABOUT = """
Each convolutional network of the reports, trained with the convolutions that flaxvision takes on a CPU and with XLA's
own (`conv="native"`), from the same starts and in the same order of batches. They compute the same sums in another
order, so that the trainings part after some hundred steps as those of two machines do; what must not differ is the
accuracy. Allowed: as far as the accuracies of seeds scatter, by the larger standard deviation.
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and its training."""

    name: str
    network: str
    recipe: fv.Recipe
    dataset: str = "mnist"
    seeds: int = 5
    published: float | None = None  # test accuracy in %, after as many epochs
    sizes: tuple[tuple[str, Any], ...] = ()


ADAM = fv.Recipe(optimizer="adam", learning_rate=1e-3, batch_size=32, epochs=4)
TINY = dataclasses.replace(ADAM, batch_size=16, epochs=5, pixels="signed")
EMNIST = dataclasses.replace(ADAM, epochs=5)
WIDE = fv.Recipe(learning_rate=0.1, batch_size=128, epochs=1)
CASES = (
    Case("mnist_net", "mnist_net", ADAM, published=98.81),
    Case("strided_cnn", "strided_cnn", ADAM, published=97.96),
    Case("tiny_cnn", "tiny_cnn", TINY, published=98.50),
    Case("emnist_cnn", "emnist_cnn", EMNIST, "emnist_balanced"),
    Case("wide_cnn, padded", "wide_cnn", WIDE, seeds=3, published=97.14, sizes=(("padding", "SAME"),)),
    Case("wide_cnn, unpadded", "wide_cnn", WIDE, seeds=3, sizes=(("padding", "VALID"),)),
)


def run(options: Options) -> None:
    fv.runtime.prepare()
    options = dataclasses.replace(options, seeds=2 if options.quick else max(case.seeds for case in CASES))
    study = Study(options, "", "Accuracy with fast convolutions and with XLA's own", ABOUT)
    rows = []
    for case in CASES[:1] if options.quick else CASES:
        data = options.load(case.dataset)
        study.uses(data, **{case.name: case.recipe})
        found = {form: accuracies(case, data, conv, options) for form, conv in FORMS.items()}
        fast, native = found.values()
        spread = max(float(values.std(ddof=1)) for values in found.values())
        study.row(f"{case.name}: {' − '.join(FORMS)}", fast - native, "points", interval=(-spread, spread))
        error = float((fast - native).std(ddof=1)) / len(fast) ** 0.5
        cells = [mean_std(values, "%") for values in found.values()]
        published = "" if case.published is None else f"{case.published:.2f}"
        difference = plus_minus(float((fast - native).mean()), error, "%", sign=True)
        rows.append((case.name, f"{case.recipe.epochs}", f"{len(fast)}", *cells, difference, published))
    header = ("network", "epochs", "n", *FORMS, "difference, paired", "published")
    note = "Mean and standard deviation over seeds; of the difference, mean and standard error."
    study.table("Test accuracy, %", header, rows, note)
    study.write()


def accuracies(case: Case, data: fv.data.Dataset, conv: str, options: Options) -> np.ndarray:
    count = 2 if options.quick else case.seeds
    epochs = 1 if options.quick else case.recipe.epochs
    recipes = [dataclasses.replace(case.recipe, seed=seed, conv=conv, epochs=epochs) for seed in range(count)]

    def train() -> dict[str, np.ndarray]:
        shape = {"input_shape": data.input_shape, "num_classes": data.num_classes}
        models = [
            fv.models.create(case.network, init="torch", seed=recipe.seed, **shape, **dict(case.sizes))
            for recipe in recipes
        ]
        results = fv.training.train_cohort(models, data, recipes)
        return {"top1": np.array([100 * float(result.history["test_top1"][-1]) for result in results])}

    key = {"network": [case.network, case.sizes], "recipes": recipes, "data": data.source.checksum}
    return cached(options, key, train)["top1"]

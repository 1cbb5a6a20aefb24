"""The folder of a run's winner, as its receiver has it: without flaxvision, without the run."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from safetensors.numpy import load_file

import export
import flaxvision as fv
from export.__main__ import main
from export._card import Card
from export._winner import about as about_file
from flaxvision.data.licenses import LICENSES, license_of
from flaxvision.data.published import PUBLISHED
from flaxvision.sweep.files import GivenData
from tests.export.conftest import without_peers

pytestmark = pytest.mark.quick

CLASSES = ("</script>", "`a` *b*", "é|c")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on images in three classes with names that Markdown, HTML and YAML would take for more."""
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = (random.integers(0, 60, (90, 8, 8, 3)) + 90 * labels[:, None, None, None]).astype(np.uint8)
    data = fv.data.from_arrays(images[:60], labels[:60], images[60:], labels[60:], classes=CLASSES, name="shades")
    recipe = {"batch_size": 10, "epochs": 3, "pixels": "signed"}
    spec = {"name": "shaded", "model": "mlp", "seeds": 2, "sizes": {"hidden": [8]}, "recipe": recipe}
    spec["grid"] = {"learning_rate": [0.1, 0.01]}
    with pytest.MonkeyPatch.context() as patch:
        without_peers(patch)
        return fv.sweep.run(spec, tmp_path_factory.mktemp("shaded") / "run", data=data, executor="loop", report=False)


@pytest.fixture(scope="module")
def card(run):
    return (run.directory / "winner" / "README.md").read_text(encoding="utf-8")


def test_the_pythons_of_the_card_run_as_printed(run, card):
    folder = run.directory / "winner"
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    with np.load(folder / "example.npz") as example:
        images, expected = example["input"], example["output"]
        labels = example["labels"]
    model = fv.load_model(folder)  # the folder alone will do
    np.testing.assert_array_equal(fv.predict(model, images.transpose(0, 2, 3, 1)), expected)
    lines = [line.rpartition(" ") for line in printed.splitlines()]
    assert [name for name, _, _ in lines] == [CLASSES[row.argmax()] for row in expected]
    np.testing.assert_allclose([float(text[:-1]) for _, _, text in lines], 100 * expected.max(1), atol=0.051)
    assert len(set(labels.tolist())) > 1

    check = [sys.executable, "check.py"]
    done = subprocess.run(check, cwd=folder, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"model\.onnx: within .*\nnetwork\.onnx: within the tolerance, \d.*\n", done.stdout)


def test_a_runtime_that_errs_does_not_pass(run, tmp_path, monkeypatch, capsys):
    from export import _check

    folder = run.directory / "winner"
    assert (folder / "check.py").read_bytes() == Path(_check.__file__).read_bytes()
    monkeypatch.setattr(_check, "HERE", folder)
    with np.load(folder / "example.npz") as example:
        wrong, right = example["output"] + np.float32(2e-4), example["network_output"]
    np.save(tmp_path / "wrong.npy", wrong)
    np.save(tmp_path / "right.npy", right)
    model = fv.load_model(folder)
    odd = export.to_onnx(model, tmp_path / "odd.onnx", normalize=True, batch=3, precision="float16")
    for names, status, words in (
        (["right.npy"], 0, ["within"]),
        (["right.npy", "wrong.npy"], 1, ["within", "NOT within"]),
        ([odd.name], 1, ["NOT within"]),
        ([odd.name, "--tolerance", "0.01"], 0, ["within"]),
    ):
        typed = [name if name[0] in "-0" else str(tmp_path / name) for name in names]
        monkeypatch.setattr(sys, "argv", ["check.py", *typed])
        assert _check.main() == status
        said = capsys.readouterr().out.splitlines()
        assert [line.partition(": ")[2].partition(" the")[0] for line in said] == words
    with pytest.raises(ValueError, match=r"shape \(1, 3\), and the example has \(8, 3\)"):
        _check.difference(lambda x: np.zeros((1, 3)))


def test_the_deployed_file_takes_pixels_and_gives_probabilities(run):
    session = onnxruntime.InferenceSession(run.directory / "winner" / "model.onnx", providers=["CPUExecutionProvider"])
    (entry,), (result,) = session.get_inputs(), session.get_outputs()
    assert (entry.type, entry.shape) == ("tensor(uint8)", ["batch", 3, 8, 8])
    assert (result.name, result.shape) == ("probabilities", ["batch", 3])
    about = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(about["classes"])) == CLASSES
    assert about["config hash"] == run.winner.id
    assert about_file({"trial": {"dataset": "images:/home/me/pets"}})["data set"] == "images:pets"
    proto = onnx.load(run.directory / "winner" / "network.onnx")
    weights = load_file(run.directory / "winner" / "torch.safetensors")
    assert {tensor.name for tensor in proto.graph.initializer} >= set(weights)


def test_the_card_tells_all(run, card):
    yaml = pytest.importorskip("yaml")
    _, front, body = card.split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["pipeline_tag"] == "image-classification"
    assert about["datasets"] == ["shades"]
    stored = GivenData.stored(run.directory).load()
    named = dataclasses.replace(stored, name="images:/home/me/pets")
    ours = Card(run, named, fv.load_model(run.directory), {}, None, ()).markdown()
    assert "# mlp trained on images:pets\n" in ours
    assert "/home/me" not in ours
    winner = dataclasses.replace(run.winner, cell=(("dataset", "images:/home/me/pets"),))
    chosen = dataclasses.replace(run, winner=winner)
    assert "at dataset images:pets." in Card(chosen, named, fv.load_model(run.directory), {}, None, ()).markdown()
    first, second, *_ = run.cells
    for others, said in (("/home/you/birds", "| images:birds |"), ("/home/you/pets", "| images:/home/me/pets |")):
        cells = [
            dataclasses.replace(cell, where={"dataset": f"images:{folder}"})
            for cell, folder in ((first, "/home/me/pets"), (second, others))
        ]
        command = {"command": f"flaxvision sweep mine --dataset images:/home/me/pets,images:{others}"}
        asked = dataclasses.replace(run, keys=("dataset",), cells=tuple(cells), provenance=command)
        text = Card(asked, named, fv.load_model(run.directory), {}, None, ()).markdown()
        assert said in text
        assert ("/home/me" in text.partition("## Versions")[0]) == ("images:/home" in said)
        assert "    flaxvision sweep mine --dataset images:pets,images:" in text
    (model,) = about["model-index"]
    metrics = {metric["type"]: metric["value"] for metric in model["results"][0]["metrics"]}
    assert metrics["accuracy"] == run.winner.final["test_top1"]
    checksum = run.provenance["data sets"]["shades"]["checksum"]
    assert f"60 train, 30 test examples, sha256 `{checksum}`. License: not known" in body
    assert f"at learning_rate {dict(run.winner.cell)['learning_rate']}, the most typical of 2 seeds" in body
    assert r"0: \</script\>, 1: \`a\` \*b\*, 2: é\|c" in body
    assert "- Takes: Images (N, 3, 8, 8), channels first, of uint8: 0 to 255." in body
    assert re.search(r"^\| (1e-1|1e-2|0\.1|0\.01) \| 2 \| \*\*\d+\.\d\d ± \d+\.\d\d\*\* \|", body, re.MULTILINE)
    rows = re.findall(r"^\| \*\*(.+?)\*\* \| (\d+) \| (\d+) \| (\d+) \|$", body, re.MULTILINE)
    assert sum(int(count) for row in rows for count in row[1:]) == 30
    assert sum(int(rows[i][i + 1]) for i in range(3)) == round(30 * run.winner.final["test_top1"])
    assert "| ONNX |" in body
    assert f"jax {run.provenance['versions']['jax']}" in body
    (page,) = re.findall(r"```html\n(.*?)```", card, re.DOTALL)
    assert page.count("</script>") == 1  # no class ends it
    assert r'const classes = ["\u003c/script>", "\u0060a\u0060 *b*", "é|c"];' in page
    assert "const [channels, height, width] = [3, 8, 8];" in page
    for name in re.findall(r"^\| `(\S+)` \|", body, re.MULTILINE):
        assert (run.directory / "winner" / name).is_file()


def test_it_is_made_again_on_the_command_line(run, monkeypatch, capsys):
    without_peers(monkeypatch)
    folder = run.directory / "winner"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "notes.txt").write_text("mine")
    for name in before.keys() - {"flaxvision.safetensors"}:
        (folder / name).unlink()
    assert main(["winner", str(run.directory)]) == 0
    assert capsys.readouterr().out.strip() == str(folder)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.pop("notes.txt") == b"mine"
    timed = {"parity.md", "parity.json", "README.md"}
    assert {name: after[name] for name in after.keys() - timed} == {
        name: before[name] for name in before.keys() - timed
    }
    assert after.keys() == before.keys()


def test_what_an_interrupted_resume_leaves_is_not_exported(run, tmp_path, capsys):
    """The folder has the weights of the winner of before; by then another trial wins."""
    copy = Path(shutil.copytree(run.directory, tmp_path / "run"))
    lines = (copy / "trials.jsonl").read_text().splitlines(keepends=True)
    (copy / "trials.jsonl").write_text("".join(line for line in lines if run.winner.id not in line))
    (copy / "winner" / "README.md").unlink()
    assert main(["winner", str(copy)]) == 2
    said = capsys.readouterr().err
    assert f"not those of the winner of what is there now ({fv.runs.open(copy).winner.id}): flaxvision resume" in said
    assert not (copy / "winner" / "README.md").exists()


def test_other_data_than_those_of_the_training_are_refused(run, tmp_path):
    copy = Path(shutil.copytree(run.directory, tmp_path / "run"))
    before = (copy / "winner" / "README.md").read_bytes()
    data = GivenData.stored(copy).load()
    other = dataclasses.replace(data, test=fv.data.Split(255 - data.test.images, data.test.labels))
    with pytest.raises(fv.UserError, match="shades is not the data set that the winner was trained on"):
        export.export_winner(dataclasses.replace(run, directory=copy), other)
    assert (copy / "winner" / "README.md").read_bytes() == before


def test_a_folder_that_was_moved_is_read_as_it_was(tmp_path, monkeypatch, capsys):
    without_peers(monkeypatch)
    random = np.random.default_rng(0)
    for number in range(20):
        path = tmp_path / "pets" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).save(path)
    spec = {"name": "moved", "model": "linear", "dataset": f"images:{tmp_path / 'pets'}", "data": {"size": 6}}
    spec["recipe"] = {"epochs": 1, "batch_size": 4}
    fv.sweep.run(spec, tmp_path / "run", executor="loop", export=False, report=False)
    (tmp_path / "pets").rename(tmp_path / "animals")
    assert main(["winner", str(tmp_path / "run"), "--dataset", f"images:{tmp_path / 'animals'}"]) == 0
    assert "linear trained on images:animals" in (tmp_path / "run" / "winner" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "gives", "printed"),
    [
        ({"dataset": "two_clusters", "model": "polar_linear"}, ("probabilities", ["batch", 2]), r"(\w+ \d+\.\d%\n){8}"),
        (
            {
                "dataset": "glyphs",
                "model": "emnist_autoencoder",
                "data": {"limit": 64},
                "recipe": {"loss": "squared_error"},
            },
            ("images", ["batch", 1, 28, 28]),
            r"\(8, 1, 28, 28\)\n",
        ),
    ],
)
def test_what_classifies_no_images_leaves_as_well(spec, gives, printed, tmp_path):
    recipe = {"epochs": 1, "batch_size": 32, **spec.pop("recipe", {})}
    result = fv.sweep.run({"name": "other", "recipe": recipe, **spec}, tmp_path / "run", report=False)
    assert result.problems == ()
    folder = tmp_path / "run" / "winner"
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.get_outputs()
    assert (output.name, output.shape) == gives
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for words, expected in (("-c", code), printed), (("check.py",), r"(\w+\.onnx: within .*\n){2}"):
        done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=True)
        assert re.fullmatch(expected, done.stdout)


def test_every_published_set_has_a_license():
    assert LICENSES.keys() == PUBLISHED.keys()
    assert license_of(fv.data.load("glyphs", limit=1)).startswith("drawn by flaxvision")

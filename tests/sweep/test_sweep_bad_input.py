"""Each mistake: one line on stderr, exit status 2, no traceback, nothing created."""

from __future__ import annotations

import datetime
import gzip
import importlib.util
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.quick


def listing(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def mistake(command, tmp_path, monkeypatch):
    """Runs a command that must fail, in an empty folder, and checks all that any mistake must do."""

    def run(expected: str, *arguments: object) -> str:
        (tmp_path / "here").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "here")
        before = listing(tmp_path)
        status, out, err = command(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith("error: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        assert re.search(expected, err), err
        assert listing(tmp_path) == before
        return err

    return run


DEMO = ("demo", "--limit", 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demmo"], "unknown sweep 'demmo': did you mean 'demo'"),
        ([""], "cannot read"),
        (["x" * 5000], "unknown sweep"),
        (["nowhere.toml"], "cannot read nowhere.toml: No such file"),
        (["."], "cannot read .: Is a directory"),
        ([*DEMO, "--dry-run", "--measure", "--executor", "ray"], "--measure has no effect with executor ray"),
        ([*DEMO, "--dataset", "mnits"], "unknown data set 'mnits': did you mean 'mnist'"),
        ([*DEMO, "--set", "model=mpl"], "unknown model 'mpl': did you mean 'mlp'"),
        ([*DEMO, "--set", "batchsize=1"], "unknown --set key 'batchsize': did you mean 'batch_size'"),
        ([*DEMO, "--set", "seed=1"], "--set seed: .*--seeds N"),
        ([*DEMO, "--set", "padding=SAME"], "unknown size of mlp 'padding'"),
        ([*DEMO, "--set"], "--set: expected at least one argument"),
        ([*DEMO, "--executer", "loop"], "unknown argument '--executer': did you mean --executor"),
        ([*DEMO, "--executor=lop"], "unknown executor 'lop': did you mean 'loop'"),
        ([*DEMO, "--dry-run", "--executor", "lop"], "unknown executor 'lop': did you mean 'loop'"),
        ([*DEMO, "another"], "unknown argument 'another'"),
        (["demo", "--epochs", "0"], "'0' is not allowed: give a number above 0"),
        (["demo", "--epochs", "nan"], "'nan' is not allowed"),
        (["demo", "--epochs", "-1"], "'-1' is not allowed"),
        (["demo", "--seeds", "x"], "'x' is not allowed: give a whole number, 1 or more"),
        (["demo", "--seeds", "0"], "'0' is not allowed"),
        (["demo", "--seeds", "9999999999999"], "give a number of them, 1 to 10000"),
        (["demo", "--limit", "-1"], "'-1' is not allowed"),
        (["demo", "--limit", "1.5"], "'1.5' is not allowed"),
        (["demo", "--limit"], "--limit: expected one argument"),
        ([*DEMO, "--resume"], "name it with --out"),
        (["demo", "--limit", "10"], "batch_size is 64 but there are 10 training examples"),
        ([*DEMO, "--set", "learning_rate=0"], "learning_rate is 0"),
        ([*DEMO, "--set", "learning_rate=-0.1,0.1"], "learning_rate is -0.1"),
        ([*DEMO, "--set", "learning_rate=nan"], "finite"),
        ([*DEMO, "--set", "learning_rate=inf"], "finite"),
        ([*DEMO, "--set", "learning_rate=fast"], "learning_rate is 'fast'"),
        ([*DEMO, "--set", "momentum=1"], "momentum is 1"),
        ([*DEMO, "--set", "epochs=-1"], "epochs is -1"),
        ([*DEMO, "--set", "steps=5"], "the duration is given 2 times"),
        ([*DEMO, "--set", "weight_decay=-1"], "weight_decay is -1"),
        ([*DEMO, "--set", "select=best", "select_on=val_loss"], "no validation split"),
        ([*DEMO, "--set", "select_on=test_lss"], "unknown select_on 'test_lss': did you mean 'test_loss'"),
        ([*DEMO, "--set", "validation=1.5"], "validation is 1.5"),
        ([*DEMO, "--set", "validation=x"], "validation is x: give a fraction"),
        ([*DEMO, "--set", "validation=0.2", "validation_seed=-1"], "validation_seed is -1"),
        ([*DEMO, "--set", "limit=0"], "limit is 0"),
        ([*DEMO, "--set", "limit=[1]"], r"limit is \[1\]: give a whole number"),
        ([*DEMO, "--set", "size=0"], "size is 0"),
        ([*DEMO, "--set", "size=big"], "size is big: give pixels a side, such as 32, or width and height"),
        ([*DEMO, "--set", "channels=2"], "channels is 2"),
        (["demo", "--set", "drawn=0"], "is 0: give 1 or more"),
        (["demo", "--set", "drawn=true"], "drawn is true: give a whole number"),
        (["demo", "--dataset", "two_clusters", "--set", "drawn=9"], "glyphs"),
        (["demo", "--dataset", "two_clusters", "--set", "size=9"], "do not fit"),
        ([*DEMO, "--set", "hidden=0"], "hidden"),
        ([*DEMO, "--set", "hidden=[0]"], "hidden"),
        ([*DEMO, "--set", "hidden=[-3, 8]"], "hidden"),
        ([*DEMO, "--set", "hidden=wide"], "hidden"),
        ([*DEMO, "--set", "hidden=[wide]"], "hidden"),
        ([*DEMO, "--set", "hidden=[1.5]"], "hidden"),
        ([*DEMO, "--set", "activation=rleu"], "unknown activation 'rleu': did you mean 'relu'"),
        ([*DEMO, "--set", "dropout=2"], "dropout is 2"),
        ([*DEMO, "--set", "init=troch"], "unknown init 'troch': did you mean 'torch'"),
        ([*DEMO, "--set", "model=1"], "model is 1: give a string"),
        ([*DEMO, "--set", "dataset=1"], "dataset is 1: give a string"),
        ([*DEMO, "--set", "loss=binary_cross_entropy"], "binary_cross_entropy"),
        ([*DEMO, "--set", "loss=squared_error"], "squared_error"),
        ([*DEMO, "--set", "frozen=linear_relu_stack"], "nothing to learn"),
        ([*DEMO, "--set", "frozen=linear_relu_stck"], "did you mean 'linear_relu_stack'"),
        ([*DEMO, "--set", "warm_start=nowhere.safetensors"], "no weights file nowhere.safetensors"),
        ([*DEMO, "--set", "warm_start=pretrain"], r"needs a \[pretrain\] stage"),
        ([*DEMO, "--set", f"warm_start={__file__}"], "is not a weights file"),
        ([*DEMO, "--set", "augment=flop"], "did you mean 'flip'"),
        (["demo", "--dataset", "npz:nowhere"], "there is no folder 'nowhere'"),
        (["demo", "--dataset", "images:nowhere"], "there is no folder 'nowhere'"),
        (["demo", "--dataset", "mnist", "--raw-dir", "nowhere"], "the raw folder nowhere does not exist"),
        (["rerun"], "required: RUN, TRIAL"),
        (["rerun", "run"], "required: TRIAL"),
        (["rerun", "nowhere", "abc"], "nowhere is not a run directory"),
        (["rerun", "nowhere", "abc", "more"], "unknown argument 'more'"),
    ],
)
def test_command_line(mistake, arguments, message):
    mistake(message, *arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"learning rate", "is not valid TOML"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"x = " + b"[" * 5000, "is not valid TOML"),
        (b"seeds = 1" + b"0" * 5000, "is not valid TOML"),
        (b"", "gives no dataset"),
        (b'dataset = "glyphs"', "gives no model"),
        (b'model = "mlp"', "gives no dataset"),
    ],
)
def test_no_spec(mistake, tmp_path, text, message):
    path = tmp_path / "a sweep.toml"
    path.write_bytes(text)
    mistake(message, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datset": "mnist"}, "unknown key 'datset': did you mean 'dataset'"),
        ({"dataset": "glyph"}, "unknown data set 'glyph': did you mean 'glyphs'"),
        ({"dataset": 1}, "dataset is '1': give a string"),
        ({"model": ["mlp"]}, "model is .*: give a string"),
        ({"name": "../up"}, "name is '../up'"),
        ({"name": ""}, "name is ''"),
        ({"name": 3}, "name is '3'"),
        ({"title": 3}, "title is '3'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": [1, -1]}, "seeds is"),
        ({"seeds": 1.5}, "seeds is 1.5"),
        ({"seeds": [2**32]}, "seeds is"),
        ({"seeds": [1, 1]}, "are the same trial"),
        ({"objective": "accuracy"}, "unknown objective 'accuracy'"),
        ({"objective": "val_top1"}, "no validation split"),
        ({"devices": "all"}, "unknown devices 'all': Allowed: trials, batch"),
        ({"devices": 4}, "devices is '4': give a string"),
        ({"convergence_threshold": 0}, "convergence_threshold is 0"),
        ({"convergence_threshold": float("nan")}, "convergence_threshold is nan"),
        ({"convergence_threshold": "x"}, "convergence_threshold is 'x'"),
        ({"select": "bst"}, "unknown select 'bst': did you mean 'best'"),
        ({"select": 1}, "select is '1'"),
        ({"data": 3}, r"data is '3': give a table \[data\]"),
        ({"data": {"limits": 3}}, r"unknown key of \[data\] 'limits': did you mean 'limit'"),
        ({"sizes": {"hiden": [3]}}, r"unknown key of \[sizes\] 'hiden': did you mean 'hidden'"),
        ({"recipe": {"epoch": 3}}, r"unknown key of \[recipe\] 'epoch': did you mean 'epochs'"),
        ({"recipe": {"learning_rate": {"a": 1}}}, "learning_rate is"),
        ({"recipe": {"learning_rate": -1}}, "learning_rate is -1"),
        ({"recipe": {"shuffle": 1}}, "shuffle is 1"),
        ({"recipe": {"batch_size": 1.5}}, "batch_size is 1.5"),
        ({"recipe": {"augment": 5}}, "augment is"),
        ({"grid": [1]}, "grid is"),
        ({"grid": {"learning_rate": []}}, "grid key 'learning_rate' is empty"),
        ({"grid": {"learning_rate": 0.1}}, "give a list of values"),
        ({"grid": {"learning_rate": [0.1, 0.1]}}, "has '0.1' twice"),
        ({"grid": {"learnign_rate": [0.1]}}, "unknown grid key 'learnign_rate': did you mean 'learning_rate'"),
        ({"grid": {"optimizer": ["sgd", {"name": "a"}]}}, "mixes values and tables"),
        ({"grid": {"optimizer": [{"optimizer": "sgd"}]}}, "has no name"),
        ({"grid": {"optimizer": [{"name": 1}]}}, "has no name"),
        ({"grid": {"learning_rate": [datetime.date(2020, 1, 1)]}}, "learning_rate is 2020-01-01"),
        ({"variants": [{"name": "a", "optimiser": "sgd"}]}, "unknown key of variant 'a' 'optimiser': did you mean"),
        ({"variants": {"name": "a"}}, "give a list"),
        ({"variants": [], "grid": {}}, "'variant' is empty"),
        ({"variants": [{"name": "a"}], "grid": {"variant": [{"name": "b"}]}}, "given by both"),
        ({"init": "torch"}, r"give a table with"),
        ({"init": {"only": ["a"]}}, r"needs from"),
        ({"init": {"from": 1}}, r"\[init\] from is '1'"),
        ({"init": {"from": "nowhere"}}, "no weights file nowhere"),
        ({"init": {"from": "nowhere", "only": "x"}}, r"give a list of strings"),
        ({"pretrain": 1}, "pretrain is '1'"),
        ({"pretrain": {"epochs": 1}}, r"unknown key of \[pretrain\] 'epochs'"),
        ({"final": {"seed": "x"}}, "seeds is"),
        ({"final": {"recipe": {"learning_rate": -1}}}, "learning_rate is -1"),
        ({"final": {"model": "vgg19"}}, "unknown size of vgg19 'hidden'"),
        ({"published": {}}, "published is"),
        ({"published": [1]}, "published is"),
        ({"published": [{"metric": "test_top1"}]}, r"entry has no value"),
    ],
)
def test_spec(mistake, tiny, spec_file, changes, message):
    mistake(message, spec_file(tiny(**changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"were": {}}, r"unknown key of \[\[published\]\] 'were': did you mean 'where'"),
        ({"where": {"momentum": 0.5}}, r"unknown key of a \[\[published\]\] where 'momentum'"),
        ({"where": {"learning_rate": 0.3}}, "unknown value of learning_rate"),
        ({"where": 3}, "where is '3'"),
        ({"metric": "test_tpo3"}, "did you mean 'test_top3'"),
        ({"metric": 1}, "unknown metric"),
        ({"value": "high"}, "value is 'high'"),
        ({"value": float("inf")}, "value is inf"),
        ({"tolerance": None}, "has no tolerance"),
        ({"stage": "finl"}, "did you mean 'final'"),
        ({"source": 1}, "source is '1'"),
    ],
)
def test_published(mistake, tiny, spec_file, changes, message):
    entry = {"where": {"learning_rate": 0.1}, "metric": "test_top1", "value": 0.5, "tolerance": 0.1, **changes}
    entry = {key: value for key, value in entry.items() if value is not None}
    mistake(message, spec_file(tiny(grid={"learning_rate": [0.1, 0.2]}, published=[entry])))


@pytest.mark.parametrize(
    ("top", "sizes", "message"),
    [
        ({"model": "vgg19", "data": {"size": 28}}, {}, "vgg19 does not fit examples of shape"),
        ({"model": "tiny_cnn", "dataset": "two_clusters", "data": {}}, {}, "tiny_cnn does not fit"),
        ({"model": "polar_linear", "data": {"size": 8}}, {}, "polar_linear does not fit .*takes points of shape"),
        ({"model": "wide_cnn", "data": {"size": 8}}, {"padding": "VALID"}, "wide_cnn does not fit"),
        ({"model": "wide_cnn"}, {"padding": "SOME"}, "unknown padding 'SOME': did you mean 'SAME'"),
        ({"model": "mlp", "dataset": "two_clusters", "data": {}, "recipe": {"augment": ["flip"]}}, {}, "images"),
        ({"data": {"stream": True}, "recipe": {"shuffle": False}}, {}, "stream is true but has no effect with shuffle"),
        ({"pretrain": {"only": ["nothing"]}, "recipe": {"warm_start": "pretrain"}}, {}, "no variable of mlp"),
        ({"pretrain": {"sizes": {"hidden": [4]}}, "recipe": {"warm_start": "pretrain"}}, {}, "has shape"),
    ],
)
def test_model_that_does_not_fit(mistake, tiny, spec_file, top, sizes, message):
    table = tiny(**top)
    table["sizes"] = sizes
    if "data" in top:
        table["data"] = {"limit": 64, **top["data"]}
    mistake(message, spec_file(table))


MODULE = """
def raising(build, outputs):
    raise RuntimeError("two\\nlines")

def empty(build, outputs):
    pass

def misfit(build, outputs):
    build.linear("a", 4)
    build.shape = (5,)
    build.linear("b", outputs)

def fixed(build, outputs):
    build.linear("a", 3)

number = 3
"""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken_networks:raising", "RuntimeError: two lines"),
        ("broken_networks:empty", "broken_networks:empty"),
        ("broken_networks:misfit", "broken_networks:misfit"),
        ("broken_networks:fixed", "has 3 outputs but glyphs has 10 classes"),
        ("broken_networks:number", "broken_networks:number"),
        ("broken_networks:absent", "cannot be imported"),
        ("no_such_module:f", "cannot be imported"),
        ("broken_syntax:f", "broken_syntax:f"),
        (":f", "':f'"),
        (".a:f", "'.a:f'"),
    ],
)
def test_function_of_ones_own(mistake, tiny, spec_file, tmp_path, monkeypatch, function, message):
    (tmp_path / "broken_networks.py").write_text(MODULE)
    (tmp_path / "broken_syntax.py").write_text("def f(:")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    table = tiny(model=function)
    del table["sizes"]
    mistake(message, spec_file(table))


def test_warm_start_of_another_network(mistake, tiny, spec_file, tmp_path):
    import flaxvision as fv

    path = tmp_path / "other.safetensors"
    fv.save_model(fv.models.create("mlp", input_shape=(8, 8, 1), hidden=[9]), path)
    table = tiny(init={"from": str(path)})
    err = mistake("does not fit mlp", spec_file(table))
    assert "has shape (64, 9), not (64, 8)" in err
    mistake("no variable of mlp lies under nothing", spec_file(tiny(init={"from": str(path), "only": ["nothing"]})))


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def raw_mnist(folder: Path, **replaced: bytes | None) -> Path:
    """A raw folder of 64 and 32 images; `replaced` gives other contents of a file, or None for no file."""
    random = np.random.default_rng(0)
    (folder / "mnist").mkdir(parents=True)
    for part, count in (("train", 64), ("t10k", 32)):
        contents = {
            f"{part}_images": idx(random.integers(0, 255, (count, 28, 28))),
            f"{part}_labels": idx(np.arange(count) % 10),
        }
        for name, content in contents.items():
            kind = "images-idx3-ubyte" if name.endswith("images") else "labels-idx1-ubyte"
            data = replaced.get(name, content)
            if data is not None:
                (folder / "mnist" / f"{part}-{kind}.gz").write_bytes(gzip.compress(data))
    return folder


IMAGES = idx(np.zeros((64, 28, 28)))


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"train_images": None}, "train-images-idx3-ubyte"),
        ({"t10k_labels": None}, "t10k-labels-idx1-ubyte"),
        ({"train_images": IMAGES[:-5]}, "train-images-idx3-ubyte"),
        ({"train_images": IMAGES[:7]}, "train-images-idx3-ubyte"),
        ({"train_images": b""}, "train-images-idx3-ubyte"),
        ({"train_images": IMAGES + b"more"}, "train-images-idx3-ubyte"),
        ({"train_images": b"\x01" + IMAGES[1:]}, "train-images-idx3-ubyte"),
        ({"train_images": idx(np.zeros((64, 28, 27)))}, "28"),
        ({"train_labels": idx(np.zeros(63))}, "64 images but 63 labels"),
        ({"t10k_labels": idx(np.full(32, 10))}, "t10k-labels-idx1-ubyte"),
        ({"train_labels": IMAGES}, "train-labels-idx1-ubyte"),
    ],
)
def test_raw_files(mistake, tmp_path, replaced, message):
    raw = raw_mnist(tmp_path / "raw", **replaced)
    with tempfile.TemporaryDirectory() as data:
        mistake(message, *DEMO, "--dataset", "mnist", "--raw-dir", raw, "--data-dir", data)
        assert not [path for path in Path(data).rglob("*") if path.is_file()]


def test_raw_files_that_are_right(command, tmp_path):
    raw, out = raw_mnist(tmp_path / "raw"), tmp_path / "out"
    options = ["--out", out, "--epochs", 1, "--seeds", 1, "--quiet", "--set", "hidden=[4]", "learning_rate=0.1"]
    places = ["--raw-dir", raw, "--data-dir", tmp_path / "data"]
    assert command("demo", "--dataset", "mnist", *places, *options) == (0, "", "")
    assert "test_top1" in (out / "results.csv").read_text()


def test_pickled_objects(mistake, tmp_path):
    folder = tmp_path / "points"
    folder.mkdir()
    for name in ("train", "valid"):
        np.savez(folder / f"{name}.npz", samples=np.array([[1, "a"]] * 80, dtype=object), annotations=np.zeros(80, int))
    mistake("pickle", "demo", "--dataset", f"npz:{folder}")


def test_output_folder(mistake, tmp_path, tiny, spec_file, command):
    path = spec_file(tiny())
    other = spec_file(tiny(recipe={"epochs": 2}), "other.toml")
    out = tmp_path / "out"
    assert command(path, "--out", out, "--quiet")[0] == 0
    mistake("holds this sweep already: add --resume", path, "--out", out)
    mistake("holds another sweep", other, "--out", out)
    mistake("holds another sweep", other, "--out", out, "--resume")
    mistake("holds another sweep", "demo", "--out", out, "--limit", 64)
    mistake("holds no sweep", path, "--out", out / "trials")
    mistake("", path, "--out", path)
    mistake("Not a directory", path, "--out", path / "inside")
    mistake("cannot write", path, "--out", "/proc/flaxvision/run")
    mistake("cannot write", path, "--out", tmp_path / ("x" * 300))
    trial = (out / "trials.jsonl").read_text()[8:18]
    mistake("matches 0 trials", "rerun", out, "zzz")
    (out / "trials" / f"{trial}.npz").unlink()
    mistake("cannot read", "rerun", out, trial)
    (out / "spec.toml").write_text("x")
    mistake("out holds a sweep whose spec.toml is not what was written: add --resume to contin", path, "--out", out)
    mistake("is not valid TOML", "rerun", out, trial)
    (out / "spec.toml").write_text("sseeds = 1\n")  # by somebody's hand
    mistake("spec.toml: unknown key 'sseeds'", path, "--out", out, "--resume")


def test_executor_that_is_not_installed(mistake, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    mistake("pip install", *DEMO, "--executor", "ray")


def test_real_process(tmp_path):
    arguments = [sys.executable, "-m", "flaxvision.sweep", "demo", "--set", "hidden=0", "--limit", "64"]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())

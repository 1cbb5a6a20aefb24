"""The files of a run's winner in other runtimes: do they give the example's output there?

    python -m venv PEERS && PEERS/bin/pip install onnxruntime opencv-python-headless openvino
    npm install --prefix NODE --ignore-scripts onnxruntime-node onnxruntime-web
    python experiments/runtimes.py --raw-dir DATA --peers PEERS/bin/python --node NODE --chromium /usr/bin/chromium

Fills two small tables, a CNN on MNIST and ResNet-20 on CIFAR-10, and writes each winner in more forms than its folder
has: of float16, of int8, for one image at a time at opset 13. Each file then runs on the images of example.npz in
onnxruntime (Python, Node, and the browser's WebAssembly), OpenCV and OpenVINO, in processes without flaxvision; and the
model card's Python and page as printed, the page with a picture chosen in Chromium. int8 is scored on the whole test
set. A runtime that is not named is left out. About 6 minutes on 2 CPU cores; `--quick` takes drawn digits.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import http.server
import json
import queue
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import parser_of, write_page
from PIL import Image

import export
import flaxvision as fv
from flaxvision.report import markdown_table

FOLDER = Path(__file__).parent / "elsewhere"
MNIST: dict[str, Any] = {
    "dataset": "mnist",
    "model": "mnist_net",
    "recipe": {"optimizer": "adam", "batch_size": 64, "epochs": 2},
    "grid": {"learning_rate": [1e-3, 3e-4]},
}
CIFAR: dict[str, Any] = {
    "dataset": "cifar10",
    "model": "resnet20",
    "data": {"limit": 5000},
    "recipe": {"learning_rate": 0.05, "momentum": 0.9, "batch_size": 64, "epochs": 2},
}
TABLES = {"mnist": MNIST, "cifar10": CIFAR}
FILES: dict[str, dict[str, Any]] = {  # what is written beside the two of the winner's folder
    "model.float16.onnx": {"precision": "float16"},
    "model.int8.onnx": {"precision": "int8"},
    "model.opset13-batch1.onnx": {"opset": 13, "batch": 1},
}
NAMES = ("model.onnx", "network.onnx", *FILES)
IN_PYTHON = {
    "onnxruntime": "onnxruntime, Python",
    "opencv": "OpenCV",
    "opencv_classic": "OpenCV, its classic engine",
    "openvino": "OpenVINO",
}
SECONDS = 180  # for a browser
HEADING = """The files of a run's winner in other runtimes

Largest absolute difference of each file's outputs for the 8 images of example.npz from those that JAX computed when \
it was exported: probabilities, and for network.onnx logits. Files of int8 and float16 differ by what their precision \
costs; in parentheses the largest difference from onnxruntime's, which with 8 bits may be a step of the rounding of \
each layer. The network on CIFAR-10 has seen 5,000 images twice: it is here for its residual blocks."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One file and what it is given."""

    path: Path
    given: np.ndarray
    expected: np.ndarray

    @property
    def type(self) -> str:
        """Of what it is given."""
        return str(self.given.dtype)


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("runtimes", __doc__, "drawn digits, one small network")
    parser.add_argument("--peers", default=sys.executable, help="Python that has onnxruntime, OpenCV and OpenVINO")
    parser.add_argument("--node", type=Path, help="folder whose node_modules has onnxruntime-node and onnxruntime-web")
    parser.add_argument("--chromium", help="the browser")
    options = parser.parse_args(arguments)
    sections, found = [], {}
    quick = {"quick": {**MNIST, "dataset": "glyphs", "data": {"limit": 512}}}
    for name, spec in (quick if options.quick else TABLES).items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = of_table(name, spec, Path(folder), options)
        sections.append(section(found[name]))
        print(sections[-1], flush=True)
    write_page(options, "runtimes", HEADING, sections, ["onnx", "onnxruntime"], found=found)


def of_table(name: str, spec: dict[str, Any], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Fill a table in `folder` and try its winner everywhere."""
    raw_dir = None if options.quick else options.raw_dir
    result = fv.sweep.run({"name": name, **spec}, folder / "run", raw_dir=raw_dir, report=False)
    if result.problems or result.winner is None:
        raise RuntimeError(f"{name}: {result.problems}")
    winner, model = folder / "run" / "winner", fv.load_model(folder / "run")
    data = fv.data.load(spec["dataset"], raw_dir=raw_dir, **spec.get("data", {}))
    for file, settings in FILES.items():
        calibration = export.calibration_of(data) if settings.get("precision") == "int8" else None
        export.to_onnx(model, winner / file, normalize=True, softmax=True, calibration=calibration, **settings)
    whole = fv.data.load(spec["dataset"], raw_dir=raw_dir) if not options.quick else data
    parity = export.compare(model, whole, precisions=["float16", "int8"])

    with np.load(winner / "example.npz") as example:
        jobs = [job(winner / file, example) for file in NAMES]
        picture = np.moveaxis(example["input"][0], 0, -1)
        best = model.classes[int(example["output"][0].argmax())]
        sure = float(example["output"][0].max())
    Image.fromarray(picture.squeeze()).save(winner / "picture.png")
    return {
        "network": f"{model.kind} on {data.name}",
        "parity": dataclasses.asdict(parity),
        "runtimes": runtimes(jobs, options),
        "card": card(winner, best, sure, options),
    }


def job(path: Path, example: Any) -> Job:
    """A file with its part of the example."""
    of = "network_" if path.name.startswith("network") else ""
    given, expected = example[f"{of}input"], example[f"{of}output"]
    one = slice(0, 1) if "batch1" in path.name else slice(None)
    return Job(path, np.ascontiguousarray(given[one]), expected[one])


def runtimes(jobs: list[Job], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """By runtime its version, and for every file the largest difference, or why there is none."""
    found = {label: in_python(runtime, jobs, options.peers) for runtime, label in IN_PYTHON.items()}
    if options.node:
        found["onnxruntime, Node"] = in_node(jobs, options.node)
    if options.node and options.chromium:
        found["onnxruntime, browser"] = in_browser(jobs, options.node, options.chromium)
    return {label: described(outputs, jobs, found) for label, outputs in found.items()}


def described(outputs: dict[str, Any], jobs: list[Job], every: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A runtime's version and differences."""
    reference = every["onnxruntime, Python"]
    row: dict[str, Any] = {"version": outputs.get("version", "")}
    for each in jobs:
        given = outputs[each.path.name]
        if isinstance(given, str):
            row[each.path.name] = {"error": given}
            continue
        row[each.path.name] = {
            "difference": apart(given, each.expected),
            "from onnxruntime": apart(given, reference[each.path.name]),
            "same classes": int((given.argmax(1) == each.expected.argmax(1)).sum()),
            "images": len(given),
        }
    return row


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(np.asarray(found, np.float64) - expected).max())


def in_python(runtime: str, jobs: list[Job], python: str) -> dict[str, Any]:
    """The outputs by file name of a runtime that Python has, or what it said."""
    outputs: dict[str, Any] = {}
    for each in jobs:
        with tempfile.TemporaryDirectory() as folder:
            given, wanted = Path(folder) / "given.npy", Path(folder) / "wanted.npy"
            np.save(given, each.given)
            command = [python, str(FOLDER / "peers.py"), runtime, str(each.path), str(given), str(wanted)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                outputs[each.path.name] = last_line(done.stderr)
            else:
                outputs[each.path.name], outputs["version"] = np.load(wanted), done.stdout.strip()
    return outputs


def in_node(jobs: list[Job], node: Path) -> dict[str, Any]:
    """The same of onnxruntime-node."""
    outputs: dict[str, Any] = {}
    for each in jobs:
        with tempfile.NamedTemporaryFile() as given:
            given.write(each.given.tobytes())
            given.flush()
            dims = ",".join(map(str, each.given.shape))
            command = [
                "node",
                str(FOLDER / "node.mjs"),
                str(node.resolve()),
                str(each.path),
                given.name,
                each.type,
                dims,
            ]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            outputs[each.path.name] = last_line(done.stderr)
            continue
        said = json.loads(done.stdout)
        outputs[each.path.name] = np.array(said["data"], np.float32).reshape(said["dims"])
        outputs["version"] = said["version"]
    return outputs


def in_browser(jobs: list[Job], node: Path, chromium: str) -> dict[str, Any]:
    """The same of onnxruntime-web in Chromium."""
    folder = jobs[0].path.parent
    listed = []
    for each in jobs:
        given = folder / f"{each.path.name}.bin"
        given.write_bytes(each.given.tobytes())
        listed.append({"name": each.path.name, "input": given.name, "type": each.type, "dims": each.given.shape})
    (folder / "jobs.json").write_text(json.dumps(listed))
    (folder / "browser.html").write_bytes((FOLDER / "browser.html").read_bytes())
    said = shown_by(folder, "browser.html", node, chromium)
    browser = re.search(r"Chrome/(\d+)", said["browser"])
    outputs: dict[str, Any] = {"version": f"{said['version']}, Chromium {browser[1] if browser else '?'}"}
    for name, given in said["outputs"].items():
        outputs[name] = (
            given["error"] if "error" in given else np.array(given["data"], np.float32).reshape(given["dims"])
        )
    return outputs


def card(winner: Path, best: str, sure: float, options: argparse.Namespace) -> dict[str, str]:
    """What the card's Python and its page show, as printed."""
    text = (winner / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = subprocess.run([options.peers, "-c", code], cwd=winner, capture_output=True, text=True, check=True)
    found = {"expected": f"{best} {100 * sure:.1f} %", "python": done.stdout.splitlines()[0]}
    check = subprocess.run([options.peers, "check.py"], cwd=winner, capture_output=True, text=True)
    found["check.py"] = f"status {check.returncode}"
    if options.node and options.chromium:
        (page,) = re.findall(r"```html\n(.*?)```", text, re.DOTALL)
        (winner / "page.html").write_text(page + (FOLDER / "user.html").read_text(), encoding="utf-8")
        found["page"] = shown_by(winner, "page.html", options.node, options.chromium)["shown"]
    return found


def shown_by(folder: Path, page: str, node: Path, chromium: str) -> dict[str, Any]:
    """What a page that is served from `folder` tells the server when Chromium opens it."""
    link = folder / "node_modules"
    if not link.exists():
        link.symlink_to(node.resolve() / "node_modules")
    with serving(folder) as (address, told), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--no-first-run"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        browser = subprocess.Popen([chromium, *flags, f"{address}/{page}"], **quiet)
        try:
            return told.get(timeout=SECONDS)
        finally:
            browser.terminate()
            browser.wait()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, queue.Queue[dict[str, Any]]]]:
    """A server of this machine alone, and what it is told by POST."""
    told: queue.Queue[dict[str, Any]] = queue.Queue()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", told
    finally:
        server.shutdown()
        server.server_close()


def last_line(text: str) -> str:
    return next((line for line in reversed(text.strip().splitlines()) if line.strip()), "nothing was said")[:200]


def section(found: dict[str, Any]) -> str:
    """A table's part of the page."""
    rows = []
    for label, row in found["runtimes"].items():
        if row["version"]:
            rows.append([f"{label} {row['version']}", *(cell(row[name]) for name in NAMES)])
        else:
            rows.append([f"{label}: not installed", *[""] * len(NAMES)])
    said = "; ".join(f"{what}: {text}" for what, text in found["card"].items())
    errors = dict.fromkeys(
        f"- {label}, {name}: {row[name]['error']}"
        for label, row in found["runtimes"].items()
        for name in NAMES
        if row["version"] and "error" in row[name]
    )
    table = markdown_table(["runtime", *(f"`{name}`" for name in NAMES)], rows, labels=1)
    parts = [f"## {found['network']}", table, "\n".join(errors), scored(found["parity"])]
    return "\n\n".join([part for part in parts if part] + [f"The model card as printed. {said}.\n"])


def scored(parity: dict[str, Any]) -> str:
    """Accuracy and size before and after."""
    rows = [
        (
            row["runtime"],
            f"{100 * row['accuracy']:.2f}",
            f"{row['agreeing']:,} of {parity['images']:,}",
            f"{row['file_bytes'] / 1000:,.0f}",
        )
        for row in parity["rows"]
    ]
    return markdown_table(("on the whole test set", "accuracy (%)", "same class as Flax", "file (kB)"), rows, labels=1)


def cell(found: dict[str, Any]) -> str:
    if "error" in found:
        return "does not run"
    changed = found["images"] - found["same classes"]
    note = f", {changed} of {found['images']} another class" if changed else ""
    return f"{found['difference']:.1e} ({found['from onnxruntime']:.0e}){note}"


if __name__ == "__main__":
    main()

"""What the page of `flaxvision play` shows: computed again by hand, for every sort of network that takes images."""

from __future__ import annotations

import base64
import io
import socket

import numpy as np
import pytest
from PIL import Image

import flaxvision as fv
from flaxvision.cli.main import main
from flaxvision.errors import UserError
from flaxvision.layers import Preprocess
from flaxvision.play import Viewer, _app, serve, tiles

pytestmark = pytest.mark.quick


def saved(path, name, shape, classes, **trial):
    model = fv.models.create(name, input_shape=shape, num_classes=classes)
    model.preprocess = Preprocess(1 / 255, 0.0)
    model.classes = tuple(f"class {number}" for number in range(max(classes, 2)))
    fv.save_model(model, path, trial=trial)
    return model


def branched(build, outputs):
    build.conv("conv", 3, 3, stride=2)
    skip = build.activation("relu", "relu")
    build.conv("more", 3, 1)
    build.add("sum", skip)
    build.global_avg_pool("pool")
    build.flatten("flat")
    build.linear("out", outputs)


def image_to_image(build, outputs):
    build.conv("only", 1, 3, padding=1)


def drawn(size=(40, 30), mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("shape", [(6, 6, 1), (5, 8, 4)])
def test_what_a_network_sees_and_answers(tmp_path, shape):
    model = saved(tmp_path / "w.safetensors", f"{__name__}:branched", shape, 3)
    viewer = Viewer(tmp_path / "w.safetensors")
    view = viewer(drawn())
    assert view.seen.shape == shape
    wanted = fv.predict(model, view.seen[None])[0]
    assert list(view.scores) == ["class 0", "class 1", "class 2"]
    np.testing.assert_allclose(list(view.scores.values()), wanted, rtol=1e-5)
    assert {name: values.shape for name, values in view.layers.items()} == {
        step.node.name: step.output for step in model.walk()
    }
    np.testing.assert_allclose(
        view.layers["pool"], view.layers["sum"].mean((0, 1), keepdims=True), rtol=1e-5, atol=1e-7
    )
    assert (view.layers["relu"] >= 0).all()
    scores = np.exp(view.layers["out"]) / np.exp(view.layers["out"]).sum()
    np.testing.assert_allclose(list(view.scores.values()), scores, rtol=1e-5)


def test_inverting_leaves_transparency_alone(tmp_path):
    saved(tmp_path / "w.safetensors", "linear", (6, 6, 4), 3)
    viewer = Viewer(tmp_path / "w.safetensors")
    plain, inverted = viewer(drawn(mode="RGBA")).seen, viewer(drawn(mode="RGBA"), invert=True).seen
    np.testing.assert_array_equal(inverted[..., :3], 255 - plain[..., :3])
    np.testing.assert_array_equal(inverted[..., 3], plain[..., 3])


def test_a_transparent_drawing_is_on_white(tmp_path):
    saved(tmp_path / "w.safetensors", "linear", (4, 4, 1), 3, dataset="glyphs")
    viewer = Viewer(tmp_path / "w.safetensors")
    assert viewer.light_on_dark
    assert viewer.about == "linear, trained on glyphs: 4 × 4 pixels, 1 channel"
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 8))
    seen = viewer(image, invert=True).seen[..., 0]
    assert (seen[:, 0] == 255).all()
    assert (seen[:, 3] == 0).all()
    saved(tmp_path / "own.safetensors", "linear", (4, 4, 1), 3, dataset="arrays:images:mine")
    assert not Viewer(tmp_path / "own.safetensors").light_on_dark


def test_a_single_score_is_two_probabilities(tmp_path):
    saved(tmp_path / "w.safetensors", "linear", (4, 4, 1), 1)
    view = Viewer(tmp_path / "w.safetensors")(drawn())
    logit = float(view.layers["layers.0"][0])
    assert view.scores == pytest.approx({"class 0": 1 - 1 / (1 + np.exp(-logit)), "class 1": 1 / (1 + np.exp(-logit))})


def test_a_network_that_gives_images(tmp_path):
    model = saved(tmp_path / "w.safetensors", f"{__name__}:image_to_image", (6, 7, 1), 1)
    view = Viewer(tmp_path / "w.safetensors")(drawn())
    assert view.scores == {}
    wanted = np.clip(np.rint(255 * fv.predict(model, view.seen[None])[0]), 0, 255)
    assert np.abs(view.made.astype(int) - wanted).max() <= 1


def test_points_are_refused(tmp_path):
    fv.save_model(fv.models.create("linear", input_shape=(2,), num_classes=2), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"takes examples of shape \(2,\), which are no images"):
        Viewer(tmp_path / "w.safetensors")


def test_maps_as_tiles():
    maps = np.zeros((2, 2, 9), np.float32)
    maps[0, 0, 0], maps[1, 1, 8] = 2.0, -1.0
    picture = tiles(maps)
    zoom = 32
    assert picture.shape == (2 * (2 * zoom + 2) + 2, 8 * (2 * zoom + 2) + 2, 3)
    assert tuple(picture[2, 2]) == (213, 94, 0)
    assert tuple(picture[2 + zoom, 2]) == (255, 255, 255)
    last = picture[2 * zoom + 4 + zoom, 2 + zoom]
    assert tuple(last) == (128, 184, 216)  # half way from white to blue
    assert tuple(picture[0, 0]) == (128, 128, 128)
    assert tiles(np.ones(3, np.float32)).shape == (64 + 4, 3 * 66 + 2, 3)
    assert tiles(np.full((4, 4, 200), np.nan, np.float32)).shape == (8 * 66 + 2, 8 * 66 + 2, 3)


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["play", "runs/demo"]) == 2
    assert capsys.readouterr().err == "error: play needs Gradio: pip install 'flaxvision[play]'\n"


def test_a_port_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"cannot listen on 127.0.0.1:{port} \(.+\): give another port"):
            serve(tmp_path, port=port)
    with pytest.raises(UserError, match="port 99999 is not allowed"):
        serve(tmp_path, port=99999)


@pytest.mark.parametrize(
    ("host", "error", "address", "why"),
    [
        ("typo", OSError(-2, "Name or service not known (while attempting to bind on address ('typo', 7860))"),
         "typo:7860", "Name or service not known"),
        ("fe80::1", OSError(99, "Cannot assign requested address (while …)"), "[fe80::1]:7860",
         "Cannot assign requested address"),
        ("a..b", UnicodeError("label empty or too long"), "a..b:7860", "label empty or too long"),
    ],
)  # fmt: skip
def test_an_address_that_is_none(monkeypatch, host, error, address, why):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(UserError) as caught:
        serve("runs/demo", host=host)
    advice = "give another port, --port N, or another address, --host H"
    assert str(caught.value) == f"cannot listen on {address} ({why}): {advice}"


def test_the_address_is_said_once_there_is_a_page(monkeypatch, capsys):
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
            port = free.getsockname()[1]
    except OSError:
        pytest.skip("this machine has no IPv6")
    served = []

    def page_of(run):
        if run == "typo":
            raise UserError("no weights file typo")
        return f"page of {run}"

    monkeypatch.setattr(_app, "app", page_of)
    monkeypatch.setattr(_app, "_serve", lambda page, listener: served.append((page, listener.getsockname()[:2])))
    with pytest.raises(UserError, match="no weights file typo"):
        serve("typo", host="::1", port=port)
    assert capsys.readouterr().err == ""
    serve("runs/demo", host="::1", port=port)
    assert capsys.readouterr().err == f"http://[::1]:{port} shows runs/demo; Ctrl-C ends it\n"
    assert served == [("page of runs/demo", ("::1", port))]


def as_url(image):
    image.save(file := io.BytesIO(), "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.mark.filterwarnings("ignore")
def test_the_page(tmp_path):
    gradio = pytest.importorskip("gradio")
    from flaxvision.play import app

    saved(tmp_path / "w.safetensors", f"{__name__}:branched", (6, 6, 3), 3)
    page = app(tmp_path / "w.safetensors")
    assert not page.analytics_enabled
    draw, drop, look, _ = (each.fn for each in page.fns.values())
    for image, seen, scores, maps in (
        draw(as_url(drawn(mode="RGBA")), False, "relu"),
        drop(drawn(), False, "relu"),
        (drawn(), *look(drawn(), False, "relu")),
    ):
        assert (image.size, seen.shape, len(scores), maps.shape[2]) == ((40, 30), (240, 240, 3), 3, 3)
    assert look(None, False, "relu") == (None, None, None)
    assert draw("", False, "relu") == (None, None, None, None)
    assert isinstance(page, gradio.Blocks)

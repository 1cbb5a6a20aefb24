"""The page of `flaxvision play`, made with Gradio; it sends nothing anywhere and loads nothing from elsewhere."""

from __future__ import annotations

import base64
import functools
import io
import os
import socket
import sys
import types
from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from flaxvision._text import visible
from flaxvision.errors import UserError
from flaxvision.play._views import Viewer, tiles

if TYPE_CHECKING:
    import gradio
    from fastapi import Request, Response

    Shown = tuple[np.ndarray | None, dict[str, float] | np.ndarray | None, np.ndarray | None]

# Gradio has a sketchpad, but one must choose its pen first, and it uploads the drawing again and again.
PAD = """\
<canvas width="320" height="320" aria-label="Drawing pad" style="border: 1px solid #8888; border-radius: 4px;
  touch-action: none; cursor: crosshair; max-width: 100%"></canvas>
<p><button type="button" style="text-decoration: underline">Clear</button></p>
"""
SHOWN = 240  # pixels of the longer side of what a network sees, about
# What browsers load for the page: only what this server gives, whatever Gradio's own page names.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; form-action 'self'; "
    "object-src 'none'"
)


def app(run: str | Path) -> gradio.Blocks:
    """The page as a Gradio app, to `launch` or to put into another one.

    Args:
        run: A run directory, whose winner it shows, or a weights file.

    Raises:
        UserError: If there is no network, or it takes no images.
    """
    gr, viewer = _gradio(), Viewer(run)
    steps = {step.node.name: step for step in viewer.model.walk()}
    choices = [
        (f"{name} ({type(step.layer).__name__}, {' × '.join(map(str, step.output))})", name)
        for name, step in steps.items()
    ]
    first = next((name for name, step in steps.items() if type(step.layer).__name__ == "Conv"), choices[0][1])

    viewer(Image.new("L", (8, 8)))  # so that the first answer does not wait for a compilation

    def look(image: Image.Image | None, light: bool, layer: str) -> Shown:
        if image is None:
            return None, None, None
        view = viewer(image, invert=light)
        answer = view.scores if view.made is None else enlarged(view.made)
        return enlarged(view.seen), answer, tiles(view.layers[layer])

    def draw(png: str, light: bool, layer: str) -> tuple[Image.Image | None, *Shown]:
        image = Image.open(io.BytesIO(base64.b64decode(png.partition(",")[2]))) if png else None
        return image, *look(image, light, layer)

    def drop(image: Image.Image | None, light: bool, layer: str) -> tuple[Image.Image | None, *Shown]:
        return image, *look(image, light, layer)

    with gr.Blocks(title=escape(f"flaxvision: {viewer.model.kind}"), analytics_enabled=False) as page:
        gr.HTML(f"<h2>What the network makes of it</h2><p>{escape(viewer.about)}</p>")
        with gr.Row():
            with gr.Column():
                with gr.Tab("Draw"):
                    script = Path(__file__).with_name("pad.js").read_text(encoding="utf-8")
                    drawn = gr.HTML("", html_template=PAD, js_on_load=script, apply_default_css=False)
                with gr.Tab("Drop or paste an image"):
                    dropped = gr.Image(type="pil", sources=["upload", "clipboard"], image_mode=None, show_label=False)
                light = gr.Checkbox(
                    viewer.light_on_dark, label="Invert: it was trained on light shapes on a dark ground"
                )
            with gr.Column():
                # Without Gradio's button that shares a picture elsewhere.
                look_of = {"format": "png", "interactive": False, "buttons": ["download", "fullscreen"]}
                seen = gr.Image(label="What the network sees", height=SHOWN + 40, **look_of)
                answer = (
                    gr.Image(label="What it gives", **look_of)
                    if viewer.gives_image
                    else gr.Label(label="Probabilities", num_top_classes=10)
                )
        caption = "What it gives: orange above 0, blue below; the first 64 maps or numbers"
        layer = gr.Dropdown(choices, value=first, label="Layer", info=caption)
        maps = gr.Image(show_label=False, **look_of)
        current, shown = gr.State(None), [seen, answer, maps]
        drawn.input(draw, [drawn, light, layer], [current, *shown], show_progress="hidden", trigger_mode="always_last")
        dropped.change(drop, [dropped, light, layer], [current, *shown], show_progress="hidden")
        for event in (light.change, layer.change):
            event(look, [current, light, layer], shown, show_progress="hidden")
    return page


def serve(run: str | Path, *, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the page until Ctrl-C.

    Args:
        run: A run directory, or a weights file.
        host: The address to listen on; the page is for this machine unless another one is given.
        port: The port.

    Raises:
        UserError: As `app`, and where nobody can listen.
    """
    if not 0 < port < 2**16:
        raise UserError(f"port {port} is not allowed: give one from 1 to {2**16 - 1}, --port N")
    of_ipv6 = ":" in host
    address = f"{f'[{host}]' if of_ipv6 else host}:{port}"
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if of_ipv6 else socket.AF_INET)
    except (OSError, UnicodeError) as error:  # the latter for a name that is none
        why = str(getattr(error, "strerror", None) or error).partition(" (while")[0]  # which names the address again
        raise UserError(
            f"cannot listen on {address} ({why}): give another port, --port N, or another address, --host H"
        ) from error
    with listener:
        page = app(run)
        print(visible(f"http://{address} shows {run}; Ctrl-C ends it"), file=sys.stderr, flush=True)
        _serve(page, listener)


def _serve(page: gradio.Blocks, listener: socket.socket) -> None:
    gr = _gradio()
    import uvicorn
    from fastapi import FastAPI

    server = FastAPI()

    @server.middleware("http")
    async def only_from_here(request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await handle(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    gr.mount_gradio_app(server, page, path="/", theme=theme, ssr_mode=False, footer_links=[])
    uvicorn.Server(uvicorn.Config(server, log_level="warning")).run(sockets=[listener])


@functools.cache
def _gradio() -> types.ModuleType:
    """Gradio, which counts its users unless it is told not to before it is imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import gradio

    return gradio


def enlarged(image: np.ndarray) -> np.ndarray:
    """A small image, uint8 (H, W, C), with each pixel as a square."""
    zoom = max(1, SHOWN // max(image.shape[:2]))
    shown = image.repeat(zoom, 0).repeat(zoom, 1)
    return shown[..., 0] if shown.shape[-1] == 1 else shown

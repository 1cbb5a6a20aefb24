"""`flaxvision play RUN`: a page on which one draws for a run's winner."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from flaxvision.cli.parser import Call, Parser, positive
from flaxvision.errors import UserError

DESCRIPTION = """\
Open a page on which you draw or drop an image and see what the network gets, its probabilities and what each layer
makes of it. The page is served from this machine, for this machine; it sends nothing anywhere and loads nothing from
elsewhere. It needs Gradio: pip install 'flaxvision[play]'."""
EXAMPLES = """\
{program} runs/demo
{program} runs/demo/winner --port 8000"""


def add_options(parser: Parser) -> None:
    """What may be typed."""
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="a run directory (its winner) or a weights file")
    add("--port", metavar="N", type=positive(int), default=7860, help="of the page (default: 7860)")
    add("--host", metavar="H", default="127.0.0.1", help="address to listen on (default: this machine only)")


def run(options: argparse.Namespace, call: Call) -> int:
    """Serve the page until Ctrl-C."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("play needs Gradio: pip install 'flaxvision[play]'")
    from flaxvision.play import serve

    serve(options.run, host=options.host, port=options.port)
    return 0

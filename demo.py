"""A page to try trained weights on: drop an image, see its mask and the kernel it has written for DPConv.

    pip install -r requirements-demo.txt
    python demo.py                                                  # every checkpoints/*/seg/best.pth, to choose from
    python demo.py --weights checkpoints/BUSI/seg/best.pth --port 8000

The page is at http://127.0.0.1:7860, for this machine alone; --host 0.0.0.0 shows it to the network, without a
password. It works without any network, and what is uploaded is gone when it ends.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 - python -P leaves it out

import _this_folder  # noqa: F401 - before all else: Ctrl-C is quiet from here

# isort: split
import argparse
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from utils.common.errors import UserError
from utils.common.script import run_script
from utils.common.signals import StopRequest
from utils.settings.arguments import DEVICES, Parser, folder, positive


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="demo.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--weights", nargs="+", type=folder, metavar="FILE", help="our checkpoints; all if not set")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=positive, default=7860)
    parser.add_argument("--max_upload", type=positive, default=32, metavar="MB", help="of one file (32)")
    parser.add_argument("--device", default="auto", help=DEVICES)
    parser.add_argument("--threads", type=positive, help="of torch on the CPU; one a core if not set")
    return parser


def needs_gradio() -> None:
    """Whether Gradio is installed; it is not imported, which takes seconds.

    Raises:
        UserError: if it is not.
    """
    if find_spec("gradio") is None:
        raise UserError("the page needs Gradio: pip install -r requirements-demo.txt")


def find_weights(args: argparse.Namespace) -> list[Path]:
    """The checkpoints that can be chosen on the page.

    Raises:
        UserError: if there are none.
    """
    weights = args.weights or sorted(Path("checkpoints").glob("*/seg/best.pth"))
    if not weights:
        raise UserError("no weights in checkpoints/*/seg/best.pth: run make demo or train, or pass --weights FILE")
    return weights


def start(args: argparse.Namespace, folder: str) -> tuple:
    """Starts the page in threads of its own; returns it and its address. Its files go into `folder`.

    Raises:
        UserError: if Gradio or weights are not there, or the address cannot be listened on.
    """
    # Read when Gradio is imported, or later.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder, "HF_HUB_OFFLINE": "1"}
    # Gradio asks itself whether it can be reached; not by way of a proxy.
    os.environ["no_proxy"] = ",".join(filter(None, [os.environ.get("no_proxy"), "127.0.0.1", "localhost"]))
    needs_gradio()
    from utils.prediction.demo_page import CSS, build_page

    page = build_page(find_weights(args), Path(folder), args.device)
    try:
        _, address, _ = page.launch(
            server_name=args.host,
            server_port=args.port,
            max_file_size=args.max_upload << 20,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            footer_links=[],
            css=CSS,
        )
    except OSError as error:
        raise UserError(f"cannot listen on {args.host}:{args.port} ({error}); try another --port") from error
    return page, address


def main(args: argparse.Namespace) -> None:
    needs_gradio()
    find_weights(args)
    import torch

    from utils.common.runtime import keep_freed_memory

    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(prefix="srs-demo-") as folder, StopRequest() as stop:
        page, address = start(args, folder)
        print(f"the page is at {address}; Ctrl-C ends it", flush=True)
        while not stop.number:
            time.sleep(0.2)
        page.close()


if __name__ == "__main__":
    run_script(main, parser().parse_args)

"""Open a local web page that segments uploaded images and shows their DPConv kernels.

    pip install -r requirements-demo.txt
    python demo.py                                                  # offers every checkpoints/*/seg/best.pth
    python demo.py --weights checkpoints/BUSI/seg/best.pth --port 8000

The page is at http://127.0.0.1:7860 and opens with the first image of the checkpoint's validation list. It can be
reached from this machine only. --host 0.0.0.0 serves it to the network, without a password; it then opens with a
synthetic sample unless --image is given. The page needs no internet connection, and uploads are deleted when the script
ends.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 - python -P omits it

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
from utils.common.version import add_version
from utils.settings.arguments import DEVICES, THREADS, HelpFormatter, Parser, folder, positive, threads
from utils.settings.refusals import check_file

LOOPBACK = ("127.0.0.1", "localhost", "::1")  # reached from this machine only


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="demo.py", description=__doc__.splitlines()[0], formatter_class=HelpFormatter, allow_abbrev=False
    )
    add_version(parser)
    parser.add_argument(
        "--weights",
        nargs="+",
        type=folder,
        metavar="FILE",
        help="checkpoints of train_seg.py (default: every checkpoints/*/seg/best.pth)",
    )
    parser.add_argument(
        "--image",
        type=folder,
        metavar="FILE",
        help="image that the page opens with (default: the first of the checkpoint's validation list)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 127.0.0.1: this machine only")
    parser.add_argument("--port", type=positive, default=7860, help="port to listen on")
    parser.add_argument("--max_upload", type=positive, default=32, metavar="MB", help="largest upload in MB")
    parser.add_argument("--device", default="auto", help=DEVICES)
    parser.add_argument("--threads", type=threads, help=THREADS)
    return parser


def needs_gradio() -> None:
    """Checks that Gradio is installed, without importing it, which takes seconds.

    Raises:
        UserError: if it is not installed.
    """
    if find_spec("gradio") is None:
        raise UserError("the page requires Gradio: pip install -r requirements-demo.txt")


def find_weights(args: argparse.Namespace) -> list[Path]:
    """The checkpoints that the page offers.

    Raises:
        UserError: if there are none.
    """
    weights = args.weights or sorted(Path("checkpoints").glob("*/seg/best.pth"))
    if not weights:
        raise UserError("no checkpoints/*/seg/best.pth was found: run make demo or train, or pass --weights FILE")
    return weights


def start(args: argparse.Namespace, folder: str) -> tuple:
    """Starts the page in background threads and returns it and its address. Its files go into `folder`.

    Raises:
        UserError: if Gradio, weights or --image are missing, or if the address cannot be used.
    """
    # Gradio reads these when it is imported, or later.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder, "HF_HUB_OFFLINE": "1"}
    # Gradio connects to itself to test the page; that must not go through a proxy.
    os.environ["no_proxy"] = ",".join(filter(None, [os.environ.get("no_proxy"), "127.0.0.1", "localhost"]))
    needs_gradio()
    check_file(args.image, "--image")
    from utils.prediction.demo_page import CSS, build_page

    page = build_page(find_weights(args), Path(folder), args.device, args.image, show_data=args.host in LOOPBACK)
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
    check_file(args.image, "--image")
    import torch

    from utils.common.runtime import keep_freed_memory

    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(prefix="srs-demo-") as folder, StopRequest() as stop:
        page, address = start(args, folder)
        print(f"the page is at {address}; stop it with Ctrl-C", flush=True)
        while not stop.number:
            time.sleep(0.2)
        page.close()


if __name__ == "__main__":
    run_script(main, parser().parse_args)

"""A web page for trying trained weights: upload an image, see its mask and the kernel that DPConv computes from it.

    pip install -r requirements-demo.txt
    python demo.py                                                  # every checkpoints/*/seg/best.pth, to choose from
    python demo.py --weights checkpoints/BUSI/seg/best.pth --port 8000

The page is at http://127.0.0.1:7860 and opens with the first image of the checkpoint's validation list. Only this
machine can reach it. --host 0.0.0.0 opens it to the network without a password; it then opens with a synthetic sample
unless --image is given. The page needs no internet. Uploads are deleted when it stops.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -P leaves it out

import _this_folder  # noqa: F401
from utils.common.errors import UserError
from utils.common.script import run_script
from utils.common.signals import StopRequest
from utils.settings.arguments import DEVICES, folder, positive
from utils.settings.refusals import check_file

LOOPBACK = ("127.0.0.1", "localhost", "::1")  # reached from this machine only


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demo.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--weights",
        nargs="+",
        type=folder,
        metavar="FILE",
        help="checkpoints (default: every checkpoints/*/seg/best.pth)",
    )
    parser.add_argument(
        "--image",
        type=folder,
        metavar="FILE",
        help="image that the page opens with (default: the first of the checkpoint's validation list)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all networks (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=positive, default=7860, help="port to listen on (default: 7860)")
    parser.add_argument(
        "--max_upload", type=positive, default=32, metavar="MB", help="maximum size of an upload in MB (default: 32)"
    )
    parser.add_argument("--device", default="auto", help=DEVICES)
    parser.add_argument("--threads", type=positive, help="CPU threads (default: one per core)")
    return parser


def needs_gradio() -> None:
    """Checks that Gradio is installed, without the seconds of an import.

    Raises:
        UserError: if it is not.
    """
    if find_spec("gradio") is None:
        raise UserError("the page requires Gradio: pip install -r requirements-demo.txt")


def find_weights(args: argparse.Namespace) -> list[Path]:
    """The checkpoints to choose from on the page.

    Raises:
        UserError: if there are none.
    """
    weights = args.weights or sorted(Path("checkpoints").glob("*/seg/best.pth"))
    if not weights:
        raise UserError("checkpoints/*/seg/best.pth not found: run make demo, train, or pass --weights FILE")
    return weights


def start(args: argparse.Namespace, folder: str) -> tuple:
    """Starts the page in separate threads; returns it and its address. Its files go into `folder`.

    Raises:
        UserError: if Gradio, weights or --image are missing, or the address cannot be used.
    """
    # Gradio reads these when it is imported, or later.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder, "HF_HUB_OFFLINE": "1"}
    # Gradio checks that it can reach itself; that must not go through a proxy.
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
        print(f"the page is at {address}; Ctrl-C stops it", flush=True)
        while not stop.number:
            time.sleep(0.2)
        page.close()


if __name__ == "__main__":
    run_script(main, parser().parse_args)

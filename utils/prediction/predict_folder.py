"""Prediction of many images: existing results are skipped, and images that fail are listed at the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from datasets.inputs import Input, claimed_size
from utils.common.distributed import gather, wait_for_all
from utils.common.errors import UserError
from utils.common.processes import is_writer, rank, world_size
from utils.common.progress import Progress
from utils.common.script import out_of_memory
from utils.common.signals import Stopped, StopRequest
from utils.prediction.output_folder import Outputs
from utils.prediction.predictor import Picture, Predictor

TOO_LARGE = "out of memory; --tile 512 predicts the image in tiles"
KEPT_PIXELS = 1 << 26  # most pixels of decoded images that are kept for overlays: 200 MB


@dataclass(frozen=True)
class Report:
    """The numbers of predicted images and of existing results, the failures, the images whose EXIF orientation was not
    applied, and the bits in use of each predicted image (`datasets.levels.bits_in_use`), over all processes."""

    predicted: int
    there_before: int
    failures: list[str]
    turned: list[str]
    bits: list[int]


def predict_files(
    predictor: Predictor,
    inputs: Sequence[Input],
    outputs: Outputs,
    made_with: dict[str, Any],
    overwrite: bool = False,
    workers: int = 2,
) -> Report:
    """Predicts the images without results; returns when all processes of the job are done (collective).

    Args:
        predictor: predicts.
        inputs: from `datasets.inputs.find_inputs`.
        outputs: the files to write.
        made_with: the settings and weights of the results, which are not mixed with others.
        overwrite: predict all images, even with existing results.
        workers: image-decoding threads.

    Raises:
        UserError: see `Outputs`. Images that cannot be read or predicted do not raise, see `Report.failures`.
        Stopped: at a SIGINT or SIGTERM; the same call continues.
    """
    outputs.check(inputs, made_with, overwrite)
    wait_for_all()  # no process may write while another one still checks
    if is_writer():
        outputs.begin(inputs, made_with, overwrite)
    # One process lists the missing results, so that all processes take their share of the same list.
    todo = gather(outputs.missing(inputs) if is_writer() else None)[0]
    share = todo[rank() :: world_size()]
    if predictor.resize == "keep":
        share = sorted(share, key=lambda image: claimed_size(image.path))  # neighbours may then share a batch
    bar = Progress(total=len(share), desc="predicting", unit="img", disable=not is_writer())
    with bar, StopRequest(patient=world_size() > 1) as stop:
        found = _predict_share(predictor, share, outputs, workers, bar, stop)
    failures, turned, bits = ([item for part in parts for item in part] for parts in zip(*gather(found), strict=True))
    if is_writer():
        outputs.write_sheet(len(inputs) - len(failures))
    return Report(len(todo) - len(failures), len(inputs) - len(todo), failures, turned, bits)


def _predict_share(
    predictor: Predictor, share: Sequence[Input], outputs: Outputs, workers: int, bar: Progress, stop: StopRequest
) -> tuple[list[str], list[str], list[int]]:
    """Predicts the images; returns a message for each failed image, the images with an EXIF orientation, and bits."""
    failures: list[str] = []
    turned: list[str] = []
    bits: list[int] = []
    written = 0

    def fail(image: Input, message: str) -> None:
        failures.append(message if message.startswith(str(image.path)) else f"{image.path}: {message}")
        bar.update()

    def read(image: Input) -> Picture:
        return predictor.read(image.path, keep_pixels=outputs.needs_pixels(image.name))

    def predict(batch: Sequence[tuple[Input, Picture]]) -> Sequence[tuple[np.ndarray, np.ndarray] | None]:
        """The probabilities and the mask of each image; None for one that failed."""
        try:
            return predictor.predictions([picture for _, picture in batch])
        except UserError as error:
            if len(batch) > 1:  # alone, the others succeed
                return [found for one in batch for found in predict([one])]
            fail(batch[0][0], str(error))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            for image, _ in batch:
                fail(image, TOO_LARGE)
        return [None] * len(batch)

    def network(images: Tensor) -> Tensor:
        if stop.number:  # checked here, because a large image takes a hundred passes through the network
            raise Stopped(stop.number, f"stopped after {written} images; run the same command again to continue")
        return forward(images)

    forward, predictor.network = predictor.network, network
    try:
        for batch in _batches(_read_ahead(share, read, workers, fail), predictor.batch_of):
            for (image, picture), found in zip(batch, predict(batch), strict=True):
                if found is None:
                    continue
                outputs.write(image.name, picture.pixels, *found, predictor.white_level)
                turned += [str(image.path)] if picture.orientation > 1 else []
                bits.append(picture.bits)
                written += 1
                bar.update()
    finally:
        predictor.network = forward
    return failures, turned, bits


def _read_ahead(
    images: Sequence[Input], read: Callable[[Input], Picture], workers: int, fail: Callable[[Input, str], None]
) -> Iterator[tuple[Input, Picture]]:
    """The images and their decoded pictures, in order, read `workers` ahead; failures go to `fail`."""
    rest = iter(images)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[Input, Future[Picture]]] = deque()
        while True:
            waiting += [(image, pool.submit(read, image)) for image in islice(rest, workers + 1 - len(waiting))]
            if not waiting:
                return
            image, future = waiting.popleft()
            try:
                picture = future.result()
            except UserError as error:
                fail(image, str(error))
            except (MemoryError, RuntimeError, cv2.error) as error:
                if not out_of_memory(error):
                    raise
                fail(image, TOO_LARGE)
            else:
                yield image, picture


def _batches(
    read: Iterator[tuple[Input, Picture]], batch_of: Callable[[int, int], int]
) -> Iterator[list[tuple[Input, Picture]]]:
    """Batches of consecutive images with equal tensor shapes; an image in tiles is a batch by itself."""
    batch: list[tuple[Input, Picture]] = []
    for image, picture in read:
        if batch and not _may_join([other for _, other in batch], picture, batch_of):
            yield batch
            batch = []
        batch.append((image, picture))
    if batch:
        yield batch


def _may_join(batch: Sequence[Picture], picture: Picture, batch_of: Callable[[int, int], int]) -> bool:
    tensor, first = picture.tensor, batch[0].tensor
    if tensor is None or first is None or tensor.shape != first.shape:
        return False
    kept = sum(other.pixels.size for other in batch if other.pixels is not None)
    return len(batch) < batch_of(*tensor.shape[1:]) and kept < KEPT_PIXELS

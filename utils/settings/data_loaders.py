"""Data loaders from settings, for training and evaluation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from torch.utils.data import DataLoader

from datasets.folder import SegmentationFolder, make_loader
from datasets.kept import Kept
from datasets.known_divisions import remarks
from datasets.levels import common_white_level, unfit_white_level
from datasets.load import load_lists
from datasets.pairing import Case
from datasets.transforms import Transform
from datasets.unlabeled import unlabeled_cases
from utils.common.devices import pins_memory
from utils.common.errors import UserError
from utils.common.printable import one_line
from utils.common.processes import rank, say, world_size
from utils.settings.arguments import AUTO


def training_loaders(
    settings: argparse.Namespace, need_masks: bool, val_batch_size: int, unlabeled_dirs: Sequence[str] = ()
) -> tuple[DataLoader, DataLoader]:
    """The training loader (shuffled, augmented) and the validation loader, after both lists were checked.

    With settings.crop the training images are crops at the original resolution, and the validation images are whole.

    In a multi-process job each process loads its share; settings.batch_size counts the images of all processes. The
    images below `unlabeled_dirs` are added to the training images if no masks are needed. Decoded images are kept in
    memory up to settings.cache GB. A settings.white_level of "auto" is replaced by the detected number.

    Raises:
        UserError: for an invalid list or folder.
    """
    budget = round(settings.cache * 1e9)
    kept = Kept(budget, digests=bool(unlabeled_dirs))
    lists = {"training": settings.train_file_dir, "validation": settings.val_file_dir}
    cases = checked_cases(settings, lists, need_masks, kept)
    train_cases = cases["training"]
    if settings.white_level == AUTO:
        settings.white_level = common_white_level(train_cases, rank() == 0, kept.bits())
        say(f"--white_level auto: detected {settings.white_level} in the 16-bit training images")
    elif warning := unfit_white_level(kept.bits().values(), settings.white_level):
        say(f"warning: {warning}")
    if unlabeled_dirs:
        listed = train_cases, cases["validation"]
        unlabeled, left_out = unlabeled_cases(unlabeled_dirs, *listed, kept, settings.mask_suffix)
        say(f"{len(train_cases)} listed and {len(unlabeled)} unlabeled training images")
        for note in left_out:
            say(f"  skipped: {one_line(note)}")
        train_cases = [*train_cases, *unlabeled]
    size = None if settings.crop else settings.img_size
    transform = Transform(
        size,
        settings.normalization,
        augment=True,
        crop=settings.crop,
        mask_interpolation=settings.mask_interpolation,
        augment_order=settings.augment_order,
    )
    folder = _folder(settings, train_cases, transform)
    share, pin = (rank(), world_size()), pins_memory(settings.device)
    train = make_loader(folder, settings.batch_size, settings.workers, settings.seed, share, pin)
    val = evaluation_loader(settings, cases["validation"], val_batch_size, "keep" if settings.crop else "img_size")
    budget -= train.dataset.keep_decoded(budget, kept)
    val.dataset.keep_decoded(budget, kept)
    return train, val


def evaluation_loader(
    settings: argparse.Namespace, cases: Sequence[Case], batch_size: int, resize: str = "img_size"
) -> DataLoader:
    """A loader of the cases in their order, or of this process's share of them, resized and normalised.

    Args:
        settings: of a script that takes the data arguments.
        cases: of one list.
        batch_size: batch size; 1 is used where images or masks keep their original sizes.
        resize: one of `utils.settings.inference_arguments.RESIZE`.
    """
    size = None if resize == "keep" else settings.img_size
    interpolation = None if resize == "back" else settings.mask_interpolation
    dataset = _folder(settings, cases, Transform(size, settings.normalization, mask_interpolation=interpolation))
    batch_size = batch_size if resize == "img_size" else 1
    share, pin = (rank(), world_size()), pins_memory(settings.device)
    return make_loader(dataset, batch_size, settings.workers, share=share, pin_memory=pin)


def checked_cases(
    settings: argparse.Namespace, lists: dict[str, str], need_masks: bool = True, kept: Kept | None = None
) -> dict[str, list[Case]]:
    """`datasets.load.load_lists` with the settings of the data arguments; prints which lists are published ones."""
    rules = settings.mask_suffix, settings.fit_masks, settings.mask_threshold
    cases = load_lists(settings.base_dir, lists, need_masks, *rules, kept)
    for remark in remarks({name: [case.name for case in of] for name, of in cases.items()}, settings.Dataset):
        say(remark)
    return cases


def _folder(settings: argparse.Namespace, cases: Sequence[Case], transform: Transform) -> SegmentationFolder:
    fit_masks = settings.mask_interpolation if settings.fit_masks else None
    if settings.white_level == AUTO:
        raise UserError(
            "--white_level auto works only in training: pass a number, or weights whose training recorded one"
        )
    return SegmentationFolder(cases, transform, fit_masks, settings.mask_threshold, settings.white_level)

"""The images/masks/train.txt data folder: finding, decoding, checking and transforming its cases."""

import os

# The largest image that OpenCV decodes, in pixels: the limit of Pillow. OpenCV's own limit is six times as high, 3 GB
# in RGB. The variables are read when OpenCV is imported, which the modules of this folder do.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(179_000_000))
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # a damaged file is reported in one line, by `datasets.decode`

# Values of flags. They are defined here because their modules import OpenCV, torch or scikit-learn.
NORMALIZATIONS = ("imagenet", "authors")
LOOKS = ("ultrasound", "infrared")  # kinds of images in the synthetic sample set
SHARE = 0.3  # share of the cases for validation, as in the paper
MASK_INTERPOLATIONS = ("exact", "nearest")  # see datasets.resizing
AUGMENT_ORDERS = ("before_resize", "after_resize")  # see datasets.transforms

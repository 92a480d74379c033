"""The images/masks/train.txt folder: finding, decoding, checking and transforming its cases."""

import os

# Pixels of the largest image that OpenCV decodes: Pillow's limit. Its own is six times as high, 3 GB in RGB. It is read
# when OpenCV is imported, which only the modules below do: scripts answer --help without it.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(179_000_000))

# What scripts name in their flags, here since the modules that it belongs to import OpenCV, torch or scikit-learn.
NORMALIZATIONS = ("imagenet", "authors")
LOOKS = ("ultrasound", "infrared")  # of the synthetic sample set
SHARE = 0.3  # of the cases, for validation: the paper's
MASK_INTERPOLATIONS = ("exact", "nearest")  # see datasets.resizing
AUGMENT_ORDERS = ("before_resize", "after_resize")  # see datasets.transforms

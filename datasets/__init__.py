"""The images/masks/train.txt folder: finding, decoding, checking and transforming its cases."""

import os

# Pixels of the largest image that OpenCV decodes: Pillow's limit. Its own is six times as high, 3 GB in RGB.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(179_000_000))
import cv2

# The loader's processes are the parallelism. OpenCV's own threads on top of them would oversubscribe the cores, and a
# loader forked after they were started hangs at its first OpenCV call.
cv2.setNumThreads(0)

# What flags choose from.
MASK_INTERPOLATIONS = ("exact", "nearest")  # see datasets.resizing
AUGMENT_ORDERS = ("before_resize", "after_resize")  # see datasets.transforms

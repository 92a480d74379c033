"""The images/masks/train.txt folder: finding, decoding, checking and transforming its cases."""

import cv2

# The loader's processes are the parallelism. OpenCV's own threads on top of them would oversubscribe the cores, and a
# loader forked after they were started hangs at its first OpenCV call.
cv2.setNumThreads(0)

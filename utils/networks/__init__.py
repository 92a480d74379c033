"""Loading and saving of networks: checkpoints, weights, exported models and inference engines."""

# Values of flags. They are defined here because their modules import torch.
ENGINES = ("torch", "onnxruntime", "openvino")  # see utils.networks.inference_engines
EXPORT_FORMATS = ("onnx", "openvino", "torchscript")  # the keys of utils.networks.export.FORMATS

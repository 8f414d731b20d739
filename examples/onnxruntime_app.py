"""Read a picture with an exported PatchNet and draw where it decides for a class (red) or against it (blue).

pip install numpy opencv-python-headless onnxruntime
python onnxruntime_app.py model.onnx picture.png overlay.png
The picture is any that OpenCV reads, or a .npy file, with pixels as the model takes them.
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime

if len(sys.argv) != 4:
    sys.exit(__doc__)
model_path, picture_path, overlay_path = sys.argv[1:]
onnxruntime.set_default_logger_severity(3)  # errors
session = onnxruntime.InferenceSession(model_path, providers=["CPUExecutionProvider"])
contract = json.loads(session.get_modelmeta().custom_metadata_map["patchnet_tf.contract"])
"only" in contract and sys.exit(f"{model_path}: has the {contract['only']} alone, not the other output")
names, thresholds = contract["classes"]["names"], contract["thresholds"]
smallest, pixels = contract["smallest"], contract["pixels"]
channels, dtype, (low, high) = pixels["channels"], pixels["dtype"], pixels["range"]
kind = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR_RGB}.get(channels, cv2.IMREAD_UNCHANGED)
stored = picture_path.endswith(".npy")
picture = np.load(picture_path) if stored else cv2.imread(picture_path, kind | cv2.IMREAD_ANYDEPTH)
if picture is None or picture.shape[0] < smallest[0] or picture.shape[1] < smallest[1]:
    sys.exit(f"{picture_path}: not a picture of at least {smallest[0]} x {smallest[1]} pixels")
if picture.dtype != dtype or picture[0, 0].size != channels or not np.isfinite(picture).all():
    sys.exit(f"{picture_path}: not {dtype} of {channels} channel(s), without NaN")
if pixels.get("per_image"):
    low, high = picture.min(), picture.max()
elif not pixels.get("clip") and (picture.min() < low or picture.max() > high):
    sys.exit(f"{picture_path}: pixels from {picture.min()} to {picture.max()}, not in {low} to {high}")
image = picture.reshape(1, *picture.shape[:2], channels)  # (batch, height, width, channels), as it is stored
probability, heatmap = (output[0] for output in session.run(None, {session.get_inputs()[0].name: image}))
if probability.ndim == 0:  # two exclusive classes: of class 1, heatmap (height, width)
    print(f"{names[int(probability > thresholds[0])]}: probability of {names[1]} is {probability:.4f}")
else:  # of each class, heatmap (height, width, classes): draw that of the most probable
    heatmap = heatmap[..., probability.argmax()]
    chosen = probability > thresholds if thresholds else probability == probability.max()
    for name, q, called in zip(names, probability, chosen, strict=True):
        print(f"{name}: {q:.4f}{' *' if called else ''}")
certainty = heatmap[..., None] - 0.5  # (height, width, 1), -0.5 against the class to 0.5 for it
colour = np.where(certainty > 0, (32, 0, 202), (176, 113, 5))  # blue, green, red, as OpenCV wants them
grey = 255 * ((image[0].mean(axis=-1, keepdims=True) - low) / max(high - low, 1e-9)).clip(0, 1)
overlay = grey + 1.3 * np.abs(certainty) * (colour - grey)
cv2.imwrite(overlay_path, overlay.round().astype("uint8")) or sys.exit(f"{overlay_path}: cannot be written")

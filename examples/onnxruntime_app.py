"""Read a picture with an exported PatchNet and draw where it decides for a class (red) or against it (blue).

pip install numpy opencv-python-headless onnxruntime
python onnxruntime_app.py model.onnx picture.png overlay.png
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime

if len(sys.argv) != 4:
    sys.exit(__doc__)
model_path, picture_path, overlay_path = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.log_severity_level = 3  # errors
session = onnxruntime.InferenceSession(model_path, options, providers=["CPUExecutionProvider"])
contract = json.loads(session.get_modelmeta().custom_metadata_map["patchnet_tf.contract"])
names, thresholds = contract["classes"]["names"], contract["thresholds"]
smallest, channels = contract["smallest"], contract["pixels"]["channels"]
picture = cv2.imread(picture_path, cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB)
if picture is None or picture.shape[0] < smallest[0] or picture.shape[1] < smallest[1]:
    sys.exit(f"{picture_path}: not a picture of at least {smallest[0]} x {smallest[1]} pixels")
image = picture.reshape(1, *picture.shape[:2], channels)  # uint8 (batch, height, width, channels), 0 to 255
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
grey = image[0].mean(axis=-1, keepdims=True)
overlay = grey + 1.3 * np.abs(certainty) * (colour - grey)
cv2.imwrite(overlay_path, overlay.round().astype("uint8")) or sys.exit(f"{overlay_path}: cannot be written")

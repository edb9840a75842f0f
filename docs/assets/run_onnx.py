"""Run an exported detector: python run_onnx.py detector.onnx photo.jpg result.jpg"""

import json
import sys

import cv2
import numpy as np
import onnxruntime

model, photo, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
facts = session.get_modelmeta().custom_metadata_map
classes = json.loads(facts['classes'])
image = cv2.imread(photo)
height, width = image.shape[:2]
scale = 1.0
if 'resize' in facts:  # the larger side at most max(scale), the smaller at most min(scale)
    sides = json.loads(facts['resize'])['scale']
    scale = min(max(sides) / max(height, width), min(sides) / min(height, width))
size = round(width * scale), round(height * scale)
scales = np.tile(np.divide(size, (width, height)), 2)  # both sides were rounded
x = cv2.resize(image, size).astype(np.float32)
if not json.loads(facts['preprocess']):
    x = x[..., ::-1] if facts['channel_order'] == 'RGB' else x
    x = (x - np.float32(json.loads(facts['mean']))) / np.float32(json.loads(facts['std']))
dets, labels, *masks = (
    output[0] for output in session.run(None, {'images': x.transpose(2, 0, 1)[None]})
)
for k in np.flatnonzero((labels >= 0) & (dets[:, 4] >= 0.3)):
    x1, y1, x2, y2 = (dets[k, :4] / scales).round().astype(int)
    colour = [int(c) for c in np.random.default_rng(int(labels[k])).integers(64, 256, 3)]
    if masks and x2 > x1 and y2 > y1:
        inside = cv2.resize(masks[0][k], (x2 - x1, y2 - y1)) >= 0.5
        part = image[y1:y2, x1:x2]
        part[inside] = (0.5 * part[inside] + 0.5 * np.array(colour)).astype(np.uint8)
    cv2.rectangle(image, (x1, y1), (x2, y2), colour, 2)
    text = f'{classes[labels[k]]} {dets[k, 4]:.2f}'
    cv2.putText(image, text, (x1, y1 + 15), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour)
    print(text, x1, y1, x2, y2)
cv2.imwrite(out, image)

"""The shortest hand-written script that labels a clip with onnxruntime and PyAV: what cpd-serve is measured against.

It knows the model's frames, size and labels by heart, which cpd-serve reads from the file.
"""

import sys

import av
import numpy as np
import onnxruntime

engine, video = sys.argv[1:3]
count, height, width, crop_height, crop_width = map(int, sys.argv[3:])
session = onnxruntime.InferenceSession(engine)
with av.open(video) as container:
    frames = list(container.decode(video=0))
chosen = [frames[int((segment + 0.5) / count * len(frames))] for segment in range(count)]
pixels = np.stack([frame.reformat(width, height, "rgb24").to_ndarray() for frame in chosen])
top, left = (height - crop_height) // 2, (width - crop_width) // 2
(logits,) = session.run(None, {"frames": pixels[None, :, top : top + crop_height, left : left + crop_width]})
print(logits[0].argmax())

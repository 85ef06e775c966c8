"""The same with torch: the checkpoint as it was trained, frames by PyAV."""

import sys
from pathlib import Path

import torch

from cpd.video import read_clip
from cpd_train.models import read_checkpoint

checkpoint, video = map(Path, sys.argv[1:3])
model = read_checkpoint(checkpoint).model.eval()
with torch.inference_mode():
    logits = model(torch.from_numpy(read_clip(video, model.clip)[None]))
print(logits[0].argmax().item())

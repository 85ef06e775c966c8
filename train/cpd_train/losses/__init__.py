"""The losses of collaborative distillation and of its rivals, as pure functions.

Features of a stage are (batch, frames, channels, height, width). Every loss of features or logits returns one value per
clip, (batch,), so that clips can be weighted; the loss of parameters returns one value. What comes in half precision is
computed in float32.

arXiv 2009.06902 states the idea in its abstract; its equations were not at hand, so those of ``spectrum``,
``parameters`` and ``collaboration`` are ours; docs/method.md says which of their forms were measured, and how.
"""

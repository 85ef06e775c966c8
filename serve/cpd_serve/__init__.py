"""From a video to labels, and from two engines to a latency verdict. Never imports torch."""

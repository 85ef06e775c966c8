"""``cpd-bench``: whether one engine is slower than another, and how sure that is."""

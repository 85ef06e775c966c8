"""From clips to a trained teacher and a distilled student."""

"""Running the stages of one batch, closing it, reading its results, reproducing it."""

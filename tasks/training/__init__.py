"""Models: architectures, the training loop, blocks of reference models, what a release hands on."""

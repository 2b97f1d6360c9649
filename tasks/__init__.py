"""The stages of an audit and the core below them. Start reading at `dvc.yaml`; each stage is the
module of its name."""

__version__ = "0.1.0"

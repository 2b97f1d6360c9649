"""The pool of references of a workspace: made once for many batches, freed of erased people, and
asked whose deletion it could verify."""

__all__ = ["judged_retrains", "making", "readiness"]

"""The pool of references of a workspace: making it, removing erased people from it, and testing
whose deletion it could verify."""

__all__ = ["judged_retrains", "making", "readiness"]

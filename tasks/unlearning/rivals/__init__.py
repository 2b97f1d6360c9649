"""Published unlearning methods for comparison with FCALB, and two shortcuts that every method must
beat.

Each is written from its paper's formula, which its docstring gives; hyper-parameters are those of
the paper or of its public code (`recipes`), all of them settings of `unlearn.rivals`. Differences
that hold for all of them:

- One training loop serves all, `training_loop.optimise`: the rate follows a one-cycle schedule with
  the paper's rate as its peak, where papers hold it or lower it in steps. SGD has the momentum and
  the weight decay of `train`; Adam, where the paper's settings are Adam's, has no weight decay.
- Batches have `unlearn.batch_size` records, augmented as in training.
- Teachers are in evaluation mode and never learn; students are in training mode unless said
  otherwise.
- Divergences are KL(teacher || student) in nats, summed over classes and averaged over records.
  Averaging over classes as well, as some public code does, weakens them by the number of classes.
- The papers forget classes or random tenths of a data set; here the forget set may be one person's
  few records.
"""

__all__ = ["recipes", "registry"]

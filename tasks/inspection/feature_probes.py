"""Measures how much of some records is left in a classifier's features, not only in its answers.

Many unlearning methods change only the last linear layer: the answers change, the features stay,
and a new last layer or a few training steps restore the old answers. So there are three measures
beyond the answers:

    linear probe   a new linear classifier on the features, fitted to retained records and asked
                   about the others
    CKA            how similar the features of the forgotten records are to a retrained model's
    relearn time   how many training steps on the forgotten records bring their loss back

None of them decides. Compare each with the same measure on models retrained without the records.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.common import settings
from tasks.common.errors import EvidenceError
from tasks.common.language import say
from tasks.training import architectures, training_loop
from tasks.verification.scoring import Floats, Ints

if TYPE_CHECKING:
    from torch import nn

MOST_ITERATIONS = 2000
"""of the probe's fit, which takes dozens; one that needs more does not converge"""
CHECKS_PER_EPOCH = 8
"""most often that relearning computes the loss, per epoch; the loss of all records costs about a
third of an epoch"""


def read(
    network: nn.Module, records: training_loop.Records, batch_size: int = 512
) -> NDArray[np.float32]:
    """The input of a classifier's last linear layer, in evaluation mode, always in float32, without
    augmentation.

    Args:
        network: the classifier; it is moved to the records' device.
        records: n records, at least one.
        batch_size: records per pass; no result depends on it.

    Returns:
        (n, d) features.

    Raises:
        ModelError: the model cannot be tapped, see `models.Taps`.
        EvidenceError: a feature is NaN or infinite.
    """
    import torch

    network.to(records.backend.device).eval()
    with torch.no_grad():
        taps = architectures.Taps(network, "last", records.floats(slice(0, 1)))
        parts = [
            taps(records.floats(slice(start, start + batch_size)))[1][-1]
            .flatten(1)
            .float()
            .cpu()
            .numpy()
            for start in range(0, len(records), batch_size)
        ]
    features: NDArray[np.float32] = np.concatenate(parts)
    if not np.isfinite(features).all():
        raise EvidenceError(say("a model's features are NaN or infinite; its training diverged"))
    return features


def linear_probe(
    fitted: NDArray[np.float32],
    labels: Ints,
    features: NDArray[np.float32],
    most_iterations: int = MOST_ITERATIONS,
) -> Ints:
    """Classes that a new linear classifier on the same features gives (Alain and Bengio 2017).

    Multinomial logistic regression with scikit-learn's usual L2 penalty on standardised features.
    Its loss is convex, it starts at 0 and adds up in one thread, so that nothing about it is
    random.

    Args:
        fitted: (k, d) features of the records that it is fitted to.
        labels: (k,) their classes.
        features: (n, d) features of the records to classify, which it has not seen.
        most_iterations: in which the fit has to converge.

    Returns:
        (n,) predicted classes.

    Raises:
        EvidenceError: the records fitted to are all of one class, or the fit does not converge.
    """
    import warnings

    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    if len(np.unique(labels)) < 2:
        raise EvidenceError(
            say(
                "got {count} retained records of one class, expected two classes for a linear "
                "probe",
                count=len(labels),
            )
        )
    scaler, classifier = StandardScaler(), LogisticRegression(max_iter=most_iterations)
    # one thread: on a busy machine BLAS's threads wait for each other, dozens of times longer than
    # they compute
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the one about convergence becomes an error
        classifier.fit(scaler.fit_transform(fitted.astype(np.float64)), labels)
        if int(np.max(classifier.n_iter_)) >= most_iterations:
            raise EvidenceError(
                say("the linear probe did not converge in {most} iterations", most=most_iterations)
            )
        return np.asarray(
            classifier.predict(scaler.transform(features.astype(np.float64))), np.int64
        )


def cka(x: NDArray[np.float32] | Floats, y: NDArray[np.float32] | Floats) -> float:
    """Similarity of two models' features of the same records: linear CKA (Kornblith et al. 2019),
    debiased.

        CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)),   K = X X^T, L = Y Y^T

    with the unbiased HSIC_1 of Song et al. (2012) in place of the plain one, as in Nguyen et al.
    (2021). A request has few records and a model has many features. There the plain form is
    useless: with far fewer records than features it nears 1 even for unrelated features. The
    debiased one is 0 on average there.

    It is the cosine between K and L after their diagonals are left out and rows and columns centred
    without them, so that turning, mirroring, shifting or scaling the features of either model
    changes nothing.

    Args:
        x: (n, d) features of one model.
        y: (n, e) features of the other.

    Returns:
        1 for features that are equal but for the changes above, about 0 for unrelated ones, never
        below -1.

    Raises:
        EvidenceError: there are fewer than four records, too few for any estimate without bias, or
            one model has the same feature for all of them, or for all pairs of them the same
            distance.
    """
    if len(x) < 4:
        raise EvidenceError(
            say("got {count} records, expected at least 4 to compare features", count=len(x))
        )
    a, b = _off_diagonal(x), _off_diagonal(y)
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    if lengths == 0:
        raise EvidenceError(
            say("the features do not differ between the records; nothing can be compared")
        )
    return float(np.clip(np.vdot(a, b) / lengths, -1, 1))


def _off_diagonal(features: NDArray[np.float32] | Floats) -> Floats:
    """(n, n) Gram matrix without its diagonal, rows and columns centred: HSIC_1(K, L) is its dot
    product by n (n - 3).

    (U-centring, Székely and Rizzo 2014.) A matrix that is 0 but for rounding is 0.
    """
    n = len(features)
    centred = features.astype(np.float64)
    centred -= centred.mean(
        axis=0
    )  # changes nothing but the rounding, which a large mean would make coarse
    gram = centred @ centred.T
    scale = float(np.linalg.norm(gram))
    np.fill_diagonal(gram, 0)
    rows = gram.sum(axis=1, keepdims=True)
    gram += rows.sum() / ((n - 1) * (n - 2)) - (rows + rows.T) / (n - 2)
    np.fill_diagonal(gram, 0)
    return np.zeros_like(gram) if np.linalg.norm(gram) <= 1e-9 * scale else gram


def mean_loss(network: nn.Module, records: training_loop.Records) -> float:
    """Mean cross-entropy, nats, in evaluation mode and without augmentation or label smoothing.

    Raises:
        EvidenceError: it is not finite.
    """
    import torch
    from torch.nn import functional

    logits = torch.tensor(training_loop.logits(network, records), dtype=torch.float64)
    loss = float(functional.cross_entropy(logits, records.labels.cpu()))
    if not np.isfinite(loss):
        raise EvidenceError(
            say(
                "got a loss of {loss} on the records to forget; expected a finite one",
                loss=str(loss),
            )
        )
    return loss


def relearn_steps(
    network: nn.Module,
    records: training_loop.Records,
    target: float,
    learning_rate: float,
    recipe: settings.Train,
    most: int,
    seed: int,
) -> int:
    """How many training steps bring a classifier's mean loss down to a target: the relearn time.

    A model that still knows the records relearns them in fewer steps than one that never saw them
    (relearn time: Golatkar et al. 2020; anamnesis index: Chundawat et al. 2023). A copy is trained
    in training mode by plain SGD at a fixed rate, without momentum, weight decay, augmentation or
    label smoothing; its loss is taken in evaluation mode, after every step, or `CHECKS_PER_EPOCH`
    times an epoch where an epoch has more steps.

    Args:
        network: the classifier; it is left as it is.
        records: what is relearned.
        target: mean loss to be reached, nats.
        learning_rate: the same in every step.
        recipe: the number of records per step.
        most: no more steps are made.
        seed: seed of the records' order and of dropout.

    Returns:
        Steps made: 0 where the loss is there already, `most` where it takes so many or more.

    Raises:
        EvidenceError: there is one record only, too few for batch norm, or the loss is not finite.
    """
    import torch
    from torch.nn import functional

    backend = records.backend
    pupil = copy.deepcopy(network)
    records.place(pupil)
    learned = [weight for weight in pupil.parameters() if weight.requires_grad]
    plain = recipe.model_copy(update={"shift": 0, "flip": False})
    every = max(1, len(records) // recipe.batch_size // CHECKS_PER_EPOCH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        batches = records.batches(recipe.batch_size, torch.Generator().manual_seed(seed), plain)
        for step in range(most):
            if step % every == 0 and mean_loss(pupil, records) <= target:
                return step
            pupil.train()
            images, labels = next(batches)
            with backend.autocast():
                loss = functional.cross_entropy(pupil(images), labels)
            gradients = torch.autograd.grad(loss, learned, materialize_grads=True)
            with torch.no_grad():
                for weight, gradient in zip(learned, gradients, strict=True):
                    weight.sub_(gradient, alpha=learning_rate)
    return most

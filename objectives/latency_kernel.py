"""The kernel of the Gaussian process over the residuals of log latencies that the costs of `latency_model` leave.

Its inputs are the `shapes.coordinates` of a model, then the shares of its predicted time that each of F costs has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct

from objectives.gaussian_process import Priors
from objectives.shapes import COORDINATES

#: Medians of the log-normal priors: the standard deviation, in log units, of the part that is smooth over sizes; its
#: length scale, in standard deviations of `coordinates`; the standard deviation of each shape's own part.
SMOOTH, LENGTH, OWN = 0.03, 3.0, 0.015
#: Standard deviation of the logarithm of each.
PRIOR_WIDTH = 1.2
#: The kernel's free hyperparameters are two variances and the length scale between them.
PRIORS = Priors(np.log([SMOOTH**2, LENGTH, OWN**2]), np.array([2 * PRIOR_WIDTH, PRIOR_WIDTH, 2 * PRIOR_WIDTH]))
#: Two models are one shape where their distance is far below this, in standard deviations of `coordinates`.
SAME = 1e-4


class OfCoordinates(RBF):  # type: ignore[misc, unused-ignore]
    """A squared exponential of the coordinates alone."""

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:  # noqa: N803 - scikit-learn's names
        return super().__call__(X[:, :COORDINATES], None if Y is None else Y[:, :COORDINATES], eval_gradient)


class OfCosts(DotProduct):  # type: ignore[misc, unused-ignore]
    """Linear in the shares of the costs alone."""

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:  # noqa: N803 - scikit-learn's names
        return super().__call__(X[:, COORDINATES:], None if Y is None else Y[:, COORDINATES:], eval_gradient)

    def diag(self, X: Any) -> Any:  # noqa: N803 - scikit-learn's name
        return super().diag(X[:, COORDINATES:])


def residual_kernel() -> Any:
    """The sum of the smooth part, each shape's own, and the errors of the costs."""
    smooth = ConstantKernel(SMOOTH**2, (0.002**2, 0.5**2)) * OfCoordinates(LENGTH, (1.0, 10.0))
    own = ConstantKernel(OWN**2, (0.002**2, 0.3**2)) * OfCoordinates(SAME, "fixed")
    return smooth + own + OfCosts(0.0, "fixed")

"""Small problems whose posterior is known exactly.

* Linear operator, prior a mixture of Gaussians: the posterior is the mixture of the Kalman updates, weighted by
  how well each component foresaw the data (Alspach & Sorenson 1972). One component is a Gaussian;
* any function of one variable: quadrature on a grid, samples by the inverse of the distribution function;
* a linear model without error over many cycles: the Kalman filter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxda.observations import FUNCTIONS, Observation, Operator, PointFunction


@dataclass(frozen=True, eq=False)
class Problem:
    """A prior, what is observed at each of T cycles, and the exact posteriors of d variables.

    Attributes:
        prior: (key, M) -> independent members `(M, d)` before the first cycle.
        observations: values and precisions, each `(T, d)`; NaN and 0 where nothing is observed.
        forecast: `(M, d)` -> `(M, d)`, from one cycle's analysis to the next.
        mean: of the posteriors, `(T, d)`.
        covariance: of the posteriors, `(T, d, d)`.
        sample: (key, n) -> independent draws from the posteriors, `(T, n, d)`.
    """

    name: str
    prior: Callable[[Array, int], Array]
    operator: Operator
    observations: Observation
    mean: np.ndarray
    covariance: np.ndarray
    sample: Callable[[Array, int], Array]
    forecast: Callable[[Array], Array] = lambda ensemble: ensemble


# Problems


class Mixture(NamedTuple):
    """Weights `(K,)`, means `(K, d)` and covariances `(K, d, d)` of K Gaussians."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean `(d,)` and covariance `(d, d)`."""
        mean = self.weights @ self.means
        around = self.means - mean
        return mean, np.einsum("k,kij->ij", self.weights, self.covariances + around[:, :, None] * around[:, None])

    def sample(self, key: Array, n: int) -> Array:
        """n independent draws `(n, d)`."""
        key_component, key_normal = jax.random.split(key)
        chosen = jax.random.categorical(key_component, jnp.log(jnp.asarray(self.weights)), shape=(n,))
        normal = jax.random.normal(key_normal, (n, self.means.shape[1]))
        roots = jnp.asarray(np.linalg.cholesky(self.covariances))
        return jnp.asarray(self.means)[chosen] + jnp.einsum("nij,nj->ni", roots[chosen], normal)


def kalman_update(prior: Mixture, values: np.ndarray, precision: np.ndarray) -> Mixture:
    """The posterior of values `(d,)` = x + error: each component's Kalman update (Alspach & Sorenson 1972)."""
    seen = np.flatnonzero(precision > 0)
    H, R = np.eye(len(values))[seen], np.diag(1.0 / precision[seen])
    means, covariances, logs = [], [], []
    for weight, m, P in zip(*prior, strict=True):
        innovation, S = values[seen] - H @ m, H @ P @ H.T + R
        K = np.linalg.solve(S, H @ P).T
        left = np.eye(len(m)) - K @ H
        means.append(m + K @ innovation)
        covariances.append(left @ P @ left.T + K @ R @ K.T)  # Joseph's form: symmetric and positive
        fit = innovation @ np.linalg.solve(S, innovation) + np.linalg.slogdet(S)[1]
        logs.append(math.log(weight) - 0.5 * fit)
    weights = np.exp(np.array(logs) - max(logs))
    return Mixture(weights / weights.sum(), np.array(means), np.array(covariances))


def linear_problem(
    name: str, prior: Mixture, values: np.ndarray, precision: np.ndarray, model: np.ndarray | None = None
) -> Problem:
    """Observations `(T, d)` of x itself, a Gaussian mixture as prior, x -> model x between cycles."""
    posteriors, now = [], prior
    for y, r in zip(values, precision, strict=True):
        if posteriors:
            now = Mixture(now.weights, now.means @ model.T, model @ now.covariances @ model.T)
        now = kalman_update(now, y, r)
        posteriors.append(now)
    moments = [posterior.moments() for posterior in posteriors]

    def sample(key, n):
        keys = jax.random.split(key, len(posteriors))
        return jnp.stack([posterior.sample(k, n) for posterior, k in zip(posteriors, keys, strict=True)])

    return Problem(
        name,
        prior.sample,
        Operator((values.shape[1],), FUNCTIONS["identity"](1.0)),
        Observation(np.where(precision > 0, values, np.nan), precision),
        np.stack([mean for mean, _ in moments]),
        np.stack([covariance for _, covariance in moments]),
        sample,
        (lambda ensemble: ensemble) if model is None else (lambda ensemble: ensemble @ jnp.asarray(model.T)),
    )


def gaussian(name: str, d: int, every: int = 1, sigma: float = 0.7) -> Problem:
    """d correlated variables with standard deviations from 1 to 2, every `every`-th one observed.

    Each datum is one standard deviation of its forecast, up and down in turn, from the prior's mean.
    """
    sd, index = np.linspace(1.0, 2.0, d), np.arange(d)
    P = sd[:, None] * sd * np.exp(-np.abs(index[:, None] - index) / 2.0)
    mean = 3.0 + np.cos(index)
    seen = index % every == 0
    values = mean + np.where(index // every % 2, -1.0, 1.0) * np.sqrt(sd**2 + sigma**2)
    prior = Mixture(np.ones(1), mean[None], P[None])
    return linear_problem(name, prior, values[None], np.where(seen, sigma**-2.0, 0.0)[None])


def mixture_of_two() -> Problem:
    """One variable, modes at -2 and 2; a coarse datum that makes the likelier of them the less likely one."""
    prior = Mixture(np.array([0.6, 0.4]), np.array([[-2.0], [2.0]]), np.array([[[0.5]], [[0.3]]]))
    return linear_problem("mixture-1", prior, np.array([[0.5]]), np.array([[1.5**-2.0]]))


def mixture_of_three() -> Problem:
    """Two variables, three modes of different shapes, the first variable observed."""
    means = np.array([[-2.0, 0.0], [1.5, 2.0], [1.5, -2.0]])
    covariances = np.array([[[0.5, 0.3], [0.3, 0.6]], [[0.4, -0.2], [-0.2, 0.3]], [[0.6, 0.0], [0.0, 0.3]]])
    prior = Mixture(np.array([0.4, 0.35, 0.25]), means, covariances)
    return linear_problem("mixture-2", prior, np.array([[0.5, 0.0]]), np.array([[1.0, 0.0]]))


def scalar_problem(
    name: str, mean: float, sd: float, function: PointFunction, value: float, sigma: float, points: int = 20001
) -> Problem:
    """One variable of prior N(mean, sd^2), its function observed: trapezoidal quadrature over 10 sd each way.

    For smooth densities that vanish at the ends that rule's error is far below rounding (Trefethen & Weideman 2014).
    """
    x = mean + sd * np.linspace(-10.0, 10.0, points)
    with jax.enable_x64(True):
        hx = np.asarray(function.apply(jnp.asarray(x)))
    log = -0.5 * ((x - mean) / sd) ** 2 - 0.5 * ((value - hx) / sigma) ** 2
    density = np.exp(log - log.max())
    density /= density.sum()
    below = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    centre = density @ x

    def sample(key, n):
        return jnp.interp(jax.random.uniform(key, (1, n, 1)), jnp.asarray(below / below[-1]), jnp.asarray(x))

    return Problem(
        name,
        lambda key, members: mean + sd * jax.random.normal(key, (members, 1)),
        Operator((1,), function),
        Observation(np.array([[value]]), np.array([[sigma**-2.0]])),
        np.array([[centre]]),
        np.array([[[density @ (x - centre) ** 2]]]),
        sample,
    )


def rotation(cycles: int = 25, angle: float = 0.4, growth: float = 1.05, sigma: float = 0.5) -> Problem:
    """A growing rotation of two variables, the first one observed: a linear model without error, over cycles."""
    model = growth * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    prior = Mixture(np.ones(1), np.array([[1.0, -1.0]]), np.array([[[1.0, 0.5], [0.5, 2.0]]]))
    rng = np.random.default_rng(0)
    truth = rng.multivariate_normal(prior.means[0], prior.covariances[0])
    states = np.stack([np.linalg.matrix_power(model, cycle) @ truth for cycle in range(cycles)])
    precision = np.broadcast_to([sigma**-2.0, 0.0], states.shape)
    return linear_problem("rotation", prior, states + sigma * rng.normal(size=states.shape), precision, model)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "gaussian-1": lambda: gaussian("gaussian-1", 1),
    "gaussian-2-part": lambda: gaussian("gaussian-2-part", 2, every=2),
    "gaussian-5": lambda: gaussian("gaussian-5", 5),
    "gaussian-20-part": lambda: gaussian("gaussian-20-part", 20, every=2),
    "mixture-1": mixture_of_two,
    "mixture-2": mixture_of_three,
    "arctan": lambda: scalar_problem("arctan", 0.5, 1.5, FUNCTIONS["arctan"](1.0), 1.1, 0.15),
    "cubic": lambda: scalar_problem("cubic", 0.5, 0.7, PointFunction(lambda x: x**3), 1.5, 0.5),
    "square": lambda: scalar_problem("square", 0.3, 1.0, PointFunction(jnp.square), 1.5, 0.5),
    "rotation": rotation,
}

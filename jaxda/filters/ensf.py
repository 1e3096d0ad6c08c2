"""The ensemble score filter as published, every choice of it an option (Bao, Zhang & Zhang 2024; Yin et al. 2024).

Pseudo-time t runs from 1 (noise) to 0 (the state). With

    alpha(t) = 1 - t (1 - eps_alpha),   beta^2(t) = eps_beta + t (1 - eps_beta),
    b = d log alpha/dt,   sigma^2 = d beta^2/dt - 2 b beta^2,

the forward process Z_t | Z_0 = x is N(alpha x, beta^2), and the reverse SDE from Z_1 ~ N(0, I) is

    dZ = [b Z - sigma^2 s(Z, t)] dt + sigma dW,   s = s_prior + h(t) grad log p(y | z)

(Bao et al. 2024, "An ensemble score filter for tracking high-dimensional nonlinear dynamical systems", eqs. 5-16).
For members x_i the prior is the mixture of N(alpha x_i, beta^2), whose score has the closed form

    s_prior = -(z - alpha xbar)/beta^2,   xbar = sum_i w_i x_i,   w = softmax_i(-|z - alpha x_i|^2/(2 beta^2)).

What to know before using it:

* `weights = "per-member"` is what the published SQG runs do: w is one for the path's own member. The exact
  solution at t = 0 is then the forecast member itself, whatever was observed. Stopping half way (`stop = 0.5`)
  is what lets the observation in.
* `weights = "softmax"` is the closed form. In more than a few dimensions one member takes all the weight, and the
  filter chooses again among its members, as a particle filter does.
* h(t) is a heuristic: the true guidance is the gradient of log E[p(y | Z_0) | Z_t = z].

What each option does to one analysis, against exact posteriors: `python scripts/exactness.py --steps 1000 --problems
gaussian-1,gaussian-20-part` (20 members, 64 repetitions; other problems in docs/exactness.md). Bias of the mean in
posterior standard deviations, of the covariance in the relative Frobenius norm, for 1 observed variable and for 20
correlated ones of which 10 are observed. Monte Carlo errors of the mean are 0.01 to 0.05, of the covariance 0.03
to 0.11; "<" is what a bias that was not seen may be at two of them.

    option                                        mean, 1   cov., 1   mean, 20  cov., 20
    as published (per-member, stop 0.5, linear)     0.56      2.23      0.22      1.56     the prior's spread
    integrator exponential                          0.56      2.23      0.22      1.56
    damping quadratic                               1.04      2.23      0.65      1.58
    damping none                                   <0.08      2.23      0.24      1.53
    eps_beta 0.05                                   0.54      2.23      0.21      1.55
    relaxation 0                                    0.56      0.21      0.22      0.40
    relaxation 0, stop 0                            1.44      2.22      1.31      2.48   prior: 1.45 2.23 1.32 2.50
    softmax, relaxation 0, stop 0                   0.17     <0.19      0.87      1.37     chooses among members
      with damping quadratic                       <0.16     <0.10      1.02      1.74
      with damping none                             0.36      0.25      0.81      1.14
      with eps_beta 0.05                            0.20     <0.26      0.41      0.88
      with minibatch 10                            <0.17      0.42      1.16      0.61

likelihood "tan" of arctan data (`--problems arctan`): mean 1.79, where "true" has 0.40.

With a mesh every device carries its own members from noise to analysis, each member's noise keyed by its number among
all. What is communicated in one analysis, S the bytes of a state:

* before the paths two all-reduces of S: the forecast's mean, then the squares of the deviations from it;
* with `weights = "softmax"` one all-gather of the M S bytes of all kernels;
* in the loop over the steps nothing, unless `tolerance` > 0: the rule needs the ensemble mean, by an all-reduce of S
  at each step;
* after it, unless `relaxation` = 0, two all-reduces of S: the same of the analysis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxda.filters.inflation import deviations, relaxed_to, size_of
from jaxda.numerics import counter
from jaxda.observations import Observation, Operator, cleaned, likelihood_score, stiffness
from jaxda.parallel.mesh import by_members, in_turn
from jaxda.settings import Count, FilterSettings, Fraction, Length, NonNegative, Positive, described, settings

#: h(t): how much of the likelihood's score is felt at pseudo-time t
DAMPING: dict[str, Callable[[Array], Array]] = {
    "linear": lambda t: 1.0 - t,
    "quadratic": lambda t: (1.0 - t) ** 2,
    "none": jnp.ones_like,
}
#: points whose arrays, seven of them, stay in a core's cache
LARGEST_BLOCK = 8192
#: factor on sigma of the published arctan runs, times the operator's scale
TAN_SIGMA = 5.0


@settings
class EnSFConfig(FilterSettings):
    """Settings of the ensemble score filter; the defaults are those of the published SQG runs."""

    kind: Literal["ensf"] = described("ensf", "filter")
    weights: Literal["per-member", "softmax"] = described("per-member", "which members' kernels make the prior score")
    minibatch: Count | None = described(None, "kernels drawn anew at each step for softmax; all where left out [1]")
    damping: Literal["linear", "quadratic", "none"] = described("linear", "h(t): 1 - t, (1 - t)^2 or 1")
    eps_alpha: Positive = described(0.05, "alpha at t = 1 [1]")
    eps_beta: Fraction = described(0.0, "beta^2 at t = 0 [1]")
    steps: Count = described(1000, "steps that the whole of [0, 1] would take [1]")
    stop: Fraction = described(0.5, "pseudo-time at which the path ends [1]")
    tolerance: NonNegative = described(
        0.005, "end where the running mean, over a fifth of the steps, of the ensemble mean moves less; 0: never [1]"
    )
    integrator: Literal["euler", "exponential"] = described(
        "euler", "explicit Euler-Maruyama, or exact in the part that is linear in z"
    )
    normalise: bool = described(True, "scale states by the forecast's mean and spread at each point")
    relaxation: Fraction = described(1.0, "how far the spread goes back to the forecast's [1]")
    spread_cap: Length = described(1.5, "forecast spreads over this many initial ones go back to one; inf: never [1]")
    likelihood: Literal["true", "tan"] = described(
        "true", "true likelihood, or the published way with arctan: tan of the data, sigma 5 times scale larger"
    )

    def __post_init__(self):
        if self.eps_alpha >= 1:
            raise ValueError(f"eps_alpha = {self.eps_alpha:g} leaves no diffusion; use a value below 1")
        if self.minibatch is not None and self.weights != "softmax":
            raise ValueError(f'minibatch = {self.minibatch} needs weights = "softmax"; leave one out')
        if round(self.steps * (1.0 - self.stop)) < 1:
            raise ValueError(f"stop = {self.stop:g} leaves no step of {self.steps}; use a smaller stop or more steps")


def schedule(config: EnSFConfig, t: Array) -> tuple[Array, Array, Array, Array]:
    """alpha, beta^2, b and sigma^2 of the module's docstring at pseudo-time t."""
    alpha = 1.0 - t * (1.0 - config.eps_alpha)
    beta2 = config.eps_beta + t * (1.0 - config.eps_beta)
    b = -(1.0 - config.eps_alpha) / alpha
    return alpha, beta2, b, (1.0 - config.eps_beta) - 2.0 * b * beta2


def prior_score(z: Array, alpha: Array, beta2: Array, kernels: Array) -> Array:
    """Score at one z `(...)` of the equal mixture of N(alpha x_i, beta2 I) over kernels x_i `(J, ...)`.

    Bao et al. 2024, eq. 13. Distances are expanded, |z - a x|^2 = |z|^2 - 2 a z.x + a^2 |x|^2, and |z|^2 left
    out: under vmap that is a matrix product, and memory stays at J + M states, never J x M.
    """
    flat = kernels.reshape(len(kernels), -1)
    logits = (alpha * (flat @ z.ravel()) - 0.5 * alpha**2 * (flat * flat).sum(1)) / beta2
    centre = jnp.tensordot(jax.nn.softmax(logits), kernels, 1)
    return -(z - alpha * centre) / beta2


def _euler(drift, rate, noise_variance, dt):
    """Increment's drift part and noise variance of explicit Euler-Maruyama."""
    del rate
    return dt * drift, dt * noise_variance


def _exponential(drift, rate, noise_variance, dt):
    """The same with dz = drift - rate (z - z_n) solved exactly, an Ornstein-Uhlenbeck process (rate >= 0)."""
    decay = rate * dt
    small = decay < 1e-4
    safe = jnp.where(small, 1.0, decay)
    phi = jnp.where(small, 1.0 - 0.5 * decay, -jnp.expm1(-safe) / safe)
    phi2 = jnp.where(small, 1.0 - decay, -jnp.expm1(-2.0 * safe) / (2.0 * safe))
    return dt * phi * drift, dt * phi2 * noise_variance


#: increment of each integrator, and where in a step its coefficients are taken
INTEGRATORS = {"euler": (_euler, 0.0), "exponential": (_exponential, 0.5)}


def reverse_sde(
    key: Array, config: EnSFConfig, kernels: Array, likelihood, stiff, axis: str | None = None, first: int | Array = 0
) -> Array:
    """Paths of the reverse SDE from noise at t = 1 to `config.stop`, one a kernel; returns `(M, ...)`.

    Args:
        kernels: prior members x_i `(M, ...)`.
        likelihood: z `(...)` -> grad log p(y | z).
        stiff: z `(...)` -> an upper bound of minus its diagonal derivative; used by the exponential integrator.
        axis: of the mesh over which the members are spread. A member's noise is keyed by its number among all.
        first: number of the first point, for the noise, where these are a part of the state.
    """
    own, dtype = len(kernels), kernels.dtype
    increment, where = INTEGRATORS[config.integrator]
    damping = DAMPING[config.damping]
    total = round(config.steps * (1.0 - config.stop))
    dt = 1.0 / config.steps
    members, number, everyone = own, jnp.arange(own), kernels
    if axis is not None:
        members = own * jax.lax.axis_size(axis)
        number = number + own * jax.lax.axis_index(axis)
        if config.weights == "softmax":
            everyone = jax.lax.all_gather(kernels, axis, tiled=True)

    words = jax.vmap(lambda m: counter.words_of(jax.random.fold_in(key, m)))(number)
    places = jnp.asarray(first, jnp.uint32) + jnp.arange(kernels[0].size, dtype=jnp.uint32)
    places = places.reshape(kernels.shape[1:])

    def kernels_at(step):
        if config.minibatch is None or config.minibatch >= members:
            return everyone
        chosen = jax.random.choice(jax.random.fold_in(key, -1 - step), members, (config.minibatch,), replace=False)
        return everyone[chosen]

    def some(kernels, words):
        """The paths' steps, and their noise, of some of the members."""

        def noise(pair):
            """Standard normals of the steps 2 `pair` and 2 `pair` + 1."""
            drawn = jax.vmap(lambda own: counter.normal_pair(own, pair, places))(words)
            return [one.astype(dtype) for one in drawn]

        def advance(z, step, drawn):
            t = 1.0 - (step + where) * dt
            alpha, beta2, b, sigma2 = schedule(config, t.astype(dtype))
            h = damping(t.astype(dtype))
            shared = kernels_at(step)

            def one(z, own, xi):
                score = prior_score(z, alpha, beta2, shared if config.weights == "softmax" else own[None])
                drift = -b * z + sigma2 * (score + h * likelihood(z))
                rate = b + sigma2 * (1.0 / beta2 + h * stiff(z)) if config.integrator == "exponential" else 0.0
                move, variance = increment(drift, rate, sigma2, dt)
                return z + move + jnp.sqrt(variance) * xi

            return jax.vmap(one)(z, kernels, drawn)

        return noise, advance

    def to_the_end(kernels, words):
        noise, advance = some(kernels, words)

        def two(z, pair):
            even, odd = noise(pair)
            z = advance(z, 2 * pair, even)
            return jnp.where(2 * pair + 1 < total, advance(z, 2 * pair + 1, odd), z), None

        return jax.lax.scan(two, noise(pairs)[0], jnp.arange(pairs))[0]

    pairs = -(-total // 2)
    if config.tolerance > 0:
        noise, advance = some(kernels, words)
        alone = lambda step: jnp.where(step % 2 == 0, *noise(step // 2))
        return _until_steady(advance, alone, noise(pairs)[0], total, config, axis)
    if config.weights == "softmax" or not in_turn(kernels[0], jax.default_backend()):
        return to_the_end(kernels, words)
    return jax.lax.map(lambda own: to_the_end(*jax.tree.map(lambda one: one[None], own))[0], (kernels, words))


def _until_steady(advance, noise, start: Array, total: int, config: EnSFConfig, axis: str | None = None) -> Array:
    """The same path, ended where the running mean of the ensemble mean over a fifth of all steps stands still.

    Putting a new mean in the place of one a window ago moves the running mean by their difference over the
    window, so the means of one window are all it takes. The rule is asked only once they are there. Over an axis the
    mean is an all-reduce of a state at each step.

    A loop over windows around one over their steps, which reads the means of the window before and writes its own: if
    it did both with one array, XLA would copy that at each step.

    Args:
        advance: (z, step, normals) -> z; noise: step -> normals, `(M, ...)`.
    """
    window = max(1, config.steps // 5)
    means = jnp.zeros((window, *start.shape[1:]), start.dtype)

    def unfinished(carry):
        _, _, step, steady = carry
        return (step < total) & ~steady

    def one_window(carry):
        z, before, first, _ = carry

        def go(carry):
            z, own, step, _ = carry
            z = advance(z, step, noise(step))
            mean = z.mean(0) if axis is None else jax.lax.pmean(z.mean(0), axis)
            moved = jnp.abs(mean - before[step - first]).max() / window
            own = jax.lax.dynamic_update_index_in_dim(own, mean, step - first, 0)
            return z, own, step + 1, (step > window) & (moved < config.tolerance)

        within = lambda carry: unfinished(carry) & (carry[2] < first + window)
        return jax.lax.while_loop(within, go, (z, means, first, jnp.zeros((), bool)))

    return jax.lax.while_loop(unfinished, one_window, (start, means, jnp.zeros((), int), jnp.zeros((), bool)))[0]


def blocks_of(state: Array) -> int:
    """Equal blocks of points to be done in turn: on a CPU such that the arrays of a path stay in a core's cache."""
    if not in_turn(state, jax.default_backend()):
        return 1
    fitting = [n for n in range(1, 4 * state.size // LARGEST_BLOCK + 2) if state.size % n == 0]
    return next((n for n in fitting if state.size // n <= LARGEST_BLOCK), 1)


def make_analysis(config: EnSFConfig, operator: Operator, initial_spread: float | None = None, mesh=None):
    """The ensemble score filter as a function (key, ensemble, observation) -> ensemble.

    Args:
        initial_spread: spread of the initial ensemble, in units of the state, for `spread_cap`.
        mesh: devices over which the members are spread, along its axis `member`; None for one.

    Raises:
        ValueError: `spread_cap` without an initial spread, the tan likelihood of another operator; at the call, members
            that do not divide over the devices.

    Examples:
        >>> from jaxda import observations
        >>> operator = observations.make_operator(observations.ObservationConfig(operator="identity"), (8,))
        >>> config = EnSFConfig(integrator="exponential", steps=50)
        >>> analysis = jax.jit(make_analysis(config, operator, initial_spread=1.0))
        >>> ensemble = jax.random.normal(jax.random.key(0), (6, 8))
        >>> found = analysis(jax.random.key(1), ensemble, Observation(jnp.full(8, 2.0), jnp.full(8, 100.0)))
        >>> bool(jnp.abs(found.mean(0) - 2.0).max() < jnp.abs(ensemble.mean(0) - 2.0).max())
        True
    """
    capped = math.isfinite(config.spread_cap)
    if capped and not initial_spread:
        raise ValueError("spread_cap needs an initial_spread; give initial.noise above 0, or spread_cap = inf")
    if config.likelihood == "tan" and operator.function.arctan_scale is None:
        raise ValueError('likelihood = "tan" is for the operator arctan; use "true"')

    # a point's path then depends on nothing but what is at that point
    pointwise = operator.positions is None and config.weights == "per-member" and config.tolerance == 0

    def analysis(key: Array, ensemble: Array, observation: Observation, axis: str | None) -> Array:
        observation = cleaned(observation)
        mean, deviation = deviations(ensemble, axis)
        prior_spread = size_of(deviation, axis)
        if config.normalise:
            scale = jnp.where(prior_spread > 0, prior_spread, 1.0)
        else:
            mean, deviation, scale = jnp.zeros_like(mean), ensemble, jnp.ones_like(mean)

        def paths(first, kernels, observation, mean, scale):
            """Of the whole state, or of points from number `first` on."""
            if config.likelihood == "tan":
                likelihood, stiff = _tan_likelihood(operator, observation, mean, scale)
            else:
                likelihood = lambda z: scale * likelihood_score(operator, observation, mean + scale * z)
                stiff = lambda z: scale**2 * stiffness(operator, observation, mean + scale * z)
            return reverse_sde(key, config, kernels, likelihood, stiff, axis, first)

        kernels, around = deviation / scale, (observation, mean, scale)
        blocks = blocks_of(mean) if pointwise else 1
        if blocks == 1:
            z = paths(0, kernels, *around)
        else:
            cut = lambda field: field.reshape(blocks, -1)
            firsts = jnp.arange(blocks) * (mean.size // blocks)
            parts = firsts, jax.vmap(cut, out_axes=1)(kernels), jax.tree.map(cut, around)
            z = jax.lax.map(lambda part: paths(part[0], part[1], *part[2]), parts)  # (blocks, M, points)
            z = jnp.moveaxis(z, 0, 1).reshape(ensemble.shape)
        # members that agree know the point: their mixture is one place, which noise must not move
        posterior = jnp.where(prior_spread > 0, mean + scale * z, ensemble)
        if config.relaxation == 0:
            return posterior
        target = prior_spread
        if capped:
            target = jnp.where(prior_spread > config.spread_cap * initial_spread, initial_spread, prior_spread)
        return relaxed_to(target, posterior, config.relaxation, axis)

    return by_members(analysis, mesh)


def _tan_likelihood(operator: Operator, observation: Observation, mean: Array, scale: Array):
    """The published way with arctan: data are inverted, normalised and put through arctan again.

    y' = arctan((tan(y) - s mean)/spread), h' = arctan(s z), with a standard deviation of 5 s sigma: neither
    the likelihood of the data nor its width. Kept to reproduce published runs.
    """
    s = operator.function.arctan_scale
    around, width = operator.interpolate(mean), operator.interpolate(scale)
    values = jnp.arctan((jnp.tan(observation.values) - s * around) / width)
    moved = Observation(values, observation.precision / (TAN_SIGMA * s) ** 2)
    return (lambda z: likelihood_score(operator, moved, z)), (lambda z: stiffness(operator, moved, z))

"""Time stepping as functions of functions: a tendency makes a step, a step makes a trajectory."""

from __future__ import annotations

from collections.abc import Callable

import jax

State = jax.Array
Step = Callable[[State], State]


def rk4(tendency: Callable[[State], State], dt) -> Step:
    """One classical fourth-order Runge-Kutta step (Kutta 1901): error of order dt^5 a step.

    Examples:
        >>> decay = rk4(lambda x: -x, 0.1)
        >>> round(float(decay(1.0)), 6)  # exp(-0.1)
        0.904837
    """

    def step(x):
        k1 = tendency(x)
        k2 = tendency(x + 0.5 * dt * k1)
        k3 = tendency(x + 0.5 * dt * k2)
        k4 = tendency(x + dt * k3)
        return x + (dt / 6.0) * (k1 + 2.0 * k2 + 2.0 * k3 + k4)

    return step


def repeated(step: Step, n_steps: int) -> Step:
    """The step applied `n_steps` times.

    Examples:
        >>> float(repeated(lambda x: 2.0 * x, 5)(1.0))
        32.0
    """

    def advance(x):
        return jax.lax.scan(lambda x, _: (step(x), None), x, length=n_steps)[0]

    return advance


def trajectory(step: Step, n_saved: int, n_between: int) -> Callable[[State], tuple[State, State]]:
    """A function x0 -> (last state, series): `n_saved` states, `n_between` steps apart, x0 not among them.

    Examples:
        >>> last, series = trajectory(lambda x: 2.0 * x, 3, 2)(1.0)
        >>> float(last), series.tolist()
        (64.0, [4.0, 16.0, 64.0])
    """
    advance = repeated(step, n_between)

    def run(x):
        def save(x, _):
            x = advance(x)
            return x, x

        return jax.lax.scan(save, x, length=n_saved)

    return run

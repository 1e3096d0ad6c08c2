"""Several RK4 steps of Lorenz-96 and their vector-Jacobian product on a window of the line, in the cache.

A stage reads two points to the left of a point and one to its right, so of n points a step leaves n - 12: a window of
W + 12 s points holds what W points need after s steps, and W + 24 s what their gradient needs. Nothing wraps around.

With stages y_1 = x, y_2 = x + dt/2 f(y_1), y_3 = x + dt/2 f(y_2), y_4 = x + dt f(y_3) a step is

    x' = (-x + y_2 + 2 y_3 + y_4)/3 + dt/6 f(y_4),

and with l' = dL/dx' its transpose, stage by stage in reverse, J_k the Jacobian of f at y_k,

    m_3 = l'/3 + dt/6 J_4^T l',   m_2 = l'/3 + dt/2 J_3^T m_3,   m_1 = l'/6 + dt/2 J_2^T m_2,
    l   = -l'/3 + m_3 + 2 m_2 + 2 m_1 + dt J_1^T m_1

(the chain rule on these four, dt m_k the derivative by f(y_k), and what the m_k were made of subtracted again). From
f_j = (y_{j+1} - y_{j-2}) y_{j-1} - y_j + F,

    (J^T m)_i = y_{i-2} m_{i-1} - y_{i+1} m_{i+2} + (y_{i+2} - y_{i-1}) m_{i+1} - m_i.

Each of the four and four lines is one loop (`kernels.kernel`). The stages of all steps are kept, 4 s windows, which a
core's cache holds: to make them again from the steps would be three more loops in seven.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import Array

from jaxda.models.lorenz96 import Lorenz96Config
from jaxda.parallel.kernels import kernel

#: points that a step's stages need to the left and to the right; its transpose needs them the other way round
LEFT, RIGHT = 8, 4

Stages = list[list[tuple[int, Array]]]
"""Of each step its four stages, with the number in the window of the first point of each."""


def halo(steps: int) -> int:
    """Points on either side of those whose gradient through `steps` is wanted."""
    return steps * (LEFT + RIGHT)


def operations(steps: int) -> float:
    """Sums and products for each point of `steps` and their transposes [FLOP]: 4 or 7 for f or J^T, and the lines'."""
    return steps * (4 * 4 + (2 + 2 + 2 + 7) + 4 * 7 + (3 + 3 + 3 + 7))


def make_window(config: Lorenz96Config, steps: int, platform: str) -> tuple[Callable, Callable]:
    """Forward: window `(n,)` -> state `(n - 12 steps,)`, stages. Transposed: stages, dL/dstate -> dL/dwindow.

    The derivative is of the points for which all of the state that depends on them is there, `(n - 24 steps,)`: those
    from number `halo(steps)` on.
    """
    dt, own = config.dt, lambda function: kernel(function, platform)

    def f(y):
        n = y.shape[-1] - 3
        return (_from(3, y, n) - _from(0, y, n)) * _from(1, y, n) - _from(2, y, n) + config.forcing

    def transposed(y, m, at):
        """J^T m without m's first point and last two; y begins with number `at`, one point before m."""
        n = m.shape[-1] - 3
        y = _from(at, y, n + 4)
        return (
            _from(0, y, n) * _from(0, m, n)
            - _from(3, y, n) * _from(3, m, n)
            + (_from(4, y, n) - _from(1, y, n)) * _from(2, m, n)
            - _from(1, m, n)
        )

    second = own(lambda x: _inner(x, 2, 1) + (0.5 * dt) * f(x))
    third = own(lambda x, y2: _inner(x, 4, 2) + (0.5 * dt) * f(y2))
    fourth = own(lambda x, y3: _inner(x, 6, 3) + dt * f(y3))

    @own
    def last(x, y2, y3, y4):
        total = _inner(y2, 6, 3) - _inner(x, 8, 4) + 2.0 * _inner(y3, 4, 2) + _inner(y4, 2, 1)
        return (1.0 / 3.0) * total + (dt / 6.0) * f(y4)

    fourth_back = own(lambda m, y, *, at: (1.0 / 3.0) * _inner(m, 1, 2) + (dt / 6.0) * transposed(y, m, at))
    third_back = own(lambda m, m3, y, *, at: (1.0 / 3.0) * _inner(m, 2, 4) + (0.5 * dt) * transposed(y, m3, at))
    second_back = own(lambda m, m2, y, *, at: (1.0 / 6.0) * _inner(m, 3, 6) + (0.5 * dt) * transposed(y, m2, at))

    @own
    def first_back(m, m3, m2, m1, y, *, at):
        total = _inner(m3, 3, 6) + 2.0 * _inner(m2, 2, 4) + 2.0 * _inner(m1, 1, 2)
        return total - (1.0 / 3.0) * _inner(m, 4, 8) + dt * transposed(y, m1, at)

    def forward(x: Array) -> tuple[Array, Stages]:
        stages, origin = [], 0
        for _ in range(steps):
            y2 = second(x)
            y3 = third(x, y2)
            y4 = fourth(x, y3)
            stages.append([(origin, x), (origin + 2, y2), (origin + 4, y3), (origin + 6, y4)])
            x, origin = last(x, y2, y3, y4), origin + LEFT
        return x, stages

    def backward(stages: Stages, m: Array) -> Array:
        origin = steps * LEFT
        for (o1, x), (o2, y2), (o3, y3), (o4, y4) in reversed(stages):
            m3 = fourth_back(m, y4, at=origin - 1 - o4)
            m2 = third_back(m, m3, y3, at=origin - o3)
            m1 = second_back(m, m2, y2, at=origin + 1 - o2)
            m = first_back(m, m3, m2, m1, x, at=origin + 2 - o1)
            origin += RIGHT
        return m

    return forward, backward


def _from(first: int, x: Array, count: int) -> Array:
    """`count` points from number `first` on."""
    return jax.lax.slice_in_dim(x, first, first + count, axis=-1)


def _inner(x: Array, left: int, right: int) -> Array:
    """All but `left` points at the start and `right` at the end."""
    return jax.lax.slice_in_dim(x, left, x.shape[-1] - right, axis=-1)

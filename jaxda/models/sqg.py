"""Surface quasi-geostrophic turbulence between two boundaries (Tulloch & Smith 2009, JAS 66, 450-467).

A doubly periodic square of side L, boundaries at z = 0 and z = H, constant potential vorticity between
them. The state is the boundary PV `pv`, (2, N, N) in m/s; times f theta0 / g it is temperature in K.
With hats for `rfft2` spectra, K = |k| the angular wavenumber and mu = K sqrt(nsq) H / f:

    psi_0 = (H/mu) (q_1 / sinh mu - q_0 / tanh mu)                                (inversion)
    psi_1 = (H/mu) (q_1 / tanh mu - q_0 / sinh mu)
    dq/dt = (q_eq - q)/tdiab - c J(psi, q) + r K^2 psi_0 at z = 0 [- r K^2 psi_1 at z = H, symmetric jet]

stepped by RK4, after which the whole state is multiplied by exp(-(dt/efold) (K / (pi N/L))^order).

Row -n/2 of the spectra is kept by the Jacobian and row +n/2 does not exist, as in the public model; so advection
conserves energy and variances exactly for states without that wavenumber, and nearly for others.

The factor c. The public model that the published runs were made with (sqgturb) pads spectra for the
3/2 rule but does not scale the product back, so its dealiased Jacobian is c = 9/4 times J; without
dealiasing c = 1. All published figures, nature runs and files carry that factor. It is the same as exact
dynamics of the PV 9/4 q with the jet 9/4 U and r unchanged. `jacobian = "sqgturb"` (the default)
reproduces it, `jacobian = "exact"` has c = 1. The tests show both statements.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import AfterValidator, Field, model_validator

from jaxda.models import sqg_packed
from jaxda.numerics import spectral, timestep
from jaxda.settings import NonNegative, Positive, described, settings
from jaxda.shown import in_brief

DAY = 86400.0
#: N -> (time step [s], hyperdiffusion e-folding time [s]) of the published configurations.
TIME_STEPS = {
    16: (4800.0, 9 * DAY),
    32: (2400.0, 3 * DAY),
    64: (1200.0, DAY),
    96: (900.0, DAY / 3),
    128: (600.0, DAY / 3),
    192: (300.0, DAY / 8),
    256: (90.0, DAY / 16),
    512: (90.0, 1800.0),
    1024: (40.0, 900.0),
}
#: RK4 is stable on the imaginary axis up to 2 sqrt(2). Developed eddies move about twice as fast as the
#: jet: at N = 64 that gives 2084 s, where runs with 2000 s are stable and runs with 2400 s blow up.
RK4_LIMIT = 2.0 * np.sqrt(2.0)
EDDIES = 2.0


def _even(n: int) -> int:
    if n % 2:
        raise ValueError(f"must be even; use {n + 1}")
    return n


@settings
class SQGConfig:
    """Settings of the SQG model, under the names that sqgturb's files use.

    Examples:
        >>> SQGConfig(N=128)
        SQGConfig(N=128, dt=600.0, diff_efold=28800.0)
        >>> round(SQGConfig(N=128).kelvin, 5)  # K for each m/s of PV
        0.00306
    """

    kind: Literal["sqg"] = described("sqg", "forecast model")
    N: Annotated[int, Field(ge=8, lt=2**16), AfterValidator(_even)] = described(
        64, "grid points along each side, even [1]"
    )
    dt: Positive = described(1200.0, "time step; given by N where left out [s]")
    diff_efold: Positive = described(DAY, "e-folding time of the smallest waves; given by N where left out [s]")
    diff_order: Annotated[int, Field(ge=2)] = described(8, "order of the hyperdiffusion [1]")
    U: float = described(30.0, "speed of the equilibrium jet [m/s]")
    symmetric: bool = described(True, "jet antisymmetric in z, Ekman layers on both boundaries; else at rest below")
    r: NonNegative = described(0.0, "Ekman damping: Ekman depth times nsq / f [m/s]")
    tdiab: Positive = described(10 * DAY, "time of relaxation to the jet [s]")
    f: Positive = described(1e-4, "Coriolis parameter [1/s]")
    nsq: Positive = described(1e-4, "squared buoyancy frequency [1/s^2]")
    L: Positive = described(2e7, "side of the square [m]")
    H: Positive = described(1e4, "distance of the boundaries [m]")
    theta0: Positive = described(300.0, "reference temperature [K]")
    g: Positive = described(9.8, "gravity [m/s^2]")
    dealias: bool = described(True, "dealias the Jacobian by the 3/2 rule")
    jacobian: Literal["sqgturb", "exact"] = described("sqgturb", "factor of the dealiased Jacobian: 9/4 or 1")

    @model_validator(mode="before")
    @classmethod
    def _steps_of_grid(cls, given):
        """Fill dt and diff_efold from the table of published configurations."""
        given = (given.kwargs or {}) if hasattr(given, "kwargs") else given
        if not isinstance(given, Mapping):
            return given  # pydantic says that it is no table
        values = dict(given)
        missing = [name for name in ("dt", "diff_efold") if name not in values]
        n = values.get("N", 64)
        whole = n.is_integer() if isinstance(n, float) else str(n).isdecimal()
        n = int(n) if whole else n  # "64", 64.0 and numpy's 64 are 64 to pydantic
        if missing and isinstance(n, int) and n in TIME_STEPS:
            values |= {name: TIME_STEPS[n][("dt", "diff_efold").index(name)] for name in missing}
        elif missing and isinstance(n, int) and n >= 8 and n % 2 == 0:
            raise ValueError(f"{missing[0]} has no default for N = {n}; give it, or use N in {sorted(TIME_STEPS)}")
        return values

    def __post_init__(self):
        speed = self.jacobian_factor * EDDIES * max(abs(self.U), 1e-9)
        limit = RK4_LIMIT / (speed * np.pi * self.N / self.L)
        if self.dt > limit:
            jet = f"the jet, U = {self.U:g} m/s at N = {self.N}"
            raise ValueError(f"dt = {self.dt:g} s is over the CFL limit of {jet}; use dt <= {limit:.4g}")

    @property
    def jacobian_factor(self) -> float:
        """The factor c of the module's docstring."""
        return 2.25 if self.dealias and self.jacobian == "sqgturb" else 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one state."""
        return (2, self.N, self.N)

    @property
    def step_hours(self) -> float:
        """Length of one time step [h]."""
        return self.dt / 3600.0

    @property
    def spacing(self) -> float:
        """Grid spacing [km]."""
        return self.L / self.N / 1e3

    @property
    def rossby_radius(self) -> float:
        """sqrt(nsq) H / f [km], the horizontal length at which the boundaries stop feeling each other."""
        return self.nsq**0.5 * self.H / self.f / 1e3

    @property
    def cutoff(self) -> float:
        """Zero radius of the taper with which 20 members serve well, 2.25 Rossby radii [km] (docs/score_table.md)."""
        return 2.25 * self.rossby_radius

    @property
    def kelvin(self) -> float:
        """Temperature of one unit of PV, f theta0 / g [K / (m/s)]."""
        return self.f * self.theta0 / self.g


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        *(
            "k",
            "l",
            "to_self",
            "to_other",
            "relaxed",
            "rate",
            "ekman",
            "damping",
            "dt",
            "factor",
            "stretching",
            "packed",
        )
    ],
    meta_fields=["n", "n_fine"],
)
@dataclass(frozen=True)
class SQGParams:
    """What the step needs, as arrays.

    Shapes: k (N/2+1,), l (N,) in 1/m; to_self, to_other, damping (N, N/2+1); relaxed (2, N, N/2+1), the
    spectrum of q_eq / tdiab; ekman (2, 1, 1) in m/s, None for r = 0; scalars rate, dt, factor and
    stretching = f^2 / nsq. `packed` is what the fast form of a dealiased step needs, else None. n and n_fine are sizes.
    """

    k: Array
    l: Array
    to_self: Array
    to_other: Array
    relaxed: Array
    rate: Array
    ekman: Array | None
    damping: Array
    dt: Array
    factor: Array
    stretching: Array
    packed: sqg_packed.PackedParams | None
    n: int
    n_fine: int

    __repr__ = in_brief


class Forcing(NamedTuple):
    """The parameters that may change with time, under their names in `SQGConfig`: `()`, or series `(T,)`."""

    U: Array
    r: Array
    tdiab: Array

    __repr__ = in_brief


def jet(config: SQGConfig) -> np.ndarray:
    """Equilibrium PV (2, N, N) in m/s (Tulloch & Smith 2009, Sec. 2; the jet blows along x, varies along y)."""
    l = 2.0 * np.pi / config.L
    mu = l * np.sqrt(config.nsq) * config.H / config.f
    if config.symmetric:
        amplitude = np.full(2, -0.5 * mu * config.U / (l * config.H) / np.tanh(0.5 * mu))
    else:
        amplitude = -mu * config.U / (l * config.H) / np.sinh(mu) * np.array([1.0, np.cosh(mu)])
    y = np.arange(config.N) * config.L / config.N
    return amplitude[:, None, None] * np.cos(l * y)[None, :, None] * np.ones((1, 1, config.N))


def mirrored(config: SQGConfig) -> tuple[Callable, ...]:
    """Functions of PV `(..., 2, N, N)` that the model commutes with, but for its row -N/2; shifts along x do as well.

    A mirror turns vorticity around, so in place of q its mirror image with the other sign is carried by the mirrored
    flow: J(psi, q) changes sign three times, twice by the fields and once by the mirror. The jet, q_eq ~ cos ly, has to
    be what it was. Mirrors of x leave it, so half a turn in y must take the sign back; of y likewise; and
    the mirror z -> -z, which exchanges the boundaries and the sign of q = psi_z but of no velocity, where the jet is
    symmetric. Together with shifts along x these make every symmetry of the model, four or eight forms of a state.
    """
    rows, half = np.arange(config.N), config.N // 2
    along_x = lambda q: -q[..., (rows + half) % config.N, ::-1]
    along_y = lambda q: -q[..., (half - rows) % config.N, :]
    boundaries = lambda q: -q[..., ::-1, (rows + half) % config.N, :]
    return (along_x, along_y, boundaries) if config.symmetric else (along_x, along_y)


def make_params(config: SQGConfig, dtype=None) -> SQGParams:
    """The model's parameters as arrays of `dtype` (the default float type), computed in double precision."""
    n = config.N
    k, l = spectral.wavenumbers(n, config.L)
    wavenumber = np.hypot(k[None, :], l[:, None])
    mu = wavenumber * np.sqrt(config.nsq) * config.H / config.f
    mu[0, 0] = 1.0  # the mean has no streamfunction: its coefficients are set to zero below
    argument = np.minimum(mu, 700.0)  # sinh stays finite; 1/sinh is zero long before
    not_mean = (wavenumber > 0).astype(float)
    damping = np.exp(-(config.dt / config.diff_efold) * (wavenumber / (np.pi * n / config.L)) ** config.diff_order)
    to_self = not_mean * config.H / (mu * np.tanh(argument))
    to_other = not_mean * config.H / (mu * np.sinh(argument))
    n_fine = 3 * n // 2 if config.dealias else n
    real = lambda a: jnp.asarray(np.asarray(a), dtype or float)
    packed = sqg_packed.make_params(k, l, to_self, to_other, damping, n_fine, dtype or float)
    return SQGParams(
        k=real(k),
        l=real(l),
        to_self=real(to_self),
        to_other=real(to_other),
        relaxed=jnp.fft.rfft2(real(jet(config) / config.tdiab)),
        rate=real(1.0 / config.tdiab),
        ekman=real([config.r, -config.r if config.symmetric else 0.0])[:, None, None] if config.r else None,
        damping=real(damping),
        dt=real(config.dt),
        factor=real(config.jacobian_factor),
        stretching=real(config.f**2 / config.nsq),
        packed=packed if config.dealias else None,
        n=n,
        n_fine=n_fine,
    )


def make_forced(config: SQGConfig, dtype=None) -> Callable[[Forcing], SQGParams]:
    """The parameters as a function of the forcing, which may be traced; in place of U, r and tdiab of `config`.

    The jet is linear in U, the Ekman layers are in r: they are made once, for 1 m/s and 1 s.
    """
    unit = make_params(dataclasses.replace(config, U=1.0, r=1.0, tdiab=1.0), dtype)

    def forced(forcing: Forcing) -> SQGParams:
        rate = 1.0 / forcing.tdiab
        return dataclasses.replace(
            unit, relaxed=(forcing.U * rate) * unit.relaxed, rate=rate, ekman=forcing.r * unit.ekman
        )

    return forced


def invert(params: SQGParams, qh: Array) -> Array:
    """Spectrum of the streamfunction, m^2/s, of PV spectra `(..., 2, N, N/2+1)` (inversion above)."""
    q0, q1 = qh[..., 0, :, :], qh[..., 1, :, :]
    psi0 = params.to_other * q1 - params.to_self * q0
    psi1 = params.to_self * q1 - params.to_other * q0
    return jnp.stack([psi0, psi1], axis=-3)


def advection(params: SQGParams, qh: Array, psih: Array) -> Array:
    """Spectrum of c J(psi, q) = c (psi_x q_y - psi_y q_x), m/s^2, for spectra `(..., 2, N, N/2+1)`."""
    dx, dy = spectral.gradient(jnp.stack([psih, qh]), params.k, params.l, params.n_fine)
    return params.factor * spectral.truncated_spectrum(dx[0] * dy[1] - dy[0] * dx[1], params.n)


def tendency(params: SQGParams, qh: Array) -> Array:
    """Spectrum of dq/dt without hyperdiffusion, m/s^2, for PV spectra `(..., 2, N, N/2+1)`."""
    psih = invert(params, qh)
    forcing = params.relaxed - params.rate * qh
    if params.ekman is not None:
        forcing = forcing + params.ekman * (params.k[None, :] ** 2 + params.l[:, None] ** 2) * psih
    return forcing - advection(params, qh, psih)


def step(params: SQGParams, qh: Array) -> Array:
    """PV spectra one time step later: RK4, then the hyperdiffusion's exact factor."""
    return params.damping * timestep.rk4(lambda qh: tendency(params, qh), params.dt)(qh)


def advance(params: SQGParams, pv: Array, n_steps: int) -> Array:
    """PV on the grid, `(..., 2, N, N)` in m/s, `n_steps` times `step` later; where dealiased, in its fast form."""
    if params.packed is None:
        return jnp.fft.irfft2(timestep.repeated(lambda qh: step(params, qh), n_steps)(jnp.fft.rfft2(pv)))
    relaxed = sqg_packed.packed(jnp.fft.irfft2(params.relaxed))
    tendency = sqg_packed.make_tendency(params.packed, relaxed, params.rate, params.ekman, params.factor)
    one = lambda q: params.packed.damping * timestep.rk4(tendency, params.dt)(q)
    return sqg_packed.unpacked(timestep.repeated(one, n_steps)(sqg_packed.packed(pv)))


def make_advance(config: SQGConfig, n_steps: int, dtype=None) -> timestep.Step:
    """PV on the grid, `(..., 2, N, N)` in m/s -> the same `n_steps` later.

    Examples:
        >>> config = SQGConfig(N=16)
        >>> advance = jax.jit(make_advance(config, 9))  # 9 steps of 4800 s: 12 h
        >>> ensemble = jnp.stack([initial_state(jax.random.key(m), config) for m in range(3)])
        >>> advance(ensemble).shape
        (3, 2, 16, 16)
    """
    params = make_params(config, dtype)
    return lambda pv: advance(params, pv, n_steps)


def make_forced_advance(config: SQGConfig, n_steps: int, dtype=None) -> Callable[[Forcing, Array], Array]:
    """(forcing of scalars, PV `(..., 2, N, N)` in m/s) -> PV `n_steps` later, the forcing constant meanwhile.

    Where it changes with time, its value at the middle of the steps leaves an error of second order in their length.
    """
    forced = make_forced(config, dtype)
    return lambda forcing, pv: advance(forced(forcing), pv, n_steps)


def initial_state(key: Array, config: SQGConfig) -> Array:
    """PV noise of 100 m/s with a smooth blob of 2000 m/s on the upper boundary, mean zero: a start for spin-up."""
    x = 2.0 * np.pi * np.arange(config.N) / config.N
    blob = 2000.0 * np.sin(x[None, :] / 2) ** 40 * np.sin(x[:, None]) ** 20
    pv = 100.0 * jax.random.normal(key, config.shape) + np.stack([0.0 * blob, blob])
    return pv - pv.mean((-2, -1), keepdims=True)


def kinetic_energy_spectrum(params: SQGParams, pv: Array) -> Array:
    """Kinetic energy by integer wavenumber at each boundary, m^2/s^2, `(..., 2, N/2+1)` for PV `(..., 2, N, N)`.

    Examples:
        >>> config = SQGConfig(N=16)
        >>> energy = kinetic_energy_spectrum(make_params(config), jet(config))
        >>> energy.shape, int(energy[0].argmax())  # the jet is one wave along y
        ((2, 9), 1)
    """
    psih = invert(params, jnp.fft.rfft2(pv))
    wavenumber_squared = params.k[None, :] ** 2 + params.l[:, None] ** 2
    return spectral.isotropic_spectrum(0.5 * wavenumber_squared * jnp.abs(psih) ** 2 / params.n**4, params.n)


def total_energy(params: SQGParams, pv: Array) -> Array:
    """Kinetic and available potential energy per unit area, m^3/s^2, of PV `(..., 2, N, N)`.

    With q = psi_z at the boundaries and no PV between them, integration by parts leaves the boundaries:
    1/2 int (|grad psi|^2 + f^2/nsq psi_z^2) dz = f^2/nsq mean(psi_1 q_1 - psi_0 q_0)/2. Advection alone conserves
    it, and each boundary's variance (Tulloch & Smith 2009, Sec. 2): J(psi, q) is orthogonal to psi and q.
    """
    psi = jnp.fft.irfft2(invert(params, jnp.fft.rfft2(pv)))
    density = psi[..., 1, :, :] * pv[..., 1, :, :] - psi[..., 0, :, :] * pv[..., 0, :, :]
    return 0.5 * params.stretching * density.mean((-2, -1))

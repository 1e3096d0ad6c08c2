"""Analyses of one small problem for any number of devices; as a script, PATH NAME: one of them on 1, 4 and 8.

A process has the devices that it started with, so more than the tests' two need a process of their own.
"""

from __future__ import annotations

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxda.filters import ensf, letkf, local_score
from jaxda.filters.localization import Geometry
from jaxda.observations import FUNCTIONS, Observation, Operator
from jaxda.parallel.hlo import collectives
from jaxda.parallel.mesh import member_mesh

MEMBERS, SHAPE = 8, (2, 8, 8)
#: one state [bytes]
STATE = 4 * int(np.prod(SHAPE))
GEOMETRY = Geometry(SHAPE, spacing=500.0, boundary_distance=1000.0)
OPERATORS = {
    "identity": Operator(SHAPE, FUNCTIONS["identity"](1.0)),
    "arctan": Operator(SHAPE, FUNCTIONS["arctan"](0.3)),
    "between": Operator(SHAPE, FUNCTIONS["identity"](1.0), np.random.default_rng(2).uniform(0, 7, (9, 3)).round(1)),
}
OPERATORS["between"].positions[:, 0] = np.arange(9) % 2
STEPS, ITERATIONS = 20, 2


def _ensf(operator, mesh, **given):
    settings = ensf.EnSFConfig(**{"steps": 2 * STEPS, "tolerance": 0.0} | given)
    return ensf.make_analysis(settings, OPERATORS[operator], 1.5, mesh)


def _letkf(operator, mesh, **given):
    settings = letkf.LETKFConfig(**{"cutoff": 1400.0} | given)
    states = np.random.default_rng(3).normal(size=(6, *SHAPE))
    return letkf.make_analysis(settings, GEOMETRY, OPERATORS[operator], mesh, states)


def _local_score(operator, mesh, **given):
    settings = local_score.LocalScoreConfig(**{"cutoff": 1400.0, "sample": 9, "iterations": ITERATIONS} | given)
    return local_score.make_analysis(settings, GEOMETRY, OPERATORS[operator], mesh)


#: name -> filter, operator, settings
ANALYSES = {
    "ensf": (_ensf, "arctan", {}),
    "ensf, no relaxation": (_ensf, "identity", {"relaxation": 0.0}),
    "ensf, softmax": (_ensf, "between", {"weights": "softmax", "minibatch": 5, "integrator": "exponential"}),
    "ensf, tolerance": (_ensf, "identity", {"tolerance": 0.02}),
    "letkf": (_letkf, "identity", {"inflation": 1.02}),
    "letkf, regional": (_letkf, "arctan", {"adaptive": "regional", "rotation": True, "additive": 0.1, "batch": 5}),
    "letkf, no cut-off": (_letkf, "between", {"cutoff": np.inf}),
    "local-score": (_local_score, "identity", {}),
    "local-score, arctan": (_local_score, "arctan", {"kernel": 0.5, "batch": 1}),
    "local-score, between": (_local_score, "between", {"batch": 2}),
}


def inputs(operator: str):
    """A key, members of single precision, and an observation of a state unlike theirs."""
    rng = np.random.default_rng(0)
    ensemble = rng.normal(1.0, 2.0, (MEMBERS, *SHAPE)).astype(np.float32)
    values = np.asarray(OPERATORS[operator](jnp.asarray(rng.normal(2.0, 2.0, SHAPE), jnp.float32)))
    return jax.random.key(5), ensemble, Observation(values, np.full(values.shape, 4.0, np.float32))


def run(name: str, mesh, *cut: str):
    """The analysis of members that are spread over the mesh, and the collectives of its program.

    `cut` names the mesh's axes over which the axes of a state are spread.
    """
    make, operator, given = ANALYSES[name]
    key, ensemble, observation = inputs(operator)
    if mesh is not None:
        ensemble = jax.device_put(ensemble, NamedSharding(mesh, PartitionSpec("member", *cut)))
    compiled = jax.jit(make(operator, mesh, **given)).lower(key, ensemble, observation).compile()
    return np.asarray(compiled(key, ensemble, observation)), collectives(compiled.as_text())


def main(path: str, name: str) -> None:
    """The analysis on 1, 4 and 8 devices, and with states cut too: arrays and collectives to a file."""
    found = {}
    for count in (1, 4, 8):
        result, said = run(name, member_mesh(count, jax.devices()))
        found |= {str(count): result, f"said {count}": json.dumps(said)}
    if name.startswith("ensf"):
        axes = {"axis_types": (AxisType.Auto,) * 2, "devices": jax.devices()}
        mesh = jax.make_mesh((4, 2), ("member", "state"), **axes)
        found["4 x 2"] = run(name, mesh, "state")[0]
    np.savez(path, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])

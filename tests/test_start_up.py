"""What a fresh process pays before it computes: imports."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


def said(program):
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.split()


def test_the_package_is_imported_in_no_time():
    (seconds,) = said("import time; began = time.perf_counter(); import jaxda; print(time.perf_counter() - began)")
    assert float(seconds) < 1.5


def test_no_script_imports_what_only_a_training_or_a_peer_needs():
    """PyTorch takes 2 s where it is installed; TensorBoard's writer imports it."""
    programs = "; ".join(f"runpy.run_path({str(path)!r}, run_name='imported')" for path in SCRIPTS)
    program = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); {programs}; print(*sys.modules)"
    modules = said(program)
    assert "jaxda" in modules
    assert not {"torch", "tensorboardX", "matplotlib.pyplot"} & set(modules)


@pytest.mark.parametrize("start", ["", "from jaxda.parallel import launch; launch.start(); "])
def test_the_package_and_a_start_begin_no_device(start):
    """Devices begin with the first array: before it a script still chooses how many there are."""
    program = f"import jaxda; {start}from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    assert said(program) == ["False"]


def test_modules_are_there_when_they_are_used_and_completed_before():
    program = "import sys, jaxda; print('jax' in sys.modules, jaxda.models.sqg.SQGConfig(N=16).N, *dir(jaxda))"
    jax_there, n, *names = said(program)
    assert (jax_there, n) == ("False", "16")
    assert {"twin", "filters", "observations", "compare", "models"} <= set(names)


def test_what_is_no_module_is_no_attribute():
    program = "import jaxda; print(hasattr(jaxda, 'nothing'), hasattr(jaxda.models, 'sqgg'), hasattr(jaxda, '_x'))"
    assert said(program) == ["False", "False", "False"]

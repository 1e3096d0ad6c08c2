"""Floor 4, host only: files and figures."""

import os

from jaxda import lazy

# Somebody who looks at a file while it grows must not stop the run that writes it; and Lustre and NFS often lack locks.
# HDF5 reads this once, when netCDF4 is first imported.
os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")

__getattr__, __dir__ = lazy.modules_of(__name__, __path__)


def open_run(folder):
    """The folder of a run as an xarray Dataset, finished or not; see `jaxda.output.opening.open_run`."""
    from jaxda.output import opening  # here: it brings xarray, which takes a second and is optional

    return opening.open_run(folder)

"""A run as a film: truth, analysis and error of one experiment, a frame a cycle."""

from __future__ import annotations

import shutil
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.animation import AbstractMovieWriter, FFMpegWriter, PillowWriter
from matplotlib.figure import Figure

from jaxda.output import style
from jaxda.output.field_plots import ERRORS, STATES, error_limit

#: Endings of films.
FORMATS = (".gif", ".mp4")
#: sites of a Lorenz-96 state that are drawn
SITES = 100


def ffmpeg() -> str | None:
    """The ffmpeg of this machine, or that of the package imageio-ffmpeg; None: there is neither."""
    found = shutil.which("ffmpeg")
    if found is None:
        try:
            import imageio_ffmpeg  # the optional extra "video"
        except ImportError:
            return None
        found = imageio_ffmpeg.get_ffmpeg_exe()
    return found


def make_writer(path: Path, rate: float) -> AbstractMovieWriter:
    """What writes a film of `rate` frames a second to `path`.

    Raises:
        ValueError: its ending is none of FORMATS, or there is no ffmpeg for an MP4.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: ends in none of {', '.join(FORMATS)}; use one")
    if path.suffix == ".gif":
        return PillowWriter(fps=rate)
    if ffmpeg() is None:
        raise ValueError(f'{path}: there is no ffmpeg; pip install "jaxda[video]", or write a .gif')
    # even numbers of pixels and this format of colours are what every player shows
    sizes = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]
    return FFMpegWriter(fps=rate, codec="libx264", extra_args=sizes)


def film(
    path: Path, truth: np.ndarray, mean: np.ndarray, hours: np.ndarray, name: str, length: float, rate: float = 4.0
) -> None:
    """Write a film of truth, mean and error.

    Args:
        path: file to write, ending in one of FORMATS; replaced if it exists.
        truth, mean: temperature `(T, N, N)` in K, or Lorenz-96 states `(T, d)`.
        hours: times (T,) [h].
        name: of the experiment.
        length: side of the square [m].
        rate: frames a second.

    Raises:
        ValueError: as `make_writer`.
    """
    writer = make_writer(path, rate)
    figure, show = (_fields if truth.ndim == 3 else _lines)(truth, mean, name, length)
    options = {"animation.ffmpeg_path": ffmpeg()} if path.suffix == ".mp4" else {}
    with matplotlib.rc_context(options):
        show(0)
        figure.suptitle(f"day {hours[-1] / 24:g}", fontsize="medium")
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # nothing moves from frame to frame
        with writer.saving(figure, str(path), dpi=100):
            for number, hour in enumerate(hours):
                show(number)
                figure.suptitle(f"day {hour / 24:g}", fontsize="medium")
                writer.grab_frame()


def _fields(truth: np.ndarray, mean: np.ndarray, name: str, length: float):
    figure = Figure(figsize=(10.0, 3.4), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    side, limit, end = length / 1e6, float(np.abs(truth).max()), error_limit(mean - truth)
    options = {"origin": "lower", "extent": (0, side, 0, side), "aspect": "equal"}
    images = []
    for axes, bound, colours in zip(panels, (limit, limit, end), (STATES, STATES, ERRORS), strict=True):
        images.append(axes.imshow(truth[0], vmin=-bound, vmax=bound, cmap=colours, **options))
        figure.colorbar(images[-1], ax=axes, label="K", shrink=0.85)
        axes.set_xlabel("x [1000 km]")
    panels[0].set_ylabel("y [1000 km]")
    panels[0].set_title("truth", fontsize="medium")
    panels[1].set_title(name, fontsize="medium")

    def show(number: int) -> None:
        error = mean[number] - truth[number]
        for image, field in zip(images, (truth[number], mean[number], error), strict=True):
            image.set_data(field)
        panels[2].set_title(f"error, RMS {np.sqrt(np.mean(error**2)):5.2f} K", fontsize="medium")

    return figure, show


def _lines(truth: np.ndarray, mean: np.ndarray, name: str, length: float):
    truth, mean = truth[:, :SITES], mean[:, :SITES]
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    site = np.arange(truth.shape[1])
    true = upper.plot(site, truth[0], color="black", linewidth=2.0, label="truth")[0]
    own = upper.plot(site, mean[0], color=style.COLOURS[0], linewidth=1.2, label=name)[0]
    off = lower.plot(site, mean[0] - truth[0], color=style.COLOURS[1], linewidth=1.2)[0]
    ends = min(truth.min(), mean.min()), max(truth.max(), mean.max())
    upper.set(ylabel="x [1]", ylim=(ends[0] - 0.5, ends[1] + 0.5))
    end = error_limit(mean - truth)
    lower.set(xlabel="variable", ylabel="error [1]", ylim=(-end, end))
    upper.legend(loc="upper right", ncols=2, frameon=False, fontsize="small")
    for axes in (upper, lower):
        style.grid(axes)

    def show(number: int) -> None:
        true.set_ydata(truth[number])
        own.set_ydata(mean[number])
        off.set_ydata(mean[number] - truth[number])

    return figure, show

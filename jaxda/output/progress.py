"""A progress bar on terminals; in log files a line a minute, and one when done. The first process alone shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from jaxda.parallel import launch


class _Rate(ProgressColumn):
    """Amount done a second."""

    def render(self, task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.3g}/s", no_wrap=True)


@contextmanager
def bar(
    name: str, total: float, unit: str, console: Console | None = None, every: float = 60.0
) -> Iterator[Callable[..., None]]:
    """Show how far a piece of work is, with its rate, the time that remains and the last scores, on standard error.

    Where that is no terminal, a line says so every minute, and one at the end what it took.

    Args:
        name: what is done.
        total: amount of it, in `unit`.
        unit: plural, for instance "days".
        console: where to write; for tests.
        every: time between two lines where that is no terminal [s].

    Yields:
        `advance(amount, name=None, scores=None)`: report an amount done since the last call, what is done from here on,
        and text with the last scores.
    """
    if not launch.is_first():
        yield lambda amount, name=None, scores=None: None
        return
    console = console or Console(stderr=True)
    if console.is_jupyter:  # a notebook would keep every frame of a bar
        console = Console(stderr=True, force_jupyter=False, force_terminal=False)
    if not console.is_terminal:
        with _lines(name, total, unit, console, every) as advance:
            yield advance
        return
    text = partial(TextColumn, table_column=Column(no_wrap=True))
    amount = text("{task.completed:.4g}/{task.total:.4g} {task.fields[unit]}")
    scores = text("{task.fields[scores]}", markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), amount, _Rate(), TimeRemainingColumn(), scores)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=total, unit=unit, scores="")

        def advance(amount: float, name: str | None = None, scores: str | None = None) -> None:
            own = {} if scores is None else {"scores": scores}
            progress.update(task, advance=amount, description=name, **own)

        yield advance


@contextmanager
def _lines(name: str, total: float, unit: str, console: Console, every: float) -> Iterator[Callable[..., None]]:
    """The bar of a log file: a line now and then, and one at the end."""
    say = lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True)
    began = said = time.perf_counter()
    done, part, last = 0.0, name, ""

    def advance(amount: float, name: str | None = None, scores: str | None = None) -> None:
        nonlocal done, part, last, said
        done, part, last, now = done + amount, name or part, last if scores is None else scores, time.perf_counter()
        if now - said < every or not 0.0 < done < total:
            return
        said, rest = now, (now - began) * (total - done) / done
        speed = f"{done / (now - began):.3g} {unit}/s, {rest:.0f} s remain"
        say(f"{part}: {done:.4g}/{total:.4g} {unit}, {speed}{last and f', {last}'}")

    yield advance
    seconds = time.perf_counter() - began
    say(f"{name}: {total:g} {unit} in {seconds:.1f} s ({total / seconds:.3g} {unit}/s)")


@contextmanager
def status_line(console: Console | None = None) -> Iterator[Callable[..., None]]:
    """A line that is rewritten in place on terminals, on standard output; in log files a line for each that lasts.

    Yields:
        `show(text, lasts=True)`: what there is to say now.
    """
    console = console or Console()
    if not console.is_terminal:
        plain = lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True)
        yield lambda text, lasts=True: plain(text) if lasts else None
        return
    line = lambda text: Text(text, no_wrap=True, overflow="ellipsis")
    with Live(console=console, auto_refresh=False) as live:
        last = ""

        def show(text: str, lasts: bool = True) -> None:
            nonlocal last
            last = text if lasts else last
            live.update(line(text if lasts or not last else f"{text}; {last}"), refresh=True)

        yield show

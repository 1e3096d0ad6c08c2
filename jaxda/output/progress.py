"""A progress bar on terminals; one line, when done, in log files. Of several processes the first shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from jaxda.parallel import launch


class _Rate(ProgressColumn):
    """Amount done a second."""

    def render(self, task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.3g} {task.fields['unit']}/s")


@contextmanager
def bar(name: str, total: float, unit: str, console: Console | None = None) -> Iterator[Callable[..., None]]:
    """Show how far a piece of work is, with its rate and the time that remains, on standard error.

    Args:
        name: what is done.
        total: amount of it, in `unit`.
        unit: plural, for instance "days".
        console: where to write; for tests.

    Yields:
        `advance(amount, name=None)`: report an amount done since the last call, and what is done from here on.
    """
    if not launch.is_first():
        yield lambda amount, name=None: None
        return
    console = console or Console(stderr=True)
    if not console.is_terminal:
        began = time.perf_counter()
        yield lambda amount, name=None: None
        seconds = time.perf_counter() - began
        rate = f"{total / seconds:.3g} {unit}/s"
        console.print(f"{name}: {total:g} {unit} in {seconds:.1f} s ({rate})", highlight=False, soft_wrap=True)
        return
    amount = TextColumn("{task.completed:.4g}/{task.total:.4g} {task.fields[unit]}")
    columns = (TextColumn("{task.description}"), BarColumn(), amount, _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=total, unit=unit)
        yield lambda amount, name=None: progress.update(task, advance=amount, description=name)


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

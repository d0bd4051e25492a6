"""How trainings go, as TensorBoard's event files: `tensorboard --logdir FOLDER` draws them.

One run per training, in the order in which they begin: FOLDER/000-ltl. It holds `loss` and `rate` of every update, and
`validation`, what the best epoch is chosen by, at the start and after every epoch; all over the number of updates.
What is compiled does not depend on it. A training that goes on after an interruption writes on, and hides what came
behind its checkpoint. Of several processes the first writes, and its loss is that of its share of each batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from snnc.errors import PipelineError
from snnc.pipeline import Tell

EXTRA = 'pip install "snnc[tensorboard]"'


class TensorBoard:
    """A folder of the runs of one pipeline's trainings."""

    def __init__(self, folder: str | Path) -> None:
        """Nothing is written yet.

        Raises:
            PipelineError: TensorBoard is not installed, or the place is no folder.
        """
        self.folder, self._writer = Path(folder), _writer_type()
        if self.folder.exists() and not self.folder.is_dir():
            raise PipelineError("is no folder for event files", at=str(folder))
        self._begun = itertools.count()

    @contextmanager
    def training(self, name: str, done: int) -> Iterator[Tell]:
        """What the next training tells its numbers: which one, the value, and how many updates are done.

        Args:
            name: of the rule.
            done: updates that were done before an interruption.

        Raises:
            PipelineError: the files cannot be written.
        """
        place = self.folder / f"{next(self._begun):03}-{name}"
        writers: list[Any] = []

        def tell(what: str, value: float, done_now: int) -> None:
            try:
                if not writers:
                    writers.append(self._writer(str(place), purge_step=done + 1 if done else None))
                writers[0].add_scalar(what, value, done_now)
            except OSError as error:
                raise PipelineError(f"event files cannot be written: {error.strerror}", at=str(place)) from None

        try:
            yield tell
        finally:
            for writer in writers:
                writer.close()


def _writer_type() -> Callable[..., Any]:
    """torch's writer of event files."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise PipelineError("event files need TensorBoard, which is not installed", hint=EXTRA) from None
    made: Callable[..., Any] = SummaryWriter
    return made

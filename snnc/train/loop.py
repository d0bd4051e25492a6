"""The one loop that all learning rules run in: epochs, shuffling, optimizer, constraints, and the choice of the best.

Order and chance follow from seed, rule, epoch and position alone. A param that learns is kept at full precision; the
network sees its projection, and the gradient of what it sees goes straight through (where a connection exists).
A training that was interrupted goes on from its checkpoint (`snnc.train.checkpoint`); several processes can share one
(`snnc.train.parallel`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from snnc.data import Split
from snnc.errors import CheckpointError, PipelineError
from snnc.ir import Array, Graph
from snnc.pipeline import Context, Tell, measured
from snnc.score import Score
from snnc.sim import placement
from snnc.sim import torch as executor

from . import parallel
from .augment import Augment
from .beside import NOTHING, Beside
from .checkpoint import Checkpoints, digest, graph_parts
from .optimizers import optimizer, schedule
from .seen import Seen
from .state import Position, State
from .trainer import Batch, Learner, Rule, project
from .units import weights_of


def loop(
    rule: Rule,
    graph: Graph,
    ctx: Context,
    learn: Learner,
    units: Mapping[str, float] | None = None,
    judge: Callable[[Graph], float] | None = None,
    score: Score | None = None,
    beside: Beside = NOTHING,
) -> dict[str, Array]:
    """Train, judge every epoch on the validation samples, and give back the best epoch's params.

    The start counts as an epoch: training never gives back something that validated worse.

    Args:
        units: the params that learn, and the unit of each one's learning rate; those of `weights_of` by default.
        judge: measures what the best epoch is chosen by; `validated` by default.
        score: what `judge` measures: which figures are better, and how they read; the data's by default.
        beside: what learns and is remembered beside the graph's params.
    """
    split = ctx.training(rule.name)
    _several(rule, graph, ctx, beside)
    training = Training(rule, graph, ctx, weights_of(graph) if units is None else units, judge, score, beside)
    parallel.agree(digest(graph_parts(graph)), f"the graph that '{rule.name}' starts from")
    slot = ctx.checkpoints.training(rule, graph, ctx) if isinstance(ctx.checkpoints, Checkpoints) else None
    found = None if slot is None else slot.newest(training.layout(), training.check, ctx)
    if found is None:
        training.best = training.judge()
    else:
        training.restore(found)

    def save(ended: bool) -> None:
        if slot is not None and (ended or slot.due):
            slot.save(training.state())

    with _told(rule, ctx, training.done) as training.tell:
        if found is None:
            training.tell("validation", training.best, 0)
        while training.goes_on():
            training.epoch(split, learn, save)
    best = training.score.brief(training.best)
    ctx.note(f"kept epoch {training.best_epoch} of {training.epochs}, best on validation: {best}")
    return training.kept


class Training:
    """A training under way.

    Attributes:
        real: the params that learn, at full precision.
        running: the running means now.
        epochs, at, done: epochs that are done, samples of the next one that are, updates that are.
        score: what is judged, and which judgement is the better one.
        best, best_epoch: the best judgement so far (0 before the first), and after how many epochs it was; the latest
            of equals.
        improved: after how many epochs it became what it is; `patience` counts from here.
        kept: the params of the best epoch, constraints obeyed.
        tell: whom every update's loss and rate and every epoch's judgement are told.
    """

    def __init__(
        self,
        rule: Rule,
        graph: Graph,
        ctx: Context,
        units: Mapping[str, float],
        judge: Callable[[Graph], float] | None = None,
        score: Score | None = None,
        beside: Beside = NOTHING,
    ) -> None:
        self.rule, self.graph, self.ctx = rule, graph, ctx
        self.measure = judge or (lambda made: validated(made, ctx))
        self.score = ctx.score if score is None else score
        self.fixed = executor.tensors(graph, ctx.device)
        start = {**self.fixed, **beside.params}
        self.real = {name: start[name].clone().requires_grad_() for name in units}
        self.running, self.fold = dict(beside.running), beside.fold
        self.seen = {name: self._seen(name) for name in units}
        self.units = dict(units)
        self.optimizer = optimizer(rule, self.real, self.units)
        self.augment = Augment(rule.augment, graph)
        self.samples, self.first_note = len(ctx.training(rule.name)), len(ctx.notes)
        self.updates = rule.epochs * -(-self.samples // rule.batch)
        self.schedule = schedule(rule, self.optimizer, self.updates)
        self.done = self.at = self.epochs = self.best_epoch = self.improved = 0
        self.stopped = False
        self.tell: Tell = nobody
        self.best = 0.0
        self.kept = {name: graph.params[name] for name in self.fold(self.real, self.running)}

    def goes_on(self) -> bool:
        """Whether another epoch follows."""
        waited = self.epochs - self.improved
        return not self.stopped and self.epochs < self.rule.epochs and not 0 < self.rule.patience <= waited

    def epoch(self, split: Split, learn: Learner, save: Callable[[bool], None] = lambda ended: None) -> None:
        """What is left of a pass over the training samples, and its judgement.

        Args:
            save: called after every update, and at the end of the epoch with True.
        """
        number, size = self.epochs + 1, self.rule.batch
        order = self.rng(number).permutation(len(split))
        for at in range(self.at, len(split), size):
            self.update(split, order[at : at + size], self.rng(number, at), learn)
            self.at = min(at + size, len(split))
            text = f"{self.rule.name} epoch {number}/{self.rule.epochs}, validation {self.score.brief(self.best)}"
            self.ctx.progress(text, self.done, self.updates)
            save(False)
        self._end(number)
        save(True)

    def _end(self, number: int) -> None:
        """Judge the epoch that has ended."""
        self.epochs, self.at = number, 0
        if not all(bool(value.isfinite().all()) for value in (*self.real.values(), *self.running.values())):
            self.ctx.note(f"diverged in epoch {number}: try a lower rate than {self.rule.rate}")
            self.stopped = True
            return
        value = self.judge()
        self.tell("validation", value, self.done)
        improved = self.score.better(value, self.best)
        if improved or value == self.best:
            self.improved = number if improved else self.improved
            self.best, self.best_epoch = value, number
            self.kept = self.params()

    def update(self, split: Split, index: Array, rng: np.random.Generator, learn: Learner) -> None:
        """One step of the optimizer on a batch, the samples `index`; of which this process takes its share."""
        leaves = {name: self.seen[name](param.detach()).requires_grad_() for name, param in self.real.items()}
        mine, moves = parallel.share(index), parallel.share(self.augment.draw(len(index), rng))
        if len(mine):
            x = executor.to_tensor(self.augment.x(split, mine, moves), self.ctx.device)
            labels = torch.as_tensor(split.labels[mine]).to(x.device)
            with executor.exact():
                loss = learn(Batch({**self.fixed, **leaves}, x, labels, rng, self.running))
            if self.tell is not nobody:
                self.tell("loss", float(loss), self.done + 1)
                first = self.optimizer.param_groups[0]
                self.tell("rate", self.rule.rate * first["lr"] / first["initial_lr"], self.done + 1)
        for name, param in self.real.items():
            gradient = leaves[name].grad
            param.grad = torch.zeros_like(param) if gradient is None else self.seen[name].back(gradient, param.detach())
        parallel.add_up([param.grad for param in self.real.values() if param.grad is not None], len(mine) / len(index))
        if self.rule.clip:
            norms = [(p.grad * self.units[n]).norm() for n, p in self.real.items() if p.grad is not None]
            norm = torch.stack([value.to(norms[0].device) for value in norms])
            share = (self.rule.clip / (norm.norm() + 1e-12)).clamp(max=1.0)
            for param in self.real.values():
                assert param.grad is not None
                param.grad *= share.to(param.device)
        self.optimizer.step()
        self.schedule.step()
        self.done += 1

    def rng(self, *place: int) -> np.random.Generator:
        """Chance at a place: an epoch, or an epoch and the first sample of a batch."""
        return np.random.default_rng([self.ctx.seed, *place, *self.rule.name.encode()])

    def params(self) -> dict[str, Array]:
        """What would be given back now."""
        real = {name: self.seen[name].standardized(param.detach()) for name, param in self.real.items()}
        made = self.fold(real, self.running)
        return {name: project(self.graph.constraints.get(name), m.cpu().numpy()) for name, m in made.items()}

    def _seen(self, name: str) -> Seen:
        """How the network sees a param; biases and scales are never standardized."""
        start = self.real[name].detach().clone() if self.rule.standardize and self.real[name].ndim > 1 else None
        return Seen(self.graph.constraints.get(name), str(self.real[name].device), start)

    def judge(self) -> float:
        """Validation score of what would be given back now, measured by the first process."""
        if self.ctx.data is None:
            return 0.0
        made = parallel.on_first(lambda: struct.pack("d", self.measure(self.graph.edit(params=self.params()))))
        return float(struct.unpack("d", made)[0])

    def state(self) -> State:
        """All that must be known to go on."""
        held = self.optimizer.state_dict()
        arrays = {f"real.{name}": param for name, param in self.real.items()}
        arrays |= {f"running.{name}": mean for name, mean in self.running.items()}
        for i, name in enumerate(self.real):
            arrays |= {f"optimizer.{name}.{key}": value for key, value in held["state"][i].items()}
        tensors = {name: value.detach().cpu().numpy() for name, value in arrays.items()}
        tensors |= {f"kept.{name}": array for name, array in self.kept.items()}
        rates, notes = [float(g["lr"]) for g in held["param_groups"]], self.ctx.notes[self.first_note :]
        best, improved, stopped = float(self.best), self.improved, self.stopped
        place = Position(self.epochs, self.at, self.done, best, self.best_epoch, improved, stopped, rates, notes)
        return State(tensors, place)

    def layout(self) -> dict[str, tuple[int, ...]]:
        """The tensors of a state and their shapes; the optimizer's are those that its first step makes."""
        twins = {name: torch.zeros_like(p, device="meta", requires_grad=True) for name, p in self.real.items()}
        for twin in twins.values():
            twin.grad = torch.zeros_like(twin)
        twin_optimizer = optimizer(self.rule, twins, self.units)
        twin_optimizer.step()
        parts: dict[str, Mapping[str, Tensor | Array]] = {
            "real": self.real, "kept": self.kept, "running": self.running,
        }  # fmt: skip
        shapes = {f"{part}.{n}": tuple(held.shape) for part, named in parts.items() for n, held in named.items()}
        for name, twin in twins.items():
            shapes |= {f"optimizer.{name}.{key}": tuple(v.shape) for key, v in twin_optimizer.state[twin].items()}
        return shapes

    def check(self, place: Position) -> None:
        """Refuse a position that this training cannot be at, or cannot be at after an update.

        Raises:
            CheckpointError: says so.
        """
        size = self.rule.batch
        updates = place.epochs * -(-self.samples // size) + -(-place.at // size)
        whole = place.at in range(0, self.samples, size) or place.at == self.samples
        counted = 0 < updates == place.updates <= self.updates and place.improved <= place.best_epoch <= place.epochs
        if not (whole and counted and len(place.rates) == len(self.real)):
            raise CheckpointError("is at a place where this training cannot be")

    def restore(self, state: State) -> None:
        """Go on from a state that has been checked."""
        place, tensors = state.position, {name: torch.tensor(array) for name, array in state.tensors.items()}
        held = self.optimizer.state_dict()
        for i, (name, param) in enumerate(self.real.items()):
            with torch.no_grad():
                param.copy_(tensors[f"real.{name}"])
            held["state"][i] = _below(tensors, f"optimizer.{name}.")
            held["param_groups"][i]["lr"] = place.rates[i]
        self.optimizer.load_state_dict(held)
        self.schedule.load_state_dict(
            {"last_epoch": place.updates, "_step_count": place.updates + 1, "_last_lr": list(place.rates)}
        )
        self.kept = {name: state.tensors[f"kept.{name}"] for name in self.kept}
        self.running.update({name: tensors[f"running.{name}"].to(mean) for name, mean in self.running.items()})
        self.epochs, self.at, self.done = place.epochs, place.at, place.updates
        self.best, self.best_epoch, self.improved = place.best, place.best_epoch, place.improved
        self.stopped = place.stopped
        self.ctx.notes[self.first_note :] = [*place.notes, *self.ctx.notes[self.first_note :]]


def _several(rule: Rule, graph: Graph, ctx: Context, beside: Beside) -> None:
    """Note where the layers lie, if they are on several devices.

    Raises:
        PipelineError: several processes share the training, too; or more is learned than the graph's params.
    """
    if len(placement.names(ctx.device)) == 1:
        return
    parallel.check_alone(ctx.device)
    if beside.params or beside.running:
        raise PipelineError(
            f"'{rule}' learns more than the network's params, and that lies on one device, not on {ctx.device}",
            hint="without batchnorm=true or norm=running, or one device",
        )
    ctx.note(f"split over {placement.listed(graph, ctx.device)}")


def nobody(what: str, value: float, done: int) -> None:
    """Who is told, where nobody wants to know."""


def _told(rule: Rule, ctx: Context, done: int) -> AbstractContextManager[Tell]:
    """Whom the training tells; of several processes the first alone does."""
    return nullcontext(nobody) if ctx.log is None or not parallel.is_first() else ctx.log.training(rule.name, done)


def validated(graph: Graph, ctx: Context) -> float:
    """The score of the network as it is deployed, on the validation samples."""
    assert ctx.data is not None, "training needs data"
    return measured(graph, ctx.data.validation, ctx.device)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose name is `prefix` and a word, by that word."""
    return {
        n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix) and "." not in n[len(prefix) :]
    }

"""A training run from its first (or next) step to its last: plain PyTorch, with or without a process group.

Ray joins in ``rayscale.training.ray``; one update is ``rayscale.training.step``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from rayscale.data import Prefetch, ScaleStream
from rayscale.data.multiscale import lr_sides
from rayscale.inference.device import pick_device
from rayscale.models.network import SuperResolver
from rayscale.training import rng
from rayscale.training.assembly import make_trainer
from rayscale.training.config import TrainConfig
from rayscale.training.failure import explain, way_on
from rayscale.training.group import agree, alone, join
from rayscale.training.guard import NonFiniteLossError, UnstableError
from rayscale.training.metrics import Loggers, MetricLogger
from rayscale.training.progress import Progress, step_flops, traced
from rayscale.training.run import Run, TrainResult, labels
from rayscale.training.schedule import lr_at
from rayscale.training.scores import Report, Scores
from rayscale.training.spending import Spending
from rayscale.training.step import Trainer
from rayscale.training.validation import Validator, freeze

logger = logging.getLogger(__name__)

Ask = Callable[[], bool]


def _never() -> bool:
    return False


def train(
    config: TrainConfig,
    *,
    rank: int = 0,
    world: int = 1,
    device: str | torch.device = "auto",
    metrics: MetricLogger | None = None,
    report: Report | None = None,
    stop: Ask = _never,
    preempted: Ask = _never,
    generation: int | None = None,
    neighbours: int = 1,
) -> TrainResult:
    """Train as ``config`` says, from the newest committed checkpoint of the run when there is one.

    Args:
        config: the run; places and name are filled in as ``config.identified()`` does.
        rank, world: this worker of how many; with more than one, ``torch.distributed`` is initialised.
        device: ``auto``, ``cpu``, ``cuda:N``.
        metrics: where figures and pictures go; used by rank 0 only. The caller closes it.
        report: called by every rank in the same order with ``step``, ``loss`` and, on rank 0, the validation scores of
            that step. Validation runs beside the training, so that these come some steps later.
        stop: asked at every step; once any rank's is true the run ends with a checkpoint, and its result is not
            ``complete``. On several GPUs that is at the next step whose figures are looked at.
        preempted: asked by every rank at the steps whose figures are looked at; true once the machine is about to be
            taken away: a checkpoint is saved, and the run goes on.
        neighbours: workers of this node, which share its cache and its energy counters.
        generation: of the run's lease, where the caller holds it; otherwise rank 0 takes it for itself.

    Raises ConfigError, BusyError, StorageError, NonFiniteLossError, UnstableError and what the dataset
    raises.
    """
    config = config.identified()
    device = pick_device(str(device))
    run = Run(config)
    metrics = metrics or Loggers()
    finished = (
        run.result() if agree(rank == 0 and run.result() is not None, world, device) else None
    )
    if finished is not None and rank > 0:
        return finished
    with alone(rank, world):
        validator = _validator(config, device) if rank == 0 and config.validation.uri else None
    if finished is not None and (
        validator is None or (finished.protocol and validator.knows(finished.benchmark))
    ):
        return finished
    run.lease.generation = generation or 0
    with run.lease if rank == 0 and generation is None else nullcontext():
        if finished is not None and validator is not None:
            return validator.score_again(finished, metrics)
        if rank == 0:
            run.claim()
        stream = ScaleStream(
            config.data.uri or "",
            config.model.drawn,
            patch=config.data.patch,
            batch=config.data.batch,
            seed=config.run.seed,
            rank=rank,
            world=world,
            mixed=config.data.mixed,
            degradation=config.data.degradation,
            neighbours=neighbours,
        )
        trainer = make_trainer(config, stream.manifest, rank=rank, world=world, device=device)
        loop = _Loop(config, run, trainer, validator, stream, metrics=metrics, report=report)
        loop.resume()
        try:
            return loop.run_to_end(stop, preempted)
        except UnstableError as error:
            raise UnstableError(f"{error}. {way_on(run)}") from None
        except NonFiniteLossError as error:
            step = trainer.step if error.step is None else error.step
            more = explain(run, trainer, step, stream.batches(step))
            raise NonFiniteLossError(f"{error}. {more}", step) from None
        finally:
            loop.scores.close()
            stream.close()


def _validator(config: TrainConfig, device: torch.device) -> Validator:
    return Validator(
        config.validation.uri or "",
        config.model.drawn,
        device=device,
        precision=config.precision,
        images=config.validation.images,
        degradation=config.validation.degradation,
    )


class _Loop:
    """The intervals of a run: what happens after which step."""

    def __init__(
        self,
        config: TrainConfig,
        run: Run,
        trainer: Trainer,
        validator: Validator | None,
        stream: ScaleStream,
        *,
        metrics: MetricLogger,
        report: Report | None,
    ) -> None:
        self.config, self.run, self.trainer = config, run, trainer
        self.metrics, self.report = metrics, report
        self.main = trainer.rank == 0
        self.stream = stream
        self.dataset = {
            "uri": config.data.uri,
            "digest": config.data.digest,
            "degradation": stream.degradation,
        }
        self.scores = Scores(
            run,
            trainer,
            validator,
            metrics=metrics,
            report=report,
            labels=labels(config, self.dataset),
        )
        self.spending = Spending(trainer.world, trainer.device, stream.neighbours)
        self.figures: dict[str, float] = {}
        self.saved = 0  # the last step of which a checkpoint was begun
        self.notice = False  # whether the machine is about to be taken away
        work = 0.0
        if self.main and not config.is_adversarial:  # of one network
            spec, data = trainer.model.spec, config.data
            work = step_flops(
                spec, lr_sides(data.patch, config.model.drawn, mixed=data.mixed), data.batch
            )
        self.work = work

    def resume(self) -> None:
        """Load the newest committed checkpoint on every rank; rank 0 says which. Without one, start."""
        found = None
        if self.main:
            found = self.run.checkpoints.latest()
            self.run.checkpoints.sweep()  # what was left half-written
        step = agree(found.step if found else 0, self.trainer.world, self.trainer.device)
        if not step:
            self.trainer.keep()
            return
        checkpoint = found or self.run.checkpoints.load(step)
        state = checkpoint.state
        self.saved = step
        self.trainer.load(state)
        self.trainer.keep()
        self.spending.load(state.get("spent", {}))
        rng.restore(state["rng"])
        self.scores.load(state, self._weights)
        logger.info("resumed %s from step %d", self.run.config.uri, step)

    def run_to_end(self, stop: Ask, preempted: Ask) -> TrainResult:
        if self.main:
            self.metrics.log_params(self.config.flat() | self.scores.params)
        steps = self.config.optimizer.steps
        stopped = False
        traces = self.config.logging.profile if self.main else 0
        self.progress = Progress(self.trainer, self.work, steps)
        with self.run.checkpoints.committing():
            with (
                traced(self.run.store, traces, self.trainer.step, self.trainer.device) as trace,
                Prefetch(self.stream.batches, self.trainer.step, steps) as steps_ahead,
            ):
                while self.trainer.step < steps and not stopped:
                    started = time.perf_counter()
                    batches = next(steps_ahead)
                    ready = time.perf_counter()
                    stopped = self.trainer.advance(*batches, stop=stop())
                    self.progress.add(ready - started, time.perf_counter() - started)
                    for batch in batches:
                        self.spending.add(batch)
                    trace()
                    stopped = self._after(self.trainer.step, stopped, preempted)
            if stopped:
                self._save()
                self.run.checkpoints.wait()
                return self._partial()
            return self._finish()

    def _after(self, step: int, stopped: bool, preempted: Ask) -> bool:
        """What is due after a step; True when the run has to stop."""
        config = self.config
        last = step >= config.optimizer.steps
        scoring = last or step % config.validation.every == 0
        saving = last or step % config.checkpoint.every == 0
        if scoring or saving or stopped or step % config.logging.every == 0:
            started = time.perf_counter()
            stopped = self.trainer.check() or stopped
            waited = time.perf_counter() - started
            self.progress.add(0.0, waited, steps=0)
            self.spending.settle()
            notice, self.notice = self.notice, preempted()
            saving = saving or (self.notice and not notice)
        if scoring or step % config.logging.every == 0:
            self._log(step)
            self.scores.take(wait=scoring)
        figures = {"step": float(step), **self.figures}
        if scoring and config.validation.uri:
            self.scores.begin(figures, self._weights())
        if saving:
            self._save()
        if scoring and not config.validation.uri and self.report is not None:
            self.report(figures)
        return stopped and not last

    def _log(self, step: int) -> None:
        self.figures = {
            **self.trainer.figures(),
            "lr": lr_at(step - 1, self.config.optimizer),
            **self.progress.figures(),
            **self.spending.spent.figures(),
            **self._left_out(),
            **({"checkpoint_step": float(self.saved)} if self.saved else {}),
        }
        if self.main:
            self.metrics.log_metrics(self.figures, step)

    def _left_out(self) -> dict[str, float]:
        """Damaged shards that any worker found, and their sub-images; called by all of them together."""
        shards, own = self.stream.manifest.shards, self.stream.left_out
        flags = [shard.name in own for shard in shards]
        seen = join(flags, self.trainer.world, self.trainer.device)
        lost = [shard.rows for shard, found in zip(shards, seen, strict=True) if found]
        if not lost:
            return {}
        return {"left_out_shards": float(len(lost)), "left_out_sub_images": float(sum(lost))}

    def _save(self) -> None:
        state, weights = self.trainer.keep(), self._weights()
        if state is None and (self.main or self.trainer.sharded):
            state = self.trainer.state()
        if state is None or weights is None:
            return
        self.run.lease.check()
        state = state | {
            **self.scores.state(),
            "dataset": self.dataset,
            "spent": self.spending.state(),
            "rng": rng.capture(),
        }
        self.run.checkpoints.save(self.trainer.step, state, weights)
        self.saved = self.trainer.step

    def _weights(self) -> SuperResolver | None:
        """On rank 0 a copy of what is evaluated and published; every rank asks, as it may hold a part of it."""
        if not (self.main or self.trainer.sharded):
            return None
        state = self.trainer.average_state()
        return freeze(self.trainer.model.spec, state) if self.main else None

    def _finish(self) -> TrainResult:
        trainer = self.trainer
        self.scores.take(wait=True)
        scored = agree(self.scores.last == trainer.step, trainer.world, trainer.device)
        if self.config.validation.uri and not scored:
            # It was stopped after its last scores, and asked for no more steps.
            self.scores.begin({"step": float(trainer.step), **self.figures}, self._weights())
            self.scores.take(wait=True)
        self.spending.settle()
        weights = self._weights()
        with alone(trainer.rank, trainer.world):
            if weights is None:
                return self._partial()
            self.run.checkpoints.wait()
            self.run.lease.check()
            return self.run.finish(weights, {**self._outcome(), "best": self.scores.best_of_run()})

    def _partial(self) -> TrainResult:
        return TrainResult(
            name=self.config.run.name or "",
            uri=self.config.uri,
            complete=False,
            config_digest=self.config.digest,
            **self._outcome(),
        )

    def _outcome(self) -> dict[str, Any]:
        total = self.progress.total
        measured = total.figures(self.config.data.batch) if total.steps else {}
        spent = self.spending.spent.figures()
        return {
            "steps": self.trainer.step,
            "metrics": {**self.figures, **measured, **spent, **self.scores.last_scores},
            **self.scores.outcome(),
            "dataset": self.dataset,
            "precision": str(self.trainer.dtype).removeprefix("torch."),
            "workers": self.trainer.world,
        }

"""The scores of a run: validation beside the training, the history, and the best weights."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from rayscale import machine
from rayscale.models.network import SuperResolver
from rayscale.training.checkpoint import Best
from rayscale.training.group import agree, alone
from rayscale.training.metrics import MetricLogger
from rayscale.training.parallel import gathered
from rayscale.training.run import Run
from rayscale.training.step import Trainer
from rayscale.training.validation import Scored, Validator, freeze

logger = logging.getLogger(__name__)

Report = Callable[[dict[str, float]], None]


class Scores:
    """What the weights of a run score at which step; every rank has one and calls the same, rank 0 has the validator.

    A step is scored in a thread while training goes on. Its scores are taken at a later step, at the latest when the
    next one is to be scored. A checkpoint keeps what is needed to make up a validation that was under way.
    """

    def __init__(
        self,
        run: Run,
        trainer: Trainer,
        validator: Validator | None,
        *,
        metrics: MetricLogger,
        report: Report | None,
        labels: dict[str, str],
    ) -> None:
        self.run, self.trainer, self.validator = run, trainer, validator
        self.metrics, self.report, self.labels = metrics, report, labels
        self.benchmark = validator.benchmark if validator else {}
        self.history: list[dict[str, float]] = []
        self.last_scores: dict[str, float] = {}
        self._examiner = Examiner(validator) if validator else None
        self._pending: dict[str, float] | None = None  # figures of the step that is being scored
        self._highest = -math.inf  # PSNR so far

    @property
    def params(self) -> dict[str, str]:
        """What a tracker stores of the images."""
        return self.validator.params if self.validator else {}

    @property
    def last(self) -> float | None:
        """The last step that was scored."""
        return self.history[-1]["step"] if self.history else None

    def begin(self, figures: dict[str, float], weights: SuperResolver | None) -> None:
        """Begin to score ``weights``; ``figures`` are those of their ``step``. The scores before must have been taken."""
        self._pending = figures
        if self._examiner is not None and weights is not None:
            self._examiner.start(weights)

    def take(self, *, wait: bool) -> None:
        """Take and report the scores of the step that is being scored; unless ``wait``, only if they are there."""
        trainer = self.trainer
        if self._pending is None:
            return
        done = self._examiner is not None and self._examiner.done
        if not (wait or agree(done, trainer.world, trainer.device)):
            return
        figures, self._pending = self._pending, None
        with alone(trainer.rank, trainer.world):
            if self._examiner is not None:
                self._keep(int(figures["step"]), self._examiner)
        if self.report is not None:
            self.report({**figures, **self.last_scores})

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of the scores; with the weights that are being scored where they are of an earlier step."""
        unscored = None
        if self._pending is not None and self._examiner is not None and self._examiner.model:
            late = self._pending["step"] < self.trainer.step
            weights = gathered(dict(self._examiner.model.state_dict())) if late else None
            unscored = {"figures": self._pending, "weights": weights}
        return {"history": self.history, "benchmark": self.benchmark, "unscored": unscored}

    def load(self, state: dict[str, Any], weights: Callable[[], SuperResolver | None]) -> None:
        """Go on from a checkpoint, whose evaluated weights ``weights`` gives; a validation that was under way begins anew."""
        if self.trainer.rank == 0 and (best := self._find_best()):
            self._highest = best.scores["psnr"]
        self._recall(state)
        unscored = state.get("unscored")
        if unscored is None or not self.run.config.validation.uri:
            return
        earlier = unscored["weights"]
        if earlier is None:
            self.begin(unscored["figures"], weights())
        elif self.trainer.rank == 0:
            self.begin(unscored["figures"], freeze(self.trainer.model.spec, earlier))
        else:
            self.begin(unscored["figures"], None)

    def outcome(self) -> dict[str, Any]:
        """As ``TrainResult`` has them."""
        protocol = self.validator.protocol.name if self.validator and self.last_scores else None
        return {"protocol": protocol, "benchmark": self.benchmark, "history": self.history}

    def best_of_run(self) -> dict[str, Any]:
        """The best weights, as ``TrainResult`` has them."""
        best = self._find_best()
        if best is None:
            return {}
        weights = self.run.checkpoints.store.locate(best.file)
        return {
            "step": best.step, "weights": weights, "sha256": best.sha256, "scores": best.scores
        }  # fmt: skip

    def close(self) -> None:
        """Give up a validation under way."""
        if self._examiner is not None:
            self._examiner.close()

    def _keep(self, step: int, examiner: Examiner) -> None:
        """Log the scores of a step, and save its weights where they are the best."""
        scores = examiner.validator.log(examiner.take(), step, self.metrics)
        self.last_scores = scores
        self.history = [*self.history, {"step": float(step), **scores}]
        if scores["psnr"] > self._highest and examiner.model is not None:
            self._highest = scores["psnr"]
            self.run.lease.check()
            self.run.checkpoints.save_best(
                step, examiner.model, scores, self.benchmark, self.labels
            )

    def _recall(self, state: dict[str, Any]) -> None:
        """The scores so far, where they are of the benchmark that is scored from now on."""
        history, benchmark = list(state["history"]), state.get("benchmark", {})
        if self.validator is None:
            self.history, self.benchmark = history, benchmark
        elif self.validator.knows(benchmark):
            self.history = history
            self.last_scores = {k: v for k, v in (history or [{}])[-1].items() if k != "step"}
        elif history:
            logger.warning(
                "the scores up to step %d were measured on images other than those that %s holds now; they are left out",
                history[-1]["step"],
                self.benchmark["uri"],
            )

    def _find_best(self) -> Best | None:
        """The best weights in storage, where they were chosen by the images that are scored now."""
        best = self.run.checkpoints.best()
        if best and self.validator and not self.validator.knows(best.benchmark):
            return None
        return best


class Examiner:
    """A validator beside the training: one validation at a time, in a thread that takes what CPU time training leaves.

    The thread is as nice as it can be. On a GPU it has its own stream.
    """

    def __init__(self, validator: Validator) -> None:
        self.validator = validator
        self.model: SuperResolver | None = None
        """The network that is scored now, or was last."""
        self._thread = ThreadPoolExecutor(1, "validation", machine.be_nice)
        self._closed = threading.Event()
        self._scored: Future[Scored] | None = None

    @property
    def done(self) -> bool:
        """Whether ``take`` need not wait."""
        return self._scored is not None and self._scored.done()

    def start(self, model: SuperResolver) -> None:
        """Start to score a network that nobody changes any longer; the scores of the one before must have been taken."""
        self.model = model
        self._scored = self._thread.submit(self._score, model)

    def take(self) -> Scored:
        """Wait for the scores of the last start; raises what the validation raised."""
        assert self._scored is not None, "start() comes first"
        return self._scored.result()

    def close(self) -> None:
        """End; a validation under way is given up after its current image."""
        self._closed.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _score(self, model: SuperResolver) -> Scored:
        device = torch.device(self.validator.device)
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            return self.validator.score(model, self._closed.is_set)

"""Training with checkpoints: a resumed run gives the same result as an uninterrupted one."""

from __future__ import annotations

import math
import sys
import time
from argparse import Namespace
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastblur.metrics import ShiftConsistency

from .data import Data
from .files import (
    Log,
    check_same_run,
    described,
    random_state,
    set_random_state,
    write_whole,
)
from .model import build, make_optimizer, make_schedule
from .processes import Processes, StopSignal


@dataclass
class Position:
    """The progress of a run."""

    epoch: int = 0
    step: int = 0  # within the epoch
    best_accuracy: float = -1.0


class Trainer:
    """One run, from its arguments to its last checkpoint.

    Raises:
        ValueError: an argument does not fit the data, the model, or the checkpoint.
    """

    def __init__(self, args: Namespace, processes: Processes) -> None:
        self.args, self.processes = args, processes
        self.console = Console(quiet=not processes.first)
        make_deterministic(args)
        self.data = Data(args, processes)
        self.model, self.reports = build(args, len(self.data.classes))
        self._try_size()
        self.optimizer = make_optimizer(self.model, args)
        self.schedule = make_schedule(self.optimizer, args, len(self.data.batches))
        self.scaler = torch.amp.GradScaler(args.device, enabled=args.amp == "float16")
        self.loss = nn.CrossEntropyLoss(label_smoothing=args.label_smoothing)
        self.position = Position()
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=processes.device)
        # Different random numbers per process, for dropout; the weights use the same ones.
        torch.manual_seed(args.seed + processes.rank)
        args.out.mkdir(parents=True, exist_ok=True)
        log_position = self._resume() if (args.out / "last.pt").exists() else 0
        self.log = Log(args.out / "log.jsonl" if processes.first else None, log_position)

        if args.compile:
            self.model.compile()
        self.parallel = self.model
        if processes.distributed:
            device_ids = [processes.device.index] if args.device == "cuda" else None
            self.parallel = DistributedDataParallel(self.model, device_ids)

    @torch.inference_mode()
    def _try_size(self) -> None:
        """Runs one image through the model, to fail here and not in the first step."""
        size = self.args.size
        try:
            self.model.eval()(self._input(torch.zeros(1, 3, size, size)))
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"argument --size: {self.args.arch} cannot take images of {size} pixels: {error}"
            ) from error

    def run(self, stop: StopSignal) -> int:
        """Trains to the end or until a signal; returns the number of the signal, or 0."""
        for report in self.reports:
            self.console.print(str(report), markup=False, highlight=False)
        if self.position.epoch or self.position.step:
            self.console.print(
                f"resuming at epoch {self.position.epoch + 1}, step {self.position.step + 1}"
            )
        while self.position.epoch < self.args.epochs:
            with Progress(console=self.console, disable=not self.processes.first) as progress:
                signal = self._train_epoch(stop, progress)
            if signal:
                self.save()
                self.console.print(
                    f"stopped by a signal at epoch {self.position.epoch + 1}, after step "
                    f"{self.position.step}; --resume continues from there"
                )
                return signal
            self._finish_epoch()
        return 0

    def _train_epoch(self, stop: StopSignal, progress: Progress) -> int:
        args, at, steps = self.args, self.position, len(self.data.batches)
        task = progress.add_task(f"epoch {at.epoch + 1}/{args.epochs}", total=steps)
        progress.update(task, completed=at.step)
        self.model.train()
        self.data.batches.begin(at.epoch, at.step)
        start, start_step = time.perf_counter(), at.step
        for images, labels in self.data.training:
            lr = self.optimizer.param_groups[0]["lr"]
            loss = self._step(images, labels)
            at.step += 1
            self.loss_sum += loss
            progress.advance(task)
            if at.step % args.log_every == 0:
                (total,) = self.processes.sum(loss.item())
                mean = total / self.processes.count
                if not math.isfinite(mean):
                    raise FloatingPointError(
                        f"the loss is {mean} at epoch {at.epoch + 1}, step {at.step}: try a "
                        f"smaller --lr or a longer --warmup-epochs; the last checkpoint is whole"
                    )
                speed = (at.step - start_step) * args.batch_size / (time.perf_counter() - start)
                self.log.write(
                    event="step",
                    epoch=at.epoch + 1,
                    step=at.step,
                    loss=mean,
                    lr=lr,
                    images_per_second=round(speed, 1),
                )
            signal = self.processes.largest(stop.received)
            if signal:
                return signal
            if args.checkpoint_every and at.step % args.checkpoint_every == 0:
                self.save()
        return 0

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        with self._autocast():
            loss: Tensor = self.loss(
                self.parallel(self._input(images)), labels.to(self.processes.device)
            )
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        return loss.detach()

    def _finish_epoch(self) -> None:
        at = self.position
        accuracy, consistency = self.evaluate()
        (total,) = self.processes.sum(self.loss_sum.item())
        mean = total / self.processes.count / at.step
        self.log.write(
            event="epoch",
            epoch=at.epoch + 1,
            loss=mean,
            accuracy=accuracy,
            shift_consistency=consistency,
        )
        self.console.print(
            f"epoch {at.epoch + 1}/{self.args.epochs}: training loss {mean:.4f}, accuracy "
            f"{accuracy:.2%}, shift consistency {consistency:.2%}"
        )
        best = accuracy > at.best_accuracy
        at.epoch, at.step, at.best_accuracy = at.epoch + 1, 0, max(accuracy, at.best_accuracy)
        self.loss_sum.zero_()
        if best and self.processes.first:
            write_whole(
                self.args.out / "best.pt",
                {"model": self.model.state_dict(), "classes": self.data.classes}
                | {"accuracy": accuracy, "epoch": at.epoch, "arguments": described(self.args)},
            )
        self.save()

    @torch.inference_mode()
    def evaluate(self) -> tuple[float, float]:
        """Accuracy on centre crops, and how often two random crops get the same class."""
        self.processes.share(list(self.model.buffers()))  # of batch norm, which differ per process
        self.model.eval()
        metric = ShiftConsistency(crop=self.args.size, seed=self.args.seed)
        right = 0
        for images, labels, numbers in self.data.validation:
            edge = (images.shape[-1] - self.args.size) // 2
            centre = images[..., edge : edge + self.args.size, edge : edge + self.args.size]
            right += int((self._classify(centre).argmax(1).cpu() == labels).sum())
            metric.update(self._classify, images, numbers)
        agreement = metric.compute().agreement
        right_all, agree, count = self.processes.sum(right, int(agreement.sum()), agreement.numel())
        return right_all / count, agree / count

    def _classify(self, images: Tensor) -> Tensor:
        with self._autocast():
            scores: Tensor = self.model(self._input(images))
        return scores

    def _input(self, images: Tensor) -> Tensor:
        format = torch.channels_last if self.args.channels_last else torch.contiguous_format
        return images.to(self.processes.device, non_blocking=True, memory_format=format)

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = getattr(torch, self.args.amp) if self.args.amp else None
        return torch.autocast(self.args.device, dtype, enabled=dtype is not None)

    def save(self) -> None:
        """Writes `last.pt`: everything that the rest of the run depends on."""
        own = {"random": random_state(), "loss_sum": self.loss_sum.item()}
        processes = self.processes.gather(own)
        if self.processes.first:
            content = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "position": asdict(self.position),
                "processes": processes,
                "log_position": self.log.position(),
                "arguments": described(self.args),
                "classes": self.data.classes,
                "images": self.data.images,
            }
            write_whole(self.args.out / "last.pt", content)
        # No process continues, and perhaps ends, before the file exists.
        self.processes.largest(0)

    def _resume(self) -> int:
        """Restores what :meth:`save` wrote; returns the position of the log."""
        path = self.args.out / "last.pt"
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"argument --resume: {path} cannot be read: {error}") from error
        check_same_run(saved["arguments"], self.args)
        for what, here in (("classes", self.data.classes), ("images", self.data.images)):
            if saved[what] != here:
                raise ValueError(
                    f"argument --resume: the training data has other {what} than when the "
                    f"checkpoint was written"
                )
        if len(saved["processes"]) != self.processes.count:
            raise ValueError(
                f"argument --resume: the checkpoint is of {len(saved['processes'])} processes, "
                f"and this run has {self.processes.count}"
            )
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.scaler.load_state_dict(saved["scaler"])
        self.position = Position(**saved["position"])
        own = saved["processes"][self.processes.rank]
        self.loss_sum.fill_(own["loss_sum"])
        set_random_state(own["random"])
        log_position: int = saved["log_position"]
        return log_position


def make_deterministic(args: Namespace) -> None:
    """Sets seeds and the choice of algorithms."""
    torch.manual_seed(args.seed)
    if args.deterministic:
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not args.deterministic


def main(args: Namespace, error: Any) -> int:
    """Runs; returns the exit status. `error(text)` reports wrong arguments and exits."""
    processes = Processes(args.device)
    stop = StopSignal()
    trainer = None
    try:
        trainer = Trainer(args, processes)
        signal = trainer.run(stop)
        return 128 + signal if signal else 0
    except ValueError as problem:
        if trainer is not None:  # not caused by arguments
            raise
        error(str(problem))
        return 2
    except FloatingPointError as problem:
        print(f"train.py: {problem}", file=sys.stderr)
        return 1
    finally:
        if trainer is not None:
            trainer.log.close()
        processes.close()

"""Fine-tunes an anti-aliased, fused ResNet of transformers on digits with its Trainer."""

from __future__ import annotations

import argparse
from typing import Any

from digits import Digits, load_digits, place
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

import fastblur


def examples(digits: Digits) -> list[dict[str, Any]]:
    """What the model takes, one digit each."""
    images, labels = digits
    return [dict(pixel_values=x, labels=y) for x, y in zip(place(images), labels, strict=True)]


def accuracy(prediction: Any) -> dict[str, float]:
    """The metric of the evaluation."""
    return {"accuracy": (prediction.predictions.argmax(1) == prediction.label_ids).mean()}


def main() -> None:
    """Trains, and prints the accuracy on the digits that it has not seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="build/hf", help="folder of the checkpoints")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()

    config = ResNetConfig(
        num_channels=1, embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], num_labels=10
    )
    model = ResNetForImageClassification(config)  # or .from_pretrained(...)
    print(fastblur.antialias_(model, filter_size=3))
    print(fastblur.fuse_(model))  # before the Trainer exists

    train, test = load_digits(seed=0, train_per_class=200, test_per_class=50)
    trainer = Trainer(
        model,
        TrainingArguments(
            args.out,
            max_steps=args.steps,
            per_device_train_batch_size=64,
            learning_rate=3e-3,
            report_to="none",
        ),
        train_dataset=examples(train),
        eval_dataset=examples(test),
        compute_metrics=accuracy,
    )
    trainer.train()
    print(trainer.evaluate())


if __name__ == "__main__":
    main()

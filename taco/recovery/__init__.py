"""The parts of few-shot distillation: views, teacher's answers, losses, training steps, checkpoints (METHOD.md 6)."""

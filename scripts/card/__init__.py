"""What the kernels cost on each card, from their machine code: scripts/card_budget and scripts/card_model."""

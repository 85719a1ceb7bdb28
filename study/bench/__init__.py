"""What things cost, and how they behave, measured side by side in one process."""

"""What is learnt and how it is measured: sums over pixels, Dice and its relatives, stability."""

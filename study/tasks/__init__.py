"""What is learnt and how it is measured: tasks and their losses, sums over pixels, Dice and its relatives, stability.

A task (:mod:`study.tasks.task`) is a row of :data:`study.tasks.registry.TASKS`, a loss one of
:data:`study.tasks.losses.LOSSES`. Nothing outside of this room knows which of them it is given.
"""

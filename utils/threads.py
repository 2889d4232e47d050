"""Imported by every main before torch, which reads this when it loads."""

import os

# OpenMP's threads spin while they wait, and so take the cores from the data workers that they wait for: on two cores with
# other work a step took ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

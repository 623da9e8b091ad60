"""Imported by the fork server of workers that nobody times, before torch: their OpenMP threads wait without spinning.

By default a thread that waits for the next parallel region spins for milliseconds before it sleeps, and takes its CPU
from whatever else is at work. OpenMP's libraries read these variables once, when they are loaded.
"""

import os

from objectives.openmp_waiting import PASSIVE
from objectives.quiet import quiet

quiet()
os.environ.update(PASSIVE)

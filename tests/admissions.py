"""Names of the admission policies that store what they are offered, and of proportions that need not know of tasks."""

from drb.buffer.admission import ADMISSIONS
from drb.sampling.proportions import PROPORTIONS

OPEN_ADMISSIONS = [name for name in ADMISSIONS if not ADMISSIONS.find(name).is_closed]
UNTOLD_PROPORTIONS = sorted(
    name for name in PROPORTIONS if name != "schedule" and not PROPORTIONS.find(name).needs_accuracies
)

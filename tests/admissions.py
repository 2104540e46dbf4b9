"""The names of the admission policies that store what they are offered."""

from drb.buffer.admission import ADMISSIONS

OPEN_ADMISSIONS = [name for name in ADMISSIONS if not ADMISSIONS.find(name).is_closed]

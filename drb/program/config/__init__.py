"""The program's configuration: typed settings with limits (`schema`) and how they are put together (`compose`)."""

from __future__ import annotations

from drb.program.config.checks import check_config
from drb.program.config.compose import compose_config, to_yaml
from drb.program.config.schema import TrainConfig

__all__ = ["TrainConfig", "check_config", "compose_config", "to_yaml"]

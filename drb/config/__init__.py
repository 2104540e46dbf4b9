"""The program's configuration: typed settings with limits (`schema`) and how they are put together (`compose`)."""

from __future__ import annotations

from drb.config.checks import check_config
from drb.config.compose import compose_config, to_yaml
from drb.config.schema import TrainConfig

__all__ = ["TrainConfig", "check_config", "compose_config", "to_yaml"]

"""Protocols, by name: one module each."""

from configs.lra import LRA
from configs.quick import QUICK
from lra.recipe import Protocol

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (QUICK, LRA)}

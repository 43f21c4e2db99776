"""Protocols by name; one module for each."""

from configs.efficiency import EFFICIENCY, EFFICIENCY_QUICK, FNET, FNET_BERT
from configs.lra import LRA
from configs.lra_paper import LRA_PAPER
from configs.mini import MINI
from configs.quick import QUICK
from configs.recipe import Protocol
from configs.small import SMALL
from configs.ssm import SSM

PROTOCOLS: dict[str, Protocol] = {
    p.name: p for p in (QUICK, MINI, LRA, LRA_PAPER, SMALL, SSM, EFFICIENCY_QUICK, EFFICIENCY, FNET, FNET_BERT)
}

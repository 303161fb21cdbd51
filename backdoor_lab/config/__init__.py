"""What is known before torch loads: schema, resolvers, identity, the catalogue of names."""

from backdoor_lab.config.catalogue import catalogue
from backdoor_lab.config.facts import without_facts
from backdoor_lab.config.identity import identity, plain_config
from backdoor_lab.config.places import CONF, ROOT
from backdoor_lab.config.schema import register
from backdoor_lab.config.versions import show_versions, versions

__all__ = [
    "CONF",
    "ROOT",
    "catalogue",
    "identity",
    "plain_config",
    "register",
    "show_versions",
    "versions",
    "without_facts",
]

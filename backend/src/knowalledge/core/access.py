"""Who may call what: the role of a caller, and the access that a route asks for."""

from enum import IntEnum


class Role(IntEnum):
    """What a caller may do; each role may do what the lower ones may.

    Operators and admins are staff of the whole gateway. Users and readers belong to their tenant.
    """

    READONLY = 1
    USER = 2
    OPERATOR = 3
    ADMIN = 4

    @property
    def label(self) -> str:
        return self.name.lower()


class Access(IntEnum):
    """The least role that may call a route, where callers authenticate. 0: anybody, without a key."""

    PUBLIC = 0
    READ = Role.READONLY  # models and topics
    GENERATE = Role.USER  # asks a model
    OPERATE = Role.OPERATOR  # shows or changes what concerns all tenants
    ADMINISTER = Role.ADMIN  # changes who may call

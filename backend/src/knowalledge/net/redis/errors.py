"""What an error of Redis means: its short reason, and whether only a new connection mends it.

All clients of a process ask here, whichever library raised the error, and whatever the server's version. Redis 6.2
wraps the error of a command in a script ("ERR Error running script ...: -READONLY You can't write ...").
"""

import re

from redis.exceptions import MovedError, RedisClusterException, RedisError, ResponseError

# What a client of Redis raises when a command was not executed.
REDIS_ERRORS = (RedisError, RedisClusterException, OSError)

# First words of error replies. A closed set: a reason is a label in metrics, and never bytes of a caller.
WORDS = frozenset(
    {
        *("ASK", "BUSY", "BUSYGROUP", "CLUSTERDOWN", "CROSSSLOT", "DENIED", "ERR", "EXECABORT", "LOADING"),
        *("MASTERDOWN", "MISCONF", "MOVED", "NOAUTH", "NOPERM", "NOPROTO", "NOREPLICAS", "NOSCRIPT"),
        *("NOTBUSY", "OOM", "READONLY", "TRYAGAIN", "UNKILLABLE", "WRONGPASS", "WRONGTYPE"),
    }
)
# The server behind this connection has changed its role, or what it knows of us: the address is looked up again.
_NEW_CONNECTION = frozenset({"READONLY", "MASTERDOWN", "NOAUTH", "WRONGPASS", "MOVED"})
# The server serves nobody, or nobody's writes; other words reject one command.
_OUTAGE = _NEW_CONNECTION | {"BUSY", "CLUSTERDOWN", "LOADING", "MISCONF", "NOREPLICAS", "UNKILLABLE"}
_BEFORE_WRITES = _OUTAGE | {"OOM"}
_IN_SCRIPT = re.compile(r": -?([A-Z]+) ")
# Where a script may not run a command, Redis before 8 does not say NOPERM.
_FORBIDDEN = re.compile(r"user executing the script can't run|ACL failure in script")
_MAX_SEARCHED = 500  # characters of an error


class UnexpectedReply(RedisError):
    """A reply that cannot be decoded."""


def error_word(error: BaseException) -> str:
    """The first word of an error reply, such as READONLY; empty for errors that are no replies, and unknown words."""
    if not isinstance(error, RedisError):
        return ""
    if isinstance(error, MovedError):
        return "MOVED"
    code = getattr(error, "status_code", None)  # redis-py takes the word off the text
    if code in WORDS and code != "ERR":
        return str(code)
    text = str(error)[:_MAX_SEARCHED]
    first = text.partition(" ")[0]
    if first in WORDS and first != "ERR":
        return first
    if _FORBIDDEN.search(text):
        return "NOPERM"
    inner = next((word for word in _IN_SCRIPT.findall(text) if word in WORDS), "")
    return inner or ("ERR" if "ERR" in (first, code) else "")


def reason(error: BaseException) -> str:
    """An error's class and, of an error reply, its first word: ``ReadOnlyError READONLY``."""
    return f"{type(error).__name__} {error_word(error)}".rstrip()


def may_be_half_done(error: BaseException) -> bool:
    """Whether a script ended in the middle: what it wrote before stays. An outage is found before its first write."""
    text = str(error)[:_MAX_SEARCHED]
    return "user_script:" in text and error_word(error) not in _BEFORE_WRITES


def needs_new_connection(error: BaseException) -> bool:
    """Whether this connection will answer the same until it is closed, and another one may not."""
    return error_word(error) in _NEW_CONNECTION


def is_outage(error: BaseException) -> bool:
    """Whether the next command would fail too, whatever it is."""
    return not isinstance(error, ResponseError) or error_word(error) in _OUTAGE

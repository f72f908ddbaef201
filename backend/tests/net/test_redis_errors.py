"""What errors of Redis mean, in the words of every supported server, and where a new connection helps."""

import pytest
from redis.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from knowalledge.net.redis.errors import error_word, is_outage, needs_new_connection, reason

OLD = "ERR Error running script (call to f_c00c): @user_script:1: "
# As the servers write them (6.2.14, 7.0.15, 8.2.3), in a script and outside of one.
REPLIES = {
    "READONLY You can't write against a read only replica.": "READONLY",
    "READONLY You can't write against a read only replica. script: c0, on @user_script:1.": "READONLY",
    OLD + "@user_script: 1: -READONLY You can't write against a read only replica.": "READONLY",
    OLD + "@user_script: 1: -OOM command not allowed when used memory > 'maxmemory'.": "OOM",
    OLD + "@user_script: 1: -NOREPLICAS Not enough good replicas to write.": "NOREPLICAS",
    OLD + "WRONGTYPE Operation against a key holding the wrong kind of value": "WRONGTYPE",
    OLD + "@user_script: 1: The user executing the script can't run this command or subcommand": "NOPERM",
    "ERR The user executing the script can't run this command or subcommand script: c0": "NOPERM",
    "ERR ACL failure in script: User u has no permissions to run the 'set' command": "NOPERM",
    "NOPERM User u has no permissions to run the 'eval' command": "NOPERM",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": "MASTERDOWN",
    "NOAUTH Authentication required.": "NOAUTH",
    "WRONGPASS invalid username-password pair or user is disabled.": "WRONGPASS",
    "MOVED 3999 127.0.0.1:6381": "MOVED",
    "CLUSTERDOWN The cluster is down": "CLUSTERDOWN",
    "LOADING Redis is loading the dataset in memory": "LOADING",
    "BUSY Redis is busy running a script.": "BUSY",
    "MISCONF Redis is configured to save RDB snapshots": "MISCONF",
    OLD + "user_script:1: attempt to perform arithmetic on a nil value": "ERR",
    "ERR unknown command 'EVALSHA', with args beginning with: 'my secret: -SECRET x'": "ERR",
    "SECRET prompt": "",
    "": "",
}


def error_of(reply: str) -> RedisError:
    parser: type = DefaultParser
    error: RedisError = parser.parse_error(reply)  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(("reply", "word"), REPLIES.items())
def test_the_first_word_is_found_on_every_server_and_nothing_else_is_ever_shown(
    reply: str, word: str
) -> None:
    error = error_of(reply)
    assert error_word(error) == word
    assert reason(error) == f"{type(error).__name__} {word}".strip()


def test_errors_that_are_no_replies_are_named_by_their_class() -> None:
    assert reason(RedisTimeoutError("it took too long")) == "TimeoutError"
    assert reason(ConnectionResetError("READONLY")) == "ConnectionResetError"
    assert reason(RedisClusterException("no node")) == "RedisClusterException"


def test_only_where_another_connection_can_help_this_one_is_closed() -> None:
    renewed = {word for reply, word in REPLIES.items() if needs_new_connection(error_of(reply))}
    assert renewed == {"READONLY", "MASTERDOWN", "NOAUTH", "WRONGPASS", "MOVED"}


def test_an_error_that_the_next_command_would_meet_too_is_an_outage() -> None:
    rejected = {word for reply, word in REPLIES.items() if not is_outage(error_of(reply))}
    assert rejected == {"OOM", "WRONGTYPE", "NOPERM", "ERR", ""}
    assert is_outage(RedisConnectionError())
    assert is_outage(RedisClusterException())

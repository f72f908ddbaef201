"""What ``profile: production`` refuses: all at once, each with its cure, and nothing of it in development."""

from secrets import token_hex

import pytest

from knowalledge.config.settings import Settings, SettingsError

DRAWN = token_hex(32)
SOUND: dict[str, object] = {
    "profile": "production",
    "auth.mode": "required",
    "auth.secret": DRAWN,
    "redis_url": f"rediss://:{token_hex(16)}@redis.internal:6379/0",
    "database_url": f"postgresql://k:{token_hex(16)}@db.internal/k?sslmode=verify-full",
}


def faults(**changes: object) -> list[str]:
    values = {**SOUND, **{name.replace("__", "."): value for name, value in changes.items()}}
    try:
        Settings.load(values, environ={})
    except SettingsError as error:
        return [it.key for it in error.faults if it.cure]
    return []


def test_a_sound_configuration_has_no_fault() -> None:
    assert faults() == []


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"auth__mode": "none", "auth__secret": ""}, "auth.mode"),
        ({"log__level": "debug"}, "log.level"),
        ({"cors__origins": "*"}, "cors.origins"),
        ({"cors__origins": "https://app.example,http://localhost:3000"}, "cors.origins"),
        ({"auth__secret": "change-me-" + DRAWN}, "auth.secret"),
        ({"auth__secret": "a" * 40}, "auth.secret"),
        ({"auth__secret": "ab" * 20}, "auth.secret"),
        ({"redis_url": f"rediss://:{DRAWN}@redis.internal/0"}, "redis_url"),
        ({"redis_url": "rediss://redis.internal/0"}, "redis_url"),
        ({"redis_url": f"redis://:{token_hex(16)}@redis.internal/0"}, "redis_url"),
        ({"redis_url": f"redis+sentinel://:{token_hex(16)}@127.0.0.1:1,10.0.0.1:1/main"}, "redis_url"),
        ({"redis_url": "rediss://:password@redis.internal/0"}, "redis_url"),
        ({"database_url": f"postgresql://k:{token_hex(16)}@db.internal/k"}, "database_url"),
        ({"database_url": f"postgresql://k:{token_hex(16)}@db.internal/k?sslmode=prefer"}, "database_url"),
        ({"database_url": "postgresql://k@db.internal/k?sslmode=verify-full"}, "database_url"),
        (
            {
                "auth__jwt__jwks_url": "http://login.internal/keys",
                "auth__jwt__issuer": "i",
                "auth__jwt__audience": "a",
            },
            "auth.jwt.jwks_url",
        ),
    ],
)
def test_what_must_not_be_in_production_is_a_fault_there_alone(changes: dict[str, object], key: str) -> None:
    assert faults(**changes) == [key]
    assert faults(**changes, profile="development") == []


def test_all_faults_are_named_at_once() -> None:
    found = faults(auth__secret="changeme" * 5, log__level="debug", redis_url="redis://redis.internal/0")
    assert sorted(set(found)) == ["auth.secret", "log.level", "redis_url"]


@pytest.mark.parametrize(
    "changes",
    [
        {"redis_url": "redis://127.0.0.1/0"},
        {"redis_url": "redis://[::1]:6379/0"},
        {"redis_url": "unix:///run/redis.sock"},
        {"redis_url": ""},
        {"database_url": "sqlite:////var/k.db"},
        {"database_url": "postgresql://localhost/k"},
        {"auth__mode": "none", "auth__allow_anonymous": True, "auth__secret": ""},
    ],
)
def test_what_is_on_this_machine_or_said_on_purpose_is_no_fault(changes: dict[str, object]) -> None:
    assert faults(**changes) == []


def test_no_secret_is_in_a_fault() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({**SOUND, "auth.secret": "changeme-and-then-some-of-it-0815"}, environ={})
    assert "0815" not in str(caught.value)

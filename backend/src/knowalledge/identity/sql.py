"""Implements ``Directory`` on a relational database: SQLite and PostgreSQL run the same statements."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, select

from knowalledge.core.errors import NotFound
from knowalledge.identity.domain.principals import Act, Grant, Key, KnownKey, Tenant, User
from knowalledge.net.sql.database import Database
from knowalledge.net.sql.schema import Schema

SCHEMA = Schema("knowalledge.identity")

_tables = sa.MetaData()
_tenants = sa.Table(
    "tenants",
    _tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("weight", sa.Double),
    sa.Column("created_at", sa.Double),
    sa.Column("disabled_at", sa.Double),
)
_users = sa.Table(
    "users",
    _tables,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("permissions", sa.Text),
    sa.Column("created_at", sa.Double),
    sa.Column("disabled_at", sa.Double),
)
_keys = sa.Table(
    "api_keys",
    _tables,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text),
    sa.Column("user_name", sa.Text),
    sa.Column("label", sa.Text),
    sa.Column("digest", sa.LargeBinary),
    sa.Column("permissions", sa.Text),
    sa.Column("created_at", sa.Double),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
    sa.Column("used_at", sa.Double),
    sa.Column("replaces", sa.Text),
)
_audit = sa.Table(
    "audit_log",
    _tables,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("at", sa.Double),
    sa.Column("actor", sa.Text),
    sa.Column("act", sa.Text),
    sa.Column("object", sa.Text),
    sa.Column("before_it", sa.Text),
    sa.Column("after_it", sa.Text),
)
_generation = sa.Table("identity_generation", _tables, sa.Column("generation", sa.BigInteger))

T = TypeVar("T")
_decode_grant = msgspec.json.Decoder(Grant).decode
# In one statement, so that the generation is that of the rest.
_KNOWN = (
    select(
        _keys,
        _users.c.permissions.label("user_permissions"),
        _users.c.created_at.label("user_created_at"),
        _users.c.disabled_at.label("user_disabled_at"),
        _tenants.c.weight,
        _tenants.c.created_at.label("tenant_created_at"),
        _tenants.c.disabled_at.label("tenant_disabled_at"),
        _generation.c.generation,
    )
    .join(_users, sa.and_(_users.c.tenant == _keys.c.tenant, _users.c.name == _keys.c.user_name))
    .join(_tenants, _tenants.c.name == _keys.c.tenant)
    .join(_generation, sa.true())
    .where(_keys.c.id == sa.bindparam("key_id"))
)


class SqlDirectory:
    """Implements ``Directory``. What runs in a transaction are module functions: they may run in a native thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def generation(self) -> int:
        return self._database.read(_read_generation)

    def find(self, key_id: str) -> KnownKey | None:
        return self._database.read(lambda it: _find(it, key_id))

    def tenant(self, name: str) -> Tenant | None:
        return self._database.read(lambda it: _tenant(it, name))

    def user(self, tenant: str, name: str) -> User | None:
        return self._database.read(lambda it: _user(it, tenant, name))

    def tenants(self, after: str, limit: int) -> tuple[Tenant, ...]:
        query = select(_tenants).where(_tenants.c.name > after).order_by(_tenants.c.name).limit(limit)
        return self._database.read(lambda it: tuple(map(_tenant_of, it.execute(query))))

    def users(self, tenant: str, after: str, limit: int) -> tuple[User, ...]:
        query = select(_users).where(_users.c.tenant == tenant, _users.c.name > after)
        query = query.order_by(_users.c.name).limit(limit)
        return self._database.read(lambda it: tuple(map(_user_of, it.execute(query))))

    def keys(self, tenant: str, user: str, after: str, limit: int) -> tuple[Key, ...]:
        query = select(_keys).where(_keys.c.id > after).order_by(_keys.c.id).limit(limit)
        if tenant:
            query = query.where(_keys.c.tenant == tenant)
        if user:
            query = query.where(_keys.c.user_name == user)
        return self._database.read(lambda it: tuple(map(_key_of, it.execute(query))))

    def acts(self, after: int, limit: int) -> tuple[Act, ...]:
        query = select(_audit).where(_audit.c.number > after).order_by(_audit.c.number).limit(limit)
        return self._database.read(lambda it: tuple(map(_act_of, it.execute(query))))

    def add_tenant(self, tenant: Tenant, actor: str) -> None:
        def work(connection: Connection) -> None:
            connection.execute(_tenants.insert().values(msgspec.structs.asdict(tenant)))
            _record(
                connection, tenant.created_at, actor, "tenant.create", f"tenant:{tenant.name}", None, tenant
            )

        self._database.write(work)

    def add_user(self, user: User, actor: str) -> None:
        def work(connection: Connection) -> None:
            _must_exist(_tenant(connection, user.tenant), f"tenant {user.tenant}")
            connection.execute(_users.insert().values(_user_row(user)))
            _record(connection, user.created_at, actor, "user.create", _name_of(user), None, user)

        self._database.write(work)

    def add_key(self, key: Key, digest: bytes, actor: str) -> None:
        self._database.write(lambda it: _add_key(it, key, digest, actor, "key.create"))

    def set_tenant(self, tenant: Tenant, actor: str, act: str, at: float) -> None:
        def work(connection: Connection) -> None:
            before = _must_exist(_tenant(connection, tenant.name), f"tenant {tenant.name}")
            values = {"weight": tenant.weight, "disabled_at": tenant.disabled_at}
            connection.execute(_tenants.update().where(_tenants.c.name == tenant.name).values(values))
            _record(connection, at, actor, act, f"tenant:{tenant.name}", before, tenant)

        self._database.write(work)

    def set_user(self, user: User, actor: str, act: str, at: float) -> None:
        def work(connection: Connection) -> None:
            before = _must_exist(_user(connection, user.tenant, user.name), f"user {user.name}")
            where = _users.c.tenant == user.tenant, _users.c.name == user.name
            connection.execute(_users.update().where(*where).values(_user_row(user)))
            _record(connection, at, actor, act, _name_of(user), before, user)

        self._database.write(work)

    def set_key(self, key: Key, actor: str, act: str, at: float) -> None:
        self._database.write(lambda it: _set_key(it, key, actor, act, at))

    def replace_key(self, old: Key, new: Key, digest: bytes, actor: str) -> None:
        def work(connection: Connection) -> None:
            _set_key(connection, old, actor, "key.expire", new.created_at)
            _add_key(connection, new, digest, actor, "key.rotate")

        self._database.write(work)

    def mark_used(self, used: Mapping[str, float]) -> None:
        statement = (
            _keys.update()
            .where(
                _keys.c.id == sa.bindparam("key_id"),
                sa.or_(_keys.c.used_at.is_(None), _keys.c.used_at < sa.bindparam("moment")),
            )
            .values(used_at=sa.bindparam("moment"))
        )
        # In one order, so that two replicas never wait for each other's rows.
        rows = [{"key_id": key_id, "moment": at} for key_id, at in sorted(used.items())]
        if rows:
            self._database.write(lambda it: it.execute(statement, rows))


def _read_generation(connection: Connection) -> int:
    return int(connection.execute(select(_generation.c.generation)).scalar_one())


def _find(connection: Connection, key_id: str) -> KnownKey | None:
    row = connection.execute(_KNOWN, {"key_id": key_id}).first()
    if row is None:
        return None
    user = User(
        tenant=row.tenant,
        name=row.user_name,
        grant=_decode_grant(row.user_permissions),
        created_at=row.user_created_at,
        disabled_at=row.user_disabled_at,
    )
    tenant = Tenant(
        name=row.tenant,
        weight=row.weight,
        created_at=row.tenant_created_at,
        disabled_at=row.tenant_disabled_at,
    )
    return KnownKey(_key_of(row), bytes(row.digest), user, tenant, row.generation)


def _tenant(connection: Connection, name: str) -> Tenant | None:
    row = connection.execute(select(_tenants).where(_tenants.c.name == name)).first()
    return _tenant_of(row) if row else None


def _user(connection: Connection, tenant: str, name: str) -> User | None:
    row = connection.execute(select(_users).where(_users.c.tenant == tenant, _users.c.name == name)).first()
    return _user_of(row) if row else None


def _add_key(connection: Connection, key: Key, digest: bytes, actor: str, act: str) -> None:
    _must_exist(_user(connection, key.tenant, key.user), f"user {key.user}")
    row = {**msgspec.structs.asdict(key), "digest": digest, "user_name": key.user}
    row["permissions"] = _encoded(row.pop("grant"))
    del row["user"]
    connection.execute(_keys.insert().values(row))
    _record(connection, key.created_at, actor, act, f"key:{key.id}", None, key)


def _set_key(connection: Connection, key: Key, actor: str, act: str, at: float) -> None:
    row = connection.execute(select(_keys).where(_keys.c.id == key.id)).first()
    before = _must_exist(_key_of(row) if row else None, f"key {key.id}")
    values = {"expires_at": key.expires_at, "revoked_at": key.revoked_at}
    connection.execute(_keys.update().where(_keys.c.id == key.id).values(values))
    _record(connection, at, actor, act, f"key:{key.id}", before, key)


def _record(
    connection: Connection, at: float, actor: str, act: str, name: str, before: object, after: object
) -> None:
    """A line in the audit log, and a new generation: in the transaction of the change itself."""
    line = {"at": at, "actor": actor, "act": act, "object": name}
    connection.execute(
        _audit.insert().values({**line, "before_it": _encoded(before), "after_it": _encoded(after)})
    )
    connection.execute(_generation.update().values(generation=_generation.c.generation + 1))


def _must_exist(stored: T | None, what: str) -> T:
    if stored is None:
        raise NotFound(f"there is no {what}")
    return stored


def _encoded(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _name_of(user: User) -> str:
    return f"user:{user.tenant}/{user.name}"


def _user_row(user: User) -> dict[str, Any]:
    row = msgspec.structs.asdict(user)
    row["permissions"] = _encoded(row.pop("grant"))
    return row


def _tenant_of(row: Any) -> Tenant:
    return Tenant(name=row.name, weight=row.weight, created_at=row.created_at, disabled_at=row.disabled_at)


def _user_of(row: Any) -> User:
    return User(
        tenant=row.tenant,
        name=row.name,
        grant=_decode_grant(row.permissions),
        created_at=row.created_at,
        disabled_at=row.disabled_at,
    )


def _key_of(row: Any) -> Key:
    return Key(
        id=row.id,
        tenant=row.tenant,
        user=row.user_name,
        label=row.label,
        grant=_decode_grant(row.permissions),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        used_at=row.used_at,
        replaces=row.replaces,
    )


def _act_of(row: Any) -> Act:
    return Act(
        number=row.number,
        at=row.at,
        actor=row.actor,
        act=row.act,
        object=row.object,
        before=msgspec.json.decode(row.before_it),
        after=msgspec.json.decode(row.after_it),
    )
